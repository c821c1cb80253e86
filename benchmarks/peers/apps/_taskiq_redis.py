"""taskiq on Redis: an async task, a stream with a consumer group, keys for results."""

from __future__ import annotations

from taskiq import AsyncBroker
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count
from benchmarks.peers.apps._at_a_time import at_a_time

broker: AsyncBroker = RedisStreamBroker(URL, consumer_id="0", xread_count=CONCURRENCY)
broker = broker.with_serializer(ORJSONSerializer())
if RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))


@broker.task
async def job(number: int, text: str) -> int | None:
    return count(number)


async def connect() -> None:
    await broker.startup()


async def fill(client: None, numbers: range) -> None:
    await at_a_time(job.kiq, numbers)


async def send(client: None, number: int) -> None:
    await job.kiq(number, TEXT)


async def ask(client: None, number: int) -> int | None:
    task = await job.kiq(number, TEXT)
    result = await task.wait_result(check_interval=0.001, timeout=10)
    return result.return_value


async def work() -> None:
    await run_receiver_task(
        broker, run_startup=True, max_async_tasks=CONCURRENCY, max_prefetch=CONCURRENCY
    )
