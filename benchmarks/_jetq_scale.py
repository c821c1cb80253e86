"""jetq's side where there is much of something: queues, waiting jobs, running jobs."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jetq import App, Queue, Worker

from ._jetq import APP, QUEUE, Bench
from ._workload import TEXT, Part, Tally, cpu_seconds, percentile

LOOKED_UP = 200
"""How many of the waiting jobs are looked up."""

# So that leases are renewed several times while the jobs sleep.
LEASE = 3.0

# A worker's first questions are answered within this time.
ARRIVAL = 2.0


class ManyQueues:
    """An app with a task on each of its queues."""

    def __init__(self, part: Part, tally: Tally) -> None:
        self.app = App(APP, servers=part.url)
        self.tasks = [self._task(f"{QUEUE}-{number}", tally) for number in range(part.queues)]

    def _task(self, queue: str, tally: Tally) -> Any:
        @self.app.task(name=f"bench.{queue}", queue=queue, result=False)
        async def noop(number: int, text: str) -> None:
            tally.count()

        return noop


async def idle(part: Part) -> dict[str, Any]:
    """Start a worker, let it run one job, and tell what it costs while it has none.

    Its start ends with the first job of the last queue.
    """
    tally = Tally(1, 0)
    many = ManyQueues(part, tally)
    started_at = time.perf_counter()
    async with many.app.worker() as worker:
        running = asyncio.create_task(worker.run())
        await many.tasks[-1].enqueue(0, TEXT)
        await tally.done.wait()
        start = time.perf_counter() - started_at
        await asyncio.sleep(min(ARRIVAL, part.pause))
        before = await _used(many.app, part)
        await asyncio.sleep(part.pause)
        after = await _used(many.app, part)
        worker.stop()
        await running
    seconds, own, server, sent = (b - a for a, b in zip(before, after, strict=True))
    return {
        "start": start,
        "cpu": own / seconds * 100,
        "server_cpu": server / seconds * 100,
        # The question itself is one.
        "messages": (sent - 1) / seconds,
        "memory": memory("VmRSS"),
    }


async def _used(app: App, part: Part) -> tuple[float, float, float, int]:
    # The server counts what is published, not the pings that keep a connection alive.
    reply = await app.connection.request("$SYS.REQ.ACCOUNT.PING.CONNZ")
    (connection,) = json.loads(reply.data)["data"]["connections"]
    sent = connection["in_msgs"]
    return time.perf_counter(), time.process_time(), cpu_seconds(part.server_pid), sent


async def fill_queues(part: Part) -> dict[str, Any]:
    """Enqueue the jobs of `drain_queues`, the next job always on another queue."""
    many = ManyQueues(part, Tally(0, 0))
    async with many.app:
        tasks = itertools.cycle(many.tasks)
        calls = (next(tasks).call(number, TEXT) for number in range(part.jobs))
        while batch := list(itertools.islice(calls, 20_000)):
            await many.app.enqueue_many(batch)
    return {}


async def drain_queues(part: Part) -> dict[str, Any]:
    """Work until the queues are empty."""
    tally = Tally(part.jobs, part.server_pid)
    many = ManyQueues(part, tally)
    async with many.app.worker() as worker:
        await _work(worker, tally)
    return tally.report()


# -- many jobs that wait ----------------------------------------------------------------------


async def fill(part: Part) -> dict[str, Any]:
    """Enqueue jobs, then look up some of them, one after the other."""
    bench = Bench(part.url)
    delays_ns: list[int] = []
    async with bench.app:
        ids: list[str] = []
        for batch in _batches(bench, part.jobs):
            jobs = await bench.app.enqueue_many(batch)
            ids += (job.id for job in random.sample(jobs, min(LOOKED_UP, len(jobs))))
        await asyncio.sleep(part.pause)
        for job_id in random.sample(ids, min(LOOKED_UP, len(ids))):
            asked_at = time.monotonic_ns()
            await bench.app.job(job_id).info()
            delays_ns.append(time.monotonic_ns() - asked_at)
    return {
        "look_up_p50": percentile(delays_ns, 50),
        "look_up_p99": percentile(delays_ns, 99),
        "server_memory": memory("VmRSS", part.server_pid),
    }


def _batches(bench: Bench, jobs: int) -> Iterator[list[Any]]:
    calls = (bench.noop.call(number, TEXT) for number in range(jobs))
    while batch := list(itertools.islice(calls, 20_000)):
        yield batch


async def drain_some(part: Part) -> dict[str, Any]:
    """Work on a queue until so many jobs were executed, and leave the others."""
    tally = Tally(part.jobs, part.server_pid)
    async with Bench(part.url, tally).app.worker() as worker:
        await _work(worker, tally)
    return tally.report()


async def _work(worker: Worker, tally: Tally) -> None:
    running = asyncio.create_task(worker.run())
    await tally.done.wait()
    worker.stop()
    await running


# -- many jobs that run -----------------------------------------------------------------------


async def sleep(part: Part) -> dict[str, Any]:
    """Run all jobs at once; each sleeps, and the loop is watched while all of them do."""
    app = App(APP, servers=part.url, queues=[Queue("sleeping", lease=LEASE)])
    running = executions = most = 0
    done = asyncio.Event()
    all_run_at = 0.0
    delays = [0.0]

    @app.task(queue="sleeping", result=False)
    async def sleeper(number: int, text: str) -> None:
        nonlocal running, most, executions, all_run_at
        running, executions = running + 1, executions + 1
        most = max(most, running)
        if running == part.jobs:
            all_run_at = time.perf_counter()
            delays.clear()
        await asyncio.sleep(part.pause)
        if running == part.jobs:
            watching.cancel()
        running -= 1
        if executions >= part.jobs and not running:
            done.set()

    async with app.worker(concurrency=part.jobs) as worker:
        calls = (sleeper.call(number, TEXT) for number in range(part.jobs))
        await app.enqueue_many(calls)
        watching = asyncio.create_task(_watch_loop(delays))
        started_at = time.perf_counter()
        work = asyncio.create_task(worker.run())
        await done.wait()
        worker.stop()
        await work
    return {
        "executions": executions,
        "at_once": most,
        "all_run": all_run_at - started_at,
        "memory": memory("VmHWM"),
        "loop_delay": max(delays) * 1000,
    }


async def _watch_loop(delays: list[float]) -> None:
    """Note by how much the event loop is late, a hundred times a second, until cancelled."""
    while True:
        wanted = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        delays.append(time.perf_counter() - wanted)


def memory(line: str, pid: int | None = None) -> float | None:
    """Return a line of a process's memory status in MiB: `VmRSS`, or `VmHWM` for the most."""
    if sys.platform != "linux" or pid == 0:
        return None
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    found = next(one for one in status.splitlines() if one.startswith(f"{line}:"))
    return int(found.split()[1]) / 1024
