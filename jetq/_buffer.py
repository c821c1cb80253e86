"""Jobs that were handed over and wait for a slot: the most urgent first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from ._delivery import Delivery
from ._layout import PRIORITIES

__all__ = ["Buffer"]

RANK = {priority: rank for rank, priority in enumerate(PRIORITIES)}


# No-op jobs never wait for anything: after so many the rest of the program has its turn.
JOBS_A_TURN = 256


class Buffer:
    """A queue in memory that is strict in priority and fair by weight between queues.

    While several queues have jobs of one priority, each gets its share: a queue's clock
    advances by 1/weight with every job taken from it, and the earliest clock is next.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._steps = {queue: 1 / weight for queue, weight in weights.items()}
        self._longest_step = max(self._steps.values())
        self._clocks = dict.fromkeys(weights, 0.0)
        self._latest = 0.0
        """The clock that is furthest ahead."""
        self._levels: list[dict[str, deque[Delivery]]] = [{} for _ in PRIORITIES]
        """Of each priority, the queues that have jobs."""
        self._size = 0
        self._turn = 0
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
        level, queue = self._levels[RANK[delivery.priority]], delivery.job.queue
        if queue not in level:
            level[queue] = deque()
        level[queue].append(delivery)
        self._size += 1

    async def take(self) -> Delivery:
        """Return the next job, waiting for one if there is none."""
        self._turn += 1
        if self._turn >= JOBS_A_TURN:
            self._turn = 0
            await asyncio.sleep(0)
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
        waiting = [sum(map(len, level.values())) for level in self._levels]
        return [sum(waiting[rank + 1 :]) for rank in range(len(waiting))]

    def evict(self) -> Delivery | None:
        """Take out the least urgent job, the last that came, or `None` if there is none."""
        for level in reversed(self._levels):
            if level:
                queue = max(level, key=self._clocks.__getitem__)
                delivery = level[queue].pop()
                self._took_from(level, queue)
                return delivery
        return None

    def drain(self) -> list[Delivery]:
        """Take everything out."""
        return [self._pop() for _ in range(self._size)]

    def _pop(self) -> Delivery:
        for level in self._levels:
            if level:
                queue = next(iter(level)) if len(level) == 1 else self._next_queue(level)
                delivery = level[queue].popleft()
                self._took_from(level, queue)
                return delivery
        raise IndexError("the buffer is empty")

    def _took_from(self, level: dict[str, deque[Delivery]], queue: str) -> None:
        self._size -= 1
        if not level[queue]:
            del level[queue]

    def _next_queue(self, level: dict[str, deque[Delivery]]) -> str:
        """Return whose turn it is; time that a queue spent empty earns it no arrears."""
        clocks, steps = self._clocks, self._steps
        queue = min(level, key=clocks.__getitem__)
        earliest = self._latest - self._longest_step
        clocks[queue] = max(clocks[queue], earliest) + steps[queue]
        self._latest = max(self._latest, clocks[queue])
        return queue
