"""The command line: `ipc`, or `python -m ipc`."""

from __future__ import annotations

from ipc.terminal import new_program, run_program

from . import _durables, _schema
from ._events import publish, subscribe
from ._permissions import permissions
from ._requests import request
from ._serve import apply, serve
from ._services import services
from ._types import types

__all__ = ["main"]

cli = new_program("ipc", "Events, requests and services over NATS.")
for command in (publish, subscribe, request, serve, apply, services, types, permissions):
    cli.command()(command)
cli.add_typer(_schema.group)
cli.add_typer(_durables.group)


def main() -> None:
    """Run the command line; see `ipc.terminal.run_program` for exit codes."""
    run_program(cli, "ipc")
