"""The command line: `ipc`, or `python -m ipc`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ipc.terminal import report

from . import _durables, _schema
from ._events import publish, subscribe
from ._permissions import permissions
from ._requests import request
from ._serve import serve
from ._services import services
from ._types import types

__all__ = ["main"]

cli = typer.Typer(
    name="ipc",
    help="Events, requests and services over NATS.",
    no_args_is_help=True,
    # Errors are reported below, in one sentence.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (publish, subscribe, request, serve, services, types, permissions):
    cli.command()(command)
cli.add_typer(_schema.group)
cli.add_typer(_durables.group)


def show_version(wanted: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if wanted:
        typer.echo(f"ipc {version('jetq')}")
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Events, requests and services over NATS."""


def main() -> None:
    """Run the command line.

    The exit code is 0, 2 for a command that is written wrong, and 1 for everything
    else that goes wrong.
    """
    try:
        cli(prog_name="ipc")
    except Exception as exc:
        report(exc, "ipc")
        sys.exit(1)
