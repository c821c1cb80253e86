"""A producer that goes on whatever happens to the server."""

import asyncio
from typing import Any, Self

from jetq import Job
from tests.faults.accounts import until
from tests.faults.tasks import Shop

# Together with the time that a batch takes, these make some hundreds of jobs a second:
# about as many as a few slots can do, so that jobs wait and none waits for long.
PAUSE = 0.005
PAUSE_AFTER_BATCH = 0.2


class Producer:
    """Enqueues one by one, in batches and in atomic ones, all at once, until its block is left."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._stopping = False
        self._group = asyncio.TaskGroup()
        self.jobs: list[Job[Any]] = []
        """Those whose enqueue has returned."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._group.create_task(self._one_by_one())
        self._group.create_task(self._in_batches(100, atomic=False))
        self._group.create_task(self._in_batches(20, atomic=True))
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stopping = True
        await self._group.__aexit__(*error)

    async def until_more(self, count: int) -> None:
        """Return once so many more jobs were acknowledged."""
        goal = len(self.jobs) + count
        await until(lambda: len(self.jobs) >= goal, f"{count} more jobs enqueued", timeout=30)

    async def _one_by_one(self) -> None:
        while not self._stopping:
            self.jobs.append(await self._shop.note.enqueue())
            await asyncio.sleep(PAUSE)

    async def _in_batches(self, size: int, *, atomic: bool) -> None:
        while not self._stopping:
            batch = [self._shop.note.call() for _ in range(size)]
            self.jobs.extend(await self._shop.app.enqueue_many(batch, atomic=atomic))
            await asyncio.sleep(PAUSE_AFTER_BATCH)
