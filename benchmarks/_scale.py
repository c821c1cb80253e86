"""What changes where there is much of something; only jetq is measured, each on a fresh server.

The slow ones. A scenario takes the plan and returns metrics by name, as in `_scenarios`.
They are described for a plan of 20,000 jobs; a smaller one has less of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace

from ipc import LocalServer
from jetq import App

from ._child import run
from ._jetq import APP, QUEUE
from ._scale_app import burn
from ._scenarios import MiscountError, Plan, Sample
from ._workload import TEXT, Part

__all__ = ["ROUNDS", "SCALE"]

ROUNDS = 2
"""At most: each takes half a minute, and they vary less than what takes milliseconds."""

SIDE = "jetq_scale"

# Longer than the 30 seconds after which an idle worker with one queue asks again.
IDLE_SECONDS = 31.0
SLEEP_SECONDS = 6.0
# For a while the server tidies up what it has just stored.
CALM_SECONDS = 5.0

# A worker process imports an app and connects within this time.
START_TIMEOUT = 30.0


async def idle(plan: Plan) -> Sample:
    """A worker that has nothing to do."""
    async with _server(plan.jobs) as part:
        return await run(SIDE, "idle", replace(part, pause=_scaled(IDLE_SECONDS, plan)), plan.loop)


async def many_queues(plan: Plan) -> Sample:
    """A worker of 1,000 queues: its start, what it costs idle, and how fast it drains them."""
    async with _server(plan.jobs, queues=plan.share(20)) as part:
        idling = replace(part, pause=_scaled(IDLE_SECONDS, plan))
        sample = await run(SIDE, "idle", idling, plan.loop)
        await run(SIDE, "fill_queues", part, plan.loop)
        report = await run(SIDE, "drain_queues", part, plan.loop)
    return {**sample, "rate": report["rate"]}


async def million(plan: Plan) -> Sample:
    """The first 100,000 of a million waiting jobs, and 20,000 out of a queue of as many."""
    # Each takes a fraction of a second, in which much else may happen on a machine.
    small: list[float] = []
    for _ in range(3):
        async with _server(plan.jobs) as part:
            await run(SIDE, "fill", part, plan.loop)
            report = await run(SIDE, "drain_some", part, plan.loop)
            small.append(report["rate"])
    async with _server(plan.jobs) as part:
        filling = replace(part, jobs=plan.jobs * 50, pause=_scaled(CALM_SECONDS, plan))
        sample = await run(SIDE, "fill", filling, plan.loop)
        # More of them: the server takes a tenth of a second for the first.
        large = await run(SIDE, "drain_some", replace(part, jobs=plan.jobs * 5), plan.loop)
    return {
        **sample,
        "rate": large["rate"],
        "rate_of_small": statistics.median(small),
    }


async def sleepers(plan: Plan) -> Sample:
    """10,000 jobs that sleep, all at once in one worker."""
    async with _server(plan.share(2)) as part:
        seconds = max(_scaled(SLEEP_SECONDS, plan), 0.5)
        sample = await run(SIDE, "sleep", replace(part, pause=seconds), plan.loop)
    at_once, executions = sample.pop("at_once"), sample.pop("executions")
    if (at_once, executions) != (part.jobs, part.jobs):
        raise MiscountError(f"{executions} executions of {part.jobs} jobs, {at_once} at once")
    return sample


async def processes(plan: Plan) -> Sample:
    """`jetq worker` with one process and with two, and jobs that use 200 µs of CPU each.

    So short of work the server leaves room for two also where there are two cores.
    """
    one, two = [await _rate_of_processes(number, plan) for number in (1, 2)]
    return {"rate": two, "rate_of_one": one}


SCALE: Mapping[str, Callable[[Plan], Awaitable[Sample]]] = {
    scenario.__name__: scenario for scenario in (idle, many_queues, million, sleepers, processes)
}


def _scaled(seconds: float, plan: Plan) -> float:
    """Return how long to wait; the full time for 20,000 jobs or more."""
    return seconds * min(plan.jobs / 20_000, 1)


@contextlib.asynccontextmanager
async def _server(jobs: int, queues: int = 1) -> AsyncIterator[Part]:
    """Run a server, and say what a process has to do with it."""
    async with LocalServer() as server:
        pid = server.pid or 0 if sys.platform == "linux" else 0
        yield Part(url=server.url, jobs=jobs, queues=queues, server_pid=pid)


async def _rate_of_processes(number: int, plan: Plan) -> float:
    async with _server(plan.jobs) as part, App(APP, servers=part.url) as app:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jetq", "worker", f"--processes={number}"),
            *(f"--servers={part.url}", "--log-level=warning", "benchmarks._scale_app:app"),
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while await _idle_workers(app) < number:
                    await asyncio.sleep(0.02)
            started_at = time.perf_counter()
            await app.enqueue_many(burn.call(job, TEXT) for job in range(part.jobs))
            while await _waiting(app):
                await asyncio.sleep(0.01)
            return part.jobs / (time.perf_counter() - started_at)
        finally:
            worker.terminate()
            await worker.wait()


async def _idle_workers(app: App) -> int:
    stream = app.layout.queue_stream_name(QUEUE)
    consumer = await app.jetstream.find_consumer(stream, "normal")
    return consumer.num_waiting if consumer else 0


async def _waiting(app: App) -> int:
    found = await app.jetstream.find_stream(app.layout.queue_stream_name(QUEUE))
    return found.state.messages if found else 0
