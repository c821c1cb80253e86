"""Code around a handler: timing, tracing, transactions, whatever every call needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

__all__ = ["Handler", "Middleware", "wrap"]

C = TypeVar("C")

Handler = Callable[[], Awaitable[Any]]

Middleware = Callable[[C, Handler], Awaitable[Any]]
"""Called with the context of a call and what comes next: does something, awaits
`call_next()`, returns what that returned (or something else)."""


def wrap(handler: Handler, context: C, middleware: Sequence[Middleware[C]]) -> Handler:
    """Return `handler` with middleware around it, the first one outermost."""
    for one in reversed(middleware):
        handler = partial(one, context, handler)
    return handler
