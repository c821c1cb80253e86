"""The streams that keep events, and the durables on them: declared, listed, removed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from ._domain import Domain, Start
from ._errors import (
    DurableConflictError,
    DurableMissingError,
    EventStreamMissingError,
    IpcError,
    JetStreamError,
    NoResponderError,
)
from ._jetstream import (
    NANOSECONDS,
    ConsumerConfig,
    ConsumerInfo,
    StreamConfig,
    StreamInfo,
    stream_differences,
)

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = [
    "PARTS_OF_DURABLE",
    "DurableInfo",
    "Durables",
    "EventStreams",
    "consumer_config",
]

log = structlog.stdlib.get_logger("ipc")

NAME_IN_USE = 10058
CONSUMER_EXISTS = {10105, 10148}

# A value that is removed is empty, and the server forgets it at once (NATS ADR-8, ADR-43).
REMOVED = {"KV-Operation": "DEL", "Nats-TTL": "1s"}

# Requests for events that may be open at a consumer: a few of each process.
MAX_WAITING = 16_384

PARTS_OF_DURABLE = "{durable}-{part:02}"
"""The consumers of a durable that keeps the order."""

# Names the durable that a consumer is part of.
METADATA = "ipc-durable"


class EventStreams:
    """What a bus needs on the server: created where missing, never changed silently."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects
        self._known: dict[str, tuple[int, float]] = {}
        """Streams that were found or created: on which connection, and when."""
        self._looking: dict[str, asyncio.Lock] = {}
        self._warned: set[str] = set()

    # -- streams -----------------------------------------------------------------------------

    async def ensure(self, domain: str, *, anew: bool = False) -> None:
        """Make sure that the events of a domain are stored.

        Args:
            anew: Look on the server even if it was found there before.

        Raises:
            EventStreamMissingError: They are not, and nothing may be created.
        """
        await self.ensure_stream(self.event_stream(domain), anew=anew)

    async def ensure_dead(self, domain: str) -> None:
        """Make sure that the dead letters of a domain can be stored.

        Raises:
            EventStreamMissingError: They cannot, and nothing may be created.
        """
        await self.ensure_stream(self.dead_stream(domain))

    async def ensure_bucket(self) -> None:
        """Make sure that the key-value bucket is there.

        Raises:
            EventStreamMissingError: It is not, and nothing may be created.
        """
        await self.ensure_stream(self.bucket())

    async def ensure_stream(self, wanted: StreamConfig, *, anew: bool = False) -> None:
        """Make sure that a stream is there; one that differs from what is wanted stays so."""
        name, asked_at = wanted.name, time.monotonic()
        if self._is_known(name, 0 if not anew else asked_at):
            return
        async with self._looking.setdefault(name, asyncio.Lock()):
            if self._is_known(name, 0 if not anew else asked_at):
                return
            epoch = self._bus.connection.epoch
            found = await self._jetstream.find_stream(name)
            if found is None:
                if not self._bus.declare:
                    raise EventStreamMissingError(name, wanted.subjects)
                try:
                    await self._jetstream.create_stream(wanted)
                except JetStreamError as exc:
                    # Somebody else created it meanwhile, with other settings: theirs stand.
                    if exc.err_code != NAME_IN_USE:
                        raise
            elif (differences := stream_differences(found, wanted)) and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "stream differs from what the bus wants; it is left as it is",
                    stream=name,
                    differences=differences,
                )
            self._known[name] = epoch, time.monotonic()

    def _is_known(self, name: str, since: float) -> bool:
        """Return whether a stream was looked at lately, and no server has restarted since."""
        epoch, looked_at = self._known.get(name, (-1, 0.0))
        return epoch == self._bus.connection.epoch and looked_at > since

    # -- messages ----------------------------------------------------------------------------

    async def store(
        self,
        wanted: StreamConfig,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Store a message; the stream is created if it is missing, also if it was there before."""
        await self.ensure_stream(wanted)
        said = None if headers is None else dict(headers)
        try:
            await self._jetstream.publish(subject, data, headers=said)
        except NoResponderError:
            await self.ensure_stream(wanted, anew=True)
            await self._jetstream.publish(subject, data, headers=said)

    async def keep(self, key: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Store a value in the bucket."""
        await self.store(self.bucket(), key, data, headers)

    async def forget(self, key: str) -> None:
        """Remove a value from the bucket, as the server does with those whose time is up."""
        # Not by a purge of the stream: who may do that may remove everybody's.
        await self._jetstream.publish(key, b"", headers=REMOVED)

    def event_stream(self, domain: str) -> StreamConfig:
        """Return what the stream of a domain must be."""
        bus, settings = self._bus, self._bus.domains.get(domain) or Domain(domain)
        kept = settings.history is not None
        return StreamConfig(
            name=self._subjects.stream(domain),
            subjects=self._subjects.stored(domain),
            retention="limits" if kept else "interest",
            max_age=int((settings.history or 0) * NANOSECONDS),
            max_bytes=settings.max_bytes,
            storage=settings.storage or bus.storage,
            num_replicas=settings.replicas or bus.replicas,
            allow_direct=True,
        )

    def dead_stream(self, domain: str) -> StreamConfig:
        """Return what the stream of a domain's dead letters must be; nothing expires there."""
        bus, settings = self._bus, self._bus.domains.get(domain) or Domain(domain)
        return StreamConfig(
            name=self._subjects.dead_stream(domain),
            subjects=(self._subjects.dead(domain, "*", "*"),),
            storage=settings.storage or bus.storage,
            num_replicas=settings.replicas or bus.replicas,
            max_msgs_per_subject=1,
            allow_direct=True,
        )

    def bucket(self) -> StreamConfig:
        """Return what the key-value bucket must be (NATS ADR-8)."""
        bus = self._bus
        return StreamConfig(
            name=self._subjects.bucket_stream,
            subjects=(f"$KV.{self._subjects.prefix}.>",),
            storage=bus.storage,
            num_replicas=bus.replicas,
            max_msgs_per_subject=1,
            discard="new",
            allow_rollup_hdrs=True,
            allow_direct=True,
            allow_msg_ttl=True,
        )

    # -- consumers -----------------------------------------------------------------------------

    async def ensure_consumer(self, domain: str, durable: str, wanted: ConsumerConfig) -> None:
        """Make sure that a consumer is there and takes what it should, perhaps more.

        One that is there keeps its place. What else it takes stays, as other processes may be
        of another version: they would lose what is narrowed away.

        Raises:
            DurableMissingError: It is not there, and nothing may be created.
        """
        stream = self._subjects.stream(domain)
        while True:
            found = await self._jetstream.find_consumer(stream, wanted.durable_name)
            if found is not None:
                break
            if not self._bus.declare:
                advice = "declare=False: `ipc apply`, or let a bus that may declare run once"
                raise DurableMissingError(durable, stream, advice)
            try:
                await self._jetstream.create_consumer(stream, wanted, new=True)
                return
            except JetStreamError as exc:
                # Somebody else has created it meanwhile, perhaps to take something else.
                if exc.err_code not in CONSUMER_EXISTS:
                    raise
        has = filters_of(found.config)
        takes = has.union(wanted.filter_subjects)
        if (has, found.config.get("ack_wait")) == (takes, wanted.ack_wait):
            return
        if not self._bus.declare:
            log.warning("durable differs from what is wanted", durable=durable, stream=stream)
            return
        log.info("durable changed", durable=durable, stream=stream, takes=sorted(takes))
        await self._jetstream.create_consumer(stream, changed(found, takes, wanted.ack_wait))
        # Somebody else may do the same just now, and not know of this.
        await asyncio.sleep(random.uniform(0.05, 0.15))
        await self.ensure_consumer(domain, durable, wanted)

    async def check_owner(self, domain: str, durable: str, consumer: str) -> None:
        """Check that a consumer is not another durable's.

        Raises:
            DurableConflictError: It is.
        """
        stream = self._subjects.stream(domain)
        found = await self._jetstream.find_consumer(stream, consumer)
        if found is not None and (other := durable_of(found)) != durable:
            raise DurableConflictError(durable, stream, f"{consumer!r} is part of {other!r}")

    async def check_order(self, domain: str, durable: str, *, ordered: bool) -> None:
        """Check that a durable is not there as one that keeps the order, or does not, unlike now.

        Raises:
            DurableConflictError: It is: nobody would take what waits in it.
        """
        stream = self._subjects.stream(domain)
        part = PARTS_OF_DURABLE.format(durable=durable, part=0)
        found = await self._jetstream.find_consumer(stream, durable if ordered else part)
        if found is not None and durable_of(found) == durable:
            how = "keeps no order" if ordered else "keeps the order"
            raise DurableConflictError(durable, stream, f"it {how}, and events may wait in it")

    async def warn_of_idle(self, domain: str, durable: str) -> None:
        """Say which other durables hold a stream back: nobody takes what waits for them."""
        if domain in self._warned:
            return
        self._warned.add(domain)
        try:
            durables = await Durables(self._bus).list(domain=domain)
        except IpcError as exc:
            # Good to know, and not needed: least privilege does not include it.
            log.debug("durables not listed", domain=domain, reason=str(exc))
            return
        # Those of this bus are being opened just now.
        own = {handler.options.durable for handler in self._bus.handlers}
        for other in durables:
            if other.holds_back and other.durable not in (durable, *own):
                log.warning(
                    "a durable that nobody works on holds events back; if it is not needed "
                    "any more: `ipc durables remove`",
                    durable=other.durable,
                    domain=domain,
                    pending=other.pending,
                )


def consumer_config(
    durable: str,
    consumer: str,
    filters: Collection[str],
    *,
    start: Start,
    lease: float,
    one_at_a_time: bool,
) -> ConsumerConfig:
    """Return what a consumer must be."""
    since = start.astimezone(UTC).isoformat() if isinstance(start, datetime) else None
    return ConsumerConfig(
        durable_name=consumer,
        filter_subjects=tuple(sorted(filters)),
        ack_wait=int(lease * NANOSECONDS),
        # Unlimited: what waits to be tried again must not hold up the others.
        max_ack_pending=1 if one_at_a_time else -1,
        max_waiting=MAX_WAITING,
        deliver_policy="by_start_time" if since else "new" if start == "new" else "all",
        opt_start_time=since,
        metadata={METADATA: durable},
    )


def changed(found: ConsumerInfo, filters: Collection[str], ack_wait: int) -> ConsumerConfig:
    """Return a consumer as it is, but for what it takes and its lease."""
    config = found.config
    return ConsumerConfig(
        durable_name=found.name,
        filter_subjects=tuple(sorted(filters)),
        ack_wait=ack_wait,
        max_ack_pending=config.get("max_ack_pending", -1),
        max_waiting=config.get("max_waiting", MAX_WAITING),
        deliver_policy=config.get("deliver_policy", "all"),
        opt_start_time=config.get("opt_start_time"),
        metadata={METADATA: durable_of(found)},
    )


def filters_of(config: Mapping[str, Any]) -> set[str]:
    """Return what a consumer on the server takes."""
    return set(config.get("filter_subjects") or [config.get("filter_subject", "")])


class DurableInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A durable on one domain's stream, as the server has it."""

    durable: str
    domain: str
    takes: list[str]
    """Names of types."""
    pending: int
    """Events that it has not been given yet."""
    unacknowledged: int
    """Events that were given to somebody and not acked yet, or wait to be tried again."""
    redelivered: int
    """How many of those were given before."""
    waiting: int
    """Requests for more: 0 means that nobody works on it."""
    last_active: datetime | None
    """When an event was last given to somebody or acked."""

    has_history: bool = False
    """Whether events are kept for a time, whoever has handled them."""

    @property
    def holds_back(self) -> bool:
        """Whether events are kept for it alone, perhaps, that nobody asks for."""
        waits = self.pending + self.unacknowledged > 0
        return waits and self.waiting == 0 and not self.has_history


class Durables:
    """The durables on the server."""

    def __init__(self, bus: Bus) -> None:
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects

    async def list(self, *, domain: str | None = None) -> list[DurableInfo]:
        """Return the durables of all domains, or of one."""
        found: list[DurableInfo] = []
        for stream in await self._streams(domain):
            by_name: dict[str, list[ConsumerInfo]] = {}
            for consumer in await self._jetstream.list_consumers(stream.config["name"]):
                by_name.setdefault(durable_of(consumer), []).append(consumer)
            found += [self._info(stream, *one) for one in sorted(by_name.items())]
        return found

    async def remove(self, durable: str) -> list[str]:
        """Delete a durable; what was kept only for it goes. Returns the domains it was on.

        A process that still works on it creates it anew.
        """
        removed: list[str] = []
        for domain, consumers in (await self._consumers(None)).items():
            for consumer in consumers:
                if durable_of(consumer) == durable:
                    await self._jetstream.delete_consumer(
                        self._subjects.stream(domain), consumer.name
                    )
                    if domain not in removed:
                        removed.append(domain)
        return removed

    async def forget(self, durable: str, name: str) -> bool:
        """Let a durable take no more events of a type; return whether it did.

        A process that still handles them lets it take them again.
        """
        did = False
        for domain, consumers in (await self._consumers(name.partition(".")[0])).items():
            for consumer in consumers:
                takes = filters_of(consumer.config)
                rest = {one for one in takes if self._subjects.event_name(one) != name}
                if durable_of(consumer) != durable or rest == takes:
                    continue
                stream, did = self._subjects.stream(domain), True
                if rest:
                    config = changed(consumer, rest, consumer.config["ack_wait"])
                    await self._jetstream.create_consumer(stream, config)
                else:
                    await self._jetstream.delete_consumer(stream, consumer.name)
        return did

    async def _consumers(self, domain: str | None) -> dict[str, list[ConsumerInfo]]:
        """Return the consumers of the event streams, by domain."""
        return {
            self._domain_of(stream): await self._jetstream.list_consumers(stream.config["name"])
            for stream in await self._streams(domain)
        }

    async def _streams(self, domain: str | None) -> list[StreamInfo]:
        """Return the event streams of all domains, or of one."""
        prefix = self._subjects.stream("")
        subject = self._subjects.events(f"{domain}.>" if domain else ">")
        found = await self._jetstream.list_streams(subject)
        return [stream for stream in found if str(stream.config["name"]).startswith(prefix)]

    def _domain_of(self, stream: StreamInfo) -> str:
        return str(stream.config["name"]).removeprefix(self._subjects.stream(""))

    def _info(self, stream: StreamInfo, durable: str, parts: list[ConsumerInfo]) -> DurableInfo:
        filters = {one for part in parts for one in filters_of(part.config)}
        active = [
            moment
            for part in parts
            for moment in (part.delivered.last_active, part.ack_floor.last_active)
            if moment is not None
        ]
        return DurableInfo(
            durable=durable,
            domain=self._domain_of(stream),
            takes=sorted({self._subjects.event_name(one) for one in filters}),
            pending=sum(part.num_pending for part in parts),
            unacknowledged=sum(part.num_ack_pending for part in parts),
            redelivered=sum(part.num_redelivered for part in parts),
            waiting=sum(part.num_waiting for part in parts),
            last_active=max(active, default=None),
            has_history=stream.config.get("retention") == "limits",
        )


def durable_of(consumer: ConsumerInfo) -> str:
    """Return the durable that a consumer is, or is part of."""
    metadata: dict[str, str] = consumer.config.get("metadata") or {}
    return metadata.get(METADATA, consumer.name)
