"""How each figure is measured: which processes run, in which order, on a fresh server.

Every scenario is measured the same way for every side. Server, producer and worker are
processes of their own. A scenario returns metrics by name; more is more, or less is
better, as `_figures` says.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from ipc import Connection, JetStream, LocalServer, Settings

from ._child import Child, run
from ._jetq import APP, QUEUE
from ._workload import WARM_UP, Part, percentile

__all__ = ["PAUSE", "SCENARIOS", "MiscountError", "Plan", "Sample", "check_stored"]

Sample = dict[str, float]
"""Metrics of one measurement; without those that the system does not tell."""

# After each job of a latency run, for the worker to be idle again.
PAUSE = 0.004

# The server removes acked messages a little after it has read the acks. Well below the
# lease, after which a message whose ack was lost would be delivered and acked again.
SETTLING = 5.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured."""

    jobs: int
    """In a queue that is drained; the slower scenarios take a part of it."""
    rounds: int
    loop: str

    def share(self, divisor: int) -> int:
        """Return a part of the jobs, at least one."""
        return max(self.jobs // divisor, 1)


class MiscountError(Exception):
    """A side did not do the work it was measured by."""


async def enqueue(side: str, plan: Plan) -> Sample:
    """Enqueue one job after the other."""
    return await _enqueue(side, plan, "enqueue", plan.share(10))


async def enqueue_200(side: str, plan: Plan) -> Sample:
    """Enqueue 200 at a time."""
    return await _enqueue(side, plan, "enqueue_200", plan.share(2))


async def enqueue_many(side: str, plan: Plan) -> Sample:
    """Enqueue all at once."""
    return await _enqueue(side, plan, "enqueue_many", plan.jobs)


async def drain(side: str, plan: Plan) -> Sample:
    """Work a full queue, storing no results."""
    return await _drain(side, plan, "drain", plan.jobs, fill="fill")


async def drain_results(side: str, plan: Plan) -> Sample:
    """Work a full queue, storing results."""
    return await _drain(
        side, plan, "drain_results", plan.jobs, fill="fill_results", results=plan.jobs
    )


async def retry(side: str, plan: Plan) -> Sample:
    """Work a full queue in which every job fails once."""
    return await _drain(side, plan, "retry", plan.jobs, fill="fill_retry", attempts=2)


async def latency_start(side: str, plan: Plan) -> Sample:
    """Send jobs one by one to an idle worker; from sending to starting."""
    return await _latency(side, plan, worker="receive", producer="send", measured_by="worker")


async def latency_result(side: str, plan: Plan) -> Sample:
    """Send jobs one by one to an idle worker; from sending to having the result."""
    return await _latency(side, plan, worker="respond", producer="ask", measured_by="producer")


SCENARIOS: Mapping[str, Callable[[str, Plan], Awaitable[Sample]]] = {
    scenario.__name__: scenario
    for scenario in (
        enqueue,
        enqueue_200,
        enqueue_many,
        drain,
        drain_results,
        retry,
        latency_start,
        latency_result,
    )
}


async def _enqueue(side: str, plan: Plan, role: str, jobs: int) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=jobs)
        await run("jetq", "declare", part, plan.loop)
        sample = await run(side, role, part, plan.loop)
        await check_stored(side, server.url, f"jetq-{APP}-queue-{QUEUE}", jobs + WARM_UP)
        return sample


async def _drain(
    side: str,
    plan: Plan,
    role: str,
    jobs: int,
    *,
    fill: str,
    attempts: int = 1,
    results: int = 0,
) -> Sample:
    async with LocalServer() as server:
        # Where there is no /proc, nobody can say what a process of others has used.
        pid = server.pid or 0 if sys.platform == "linux" else 0
        part = Part(url=server.url, jobs=jobs, server_pid=pid)
        await run("jetq", "declare", part, plan.loop)
        await run("jetq", fill, part, plan.loop)
        sample = await run(side, role, part, plan.loop)
        executions = sample.pop("executions")
        if executions != jobs * attempts:
            raise MiscountError(f"{side}: {executions} executions of {jobs} jobs")
        await check_stored(side, server.url, f"jetq-{APP}-queue-{QUEUE}", 0)
        await check_stored(side, server.url, f"jetq-{APP}-results", results)
        return sample


async def _latency(
    side: str, plan: Plan, *, worker: str, producer: str, measured_by: str
) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=plan.share(40) + WARM_UP, pause=PAUSE)
        await run("jetq", "declare", part, plan.loop)
        async with Child.start(side, worker, part, plan.loop) as working:
            await working.answer()
            sent = await run(side, producer, part, plan.loop)
            worked = await working.answer()
    delays = (worked if measured_by == "worker" else sent)["delays_ns"][WARM_UP:]
    return {"p50": percentile(delays, 50), "p99": percentile(delays, 99)}


async def check_stored(side: str, url: str, stream: str, expected: int) -> None:
    """Make sure that the work was done to its end: what should be stored is, no more.

    Raises:
        MiscountError: The stream holds another number of messages, and goes on doing so.
    """
    connection = Connection(Settings.load(url))
    await connection.open()
    try:
        deadline = time.monotonic() + SETTLING
        while True:
            found: Any = await JetStream(connection).find_stream(stream)
            messages = found.state.messages
            if messages == expected:
                return
            if time.monotonic() > deadline:
                raise MiscountError(f"{side}: {messages} messages in {stream}, not {expected}")
            await asyncio.sleep(0.02)
    finally:
        await connection.close()
