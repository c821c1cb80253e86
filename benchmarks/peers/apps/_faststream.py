"""FastStream on NATS: an async handler, a JetStream pull consumer; results are a stream."""

from __future__ import annotations

import asyncio
from typing import Any

from faststream.nats import JStream, NatsBroker, PullSub

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count
from benchmarks.peers.apps._at_a_time import at_a_time

# Without `apply_types`, which validates what a handler takes and returns.
broker = NatsBroker(URL, logger=None, apply_types=False)


# Both streams are declared when the broker starts.
publisher = broker.publisher("jobs", stream=JStream("bench"))


async def job(message: dict[str, Any]) -> int | None:
    return count(message["number"])


async def connect() -> None:
    await broker.start()


async def enqueue(number: int, text: str) -> None:
    await publisher.publish({"number": number, "text": text})


async def fill(client: None, numbers: range) -> None:
    await at_a_time(enqueue, numbers)


async def send(client: None, number: int) -> None:
    await enqueue(number, TEXT)


async def ask(client: None, number: int) -> int | None:
    reply = await publisher.request({"number": number, "text": TEXT}, timeout=10)
    return await reply.decode()


async def work() -> None:
    handler = broker.subscriber(
        "jobs",
        stream=JStream("bench"),
        durable="bench",
        pull_sub=PullSub(batch_size=CONCURRENCY),
    )(job)
    if RESULTS:
        broker.publisher("results", stream=JStream("results"))(handler)
    await broker.start()
    await asyncio.Event().wait()
