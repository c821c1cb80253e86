"""docket: async tasks in Redis streams."""

from __future__ import annotations

from datetime import timedelta

from docket import Docket, Worker

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count

CHECK = timedelta(milliseconds=2)
"""Between two looks for jobs while all slots are taken; 250 ms by default."""


async def job(number: int, text: str) -> int | None:
    return count(number)


async def connect() -> Docket:
    docket = Docket(
        "bench",
        f"{URL}?max_connections={2 * CONCURRENCY}",
        execution_ttl=timedelta(hours=1 if RESULTS else 0),
    )
    await docket.__aenter__()
    docket.register(job)
    return docket


async def fill(docket: Docket, numbers: range) -> None:
    await docket.add_many([docket.call(job)(number, TEXT) for number in numbers])


async def send(docket: Docket, number: int) -> None:
    await docket.add(job)(number, TEXT)


async def ask(docket: Docket, number: int) -> int | None:
    execution = await docket.add(job)(number, TEXT)
    return await execution.get_result(timeout=timedelta(seconds=10))


async def work() -> None:
    async with Worker(
        await connect(), concurrency=CONCURRENCY, minimum_check_interval=CHECK
    ) as worker:
        await worker.run_forever()
