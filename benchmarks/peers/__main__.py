"""Measure jetq beside other Python job queues: `python -m benchmarks.peers`.

Makes an environment for each peer, then measures all of them in turns, jetq with them.
Prints tables and writes `peers.json` and `peers.svg`. What cannot be installed, started or
measured is shown with the reason.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks._machine import Machine
from benchmarks._scenarios import Plan, Sample

from ._install import ENVIRONMENTS, InstallError, install, versions
from ._measure import MEASURED, Measurement, measure_jetq, measure_peer
from ._peers import PEERS, Peer
from ._report import JETQ, Report, Side, compare, tables, write
from ._servers import find_redis, redis_version

RESULTS = Path(__file__).parent.parent / "results"

Measure = Callable[[Callable[[str], None]], Awaitable[Measurement]]


def main(
    only: Annotated[
        str, typer.Option(help=f"Some peers, with commas: {','.join(p.name for p in PEERS)}.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs are drained.")] = 20_000,
    results: Annotated[Path, typer.Option(help="Where the files go.")] = RESULTS,
    environments: Annotated[
        Path, typer.Option(help="Where the peers are installed.")
    ] = ENVIRONMENTS,
) -> None:
    """Measure jetq beside other Python job queues, with the same workload."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := set(names) - {peer.name for peer in PEERS}:
        raise typer.BadParameter(f"no such peer: {', '.join(sorted(unknown))}")
    peers = [peer for peer in PEERS if not names or peer.name in names]
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    plan = Plan(jobs=jobs, rounds=rounds, loop=loop)
    # Where nobody's window limits it, as wide as the tables are.
    console = Console() if sys.stdout.isatty() else Console(width=170)
    report = asyncio.run(run(peers, plan, environments, console))
    for table in tables(report):
        console.print()
        console.print(table)
    write(report, results)


async def run(peers: Sequence[Peer], plan: Plan, environments: Path, console: Console) -> Report:
    """Install the peers, then measure jetq and them."""
    machine = Machine.here(plan.loop)
    sides = {JETQ: Side.of_jetq(machine)}
    measures: dict[str, Measure] = {JETQ: partial(measure_jetq, plan)}
    for peer in peers:
        with console.status(f"installing {peer.title}"):
            try:
                python = await _prepared(peer, environments)
                sides[peer.name] = Side.of(peer, await versions(peer.name, python))
                measures[peer.name] = partial(measure_peer, peer, python, plan)
            except (InstallError, NoServerError) as error:
                sides[peer.name] = Side.of(peer, {}, [f"skipped: {error}"])
                console.print(f"{peer.title} skipped: {error}")
    samples, problems = await _measured(measures, sides, plan.rounds, console)
    return Report(
        machine=machine,
        redis_server=await redis_version(),
        plan=plan,
        sides={
            name: side.with_problems(problems[name]) if name in problems else side
            for name, side in sides.items()
        },
        rows=compare(samples, {name: side.title for name, side in sides.items()}, plan.rounds),
        samples=samples,
    )


class NoServerError(Exception):
    """The server that a peer needs is not on this machine."""

    def __str__(self) -> str:
        return "no redis-server on PATH; install it with the system's package manager"


async def _prepared(peer: Peer, environments: Path) -> Path:
    if peer.server == "redis" and find_redis() is None:
        raise NoServerError
    return await install(peer.name, environments)


async def _measured(
    measures: dict[str, Measure], sides: dict[str, Side], rounds: int, console: Console
) -> tuple[dict[str, dict[str, list[Sample]]], dict[str, list[str]]]:
    """Return samples by scenario and side, and problems by side, with how often they came."""
    samples: dict[str, dict[str, list[Sample]]] = {name: {} for name in MEASURED}
    problems = {name: Counter[str]() for name in measures}
    with console.status("measuring") as status:
        for number in range(1, rounds + 1):
            for name, measure in measures.items():
                prefix = f"round {number} of {rounds}: {sides[name].title}"
                found = await measure(
                    lambda what, prefix=prefix: status.update(f"{prefix}: {what}")
                )
                for scenario, sample in found.samples.items():
                    samples[scenario].setdefault(name, []).append(sample)
                problems[name].update(found.problems)
                console.print(f"{prefix}: {_summary(found)}")
    shown = {
        name: [f"{problem} ({times} of {rounds} rounds)" for problem, times in counted.items()]
        for name, counted in problems.items()
    }
    return samples, shown


def _summary(found: Measurement) -> str:
    rates = [found.samples.get(name, {}).get("rate") for name in MEASURED[:3]]
    shown = ", ".join(f"{rate:,.0f}/s" if rate else "-" for rate in rates)
    return "; ".join([f"enqueue_many, drain, with results: {shown}", *found.problems])


if __name__ == "__main__":
    typer.run(main)
