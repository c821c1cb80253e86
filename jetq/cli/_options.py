"""Options that several commands have, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AppArgument", "AppOption", "QueueOption"]

AppArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:APP", help="Where the app is, such as shop.tasks:app.", show_default=False
    ),
]
AppOption = Annotated[
    str,
    typer.Option(
        "--app",
        "-A",
        envvar="JETQ_APP",
        metavar="APP",
        help="The app's name, or MODULE:APP.",
        show_default=False,
    ),
]
QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", help="Only this queue.", show_default=False)
]
