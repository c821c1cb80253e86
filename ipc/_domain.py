"""A domain: the first part of its types' names, whose events one stream keeps."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

import msgspec

from ._jetstream import Storage

__all__ = ["Domain", "Start"]

Start = datetime | Literal["new", "all"]
"""Where a new durable begins: with what comes from now on, with all that the stream holds,
or with what was stored since a time."""

_NAME = re.compile(r"[A-Za-z0-9_]{1,100}")


class Domain(msgspec.Struct, frozen=True):
    """How the events of a domain are kept. Only domains that differ from the bus need one.

    Raises:
        ValueError: A setting is out of its range.
    """

    name: str
    """What the types' names begin with: `shop` for `shop.events.UserCreated`."""
    history: float | None = None
    """Seconds that events are kept, whoever has handled them, so that a new durable can
    begin in the past (a Limits stream). Without, an event is kept until every durable that
    was there has acked it, and not at all where there is none (an Interest stream)."""
    storage: Storage | None = None
    """`file` survives a restart of the server, `memory` is faster; else the bus's."""
    replicas: int | None = None
    """How many servers of a cluster hold each event: 1, 3 or 5; else the bus's."""
    max_bytes: int = -1
    """What the stream may hold, then the oldest events go; -1 without limit."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"domain {self.name!r}: letters, digits and '_', as in types' names")
        if self.history is not None and not self.history > 0:
            raise ValueError(f"domain {self.name!r}: history is a positive number of seconds")
        if self.storage not in (None, "file", "memory"):
            raise ValueError(f"domain {self.name!r}: storage is 'file' or 'memory'")
        if self.replicas not in (None, 1, 3, 5):
            raise ValueError(f"domain {self.name!r}: replicas is 1, 3 or 5")
