"""`jetq demo`: a small shop's work, to look at."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    jobs: Annotated[int, typer.Option(min=1, help="How many jobs, about.")] = 10_000,
    json: Annotated[bool, typer.Option("--json", help="Print the account as JSON.")] = False,
) -> None:
    """Show jetq at work, with a server of its own."""
    # Loaded only by those who want to see it.
    from jetq.demo import run

    raise typer.Exit(run(jobs=jobs, json=json))
