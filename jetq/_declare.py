"""The streams and consumers an app needs: created where missing, never changed silently."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog

from ipc import (
    JetStream,
    JetStreamError,
    NoResponderError,
    ServerUnavailableError,
    Storage,
    StreamConfig,
    UnconfirmedError,
    stream_differences,
)

from ._errors import QueueMissingError
from ._layout import PRIORITIES, Layout
from ._queue import Queue

__all__ = ["Declarations", "Drift"]

log = structlog.stdlib.get_logger("jetq")

T = TypeVar("T")

NAME_IN_USE = 10058

# Seconds between the tries of a request that has to succeed.
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0

# Seconds between two looks at a cluster that is electing a leader.
ELECTION_PAUSE = 0.25

# Queues that are made sure of at a time. It is the server that takes the time, most of it
# for one stream after the other: more at a time only wait there.
AT_ONCE = 8


class Drift(msgspec.Struct, frozen=True):
    """A stream that is missing, or differs from what the app wants."""

    stream: str
    exists: bool
    differences: dict[str, tuple[Any, Any]]
    """Setting to what the server has and what is wanted."""


class Declarations:
    """What should be on the server, and what is known to be there."""

    def __init__(
        self,
        jetstream: JetStream,
        layout: Layout,
        queues: Mapping[str, Queue],
        *,
        storage: Storage,
        replicas: int,
        allowed: bool,
    ) -> None:
        """Set up.

        Args:
            allowed: Whether to create what is missing; otherwise nothing is touched.
        """
        self._jetstream = jetstream
        self._layout = layout
        self._queues = queues
        self._storage: Storage = storage
        self._replicas = replicas
        self._allowed = allowed
        self._ready: set[str] = set()
        """Queues whose streams are known."""
        self._known: dict[str, float] = {}
        """Streams that were found or created, and when they were last looked at."""
        self._looking: dict[str, asyncio.Lock] = {}

    def queue(self, name: str) -> Queue:
        """Return a queue's settings: its own, or the default ones."""
        return self._queues.get(name) or Queue(name)

    def streams(self, queues: Iterable[str]) -> list[StreamConfig]:
        """Return the streams that an app with these queues needs."""
        return [*self._shared_streams(), *(self._queue_stream(name) for name in queues)]

    def _shared_streams(self) -> list[StreamConfig]:
        layout, storage, replicas = self._layout, self._storage, self._replicas
        return [
            layout.results_stream_config(storage, replicas),
            layout.dead_stream_config(storage, replicas),
            layout.bucket_config(storage, replicas),
        ]

    def _queue_stream(self, name: str) -> StreamConfig:
        return self._layout.queue_stream(self.queue(name), self._storage, self._replicas)

    async def ensure_queue(self, name: str, anew: bool = False) -> None:
        """Make sure that jobs can be put on a queue and their outcomes be recorded.

        Args:
            anew: Look on the server even if the queue was found there before.

        Raises:
            QueueMissingError: It is not there and may not be created.
        """
        if name in self._ready and not anew:
            return
        asked_at = time.monotonic()
        for config in (*self._shared_streams(), self._queue_stream(name)):
            async with self._looking.setdefault(config.name, asyncio.Lock()):
                # With the stream away everybody asks at once; one look is enough for all.
                looked_at = self._known.get(config.name)
                if looked_at is None or (anew and looked_at <= asked_at):
                    await self._ensure(config, name)
        self._ready.add(name)

    async def insist(self, queue: str, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request that may be repeated, until the server has answered it.

        If nobody answers, the queue's streams are made sure of first: one in memory is gone
        after its server was restarted, one on several servers has no leader for some seconds.

        Raises:
            QueueMissingError: They are not there and may not be created.
        """
        pause, look = FIRST_PAUSE, False
        while True:
            try:
                if look:
                    await self.ensure_queue(queue, anew=True)
                    look = False
                return await request()
            except NoResponderError:
                look = True
            except (UnconfirmedError, ServerUnavailableError):
                # That the server is away is logged by the connection, once for everybody.
                pass
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def ensure_workable(self, queues: Iterable[str], timeout: float) -> None:
        """Make sure that queues can be worked on, some at a time.

        Args:
            timeout: Seconds for which an answer of "I do not know" is asked again.

        Raises:
            QueueMissingError: One is not there and may not be created.
            UnconfirmedError: The server did not answer, or has no leader for a stream.
        """
        waiting = iter(queues)

        async def ensure_next() -> None:
            for queue in waiting:
                deadline = time.monotonic() + timeout
                while True:
                    try:
                        await self.ensure_queue(queue)
                        await self.ensure_consumers(queue)
                        break
                    except UnconfirmedError:
                        # A cluster that is electing a leader.
                        if time.monotonic() > deadline:
                            raise
                        await asyncio.sleep(ELECTION_PAUSE)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(ensure_next())
        except ExceptionGroup as errors:
            # The others were cancelled; the first says what is wrong.
            raise errors.exceptions[0] from None

    async def ensure_consumers(self, name: str) -> None:
        """Make sure that a queue can be worked on."""
        queue, stream = self.queue(name), self._layout.queue_stream_name(name)
        for priority in PRIORITIES:
            wanted = self._layout.consumer(queue, priority)
            found = await self._jetstream.find_consumer(stream, wanted.durable_name)
            if found is None:
                if not self._allowed:
                    raise QueueMissingError(name, stream)
                await self._jetstream.create_consumer(stream, wanted)
            elif found.config.get("ack_wait") != wanted.ack_wait:
                log.warning(
                    "consumer differs from what the app wants; see `jetq streams`",
                    stream=stream,
                    consumer=wanted.durable_name,
                    has=found.config.get("ack_wait"),
                    wants=wanted.ack_wait,
                )

    async def _ensure(self, config: StreamConfig, queue: str) -> None:
        """Look at a stream and create it if it is missing; from then on it is known."""
        name, is_known = config.name, config.name in self._known
        looked_at = time.monotonic()
        if is_known:
            # Also if this fails: whoever waits to look would only fail the same way.
            self._known[name] = looked_at
        drift = await self.compare(config)
        if drift is not None and not drift.exists:
            if not self._allowed:
                raise QueueMissingError(queue, name)
            try:
                await self._jetstream.create_stream(config)
            except JetStreamError as exc:
                # Somebody else created it meanwhile, with other settings: theirs stand.
                if exc.err_code != NAME_IN_USE:
                    raise
        elif drift is not None and not is_known:
            log.warning(
                "stream differs from what the app wants; see `jetq streams`",
                stream=name,
                differences=drift.differences,
            )
        self._known[name] = looked_at

    async def compare(self, config: StreamConfig) -> Drift | None:
        """Return how a stream on the server differs from what is wanted, if it does."""
        found = await self._jetstream.find_stream(config.name)
        if found is None:
            return Drift(config.name, False, {})
        differences = stream_differences(found, config)
        return Drift(config.name, True, differences) if differences else None

    async def apply(self, queues: Iterable[str]) -> list[Drift]:
        """Create and change streams and consumers until they are as wanted; return what was not.

        Raises:
            JetStreamError: The server does not allow a change, such as of the storage.
        """
        names = list(queues)
        drifts: list[Drift] = []
        for config in self.streams(names):
            drift = await self.compare(config)
            if drift is None:
                continue
            drifts.append(drift)
            found = await self._jetstream.find_stream(config.name)
            if found is None:
                await self._jetstream.create_stream(config)
            else:
                wanted: dict[str, Any] = msgspec.to_builtins(config)
                await self._jetstream.update_stream({**found.config, **wanted})
        for name in names:
            stream = self._layout.queue_stream_name(name)
            for priority in PRIORITIES:
                consumer = self._layout.consumer(self.queue(name), priority)
                await self._jetstream.create_consumer(stream, consumer)
        return drifts
