"""How messages lie on NATS: the names of subjects and streams.

    ipc.event.<part>.<type>            an event, to whoever listens and to its domain's stream
    ipc.again.<durable>.<part>.<type>  an event that one durable gets once more
    ipc.request.<type>                 a request, to one instance of a service
    ipc.gather.<type>                  a request, to all instances
    stream ipc-<domain>                ipc.event.*.<domain>.>, ipc.again.*.*.<domain>.>
    stream ipc-<domain>-dead           ipc.dead.<domain>.<durable>.<id>
    bucket ipc                         $KV.ipc.type.<type>, $KV.ipc.instance.<name>.<id>,
                                       $KV.ipc.tries.<domain>.<durable>.<id>

The part is `-`; of a type with a key, the CRC-32 of the key's JSON, modulo 32: events with equal
keys have one part, and a consumer that has one event unacked at most keeps their order. It stands
before the type, so that one subject, `ipc.event.*.<type>`, is all events of a type and no other.

A type has its own subjects, so a server can allow each service exactly the types that are
its own. Event and request come before the type, so that it also can tell telling from asking.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

from ._codec import encode
from ._names import check_name

__all__ = ["NO_PART", "PARTS", "Subjects", "part_of_key"]

PARTS = 32
"""What the events of a type with a key are divided into: so many can be handled at once where
the order is kept."""


NO_PART = "-"


class Subjects:
    """The names under one prefix."""

    def __init__(self, prefix: str = "ipc") -> None:
        self.prefix = check_name("prefix", prefix)
        self._event = f"{prefix}.event."
        self._again = f"{prefix}.again."
        # The same few, thousands of times a second.
        self.event_name = lru_cache(maxsize=4096)(self._event_name)
        """Return the type that the subject of an event names."""
        self._request = f"{prefix}.request."
        self.bucket_stream = f"KV_{prefix}"
        """The stream behind the key-value bucket."""

    def event(self, name: str, part: str = NO_PART) -> str:
        """Where events of a type are published; those of a type with a key, in parts."""
        return f"{self._event}{part}.{name}"

    def events(self, name: str) -> str:
        """Where to listen for all events of a type."""
        return self.event(name, "*")

    def again(self, durable: str, name: str, part: str = "*") -> str:
        """Where one durable gets events of a type once more."""
        return f"{self.prefix}.again.{durable}.{part}.{name}"

    def request(self, name: str) -> str:
        """Where one instance of a service answers requests of a type."""
        return self._request + name

    def gather(self, name: str) -> str:
        """Where all instances of a service answer requests of a type."""
        return f"{self.prefix}.gather.{name}"

    def _event_name(self, subject: str) -> str:
        # Of `again`, what follows the durable.
        start = self._event if subject.startswith(self._event) else self._again
        skipped = 1 if start is self._event else 2
        return subject.removeprefix(start).split(".", skipped)[-1]

    def part_of(self, subject: str) -> str:
        """Return the part that the subject of an event names; none, if it is no such subject."""
        part = subject.removesuffix("." + self.event_name(subject)).rpartition(".")[2]
        return part if part.isascii() and part.isdigit() else NO_PART

    def stream(self, domain: str) -> str:
        """The stream that keeps a domain's events for its durables."""
        return f"{self.prefix}-{domain}"

    def stored(self, domain: str) -> tuple[str, ...]:
        """What that stream stores."""
        return (self.events(f"{domain}.>"), self.again("*", f"{domain}.>"))

    def dead_stream(self, domain: str) -> str:
        """The stream of a domain's dead letters."""
        return f"{self.prefix}-{domain}-dead"

    def dead(self, domain: str, durable: str, id: str) -> str:
        """Where one durable's dead letter lies; `*` for any."""
        return f"{self.prefix}.dead.{domain}.{durable}.{id}"

    def type_key(self, name: str) -> str:
        """Where a type is registered."""
        return f"$KV.{self.prefix}.type.{name}"

    def instance_key(self, bus: str, instance: str) -> str:
        """Where a running bus says what it does; `*` for any."""
        return f"$KV.{self.prefix}.instance.{bus}.{instance}"

    def tries_key(self, domain: str, durable: str, id: str) -> str:
        """Where the failed tries of one durable at one event are counted."""
        return f"$KV.{self.prefix}.tries.{domain}.{durable}.{id}"


def part_of_key(key: Any) -> str:
    """Return the part of the events with a key."""
    return str(zlib.crc32(encode(key)) % PARTS)
