"""The command line: `jetq`, or `python -m jetq`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ipc.terminal import report
from jetq._errors import JetqError

from . import _dead, _jobs, _streams
from ._demo import demo
from ._dev import dev
from ._enqueue import enqueue
from ._server import server
from ._worker import worker

__all__ = ["main"]

cli = typer.Typer(
    name="jetq",
    help="Background tasks on NATS JetStream.",
    no_args_is_help=True,
    # Errors are reported below, in one sentence.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (worker, server, dev, enqueue, demo):
    cli.command()(command)
cli.add_typer(_jobs.group)
cli.add_typer(_dead.group)
cli.add_typer(_streams.group)


def show_version(wanted: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if wanted:
        typer.echo(f"jetq {version('jetq')}")
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Background tasks on NATS JetStream."""


def main() -> None:
    """Run the command line.

    The exit code is 0, 2 for a command that is written wrong, and 1 for everything
    else that goes wrong; 130 and 143 after Ctrl-C and SIGTERM that were not waited for.
    """
    try:
        cli(prog_name="jetq")
    except Exception as exc:
        report(exc, "jetq", (JetqError,))
        sys.exit(1)
