"""A service: what it answers, and what it needs to do so. Defining one connects to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, Unpack

from ._context import Context
from ._errors import HandlerDefinitionError, InvalidNameError
from ._handler import (
    EventHandler,
    OnDecorator,
    OnOptions,
    RequestHandler,
    check_durable,
    event_handler,
    request_handler,
)
from ._micro import NAME, VERSION
from ._middleware import Middleware
from ._names import MAX_NAME_LENGTH
from ._types import Event, Request, event_types, request_types

__all__ = ["Service"]

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=Event)


class Service:
    """What a process offers to others: handlers of requests, and of events.

    `bus.serve(service)` runs it. Several processes that serve it share the requests.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        description: str = "",
        publishes: Iterable[type[Event]] = (),
        requests: Iterable[type[Request[Any]]] = (),
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        concurrency: int = 100,
        max_waiting: int = 10_000,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a service.

        Args:
            name: Letters, digits, `-` and `_`; what others find it by.
            version: Its semantic version.
            description: For people.
            publishes: The events that it publishes, and
            requests: the requests that it makes: for its permissions and its documents.
            lifespan: Called when it begins to be served; what it yields is every handler's
                `ctx.state`, and it is left when the service ends.
            concurrency: How many requests each process handles at once.
            max_waiting: How many may wait for that; more are answered `ServiceBusyError`.
            metadata: Shown to whoever asks for the service.

        Raises:
            InvalidNameError: `name` has other characters.
            TypeError: `publishes` or `requests` has a type of another kind.
            ValueError: `version` is no semantic version, or a number is out of its range.
        """
        if not NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
            raise InvalidNameError("service", name, "letters, digits, '-' and '_'")
        if not VERSION.fullmatch(version):
            raise ValueError(
                f"service {name!r}: version is a semantic version such as 1.2.0, not {version!r}"
            )
        if concurrency < 1 or max_waiting < 0:
            raise ValueError(f"service {name!r}: concurrency is at least 1, max_waiting 0")
        self.name = name
        self.version = version
        self.description = description
        self.publishes = event_types(publishes)
        self.requests = request_types(requests)
        self.lifespan = lifespan
        self.concurrency = concurrency
        self.max_waiting = max_waiting
        self.metadata = dict(metadata or {})
        self.middleware: list[Middleware[Context]] = []
        """Wrapped around every handler, the first one outermost."""
        self.handlers: dict[str, RequestHandler] = {}
        """By the name of the request's type."""
        self.event_handlers: list[EventHandler] = []

    def __repr__(self) -> str:
        return f"<Service {self.name!r} {self.version}>"

    def handle(self, function: F) -> F:
        """Answer the requests that a function's first parameter is annotated with.

        What it returns is the answer. An async generator answers `bus.stream` with what it
        yields. A parameter annotated `ipc.Context` gets what is known of the request. What it
        raises is the caller's: a `ServiceError` as itself, all else with code 500.

        Raises:
            HandlerDefinitionError: The annotations do not fit, or the request has a handler.
        """
        handler = request_handler(function)
        if handler.kind.name in self.handlers:
            raise HandlerDefinitionError(
                handler.called.name,
                f"{handler.kind.name} is answered by "
                f"{self.handlers[handler.kind.name].called.name!r} already",
            )
        self.handlers[handler.kind.name] = handler
        return function

    def on(self, *types: type[E], **options: Unpack[OnOptions]) -> OnDecorator[E]:
        """Handle events while the service is served; see `Bus.on`."""

        def add(function: Any) -> Any:
            handler = event_handler(function, types, options)
            check_durable(handler, self.event_handlers)
            self.event_handlers.append(handler)
            return function

        return add
