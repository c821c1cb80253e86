"""How often a durable has tried to handle an event.

The server counts deliveries, but also those that were given back unstarted. So a failure is
counted here, and so is the start of a *re*delivery, until it ends: what remains are starts that
ended without a word. A first delivery that succeeds is never looked at.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["NO_TRIES", "Tries", "TryCounter"]

# Seconds after which a count is of no use: nobody takes the event any more.
REMEMBER = 86_400


class Tries(msgspec.Struct, frozen=True):
    """What became of earlier tries."""

    failed: int = 0
    silent: int = 0
    """Starts that ended without a word: whoever handled it was killed, or stalled."""


NO_TRIES = Tries()

decode = msgspec.json.Decoder(Tries).decode


class TryCounter:
    """Counts in the bucket, for one durable."""

    def __init__(self, bus: Bus, durable: str) -> None:
        self._streams = bus.streams
        self._jetstream = bus.jetstream
        self._subjects = bus.subjects
        self._durable = durable

    async def find(self, domain: str, id: str) -> Tries:
        """Return what is known of an event."""
        key = self._subjects.tries_key(domain, self._durable, id)
        stored = await self._jetstream.find_last(self._subjects.bucket_stream, key)
        try:
            return NO_TRIES if stored is None else decode(stored.data)
        except msgspec.DecodeError:
            # Forgotten, so empty; or somebody else's nonsense.
            return NO_TRIES

    async def record(self, domain: str, id: str, tries: Tries, *, until: float = 0) -> None:
        """Set what is known of an event.

        Args:
            until: Seconds until it comes again.
        """
        key = self._subjects.tries_key(domain, self._durable, id)
        data = msgspec.json.encode(tries)
        headers = {"Nats-TTL": f"{REMEMBER + ceil(until)}s"}
        await self._streams.keep(key, data, headers)

    async def taken_back(self, domain: str, id: str) -> None:
        """Set the start of an event back that was ended in order, and not by its handler."""
        tries = await self.find(domain, id)
        if tries.silent > 0:
            await self.record(domain, id, Tries(tries.failed, tries.silent - 1))

    async def forget(self, domain: str, id: str) -> None:
        """Forget an event."""
        key = self._subjects.tries_key(domain, self._durable, id)
        await self._streams.forget(key)
