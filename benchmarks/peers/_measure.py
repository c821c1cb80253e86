"""How a peer is measured: as jetq is in `benchmarks._scenarios`, with a server of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from benchmarks._child import Child, ChildError, run
from benchmarks._scenarios import PAUSE, SCENARIOS, Plan, Sample
from benchmarks._workload import WARM_UP, Part, percentile

from ._peers import Peer
from ._servers import start_server

__all__ = ["MEASURED", "Measurement", "measure_jetq", "measure_peer"]

# For a worker to come up; what it finds waiting may be another case than what comes later.
STARTUP = 1.5

MEASURED = ("enqueue_many", "drain", "drain_results", "latency_start", "latency_result")
"""What of `benchmarks._scenarios` is compared."""


class LostError(Exception):
    """A worker did not get all jobs of a latency run."""

    def __init__(self, arrived: int, expected: int) -> None:
        super().__init__(arrived, expected)
        self.arrived, self.expected = arrived, expected

    def __str__(self) -> str:
        return f"only {self.arrived} of {self.expected} jobs arrived, sent one by one"


class Measurement(msgspec.Struct, frozen=True):
    """What one round found of one side."""

    samples: dict[str, Sample]
    """By scenario; those that failed are missing."""
    problems: list[str]


async def measure_jetq(plan: Plan, say: Callable[[str], None]) -> Measurement:
    """Measure jetq as `python -m benchmarks` does."""
    samples: dict[str, Sample] = {}
    for name in MEASURED:
        say(name)
        samples[name] = await SCENARIOS[name]("jetq", plan)
    return Measurement(samples, [])


async def measure_peer(
    peer: Peer, python: Path, plan: Plan, say: Callable[[str], None]
) -> Measurement:
    """Measure a peer; the queue that is drained is the one that enqueue_many has filled."""
    app = _App(peer, python)
    samples: dict[str, Sample] = {}
    problems: list[str] = []
    for measure in (_drain, _drain_results, _latency_start, _latency_result):
        name = measure.__name__.removeprefix("_")
        say(name)
        try:
            found = await measure(app, plan)
        except (ChildError, LostError) as error:
            problems.append(f"{name}: {_last_line(error)}")
            continue
        samples |= found
        lost, repeated = found[name].get("lost", 0), found[name].get("repeated", 0)
        if lost or repeated:
            problems.append(f"{name}: {lost:,} jobs lost, {repeated:,} executed again")
    return Measurement(samples, problems)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


async def _drain(app: _App, plan: Plan) -> dict[str, Sample]:
    """Enqueue all jobs, then work them."""
    async with start_server(app.server) as server:
        part = Part(url=server.url, jobs=plan.jobs, server_pid=server.pid)
        filled = await app.run("fill", part=part)
        return {"enqueue_many": filled, "drain": await app.run("drain", part=part)}


async def _drain_results(app: _App, plan: Plan) -> dict[str, Sample]:
    """Work jobs whose results are stored."""
    async with start_server(app.server) as server:
        part = Part(url=server.url, jobs=plan.jobs, server_pid=server.pid)
        await app.run("fill_results", part=part)
        return {"drain_results": await app.run("drain_results", part=part)}


async def _latency_start(app: _App, plan: Plan) -> dict[str, Sample]:
    """Send jobs one by one to an idle worker; from sending to starting."""
    _, worked = await _one_by_one(app, plan, "send", "receive")
    return {"latency_start": _latency(worked)}


async def _latency_result(app: _App, plan: Plan) -> dict[str, Sample]:
    """Send jobs one by one to an idle worker; from sending to having the result."""
    sent, _ = await _one_by_one(app, plan, "ask", "respond")
    return {"latency_result": _latency(sent)}


class _App:
    """A peer's app in the environment where it is installed."""

    def __init__(self, peer: Peer, python: Path) -> None:
        self.server = peer.server
        program = (str(python), "-m", "benchmarks.peers._child")
        self.start = partial(Child.start, peer.app, loop=peer.loop, program=program)
        self.run = partial(run, peer.app, loop=peer.loop, program=program)


async def _one_by_one(
    app: _App, plan: Plan, producer: str, worker: str
) -> tuple[Sequence[int], Sequence[int]]:
    """Send jobs to an idle worker; return the delays that producer and worker have seen."""
    jobs = plan.share(40) + WARM_UP
    async with start_server(app.server) as server:
        first = Part(url=server.url, jobs=1)
        rest = Part(url=server.url, jobs=jobs, pause=PAUSE)
        both = Part(url=server.url, jobs=jobs + 1)
        async with app.start(worker, part=both) as working:
            await asyncio.sleep(STARTUP)
            # One job ahead, by which the worker shows that it is ready.
            await app.run(producer, part=first)
            if await working.answer() != "ready":
                raise LostError(0, jobs + 1)
            sent = await app.run(producer, part=rest)
            worked = await working.answer()
    if len(worked["delays_ns"]) != jobs + 1:
        raise LostError(len(worked["delays_ns"]), jobs + 1)
    return sent.get("delays_ns", []), worked["delays_ns"][1:]


def _latency(delays: Sequence[int]) -> Sample:
    return {"p50": percentile(delays[WARM_UP:], 50), "p99": percentile(delays[WARM_UP:], 99)}
