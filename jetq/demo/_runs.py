"""What really ran: every start and every end of a task, noted where a crash cannot undo it.

Each worker process appends lines to a file of its own. A line is with the kernel once it
is written, so it outlives its process, however that ends. The server is not asked: what
it knows is checked against these notes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any, Literal

import msgspec

from jetq import JobContext

__all__ = ["FOLDER", "Note", "bug_is_fixed", "fix_bug", "note_run", "notes_path", "noting", "read"]

FOLDER = "JETQ_DEMO_FOLDER"
"""The environment variable that says where the notes are kept; without it none are."""


class Note(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line: a task started, or returned."""

    event: Literal["started", "returned"]
    job_id: str
    attempt: int
    at: float
    """Seconds of this machine's clock, which all processes share."""


decode_note = msgspec.json.Decoder(Note)


def notes_path(folder: Path, pid: int) -> Path:
    """Return the file of one worker process; it is there once the worker is up."""
    return folder / f"runs-{pid}.jsonl"


@asynccontextmanager
async def noting() -> AsyncGenerator[int | None]:
    """Keep notes for as long as a worker works; yields the open file."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        yield None
        return
    path = notes_path(Path(folder), os.getpid())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield file
    finally:
        os.close(file)


async def note_run(context: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
    """Note that a task starts, and that it returned; middleware of the shop."""
    file: int | None = context.state
    if file is None:
        return await call_next()
    _append(file, Note("started", context.id, context.attempt, time()))
    result = await call_next()
    _append(file, Note("returned", context.id, context.attempt, time()))
    return result


def _append(file: int, note: Note) -> None:
    os.write(file, msgspec.json.encode(note) + b"\n")


def read(folder: Path) -> Iterator[Note]:
    """Yield the notes of all workers, dead ones included."""
    for path in sorted(folder.glob("runs-*.jsonl")):
        yield from decode_note.decode_lines(path.read_bytes())


def fix_bug(folder: Path) -> None:
    """Repair `book_parcel`; a real shop would deploy a new release."""
    (folder / "bug-is-fixed").touch()


def bug_is_fixed() -> bool:
    """Return whether `book_parcel` works for every address."""
    folder = os.environ.get(FOLDER)
    return folder is None or (Path(folder) / "bug-is-fixed").exists()
