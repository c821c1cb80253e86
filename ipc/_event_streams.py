"""The streams that keep events, and the durables on them: declared, listed, removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from ._domain import Domain, Start
from ._errors import (
    DurableMissingError,
    EventStreamMissingError,
    IpcError,
    JetStreamError,
)
from ._jetstream import (
    NANOSECONDS,
    ConsumerConfig,
    ConsumerInfo,
    StreamConfig,
    stream_differences,
)

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["DurableInfo", "Durables", "EventStreams"]

log = structlog.stdlib.get_logger("ipc")

NAME_IN_USE = 10058

# Names the durable that a consumer is part of.
METADATA = "ipc-durable"


class EventStreams:
    """What a bus needs on the server: created where missing, never changed silently."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects
        self._known: dict[str, float] = {}
        """Streams that were found or created, and when they were last looked at."""
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
        if name in self._known and not anew:
            return
        async with self._looking.setdefault(name, asyncio.Lock()):
            looked_at = self._known.get(name)
            if looked_at is not None and (not anew or looked_at > asked_at):
                return
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
            self._known[name] = time.monotonic()

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

    async def ensure_consumer(
        self,
        domain: str,
        durable: str,
        consumer: str,
        filters: Collection[str],
        *,
        start: Start,
        lease: float,
        one_at_a_time: bool,
    ) -> None:
        """Make sure that a consumer is there and takes what it should.

        One that is there keeps its place; what it takes is changed to `filters`.

        Raises:
            DurableMissingError: It is not there, and nothing may be created.
        """
        stream = self._subjects.stream(domain)
        found = await self._jetstream.find_consumer(stream, consumer)
        wanted = consumer_config(
            durable, consumer, filters, start=start, lease=lease, one_at_a_time=one_at_a_time
        )
        if found is None:
            if not self._bus.declare:
                raise DurableMissingError(durable, stream)
            await self._jetstream.create_consumer(stream, wanted)
            return
        has = filters_of(found.config)
        if (has, found.config.get("ack_wait")) == (set(filters), wanted.ack_wait):
            return
        if not self._bus.declare:
            log.warning("durable differs from what is wanted", durable=durable, stream=stream)
            return
        log.info("durable changed", durable=durable, stream=stream, takes=sorted(filters))
        place = {
            "deliver_policy": found.config.get("deliver_policy", "all"),
            "opt_start_time": found.config.get("opt_start_time"),
        }
        await self._jetstream.create_consumer(stream, msgspec.structs.replace(wanted, **place))

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
        for other in durables:
            if other.holds_back and other.durable != durable:
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
        max_waiting=16_384,
        deliver_policy="by_start_time" if since else "new" if start == "new" else "all",
        opt_start_time=since,
        metadata={METADATA: durable},
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

    @property
    def holds_back(self) -> bool:
        """Whether events are kept for it that nobody asks for."""
        return self.waiting == 0 and self.pending + self.unacknowledged > 0


class Durables:
    """The durables on the server."""

    def __init__(self, bus: Bus) -> None:
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects

    async def list(self, *, domain: str | None = None) -> list[DurableInfo]:
        """Return the durables of all domains, or of one."""
        found: list[DurableInfo] = []
        for one, consumers in (await self._consumers(domain)).items():
            by_name: dict[str, list[ConsumerInfo]] = {}
            for consumer in consumers:
                by_name.setdefault(durable_of(consumer), []).append(consumer)
            found += [self._info(one, name, parts) for name, parts in sorted(by_name.items())]
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

    async def _consumers(self, domain: str | None) -> dict[str, list[ConsumerInfo]]:
        """Return the consumers of the event streams, by domain."""
        prefix = self._subjects.stream("")
        subject = self._subjects.event(f"{domain}.>" if domain else ">")
        found: dict[str, list[ConsumerInfo]] = {}
        for stream in await self._jetstream.list_streams(subject):
            name = str(stream.config["name"])
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = await self._jetstream.list_consumers(name)
        return found

    def _info(self, domain: str, durable: str, parts: list[ConsumerInfo]) -> DurableInfo:
        filters = {one for part in parts for one in filters_of(part.config)}
        again = self._subjects.again(durable, "")
        active = [
            moment
            for part in parts
            for moment in (part.delivered.last_active, part.ack_floor.last_active)
            if moment is not None
        ]
        return DurableInfo(
            durable=durable,
            domain=domain,
            takes=sorted(
                {self._subjects.event_name(one) for one in filters if not one.startswith(again)}
            ),
            pending=sum(part.num_pending for part in parts),
            unacknowledged=sum(part.num_ack_pending for part in parts),
            redelivered=sum(part.num_redelivered for part in parts),
            waiting=sum(part.num_waiting for part in parts),
            last_active=max(active, default=None),
        )


def durable_of(consumer: ConsumerInfo) -> str:
    """Return the durable that a consumer is, or is part of."""
    metadata: dict[str, str] = consumer.config.get("metadata") or {}
    return metadata.get(METADATA, consumer.name)
