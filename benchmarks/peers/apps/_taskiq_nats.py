"""taskiq on NATS: an async task, a JetStream pull consumer, an object store for results."""

from __future__ import annotations

import asyncio
import contextlib

from taskiq import AsyncBroker, ResultGetError
from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count
from benchmarks.peers.apps._at_a_time import at_a_time

broker: AsyncBroker = PullBasedJetStreamBroker(
    URL, pull_consume_batch=CONCURRENCY, pull_consume_timeout=5
)
broker = broker.with_serializer(ORJSONSerializer())
if RESULTS:
    broker = broker.with_result_backend(NATSObjectStoreResultBackend(URL))


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
    # `wait_result` reads a result twice, and each time leaves a consumer behind for a while:
    # at this pace more than the server allows.
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(ResultGetError):
                return (await task.get_result()).return_value
            await asyncio.sleep(0.001)


async def work() -> None:
    await run_receiver_task(
        broker, run_startup=True, max_async_tasks=CONCURRENCY, max_prefetch=CONCURRENCY
    )
