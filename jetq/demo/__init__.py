"""The demo: a small shop at work, and at the end an account of every job.

`jetq demo`, `make demo` and `python -m jetq.demo` all call `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from ipc import IpcError

from ._account import Account
from ._display import display_on
from ._play import Plan, play
from ._report import report
from ._workers import WorkerStartError

__all__ = ["run"]

INTRO = """\

[bold]jetq demo[/]: {jobs:,} jobs of a small shop in about {seconds:.0f} seconds, on a nats-server
and workers of its own. Payments fail and are retried, parcels hit a bug and are
replayed, a worker is killed half-way. In the end every job is accounted for.
"""
OUTRO = """
[bold]What next:[/] the shop that you saw is jetq/demo/shop.py. README.md has twenty
lines to start with; docs/ has the tutorial, and says what is promised when.
"""
INTERRUPTED = 130


def run(jobs: int = 10_000, json: bool = False, *, seconds: float = 17.0) -> int:
    """Show jetq at work and return the exit code: 0 if every job is accounted for, else 1.

    Args:
        jobs: About how many.
        json: Print the account as JSON, and what happens meanwhile to stderr.
        seconds: How long jobs are enqueued; starting and finishing take some more.
    """
    console = Console(stderr=json, highlight=False)
    console.print(INTRO.format(jobs=jobs, seconds=seconds + 3))
    try:
        result = asyncio.run(perform(Plan(jobs, seconds), console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped; server, workers and their files are gone")
        return INTERRUPTED
    except (IpcError, WorkerStartError) as exc:
        console.print(f"the demo cannot run: {exc}", style="red", markup=False)
        return 1
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result)).decode() + "\n")
    else:
        report(console, result)
        console.print(OUTRO)
    return 1 if result.problems else 0


async def perform(plan: Plan, console: Console) -> Account:
    """Play in a folder of its own; SIGTERM ends it as Ctrl-C does."""
    this = asyncio.current_task()
    assert this is not None
    # Elsewhere than in the main thread there are no signals to handle.
    with contextlib.suppress(RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with tempfile.TemporaryDirectory(prefix="jetq-demo-", ignore_cleanup_errors=True) as folder:
        return await play(plan, Path(folder), display_on(console))
