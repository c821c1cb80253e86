"""How often a job's worker fell silent while running it.

The server counts deliveries, but also those that were given back unstarted. So the start
of a *re*delivery is counted here, and the count is forgotten when the job is taken from
a worker that stops in order: what remains are starts that ended without a word.
A count is of one stored message: the copy that a retry leaves begins at none.
"""

from __future__ import annotations

from ipc import JetStream

from ._layout import JobId, Layout

__all__ = ["Crashes"]

REMEMBER = "24h"


class Crashes:
    """Counts in the app's key-value bucket."""

    def __init__(self, jetstream: JetStream, layout: Layout) -> None:
        self._jetstream = jetstream
        self._layout = layout

    async def find(self, job: JobId, seq: int) -> int:
        """Return how many starts of a job, stored as number `seq`, are counted."""
        stored = await self._jetstream.find_last(
            self._layout.bucket_stream, self._layout.crashes(job)
        )
        counted, _, count = stored.data.partition(b" ") if stored is not None else (b"", b"", b"")
        return int(count) if counted == str(seq).encode() and count.isdigit() else 0

    async def record(self, job: JobId, seq: int, count: int) -> None:
        """Set the count of a job that is stored as number `seq`."""
        await self._jetstream.publish(
            self._layout.crashes(job), f"{seq} {count}".encode(), headers={"Nats-TTL": REMEMBER}
        )

    async def forget(self, job: JobId) -> None:
        """Set the count back to none."""
        await self._jetstream.purge(self._layout.bucket_stream, self._layout.crashes(job))
