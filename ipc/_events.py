"""Live events: what is published while somebody listens."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import structlog

from ._connection import Message, Subscription
from ._context import Context, Scope
from ._envelope import (
    NOT_DECODABLE,
    UnknownEvent,
    UnknownTypeError,
    read_any,
)
from ._errors import UnreadableError
from ._handler import EventHandler
from ._limiter import Limiter
from ._subjects import Subjects
from ._trace import own_frames
from ._types import MessageType

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["Events", "LiveHandler", "Unknown"]

log = structlog.stdlib.get_logger("ipc")

E_co = TypeVar("E_co", covariant=True)

Unknown = Literal["skip", "keep", "error"]

MAX_WAITING = 65_536
"""Events that wait to be handled; what comes above that is dropped, and counted."""


class Reader:
    """Makes events of messages; what cannot be read is logged and left out."""

    def __init__(
        self, subjects: Subjects, kinds: Mapping[str, MessageType], unknown: Unknown
    ) -> None:
        self._subjects = subjects
        self._kinds = kinds
        self._unknown: Unknown = unknown
        self.dropped = 0

    def read(self, message: Message) -> Any:
        """Return the event, or `None` if it is to be skipped.

        Raises:
            UnreadableError: It is of an unknown type, and that is asked to be an error.
        """
        hint = self._subjects.event_name(message.subject)
        try:
            return read_any(self._kinds, hint, message.data)
        except UnknownTypeError as exc:
            if self._unknown == "keep":
                return UnknownEvent(exc.name, exc.fields)
            if self._unknown == "error":
                problem = f"its type {exc.name!r} is unknown"
                raise UnreadableError(message.subject, problem) from None
        except NOT_DECODABLE as exc:
            log.warning("event skipped, it is malformed", subject=message.subject, error=str(exc))
        return None

    def drop(self, message: Message) -> None:
        """Count an event for which there is no room."""
        if self.dropped == 0:
            log.warning("events are dropped: the handler is too slow", subject=message.subject)
        self.dropped += 1


class Events(Generic[E_co]):
    """Events as they come: `async for event in bus.subscribe(UserCreated): …`

    The subscription begins with the first event that is waited for, or with
    `async with bus.subscribe(…) as events`, and ends with that block, with `close`, or with the
    bus. Events that are published while the connection is away are lost; durables lose none.
    """

    def __init__(self, bus: Bus, subjects: Sequence[str], group: str, reader: Reader) -> None:
        self._bus = bus
        self._subjects = subjects
        self._group = group
        self._reader = reader
        self._waiting = deque[Message]()
        self._arrived = asyncio.Event()
        self._subscriptions: list[Subscription] | None = None
        self._closed = False
        self._context: Context | None = None

    @property
    def context(self) -> Context:
        """What is known of the event that came last.

        `with following(events.context):` lets what is sent inside follow from that event.

        Raises:
            LookupError: None has come yet.
        """
        if self._context is None:
            raise LookupError("no event has come yet")
        return self._context

    @property
    def dropped(self) -> int:
        """How many events were lost because they came faster than they were taken."""
        return self._reader.dropped

    async def open(self) -> None:
        """Begin to listen; returns once the server knows."""
        if self._subscriptions is None:
            self._subscriptions = [
                await self._bus.connection.subscribe(subject, self._receive, queue=self._group)
                for subject in self._subjects
            ]
            await self._bus.connection.confirm()
            self._bus.on_close(self.stop)

    async def close(self) -> None:
        """Stop listening; who waits for an event learns that there is none any more."""
        self.stop()
        for subscription in self._subscriptions or ():
            await subscription.close()

    def stop(self) -> None:
        """Let the loop over the events end once it has taken those that have come."""
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E_co:
        """Return the next event.

        Raises:
            UnreadableError: It is of an unknown type, with `unknown="error"`. The one after it
                can be asked for all the same.
        """
        await self.open()
        while True:
            while self._waiting:
                message = self._waiting.popleft()
                event = self._reader.read(message)
                if event is not None:
                    self._context = Context(self._bus, message, self._bus.scope)
                    return event
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        await self.close()

    def _receive(self, message: Message) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._reader.drop(message)
            return
        self._waiting.append(message)
        self._arrived.set()


class LiveHandler:
    """Calls a handler for each event that is published while it listens."""

    def __init__(self, bus: Bus, handler: EventHandler, scope: Scope) -> None:
        options = handler.options
        self._bus = bus
        self._scope = scope
        self._handler = handler
        self._reader = Reader(bus.subjects, handler.by_name, options.unknown)
        self._calls = Limiter(options.concurrency, max_waiting=MAX_WAITING)
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        """Return how many events it has been handed and not finished with."""
        return len(self._calls)

    async def open(self) -> None:
        """Begin to listen."""
        group = self._handler.options.group
        for name in self._handler.by_name:
            for subject in self._bus.subjects.events(name):
                self._subscriptions.append(
                    await self._bus.connection.subscribe(subject, self._receive, queue=group)
                )

    async def drain(self, grace: float) -> None:
        """Stop listening, and let what was begun finish."""
        for subscription in self._subscriptions:
            await subscription.drain()
        await self._calls.drain(grace)

    def _receive(self, message: Message) -> None:
        if not self._calls.submit(partial(self._handle, message)):
            self._reader.drop(message)

    async def _handle(self, message: Message) -> None:
        called = self._handler.called
        try:
            event = self._reader.read(message)
            if event is not None:
                context = Context(self._bus, message, self._scope)
                await self._bus.invoke(called.call, event, context)
        except Exception as exc:
            # Nobody sends it again: what must not be lost has a durable.
            log.error(
                "event handler failed",
                handler=called.name,
                subject=message.subject,
                exc_info=(type(exc), exc, own_frames(exc)),
            )
