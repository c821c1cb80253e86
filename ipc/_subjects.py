"""How messages lie on NATS: the names of subjects and streams.

    ipc.event.<type>            an event, to whoever listens and to its domain's stream
    ipc.event.<type>.<part>     the same, of a type with a key: 0 to 31, by the key's checksum
    ipc.again.<durable>.<type>  an event that one durable gets once more, with <part> as before
    ipc.request.<type>          a request, to one instance of a service
    ipc.gather.<type>           a request, to all instances
    stream ipc-<domain>         ipc.event.<domain>.>, ipc.again.*.<domain>.>
    stream ipc-<domain>-dead    ipc.dead.<domain>.<durable>.<id>
    bucket ipc                  $KV.ipc.type.<type>, $KV.ipc.instance.<name>.<id>,
                                $KV.ipc.tries.<domain>.<durable>.<id>

The part of a key is the CRC-32 of its JSON, modulo 32: events with equal keys have one part, and
a consumer that has one event unacked at most keeps their order.

A type has its own subjects, so a server can allow each service exactly the types that are
its own. Event and request come before the type, so that it also can tell telling from asking.
"""

from __future__ import annotations

import zlib
from typing import Any

from ._codec import encode
from ._names import check_name

__all__ = ["PARTS", "Subjects", "part_of_key"]

PARTS = 32
"""What the events of a type with a key are divided into: so many can be handled at once where
the order is kept."""


class Subjects:
    """The names under one prefix."""

    def __init__(self, prefix: str = "ipc") -> None:
        self.prefix = check_name("prefix", prefix)
        self._event = f"{prefix}.event."
        self._request = f"{prefix}.request."
        self.bucket_stream = f"KV_{prefix}"
        """The stream behind the key-value bucket."""

    def event(self, name: str, part: int | None = None) -> str:
        """Where events of a type are published; those of a type with a key, in parts."""
        return self._event + name if part is None else f"{self._event}{name}.{part}"

    def events(self, name: str) -> tuple[str, str]:
        """Where to listen for all events of a type."""
        return self._event + name, f"{self._event}{name}.*"

    def again(self, durable: str, name: str, part: int | None = None) -> str:
        """Where one durable gets events of a type once more."""
        again = f"{self.prefix}.again.{durable}.{name}"
        return again if part is None else f"{again}.{part}"

    def request(self, name: str) -> str:
        """Where one instance of a service answers requests of a type."""
        return self._request + name

    def gather(self, name: str) -> str:
        """Where all instances of a service answer requests of a type."""
        return f"{self.prefix}.gather.{name}"

    def event_name(self, subject: str) -> str:
        """Return the type that the subject of an event names."""
        if subject.startswith(self._event):
            name = subject[len(self._event) :]
        else:
            # `again`: behind the durable.
            name = subject.removeprefix(f"{self.prefix}.again.").partition(".")[2]
        # A part of digits, or a wildcard for it, is no part of the name.
        if name[-1:].isdigit() or name.endswith(".*"):
            before, _, last = name.rpartition(".")
            return before if last == "*" or last.isdigit() else name
        return name

    def part_of(self, subject: str) -> int | None:
        """Return the part that the subject of an event names, if it does."""
        last = subject.rpartition(".")[2]
        return int(last) if last.isdigit() else None

    def stream(self, domain: str) -> str:
        """The stream that keeps a domain's events for its durables."""
        return f"{self.prefix}-{domain}"

    def stored(self, domain: str) -> tuple[str, ...]:
        """What that stream stores."""
        return (f"{self._event}{domain}.>", f"{self.prefix}.again.*.{domain}.>")

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


def part_of_key(key: Any) -> int:
    """Return the part of the events with a key."""
    return zlib.crc32(encode(key)) % PARTS
