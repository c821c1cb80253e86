"""arq: async jobs in Redis."""

from __future__ import annotations

from typing import Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count
from benchmarks.peers.apps._at_a_time import at_a_time

SETTINGS = RedisSettings.from_dsn(URL)

# Seconds between two looks for jobs, or for a result; half a second by default.
POLL_DELAY = 0.005


async def job(ctx: Any, number: int, text: str) -> int | None:
    return count(number)


async def connect() -> ArqRedis:
    return await create_pool(SETTINGS)


async def fill(redis: ArqRedis, numbers: range) -> None:
    await at_a_time(lambda number, text: redis.enqueue_job("job", number, text), numbers)


async def send(redis: ArqRedis, number: int) -> None:
    await redis.enqueue_job("job", number, TEXT)


async def ask(redis: ArqRedis, number: int) -> int | None:
    enqueued = await redis.enqueue_job("job", number, TEXT)
    assert enqueued is not None
    return await enqueued.result(timeout=10, poll_delay=POLL_DELAY)


async def work() -> None:
    worker = Worker(
        [func(job, name="job", keep_result=3600 if RESULTS else 0)],
        redis_settings=SETTINGS,
        max_jobs=CONCURRENCY,
        poll_delay=POLL_DELAY,
    )
    await worker.async_run()
