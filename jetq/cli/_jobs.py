"""`jetq jobs`: look at a job, cancel it, run it again."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from ipc.terminal import (
    JsonOption,
    LogLevel,
    configure_logging,
    note,
    print_fields,
    print_json,
    say,
    since,
)
from jetq._job import JobInfo
from jetq._message import ErrorInfo

from ._load import open_app
from ._options import AppOption

__all__ = ["IdArgument", "group", "in_words", "moment", "print_traceback"]

group = typer.Typer(name="jobs", help="Look at a job, cancel it, run it again.")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]


@group.callback(no_args_is_help=True)
def prepare() -> None:
    """Look at a job, cancel it, run it again."""
    configure_logging(LogLevel.ERROR)


@group.command()
def show(id: IdArgument, app: AppOption, json: JsonOption = False) -> None:
    """Show where a job is and what became of it."""

    async def ask() -> JobInfo:
        async with open_app(app) as opened:
            return await opened.job(id).info()

    info = asyncio.run(ask())
    if json:
        print_json(info)
    else:
        print_info(info)


@group.command()
def cancel(id: IdArgument, app: AppOption, json: JsonOption = False) -> None:
    """Cancel a job that waits or runs; exit with 1 if it had ended before."""

    async def ask() -> bool:
        async with open_app(app) as opened:
            return await opened.job(id).cancel()

    cancelled = asyncio.run(ask())
    if json:
        print_json({"id": id, "cancelled": cancelled})
    elif cancelled:
        say(f"cancelled {id}")
    else:
        note(f"jetq: job {id!r} had ended before; see `jetq jobs show`")
    if not cancelled:
        raise typer.Exit(1)


@group.command()
def retry(id: IdArgument, app: AppOption, json: JsonOption = False) -> None:
    """Put a failed job back on its queue, with all its attempts before it."""

    async def ask() -> None:
        async with open_app(app) as opened:
            await opened.job(id).retry()

    asyncio.run(ask())
    if json:
        print_json({"id": id, "retried": True})
    else:
        say(f"put back on its queue: {id}")


def print_info(info: JobInfo) -> None:
    """Print what is known of a job, for people."""
    error = info.error
    result = ""
    if info.status == "completed":
        result = msgspec.json.format(msgspec.json.encode(info.result), indent=2).decode()
    print_fields(
        [
            ("job", info.id),
            ("task", info.task),
            ("queue", info.queue),
            ("status", info.status),
            ("attempt", str(info.attempt)),
            ("enqueued", moment(info.enqueued_at)),
            ("due", moment(info.due_at)),
            ("started", moment(info.started_at)),
            ("finished", moment(info.finished_at)),
            ("took", duration(info)),
            ("worker", info.worker),
            ("error", in_words(error)),
            ("result", result),
        ]
    )
    print_traceback(error)


def in_words(error: ErrorInfo | None) -> str:
    """Return an error as one line: its kind, if it has one, and its message."""
    return "" if error is None else f"{error.kind}: {error.message}".removeprefix(": ")


def print_traceback(error: ErrorInfo | None) -> None:
    """Print where an error was raised, if that is known."""
    if error is not None and error.traceback:
        say(f"\n{error.traceback.rstrip()}")


def moment(at: datetime | None) -> str:
    """Return a time for people: here and now, and how long ago."""
    if at is None:
        return ""
    age = f" ({since(at)} ago)" if at.timestamp() <= datetime.now().timestamp() else ""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}{age}"


def duration(info: JobInfo) -> str:
    """Return how long the last attempt took."""
    if info.started_at is None or info.finished_at is None:
        return ""
    return f"{(info.finished_at - info.started_at).total_seconds():.3f} s"
