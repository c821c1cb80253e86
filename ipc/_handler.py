"""Handlers: functions that take events or requests, and what their annotations say."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import (
    Any,
    Literal,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec
from typing_extensions import TypedDict

from ._context import Context
from ._domain import Start
from ._errors import HandlerDefinitionError
from ._names import check_name
from ._retry import Retry
from ._types import Event, MessageType, Request, type_of

__all__ = [
    "EventHandler",
    "EventOptions",
    "OnDecorator",
    "OnOptions",
    "RequestHandler",
    "event_handler",
    "request_handler",
    "shown",
]


E = TypeVar("E", bound=Event)


class Called(msgspec.Struct, frozen=True):
    """A function, and how it wants to be called."""

    function: Callable[..., Any]
    context: inspect.Parameter | None
    """What takes the context."""

    def call(self, message: Any, context: Context) -> Any:
        """Call it; what it returns is to be awaited, or iterated over."""
        if self.context is None:
            return self.function(message)
        if self.context.kind is inspect.Parameter.POSITIONAL_ONLY:
            return self.function(message, context)
        return self.function(message, **{self.context.name: context})

    @property
    def name(self) -> str:
        """For logs and errors."""
        return getattr(self.function, "__qualname__", repr(self.function))


class RequestHandler(msgspec.Struct, frozen=True):
    """What answers one type of request."""

    called: Called
    kind: MessageType
    streams: bool
    """Whether it yields many answers instead of returning one."""


class EventOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked options of a handler; see `OnOptions`."""

    durable: str | None = None
    group: str = ""
    concurrency: int = 100
    retry: Retry = Retry(max_attempts=5)
    start: Start = "new"
    ordered: bool = False
    lease: float = 30.0
    unknown: Literal["skip", "error"] = "skip"


class OnOptions(TypedDict, total=False):
    """How events are handed to a handler; keyword arguments of `on`."""

    durable: str
    """The name under which the server remembers what was handled; without, events are handled
    that are published while it listens. All durables get every event; the processes that
    have the same one share them."""
    group: str
    """Without a durable: the processes of a group share the events."""
    concurrency: int
    """How many events are handled at once; 100."""
    retry: Retry
    """When a durable event is handled again whose handler failed; up to 5 attempts."""
    start: Start
    """Where a durable begins that is not there yet; `"new"`."""
    ordered: bool
    """Of a durable: events with the same key are handled one after the other, as they were
    published, whichever process they come to. The types say what their key is."""
    lease: float
    """Seconds until a durable event is delivered again whose handler fell silent; 30. Renewed
    while it runs."""
    unknown: Literal["skip", "error"]
    """What becomes of an event whose `$type` is none of the handler's: left out, or logged and,
    of a durable, made a dead letter."""


class OnDecorator(Protocol[E]):
    """Registers a handler of events, with or without a context."""

    @overload
    def __call__(
        self, function: Callable[[E], Awaitable[Any]], /
    ) -> Callable[[E], Awaitable[Any]]: ...
    @overload
    def __call__(
        self, function: Callable[[E, Context], Awaitable[Any]], /
    ) -> Callable[[E, Context], Awaitable[Any]]: ...


class EventHandler(msgspec.Struct, frozen=True):
    """What handles some types of events."""

    called: Called
    kinds: tuple[MessageType, ...]
    options: EventOptions

    @property
    def by_name(self) -> Mapping[str, MessageType]:
        """The types by every name that they have or had."""
        return {name: kind for kind in self.kinds for name in kind.names}


