"""What is the same for every program: its help, its version, its errors and exit codes."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from ._report import report

__all__ = ["new_program", "run_program"]


def show_version(context: typer.Context, wanted: bool) -> None:
    """Print the version and end, if `--version` was given."""
    if wanted:
        typer.echo(f"{context.info_name} {version_of('jetq')}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take what may stand before a command."""


def new_program(name: str, about: str) -> typer.Typer:
    """Return a command line without commands, that knows `--help` and `--version`.

    Args:
        about: What it is for, in a sentence.
    """
    program = typer.Typer(
        name=name,
        help=about,
        no_args_is_help=True,
        # Errors are reported below, in one sentence.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    program.callback(help=about)(root)
    return program


def run_program(
    program: typer.Typer, name: str, expected: tuple[type[BaseException], ...] = ()
) -> None:
    """Run a command line.

    The exit code is 0, 2 for a command that is written wrong, and 1 for everything
    else that goes wrong; 130 and 143 after Ctrl-C and SIGTERM that were not waited for.

    Args:
        expected: Errors that are told in a sentence, besides `IpcError` and `OSError`.
    """
    try:
        program(prog_name=name)
    except Exception as exc:
        report(exc, name, expected)
        sys.exit(1)
