"""The table at the end, and what it comes to."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._account import Account, Row

__all__ = ["report"]

COUNTS = ("enqueued", "completed", "failed", "cancelled", "expired", "lost")


def report(console: Console, result: Account) -> None:
    """Print the account, in 80 columns."""
    console.print()
    console.print(table(result))
    console.print()
    total = result.total
    console.print(
        f" [bold]{total.enqueued:,}[/] enqueued = {total.completed:,} completed"
        f" + {total.failed:,} failed + {total.cancelled:,} cancelled + {total.expired:,} expired"
    )
    lost = "[bold green]lost 0[/]" if not total.lost else f"[bold red]lost {total.lost:,}[/]"
    console.print(
        f" {lost}, [bold]run twice {result.run_twice:,}[/]"
        f" (started anew after their worker was gone; {result.returned_twice:,} ended twice)"
    )
    console.print(f" {result.retries:,} retries, {result.replayed:,} dead letters replayed")
    console.print(
        f" {result.jobs_per_second:,.0f} jobs/s over all,"
        f" {result.busiest_second:,} in the busiest second;"
        " p50, p99: enqueue to start"
    )
    if not result.problems:
        console.print(" [bold green]every job is accounted for[/]")
    for problem in result.problems:
        console.print(f" [bold red]wrong:[/] {problem}")


def table(result: Account) -> Table:
    """Return what became of the jobs, task by task."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, padding=0)
    total = result.total
    shown.add_column(" task", " total", style="bold", no_wrap=True)
    for name in COUNTS:
        shown.add_column(name, f"{getattr(total, name):,}", justify="right", no_wrap=True)
    shown.add_column("p50", seconds(total.start_p50), justify="right", no_wrap=True)
    shown.add_column("p99", seconds(total.start_p99), justify="right", no_wrap=True)
    for row in result.rows:
        shown.add_row(f" {row.task}", *counts(row), seconds(row.start_p50), seconds(row.start_p99))
    return shown


def counts(row: Row) -> list[Text]:
    """Return the numbers of a row; nothing draws less attention than a zero."""
    texts: list[Text] = []
    for name in COUNTS:
        number: int = getattr(row, name)
        style = "" if number else "dim"
        if name == "lost" and number:
            style = "bold red"
        texts.append(Text(f"{number:,}", style))
    return texts


def seconds(value: float | None) -> str:
    """Return a time in three digits or so."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.1f} s"
