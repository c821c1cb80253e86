"""What a program shows of itself: the types that it handles, publishes and asks with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ._types import MessageType, registered_types

if TYPE_CHECKING:
    from ._bus import Bus
    from ._handler import EventHandler
    from ._service import Service

__all__ = ["Surface", "surface_of_bus", "surface_of_module", "surface_of_service"]


class Surface(msgspec.Struct, frozen=True, kw_only=True):
    """What a service, a bus or a module has to do with others."""

    name: str
    version: str = "0.0.0"
    description: str = ""
    is_service: bool = False
    answers: tuple[MessageType, ...] = ()
    """Requests that it answers."""
    streams: frozenset[str] = frozenset()
    """Names of those that it answers with many items."""
    handles: tuple[MessageType, ...] = ()
    """Events that it handles while it listens."""
    durables: Mapping[str, tuple[MessageType, ...]] = {}
    """Events that it handles durably, by the durable."""
    ordered: frozenset[str] = frozenset()
    """Durables that keep the order."""
    publishes: tuple[MessageType, ...] = ()
    """Events that it publishes."""
    asks: tuple[MessageType, ...] = ()
    """Requests that it makes."""

    @property
    def types(self) -> tuple[MessageType, ...]:
        """Every type, once, by name."""
        durable = [kind for kinds in self.durables.values() for kind in kinds]
        every = (*self.answers, *self.handles, *durable, *self.publishes, *self.asks)
        return tuple(sorted({kind.name: kind for kind in every}.values(), key=lambda k: k.name))


def surface_of_service(service: Service) -> Surface:
    """Return what a service has to do with others."""
    handlers = service.handlers.values()
    return Surface(
        name=service.name,
        version=service.version,
        description=service.description,
        is_service=True,
        answers=tuple(handler.kind for handler in handlers),
        streams=frozenset(handler.kind.name for handler in handlers if handler.streams),
        publishes=service.publishes,
        asks=service.requests,
        **_events(service.event_handlers),
    )


def surface_of_bus(bus: Bus) -> Surface:
    """Return what a bus has to do with others."""
    return Surface(
        name=bus.name, publishes=bus.publishes, asks=bus.requests, **_events(bus.handlers)
    )


def surface_of_module(name: str, members: Mapping[str, Any]) -> Surface:
    """Return the types that a module defines or uses: it may do anything with them."""
    classes = {one for one in members.values() if isinstance(one, type)}
    kinds = [kind for kind in registered_types() if kind.python in classes]
    return Surface(
        name=name,
        publishes=tuple(kind for kind in kinds if kind.kind == "event"),
        asks=tuple(kind for kind in kinds if kind.kind == "request"),
    )


def _events(handlers: Iterable[EventHandler]) -> dict[str, Any]:
    live: list[MessageType] = []
    durables: dict[str, tuple[MessageType, ...]] = {}
    ordered: set[str] = set()
    for handler in handlers:
        durable = handler.options.durable
        if durable is None:
            live += handler.kinds
            continue
        durables[durable] = handler.kinds
        if handler.options.ordered:
            ordered.add(durable)
    return {"handles": tuple(live), "durables": durables, "ordered": frozenset(ordered)}
