"""Dead letters of events: set aside for people, for one durable, until it gets them again.

Stored as the event's own bytes, with all that is said of them in one header: so whatever the
server took as an event it takes as a dead letter, and nothing has to be unpacked.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ._envelope import NOT_DECODABLE, read_meta
from ._errors import DeadEventMissingError, DurableMissingError, MessageTooLargeError
from ._event_streams import Durables
from ._jetstream import StoredMessage
from ._trace import own_frames

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["DeadEvent", "EventDeadLetters"]

HEADER = "Ipc-Dead-Letter"

MAX_TEXT = 4_000
"""Characters of a traceback, and of any other text, that are kept; the end says most."""


class DeadEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that one durable could not handle."""

    id: str
    """Of the event on its stream."""
    domain: str
    durable: str
    type: str = ""
    subject: str
    """Where it was published."""
    reason: str
    error: str = ""
    """The exception, with its traceback."""
    attempts: int
    died_at: datetime | None = None
    body: bytes = b""
    """The event as it arrived, byte for byte."""

    def header(self) -> dict[str, str]:
        """Return what is said of the body: JSON in ASCII."""
        shown = msgspec.structs.replace(
            self, body=b"", reason=self.reason[-MAX_TEXT:], error=self.error[-MAX_TEXT:]
        )
        return {HEADER: json.dumps(msgspec.to_builtins(shown))}


def describe(error: BaseException) -> str:
    """Return an exception with its traceback, from the handler on."""
    told = traceback.TracebackException(type(error), error, own_frames(error))
    return "".join(told.format())


class EventDeadLetters:
    """The dead letters of all durables."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._streams = bus.streams
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects

    async def bury(self, letter: DeadEvent) -> None:
        """Store a dead letter; the same one again replaces it."""
        subject = self._subjects.dead(letter.domain, letter.durable, letter.id)
        wanted = self._streams.dead_stream(letter.domain)
        try:
            await self._streams.store(wanted, subject, letter.body, letter.header())
        except MessageTooLargeError:
            # An event may fill a message by itself: its bytes are kept without a word.
            await self._streams.store(wanted, subject, letter.body)

    async def list(self, durable: str | None = None) -> AsyncIterator[DeadEvent]:
        """Yield dead letters, oldest first in each domain.

        Args:
            durable: Only this durable's.
        """
        for domain in await self._domains():
            stream = self._subjects.dead_stream(domain)
            subject = self._subjects.dead(domain, durable or "*", "*")
            async for stored in self._jetstream.scan(stream, subject):
                yield read_letter(stored)

    async def find(self, durable: str, id: str) -> DeadEvent | None:
        """Return one dead letter, or `None`."""
        for domain in await self._domains():
            stored = await self._jetstream.find_last(
                self._subjects.dead_stream(domain), self._subjects.dead(domain, durable, id)
            )
            if stored is not None:
                return read_letter(stored)
        return None

    async def replay(self, durable: str, id: str) -> None:
        """Give an event to its durable once more, and to no other, with all its attempts.

        Raises:
            DeadEventMissingError: There is no such dead letter.
            DurableMissingError: The durable is gone, or does not take such events any more: the
                dead letter stays.
        """
        letter = await self.find(durable, id)
        if letter is None:
            raise DeadEventMissingError(durable, id)
        name = letter.type or self._subjects.event_name(letter.subject)
        durables = await Durables(self._bus).list(domain=letter.domain)
        if not any(one.durable == durable and name in one.takes for one in durables):
            # The server would drop at once what nobody takes.
            advice = f"it does not take {name} any more, so the dead letter stays"
            raise DurableMissingError(durable, self._subjects.stream(letter.domain), advice)
        part = self._subjects.part_of(letter.subject)
        again = self._subjects.again(durable, name, part)
        # First it is stored again, then it goes from here; the id makes twice once.
        await self._jetstream.publish(
            again, letter.body, headers={"Nats-Msg-Id": f"again.{durable}.{id}"}
        )
        await self._remove(letter.domain, durable, id)

    async def purge(self, durable: str, id: str | None = None) -> int:
        """Throw a durable's dead letters away, or one of them; return how many."""
        return sum(
            [await self._remove(domain, durable, id or "*") for domain in await self._domains()]
        )

    async def _remove(self, domain: str, durable: str, id: str) -> int:
        stream = self._subjects.dead_stream(domain)
        return await self._jetstream.purge(stream, self._subjects.dead(domain, durable, id))

    async def _domains(self) -> list[str]:
        """Return the domains that have a stream for dead letters."""
        first = self._subjects.stream("")
        streams = await self._jetstream.list_streams(self._subjects.dead("*", "*", "*"))
        names = [str(stream.config["name"]) for stream in streams]
        return sorted(name.removeprefix(first).removesuffix("-dead") for name in names)


def read_letter(stored: StoredMessage) -> DeadEvent:
    """Return a stored dead letter; one that says nothing of itself, or nonsense, too."""
    headers: Mapping[str, str] = stored.headers or {}
    domain, durable, id = stored.subject.split(".")[-3:]
    try:
        said: Any = msgspec.json.decode(headers[HEADER].encode(), type=DeadEvent)
    except (KeyError, *NOT_DECODABLE):
        said = DeadEvent(
            id=id,
            domain=domain,
            durable=durable,
            type=read_meta(stored.data).type,
            subject="",
            reason="the dead letter does not say",
            attempts=0,
            died_at=stored.stored_at,
        )
    return msgspec.structs.replace(said, body=stored.data)
