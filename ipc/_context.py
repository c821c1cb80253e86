"""What code knows of the message that it handles, and what it sends takes over from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from ._connection import Message
from ._envelope import Meta, read_meta
from ._middleware import Middleware

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = [
    "Cause",
    "Context",
    "Origin",
    "Scope",
    "current_context",
    "current_origin",
    "following",
]


class Origin(Protocol):
    """What a message that is sent now follows from: a message, or a job."""

    @property
    def id(self) -> str:
        """Becomes the `causation_id` of what is sent."""
        ...

    @property
    def correlation_id(self) -> str:
        """Becomes the `correlation_id` of what is sent."""
        ...

    @property
    def traceparent(self) -> str | None:
        """Goes along as a header."""
        ...

    @property
    def deadline(self) -> float | None:
        """Until when somebody waits, by the event loop's clock; what is sent has no longer."""
        ...


class Cause:
    """What messages follow from that is no message itself: a web request, a run of a script.

    `with following(Cause(request_id)):` lets what is sent inside be found by that id.
    """

    def __init__(
        self, id: str, *, correlation_id: str = "", traceparent: str | None = None
    ) -> None:
        """Name it.

        Args:
            id: Becomes the `causation_id` of what is sent,
            correlation_id: and this, or else the id, the `correlation_id`.
            traceparent: The trace that it belongs to (W3C Trace Context).
        """
        self.id = id
        self.correlation_id = correlation_id or id
        self.traceparent = traceparent
        self.deadline: float | None = None
        """Until when somebody waits, by the event loop's clock."""


current_origin: ContextVar[Origin | None] = ContextVar("ipc_origin", default=None)
"""What is being handled in this asyncio task, if anything."""


class Scope(msgspec.Struct, frozen=True):
    """What handlers of one bus or service share."""

    state: Any
    """What its `lifespan` yielded."""
    middleware: Sequence[Middleware[Context]]


class Context:
    """A message that is being handled. A handler gets it for a parameter annotated so."""

    def __init__(
        self,
        bus: Bus,
        message: Message,
        scope: Scope,
        *,
        attempt: int = 1,
    ) -> None:
        self.bus = bus
        """The bus that it came by."""
        self.scope = scope
        self.deadline: float | None = None
        """Until when the sender of a request waits, by the event loop's clock."""
        self.attempt = attempt
        """Of a durable event: counts from 1."""
        self._message = message
        self._traceparent: str | None = None

    @cached_property
    def _meta(self) -> Meta:
        return read_meta(self._message.data)

    @property
    def state(self) -> Any:
        """What the `lifespan` of the bus or service yielded."""
        return self.scope.state

    @property
    def type(self) -> str:
        """What its `$type` says."""
        return self._meta.type

    @property
    def id(self) -> str:
        """The message's id; "" where its sender gave it none."""
        return self._meta.id

    @property
    def time(self) -> datetime | None:
        """When it was sent, by the sender's clock."""
        return self._meta.time

    @property
    def source(self) -> str:
        """The name of the bus that sent it."""
        return self._meta.source

    @property
    def subject(self) -> str:
        """The NATS subject that it came on."""
        return self._message.subject

    @property
    def correlation_id(self) -> str:
        """Id of the message that began it all: the same for all that follows from it."""
        return self._meta.correlation or self._meta.id

    @property
    def causation_id(self) -> str:
        """Id of the message that this one was sent because of; "" at the beginning."""
        return self._meta.causation

    @property
    def headers(self) -> Mapping[str, str]:
        """The NATS headers."""
        return self._message.headers or {}

    @property
    def traceparent(self) -> str | None:
        """The trace that it belongs to (W3C Trace Context), sent along with what follows.

        Middleware that starts a span sets it to that span's.
        """
        return self._traceparent or self.headers.get("traceparent")

    @traceparent.setter
    def traceparent(self, value: str) -> None:
        self._traceparent = value

    @property
    def time_left(self) -> float | None:
        """Seconds until the sender of a request gives up; `None` where it does not say."""
        if self.deadline is None:
            return None
        return self.deadline - asyncio.get_running_loop().time()

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that names the message."""
        return structlog.stdlib.get_logger("ipc").bind(
            type=self.type, message_id=self.id, correlation_id=self.correlation_id
        )


def current_context() -> Context:
    """Return the message that is handled here: in its handler, or anything that calls.

    Raises:
        LookupError: None is.
    """
    origin = current_origin.get()
    if not isinstance(origin, Context):
        raise LookupError("current_context() is for code that handles a message")
    return origin


@contextlib.contextmanager
def following(origin: Origin | None) -> Generator[None]:
    """Let what is sent inside follow from a message: handlers do, loops over events may."""
    token = current_origin.set(origin)
    try:
        yield
    finally:
        current_origin.reset(token)
