"""Live events: what is published while somebody listens."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
    `async with bus.subscribe(…) as events`, and ends with that block, with `close`, with the
    bus, or when nobody refers to it any more. Events that are published while the connection is
    away are lost; durables lose none.
    """

    def __init__(self, bus: Bus, names: Sequence[str], group: str, reader: Reader) -> None:
        self._bus = bus
        self._names = names
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
        """Begin to listen; returns once the server knows.

        Raises:
            PermissionDeniedError: The server does not allow that.
        """
        if self._subscriptions is None:
            bus, connection, self._subscriptions = self._bus, self._bus.connection, []
            self._scope = bus.scope
            bus.listening.add(self)
            loop = asyncio.get_running_loop()
            weakref.finalize(self, end_all, loop, self._subscriptions).atexit = False
            receive = weakref.WeakMethod(self._receive)
            for name in self._names:
                hand_over = partial(handed_over, receive, name)
                self._subscriptions.append(
                    await connection.subscribe(
                        bus.subjects.events(name), hand_over, queue=self._group
                    )
                )
            await connection.confirm(self._subscriptions)

    async def close(self) -> None:
        """Stop listening; who waits for an event learns that there is none any more."""
        self.stop()
        if self._bus.is_open:
            self._bus.listening.discard(self)
        await close_all(self._subscriptions or ())

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
                    self._context = Context(self._bus, message, self._scope)
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

    def _receive(self, asked: str, message: Message) -> None:
        if len(self._names) > 1 and not self._group:
            # The server sends it once for each name that covers it; the first one's counts.
            name = self._bus.subjects.event_name(message.subject)
            if next((one for one in self._names if covers(one, name)), asked) != asked:
                return
        if len(self._waiting) >= MAX_WAITING:
            self._reader.drop(message)
            return
        self._waiting.append(message)
        self._arrived.set()


def handed_over(
    receive: weakref.WeakMethod[Callable[[str, Message], None]], asked: str, message: Message
) -> None:
    """Hand a message to a subscription, if somebody still has it."""
    method = receive()
    if method is not None:
        method(asked, message)


def end_all(loop: asyncio.AbstractEventLoop, subscriptions: Sequence[Subscription]) -> None:
    """End what a subscription has listened to that nobody refers to any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(close_all(subscriptions)))


async def close_all(subscriptions: Sequence[Subscription]) -> None:
    """Stop listening."""
    for subscription in subscriptions:
        await subscription.close()


def covers(pattern: str, name: str) -> bool:
    """Return whether a name, perhaps with wildcards, stands for a type's name."""
    if pattern == name:
        return True
    wanted, parts = pattern.split("."), name.split(".")
    if wanted[-1] == ">" and len(parts) >= len(wanted):
        wanted.pop()
        del parts[len(wanted) :]
    return len(wanted) == len(parts) and all(
        one in ("*", part) for one, part in zip(wanted, parts, strict=True)
    )


class LiveHandler:
    """Calls a handler for each event that is published while it listens."""

    def __init__(self, bus: Bus, handler: EventHandler, scope: Scope) -> None:
        options = handler.options
        self._bus = bus
        self._scope = scope
        self.handler = handler
        self._reader = Reader(bus.subjects, handler.by_name, options.unknown)
        self._calls = Limiter(options.concurrency, max_waiting=MAX_WAITING)
        self._subscriptions: list[Subscription] = []

    def __len__(self) -> int:
        """Return how many events it has been handed and not finished with."""
        return len(self._calls)

    async def open(self) -> None:
        """Begin to listen; returns once the server knows.

        Raises:
            PermissionDeniedError: The server does not allow that.
        """
        group = self.handler.options.group
        for name in self.handler.by_name:
            subject = self._bus.subjects.events(name)
            self._subscriptions.append(
                await self._bus.connection.subscribe(subject, self._receive, queue=group)
            )
        await self._bus.connection.confirm(self._subscriptions)

    async def drain(self, grace: float) -> None:
        """Stop listening, and let what was begun finish."""
        await self._bus.connection.drain(self._subscriptions)
        await self._calls.drain(grace)

    def _receive(self, message: Message) -> None:
        if not self._calls.submit(partial(self._handle, message)):
            self._reader.drop(message)

    async def _handle(self, message: Message) -> None:
        called = self.handler.called
        try:
            event = self._reader.read(message)
            if event is not None:
                context = Context(self._bus, message, self._scope)
                await self._bus.invoke(called.call, event, context)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.error("event handler was cancelled", handler=called.name, subject=message.subject)
        except Exception as exc:
            # Nobody sends it again: what must not be lost has a durable.
            log.error(
                "event handler failed",
                handler=called.name,
                subject=message.subject,
                exc_info=(type(exc), exc, own_frames(exc)),
            )
