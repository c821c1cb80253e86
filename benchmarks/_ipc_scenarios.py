"""How ipc's figures are measured: as in `_scenarios`, with events and requests for jobs.

A plan of 20,000 jobs is one of so many requests, and of more or fewer events.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from ipc import LocalServer

from ._child import Child, run
from ._raw_ipc import STREAM
from ._scenarios import PAUSE, MiscountError, Plan, Sample, check_stored
from ._workload import WARM_UP, Part, percentile

__all__ = ["IPC"]

# Fewer than ipc lets wait for a handler: it drops live events above that.
MOST_RECEIVED = 60_000


async def ipc_publish(side: str, plan: Plan) -> Sample:
    """Publish events to which nobody listens: what the publisher can do."""
    async with LocalServer() as server:
        return await run(side, "publish", Part(url=server.url, jobs=plan.jobs * 5), plan.loop)


async def ipc_receive_loop(side: str, plan: Plan) -> Sample:
    """Take events in a loop."""
    return await _receive(side, plan, "receive_loop")


async def ipc_receive_handler(side: str, plan: Plan) -> Sample:
    """Have events handled."""
    return await _receive(side, plan, "receive_handler")


async def ipc_publish_durable(side: str, plan: Plan) -> Sample:
    """Have one event after the other stored."""
    return await _publish_durable(side, plan, "publish_durable", plan.share(10))


async def ipc_publish_durable_200(side: str, plan: Plan) -> Sample:
    """Have events stored, 200 at a time."""
    return await _publish_durable(side, plan, "publish_durable_200", plan.jobs)


async def ipc_request(side: str, plan: Plan) -> Sample:
    """Ask one request after the other."""
    return await _request(side, plan, "request", plan.share(4))


async def ipc_request_200(side: str, plan: Plan) -> Sample:
    """Ask 200 at a time."""
    return await _request(side, plan, "request_200", plan.jobs)


async def ipc_fan_out_1(side: str, plan: Plan) -> Sample:
    """Handle events that wait for one durable."""
    return await _fan_out(side, plan, durables=1, events=plan.jobs)


async def ipc_fan_out_5(side: str, plan: Plan) -> Sample:
    """Handle events that wait for five durables, all in one process."""
    return await _fan_out(side, plan, durables=5, events=plan.share(4))


async def ipc_latency(side: str, plan: Plan) -> Sample:
    """Publish events one by one; from publishing to handling."""
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=plan.share(40) + WARM_UP, pause=PAUSE)
        async with Child.start(side, "receive_times", part, plan.loop) as receiving:
            await receiving.answer()
            await run(side, "send_times", part, plan.loop)
            delays = (await receiving.answer())["delays_ns"][WARM_UP:]
    return {"p50": percentile(delays, 50), "p99": percentile(delays, 99)}


IPC: Mapping[str, Callable[[str, Plan], Awaitable[Sample]]] = {
    scenario.__name__: scenario
    for scenario in (
        ipc_publish,
        ipc_receive_loop,
        ipc_receive_handler,
        ipc_publish_durable,
        ipc_publish_durable_200,
        ipc_request,
        ipc_request_200,
        ipc_fan_out_1,
        ipc_fan_out_5,
        ipc_latency,
    )
}


async def _receive(side: str, plan: Plan, role: str) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=min(plan.jobs * 2, MOST_RECEIVED))
        async with Child.start(side, role, part, plan.loop) as receiving:
            await receiving.answer()
            # For both sides: it has to be faster than they are.
            await run("raw_ipc", "publish", part, plan.loop)
            sample = await receiving.answer()
    executions = sample.pop("executions")
    if executions != part.jobs:
        raise MiscountError(f"{side}: {executions} of {part.jobs} events received")
    return {"rate": sample["rate"]}


async def _publish_durable(side: str, plan: Plan, role: str, events: int) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=events, durables=1)
        # Without a durable nothing would be stored.
        await run("ipc", "declare", part, plan.loop)
        sample = await run(side, role, part, plan.loop)
        await check_stored(side, server.url, STREAM, events + WARM_UP)
        return sample


async def _request(side: str, plan: Plan, role: str, requests: int) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=requests)
        async with Child.start(side, "serve", part, plan.loop) as serving:
            await serving.answer()
            return await run(side, role, part, plan.loop)


async def _fan_out(side: str, plan: Plan, *, durables: int, events: int) -> Sample:
    async with LocalServer() as server:
        part = Part(url=server.url, jobs=events, durables=durables)
        await run("ipc", "fill", part, plan.loop)
        pid = server.pid or 0 if sys.platform == "linux" else 0
        sample = await run(side, "fan_out", replace(part, server_pid=pid), plan.loop)
        executions = sample.pop("executions")
        if executions != events * durables:
            raise MiscountError(f"{side}: {events} events handled {executions} times")
        await check_stored(side, server.url, STREAM, 0)
        return sample