def event_handler(
    function: Callable[..., Any], types: tuple[type[Event], ...], given: OnOptions
) -> EventHandler:
    """Return a function as a handler of events.

    Raises:
        HandlerDefinitionError: It is no coroutine function of one event, or the options
            are out of their range.
    """
    called, first, _ = _inspect(function)
    try:
        options = EventOptions(**given)
    except TypeError as exc:
        raise HandlerDefinitionError(called.name, str(exc)) from None
    if not inspect.iscoroutinefunction(function):
        raise HandlerDefinitionError(called.name, "must be `async def`, and not yield")
    kinds = tuple(type_of(one) for one in types)
    if not kinds or any(kind.kind != "event" for kind in kinds):
        raise HandlerDefinitionError(called.name, "`on` takes the event types that it handles")
    for kind in kinds:
        if not _takes(first, kind.python):
            raise HandlerDefinitionError(
                called.name, f"is to handle {kind.name}, but takes {shown(first)}"
            )
    if options.durable is not None:
        check_name("durable", options.durable)
        if options.group:
            raise HandlerDefinitionError(called.name, "a durable is a group by itself")
    elif options.ordered or options.start != "new":
        raise HandlerDefinitionError(called.name, "ordered and start are for durables")
    elif options.group:
        check_name("group", options.group)
    if options.unknown not in ("skip", "error"):
        raise HandlerDefinitionError(called.name, "unknown is 'skip' or 'error'")
    if options.start not in ("new", "all") and not isinstance(options.start, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HandlerDefinitionError(called.name, "start is 'new', 'all' or a datetime")
    for kind in kinds:
        if options.ordered and kind.key is None:
            raise HandlerDefinitionError(
                called.name,
                f"ordered by what? Say so where {kind.name} is defined: "
                f"class {kind.python.__name__}(Event, key=…)",
            )
    # Not the other way round: `nan` is neither.
    if not (options.concurrency >= 1 and options.lease >= 1):
        raise HandlerDefinitionError(called.name, "concurrency and lease are at least 1")
    return EventHandler(called, kinds, options)


def check_durable(handler: EventHandler, others: Iterable[EventHandler]) -> None:
    """Check that no other handler here has the same durable.

    Raises:
        HandlerDefinitionError: They would share the events between them.
    """
    durable = handler.options.durable
    for other in others:
        if durable is not None and other.options.durable == durable:
            raise HandlerDefinitionError(
                handler.called.name,
                f"durable {durable!r} is {other.called.name!r}'s already; one durable has one "
                "handler, which may take several types",
            )


def request_handler(function: Callable[..., Any]) -> RequestHandler:
    """Return a function as a handler of the requests that its first parameter is annotated with.

    Raises:
        HandlerDefinitionError: The annotations do not say what it takes, or it returns
            another type than the request is answered with.
    """
    called, first, returns = _inspect(function)
    if not (isinstance(first, type) and issubclass(first, Request)):
        raise HandlerDefinitionError(
            called.name, "its first parameter is annotated with a subclass of ipc.Request"
        )
    kind = type_of(cast("type[msgspec.Struct]", first))
    streams = inspect.isasyncgenfunction(function)
    if not streams and not inspect.iscoroutinefunction(function):
        raise HandlerDefinitionError(called.name, "must be `async def`")
    if returns is not Any:
        if streams and get_origin(returns) is not None and get_args(returns):
            returns = get_args(returns)[0]
        if returns != kind.reply:
            raise HandlerDefinitionError(
                called.name,
                f"returns {shown(returns)}, but {kind.name} is answered with "
                f"{shown(kind.reply)}" + (f": AsyncIterator[{shown(kind.reply)}]" * streams),
            )
    return RequestHandler(called, kind, streams)


def _takes(annotated: Any, python: type) -> bool:
    """Return whether a parameter takes instances of a class, as far as its annotation says."""
    options: tuple[Any, ...] = get_args(annotated) or (annotated,)
    # `Any` is a class too, of Python 3.11 on.
    classes = tuple(one for one in options if isinstance(one, type) and one is not Any)
    return len(classes) < len(options) or issubclass(python, classes)


def _inspect(function: Callable[..., Any]) -> tuple[Called, Any, Any]:
    """Return how to call a function, and the types of its first parameter and its result."""
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as exc:
        raise HandlerDefinitionError(name, f"is no function to call: {exc}") from exc
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError, AttributeError, SyntaxError) as exc:
        raise HandlerDefinitionError(name, f"an annotation cannot be resolved: {exc}") from exc
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise HandlerDefinitionError(name, "takes the message as its first parameter")
    context = None
    for parameter in parameters[1:]:
        if hints.get(parameter.name) is Context:
            context = parameter
        elif parameter.default is parameter.empty:
            raise HandlerDefinitionError(
                name,
                f"parameter {parameter.name!r}: besides the message there is only a context, "
                "for a parameter that is annotated `ipc.Context`",
            )
    called = Called(function, context)
    return called, hints.get(parameters[0].name), hints.get("return", Any)


def shown(python: Any) -> str:
    """Return a type as it is written in code."""
    return python.__name__ if isinstance(python, type) and not get_args(python) else repr(python)
