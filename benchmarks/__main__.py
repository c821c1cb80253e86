"""Measure jetq and ipc beside their limits: `python -m benchmarks`.

Each round measures jetq or ipc and then raw nats-py, so that what else the machine does falls on
both; where there is much of something, jetq alone. Prints a table and writes `all.json` and
`all.svg`, or those of what `--only` names.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ._child import LOOPS
from ._figures import FIGURES, row_for
from ._ipc_scenarios import IPC
from ._machine import Machine
from ._report import Report, table, write
from ._scale import ROUNDS, SCALE
from ._scenarios import SCENARIOS, Plan, Sample

SIDES = {
    **dict.fromkeys(SCENARIOS, ("jetq", "raw")),
    **dict.fromkeys(SCALE, ("jetq",)),
    **dict.fromkeys(IPC, ("ipc", "raw_ipc")),
}
"""What is measured of each scenario."""

RESULTS = Path(__file__).parent / "results"


def main(
    only: Annotated[str, typer.Option(help=f"What begins with this: {', '.join(SIDES)}.")] = "",
    rounds: Annotated[
        int,
        typer.Option(min=1, help=f"How often each is measured; at most {ROUNDS} if it is slow."),
    ] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs are drained.")] = 20_000,
    loop: Annotated[
        str, typer.Option(help="uvloop or asyncio, for all; uvloop where it is installed.")
    ] = "",
    results: Annotated[Path, typer.Option(help="Where the files go.")] = RESULTS,
) -> None:
    """Measure jetq and ipc beside raw nats-py that does the same work on the wire."""
    chosen = [name for name in SIDES if name.startswith(only)]
    if not chosen:
        raise typer.BadParameter(f"nothing begins with {only!r}; there is {', '.join(SIDES)}")
    loop = loop or ("uvloop" if importlib.util.find_spec("uvloop") else "asyncio")
    if loop not in LOOPS:
        raise typer.BadParameter(f"loop is one of {', '.join(LOOPS)}")
    plan = Plan(jobs=jobs, rounds=rounds, loop=loop)
    # Where nobody's window limits it, as wide as the table is.
    console = Console() if sys.stdout.isatty() else Console(width=190)
    measured = asyncio.run(measure(chosen, plan, console))
    rows = [row for figure in FIGURES if (row := row_for(figure, measured))]
    report = Report(Machine.here(loop), plan, rows, measured)
    console.print(table(report))
    write(report, results, only or "all")


async def measure(
    chosen: list[str], plan: Plan, console: Console
) -> dict[str, dict[str, list[Sample]]]:
    """Return the samples of every chosen scenario: by name, by side, one a round."""
    measured: dict[str, dict[str, list[Sample]]] = {
        name: {side: [] for side in SIDES[name]} for name in chosen
    }
    with console.status("measuring") as status:
        for number in range(1, plan.rounds + 1):
            for name in chosen:
                if name in SCALE and number > ROUNDS:
                    continue
                for side, samples in measured[name].items():
                    status.update(f"round {number} of {plan.rounds}: {name} of {side}")
                    samples.append(await _sample(name, side, plan))
    return measured


async def _sample(name: str, side: str, plan: Plan) -> Sample:
    if name in SCALE:
        return await SCALE[name](plan)
    return await {**SCENARIOS, **IPC}[name](side, plan)


if __name__ == "__main__":
    typer.run(main)
