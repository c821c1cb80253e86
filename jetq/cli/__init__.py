"""The command line: `jetq`, or `python -m jetq`."""

from __future__ import annotations

from ipc.terminal import new_program, run_program
from jetq._errors import JetqError

from . import _dead, _jobs, _streams
from ._demo import demo
from ._dev import dev
from ._enqueue import enqueue
from ._server import server
from ._worker import worker

__all__ = ["main"]

cli = new_program("jetq", "Background tasks on NATS JetStream.")
for command in (worker, server, dev, enqueue, demo):
    cli.command()(command)
cli.add_typer(_jobs.group)
cli.add_typer(_dead.group)
cli.add_typer(_streams.group)


def main() -> None:
    """Run the command line; see `ipc.terminal.run_program` for exit codes."""
    run_program(cli, "jetq", (JetqError,))
