"""What is settled for a queue as a whole, whatever runs in it."""

from __future__ import annotations

import msgspec

from ipc import Storage, check_name

__all__ = ["DEFAULT_LEASE", "Queue"]

DEFAULT_LEASE = 30.0


class Queue(msgspec.Struct, frozen=True):
    """A queue and how it is kept. Only queues that differ from the app need one.

    Raises:
        InvalidNameError: The name cannot be part of a subject.
        ValueError: A setting is out of its range.
    """

    name: str
    storage: Storage | None = None
    """`file` survives a restart of the server, `memory` is faster; else the app's."""
    replicas: int | None = None
    """How many servers of a cluster hold each job: 1, 3 or 5; else the app's."""
    lease: float = DEFAULT_LEASE
    """Seconds until a job is delivered again whose worker fell silent.

    Renewed while the job runs, so it bounds how long a dead worker goes unnoticed,
    not how long a job may take.
    """

    def __post_init__(self) -> None:
        check_name("queue", self.name)
        if self.storage not in (None, "file", "memory"):
            raise ValueError(f"queue {self.name!r}: storage is 'file' or 'memory'")
        if self.replicas not in (None, 1, 3, 5):
            raise ValueError(f"queue {self.name!r}: replicas is 1, 3 or 5")
        if self.lease < 1:
            raise ValueError(f"queue {self.name!r}: lease is at least 1 second")
