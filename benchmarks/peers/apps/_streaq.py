"""streaQ: async tasks in Redis streams."""

from __future__ import annotations

import coredis
from streaq import Worker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count

# No checks of arguments and versions for each command.
coredis.Config.optimized = True

worker = Worker(URL, concurrency=CONCURRENCY, handle_signals=False)


@worker.task(ttl=3600 if RESULTS else 0)
async def job(number: int, text: str) -> int | None:
    return count(number)


async def connect() -> None:
    await worker.__aenter__()


async def fill(client: None, numbers: range) -> None:
    await worker.enqueue_many([job.enqueue(number, TEXT) for number in numbers])


async def send(client: None, number: int) -> None:
    await job.enqueue(number, TEXT)


async def ask(client: None, number: int) -> int | None:
    task = await job.enqueue(number, TEXT)
    return (await task.result(timeout=10)).result


async def work() -> None:
    await worker.run_async()
