"""jetq's side: what a user would write."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from jetq import App, Retry, current_job

from ._workload import CONCURRENCY, TEXT, WARM_UP, WIDTH, Part, Tally, timed

__all__ = ["APP", "QUEUE"]

APP = "bench"
QUEUE = "work"


class Bench:
    """An app with the tasks of the workload; what they execute is told to a tally."""

    def __init__(self, url: str, tally: Tally | None = None) -> None:
        self.app = app = App(APP, servers=url)
        tally = tally or Tally(0, 0)

        @app.task(name="bench.noop", queue=QUEUE, result=False)
        async def noop(number: int, text: str) -> None:
            tally.count()

        @app.task(name="bench.stored", queue=QUEUE)
        async def stored(number: int, text: str) -> int:
            tally.count()
            return number

        # The server's clock for what is due later ticks four times a second, so that a
        # much longer delay would only be waiting, and a shorter one makes no difference.
        @app.task(
            name="bench.failing",
            queue=QUEUE,
            result=False,
            retry=Retry(max_attempts=2, base_delay=0.1, jitter=False),
        )
        async def failing(number: int, text: str) -> None:
            tally.count()
            if current_job().attempt == 1:
                raise ConnectionError("the mail server hung up")

        @app.task(name="bench.received", queue=QUEUE, result=False)
        async def received(number: int, text: str) -> None:
            tally.count_sent_at(number)

        self.noop, self.stored, self.failing, self.received = noop, stored, failing, received


# -- enqueueing ---------------------------------------------------------------------------


async def enqueue(part: Part) -> dict[str, Any]:
    """Enqueue one job after the other, each awaited."""
    bench = Bench(part.url)
    async with bench.app:
        for number in range(WARM_UP):
            await bench.noop.enqueue(number, TEXT)
        started_at = time.perf_counter()
        for number in range(part.jobs):
            await bench.noop.enqueue(number, TEXT)
        return timed(part.jobs, started_at)


async def enqueue_200(part: Part) -> dict[str, Any]:
    """Enqueue from several coroutines at a time, as a busy web service does."""
    bench = Bench(part.url)
    numbers = iter(range(part.jobs))

    async def produce() -> None:
        for number in numbers:
            await bench.noop.enqueue(number, TEXT)

    async with bench.app:
        for number in range(WARM_UP):
            await bench.noop.enqueue(number, TEXT)
        started_at = time.perf_counter()
        await asyncio.gather(*(produce() for _ in range(WIDTH)))
        return timed(part.jobs, started_at)


async def enqueue_many(part: Part) -> dict[str, Any]:
    """Enqueue all jobs in one call, their arguments checked and encoded within the time."""
    bench = Bench(part.url)
    async with bench.app:
        for number in range(WARM_UP):
            await bench.noop.enqueue(number, TEXT)
        started_at = time.perf_counter()
        await bench.app.enqueue_many(bench.noop.call(i, TEXT) for i in range(part.jobs))
        return timed(part.jobs, started_at)


# -- filling a queue, so that it can be drained ----------------------------------------------


async def declare(part: Part) -> dict[str, Any]:
    """Create the streams and consumers; every side uses these."""
    async with Bench(part.url).app.worker():
        return {}


async def fill(part: Part) -> dict[str, Any]:
    """Enqueue the jobs of `drain`."""
    return await _fill(part, lambda bench: bench.noop)


async def fill_results(part: Part) -> dict[str, Any]:
    """Enqueue the jobs of `drain_results`."""
    return await _fill(part, lambda bench: bench.stored)


async def fill_retry(part: Part) -> dict[str, Any]:
    """Enqueue the jobs of `retry`."""
    return await _fill(part, lambda bench: bench.failing)


async def _fill(part: Part, task_of: Callable[[Bench], Any]) -> dict[str, Any]:
    bench = Bench(part.url)
    async with bench.app:
        calls = (task_of(bench).call(number, TEXT) for number in range(part.jobs))
        while batch := list(itertools.islice(calls, 20_000)):
            await bench.app.enqueue_many(batch)
    return {}


# -- working -----------------------------------------------------------------------------


async def drain(part: Part) -> dict[str, Any]:
    """Work until the expected number of executions is reached, then leave in order."""
    return await _work(part, Tally(part.jobs, part.server_pid), lambda: None)


drain_results = drain


async def retry(part: Part) -> dict[str, Any]:
    """Work jobs of which each fails once and is run again."""
    tally = Tally(2 * part.jobs, part.server_pid)
    report = await _work(part, tally, lambda: None)
    # In jobs, not in executions.
    return {**report, "rate": report["rate"] / 2}


async def receive(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Work jobs as they come, and tell how long each was on its way."""
    tally = Tally(part.jobs, 0)
    await _work(part, tally, ready)
    return {"delays_ns": tally.delays_ns}


async def respond(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Work jobs as they come; somebody waits for each result."""
    return await _work(part, Tally(part.jobs, 0), ready)


async def _work(part: Part, tally: Tally, ready: Callable[[], None]) -> dict[str, Any]:
    bench = Bench(part.url, tally)
    async with bench.app.worker(concurrency=CONCURRENCY) as worker:
        running = asyncio.create_task(worker.run())
        ready()
        await tally.done.wait()
        worker.stop()
        await running
    return tally.report()


# -- one job at a time, for an idle worker -----------------------------------------------------


async def send(part: Part) -> dict[str, Any]:
    """Enqueue jobs that carry the time of their sending."""
    bench = Bench(part.url)
    async with bench.app:
        for _ in range(part.jobs):
            await bench.received.enqueue(time.monotonic_ns(), TEXT)
            await asyncio.sleep(part.pause)
    return {}


async def ask(part: Part) -> dict[str, Any]:
    """Enqueue a job and wait for its result, one after the other."""
    bench = Bench(part.url)
    delays_ns: list[int] = []
    async with bench.app:
        for number in range(part.jobs):
            sent_at = time.monotonic_ns()
            job = await bench.stored.enqueue(number, TEXT)
            await job.result(timeout=10)
            delays_ns.append(time.monotonic_ns() - sent_at)
            await asyncio.sleep(part.pause)
    return {"delays_ns": delays_ns}
