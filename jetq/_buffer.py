"""Jobs that were handed over and wait for a slot: the most urgent first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from ._delivery import Delivery
from ._layout import PRIORITIES

__all__ = ["Buffer"]

RANK = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class Buffer:
    """A queue in memory that is strict in priority and fair by weight between queues.

    Among jobs of one priority each queue gets its share: a queue's clock advances by
    1/weight with every job taken from it, and the queue with the earliest clock is next.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._steps = {queue: 1 / weight for queue, weight in weights.items()}
        self._clocks = dict.fromkeys(weights, 0.0)
        self._waiting: list[dict[str, deque[Delivery]]] = [
            {queue: deque() for queue in weights} for _ in PRIORITIES
        ]
        self._size = 0
        self._takers: deque[asyncio.Future[Delivery]] = deque()

    def __len__(self) -> int:
        return self._size

    @property
    def idle(self) -> int:
        """How many takers wait for a job."""
        return len(self._takers)

    def put(self, delivery: Delivery) -> None:
        """Add a job; whoever waits for one gets it at once."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(delivery)
                return
        self._waiting[RANK[delivery.priority]][delivery.job.queue].append(delivery)
        self._size += 1

    async def take(self) -> Delivery:
        """Return the next job, waiting for one if there is none."""
        if self._size:
            return self._pop()
        taker: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            return await taker
        except asyncio.CancelledError:
            # Handed over in the very moment of being cancelled: keep it for others.
            if taker.done() and not taker.cancelled():
                self.put(taker.result())
            raise

    def less_urgent(self) -> list[int]:
        """Return for each priority how many less urgent jobs wait here."""
        waiting = [sum(map(len, queues.values())) for queues in self._waiting]
        return [sum(waiting[rank + 1 :]) for rank in range(len(waiting))]

    def evict(self) -> Delivery | None:
        """Take out the least urgent job, the last that came, or `None` if there is none."""
        for queues in reversed(self._waiting):
            ready = [queue for queue, jobs in queues.items() if jobs]
            if ready:
                self._size -= 1
                return queues[max(ready, key=self._clocks.__getitem__)].pop()
        return None

    def drain(self) -> list[Delivery]:
        """Take everything out."""
        return [self._pop() for _ in range(self._size)]

    def _pop(self) -> Delivery:
        for queues in self._waiting:
            ready = [queue for queue, jobs in queues.items() if jobs]
            if ready:
                queue = min(ready, key=self._clocks.__getitem__)
                self._clocks[queue] = self._clock_after(queue)
                self._size -= 1
                return queues[queue].popleft()
        raise IndexError("the buffer is empty")

    def _clock_after(self, queue: str) -> float:
        """Return a queue's clock after a job; time it spent empty earns it no arrears."""
        earliest = max(self._clocks.values()) - max(self._steps.values())
        return max(self._clocks[queue], earliest) + self._steps[queue]
