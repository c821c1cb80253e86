"""What a bus has while it is open: the connection, and all that lives as long as that."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

from ._connection import Connection
from ._context import Scope
from ._durable import DurableConsumer
from ._event_streams import EventStreams
from ._events import Events, LiveHandler
from ._jetstream import JetStream
from ._registry import Registry
from ._serving import Serving
from ._types import MessageType

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["Outlet", "Session", "Working"]

# Seconds that the server has to say what it has, also for those who can wait longer: a cluster
# that elects a leader leaves questions unanswered, and who asks again is answered sooner.
ANSWER = 5.0

Working = LiveHandler | DurableConsumer


class Outlet(msgspec.Struct, frozen=True):
    """Where events of a type go."""

    kind: MessageType
    subject: str
    """Of those without a key."""


class Clock:
    """Tells the time, to a millisecond: making a `datetime` costs as much as encoding an event."""

    def __init__(self) -> None:
        self._at, self._now = 0.0, datetime.now(UTC)

    def now(self) -> datetime:
        """Return the time, UTC."""
        at = time.time()
        if not 0 <= at - self._at < 0.001:
            self._at, self._now = at, datetime.fromtimestamp(at, UTC)
        return self._now


class Session:
    """What a bus has while it is open."""

    registry: Registry
    streams: EventStreams

    def __init__(self, bus: Bus, connection: Connection, stack: AsyncExitStack) -> None:
        self.connection = connection
        self.jetstream = JetStream(connection, timeout=min(bus.timeout, ANSWER))
        self.stack = stack
        # Unguessable is not needed, unique is: no two buses number from the same start.
        self.id = secrets.token_urlsafe(9).replace("-", "_")
        self.numbers = itertools.count(1)
        self.clock = Clock()
        self.outlets: dict[type[Any], Outlet] = {}
        """Where the events of types go that were published."""
        self.scope = Scope(None, bus.middleware)
        self.stopping = asyncio.Event()
        self.working: list[Working] = []
        self.serving: dict[Serving, asyncio.Task[None] | None] = {}
        """Services, and what ends them once that has begun."""
        self.listening: WeakSet[Events[Any]] = WeakSet()
        self.starting: list[asyncio.Task[None]] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
