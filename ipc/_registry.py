"""Who runs, and which types they speak: kept in a key-value bucket on the server.

Every bus that does something writes what it is and does under a key of its own, again and
again; the server forgets it when that stops (NATS ADR-43, message TTL). A type is written once
and stays. Nothing depends on it but knowing: without JetStream, or where it is not allowed, all
else works, only `Bus.gather` cannot know whom to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from ._codec import decoder, encode
from ._envelope import NOT_DECODABLE
from ._errors import IpcError
from ._types import MessageType

if TYPE_CHECKING:
    from ._bus import Bus
    from ._serving import Serving

__all__ = ["Registry", "RunningBus", "RunningService", "TypeRecord"]

log = structlog.stdlib.get_logger("ipc")

T = TypeVar("T")

# Seconds. Two beats may be lost before the server forgets an instance.
BEAT = 10.0
FORGET = "30s"

# Seconds that changes are collected for, so that a burst of them is written once.
PAUSE = 0.05


class RunningService(msgspec.Struct, frozen=True, kw_only=True):
    """An instance of a service."""

    name: str
    version: str
    id: str
    handles: list[str] = []
    """Names that the types of requests have, or had, that it answers."""


class RunningBus(msgspec.Struct, kw_only=True):
    """A process that is connected, and what it does."""

    name: str
    id: str
    host: str
    pid: int
    started_at: datetime
    services: list[RunningService] = []
    publishes: list[str] = []
    """Names of the types of events that it has published."""
    subscribes: list[str] = []
    """Names of the types of events that it handles."""
    durables: list[str] = []


class TypeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A type that somebody has used."""

    name: str
    kind: str
    version: int
    aliases: tuple[str, ...] = ()
    schema: dict[str, Any] = {}
    """JSON Schema of its fields."""
    reply: dict[str, Any] | None = None
    """JSON Schema of what a request is answered with."""


class Registry:
    """What this bus does, told to the server; and what others have told."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects
        self._own = RunningBus(
            name=bus.name,
            id=bus.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=datetime.now(UTC),
        )
        self._types: dict[str, MessageType] = {}
        self._written: set[str] = set()
        self._written_to = -1
        self._changed = asyncio.Event()
        self._there = False
        self._writing = asyncio.Lock()
        self._warned = False
        self._has_left = False

    # -- what this bus does ------------------------------------------------------------------

    def publishes(self, kind: MessageType) -> None:
        """Note a type of event that was published."""
        self._note(kind, self._own.publishes)

    def subscribes(self, kind: MessageType) -> None:
        """Note a type of event that is handled."""
        self._note(kind, self._own.subscribes)

    def has_durable(self, name: str) -> None:
        """Note a durable."""
        if name not in self._own.durables:
            self._own.durables.append(name)
            self._changed.set()

    def serves(self, serving: Serving) -> None:
        """Note an instance of a service."""
        service = serving.service
        for handler in service.handlers.values():
            self._types[handler.kind.name] = handler.kind
        self._own.services.append(
            RunningService(
                name=service.name,
                version=service.version,
                id=serving.id,
                handles=[
                    name for handler in service.handlers.values() for name in handler.kind.names
                ],
            )
        )
        self._changed.set()

    async def serves_no_more(self, serving: Serving) -> None:
        """Take an instance of a service back."""
        self._own.services = [one for one in self._own.services if one.id != serving.id]
        self._changed.set()
        if self._bus.connection.is_connected:
            await self.write()

    def _note(self, kind: MessageType, names: list[str]) -> None:
        if kind.name not in names:
            names.append(kind.name)
            self._types[kind.name] = kind
            self._changed.set()

    # -- telling the server --------------------------------------------------------------------

    async def run(self) -> None:
        """Write what changes, and that this bus still runs."""
        await self._changed.wait()
        while True:
            await asyncio.sleep(PAUSE)
            await self.write()
            try:
                async with asyncio.timeout(BEAT):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def write(self) -> None:
        """Write what this bus does; if that cannot be, say so once and go on."""
        async with self._writing:
            if self._has_left:
                return
            self._changed.clear()
            try:
                if self._written_to != self._bus.connection.epoch:
                    # A server with all in memory may have been restarted.
                    self._written.clear()
                    self._written_to = self._bus.connection.epoch
                for name, kind in tuple(self._types.items()):
                    if name not in self._written:
                        await self._write_type(kind)
                        self._written.add(name)
                key = self._subjects.instance_key(self._own.name, self._own.id)
                headers = {"Nats-TTL": FORGET}
                await self._bus.streams.keep(key, encode(self._own), headers)
                self._there, self._warned = True, False
            except IpcError as exc:
                self._there = False
                if not self._warned:
                    log.info("not registered, nobody can look up what runs here", reason=str(exc))
                self._warned = True

    async def leave(self) -> None:
        """Take back that this bus runs."""
        async with self._writing:
            self._has_left = True
        if self._there and self._bus.connection.is_connected:
            key = self._subjects.instance_key(self._own.name, self._own.id)
            try:
                await self._bus.streams.forget(key)
            except IpcError as exc:
                # The server forgets it in half a minute.
                log.debug("not unregistered", reason=str(exc))

    async def _write_type(self, kind: MessageType) -> None:
        key = self._subjects.type_key(kind.name)
        stored = await self._jetstream.find_last(self._subjects.bucket_stream, key)
        with contextlib.suppress(*NOT_DECODABLE):
            if stored is not None and decode_type(stored.data).version > kind.version:
                return
        record = TypeRecord(
            name=kind.name,
            kind=kind.kind,
            version=kind.version,
            aliases=kind.aliases,
            schema=schema_of(kind.python),
            reply=schema_of(kind.reply) if kind.kind == "request" else None,
        )
        data = encode(record)
        if stored is None or stored.data != data:
            await self._bus.streams.keep(key, data)

    # -- what others have told --------------------------------------------------------------------

    async def instances(self) -> list[RunningBus]:
        """Return every bus that runs.

        Raises:
            NoResponderError: The server has no such registry.
        """
        return await self._all(self._subjects.instance_key("*", "*"), decode_instance)

    async def types(self) -> list[TypeRecord]:
        """Return every type that was ever used.

        Raises:
            NoResponderError: The server has no such registry.
        """
        return await self._all(self._subjects.type_key(">"), decode_type)

    async def answering(self, name: str) -> set[str]:
        """Return the ids of the instances that answer a type of request.

        Raises:
            NoResponderError: The server has no such registry.
        """
        return {
            service.id
            for instance in await self.instances()
            for service in instance.services
            if name in service.handles
        }

    async def _all(self, subject: str, decode: Any) -> list[Any]:
        found: list[Any] = []
        async for stored in self._jetstream.scan(self._subjects.bucket_stream, subject):
            if not stored.data:
                # Taken back.
                continue
            try:
                found.append(decode(stored.data))
            except NOT_DECODABLE as exc:
                log.warning("registry entry skipped", subject=stored.subject, error=str(exc))
        return found


def schema_of(python: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type; nothing, if it has what cannot be said in one."""
    try:
        return msgspec.json.schema(python)
    except TypeError:
        return {}


decode_instance = decoder(RunningBus)
decode_type = decoder(TypeRecord)
