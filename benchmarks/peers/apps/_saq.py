"""SAQ: async jobs in Redis."""

from __future__ import annotations

from typing import Any

from saq import Queue, Worker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count
from benchmarks.peers.apps._at_a_time import at_a_time

# Seconds that a finished job with its result is kept: not at all, or an hour.
KEPT = 3600 if RESULTS else -1


# Seconds between two looks for a result; half a second by default.
POLL = 0.001


async def job(ctx: Any, *, number: int, text: str) -> int | None:
    return count(number)


async def connect() -> Queue:
    queue = Queue.from_url(URL, max_concurrent_ops=CONCURRENCY)
    await queue.connect()
    return queue


async def fill(queue: Queue, numbers: range) -> None:
    await at_a_time(
        lambda number, text: queue.enqueue("job", number=number, text=text, ttl=KEPT, timeout=0),
        numbers,
    )


async def send(queue: Queue, number: int) -> None:
    await queue.enqueue("job", number=number, text=TEXT, ttl=KEPT, timeout=0)


async def ask(queue: Queue, number: int) -> int | None:
    return await queue.apply(
        "job", timeout=10, number=number, text=TEXT, ttl=KEPT, poll_interval=POLL
    )


async def work() -> None:
    await Worker(await connect(), functions=[job], concurrency=CONCURRENCY).start()
