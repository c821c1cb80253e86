"""Options that commands of every program have, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["JsonOption"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs to read.")]
