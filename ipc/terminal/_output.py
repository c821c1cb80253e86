"""What commands print: results on stdout, words to the person on stderr.

Colour, and lines cut to the width of the screen, only where there is a screen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["note", "print_fields", "print_json", "print_table", "printable", "say", "since"]

# Wide enough that a pipe gets every line whole.
UNLIMITED = 100_000


def console(stderr: bool = False) -> Console:
    """Return where to print; asked for anew, as the streams may be replaced."""
    is_screen = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if is_screen else UNLIMITED,
    )


def printable(text: str) -> str:
    """Return a text without what a terminal would obey instead of showing it."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def say(text: str) -> None:
    """Print a result as it is."""
    console().print(Text(printable(text)), soft_wrap=True)


def note(text: str, style: str = "") -> None:
    """Tell the person at the terminal something that is not the result."""
    console(stderr=True).print(Text(printable(text), style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and values below each other; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value:
            table.add_row(name, Text(printable(value)))
    print_grid(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their headings."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        # An id that is cut off is of no use.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    print_grid(table)


def print_grid(table: Table) -> None:
    """Print a table; where there is no screen, without the spaces that fill its lines up."""
    out = console()
    if sys.stdout.isatty():
        out.print(table)
        return
    with out.capture() as printed:
        out.print(table)
    for line in printed.get().splitlines():
        say(line.rstrip())


def since(moment: datetime) -> str:
    """Return how long ago a moment was, in the unit that fits: `12s`, `3h`."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
