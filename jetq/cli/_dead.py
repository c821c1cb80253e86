"""`jetq dead`: look at dead letters, run them again, throw them away."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from ipc.terminal import (
    JsonOption,
    LogLevel,
    configure_logging,
    note,
    print_fields,
    print_json,
    print_table,
    say,
    since,
)
from jetq._message import DeadLetter

from ._errors import NoDeadLetterError
from ._jobs import IdArgument, in_words, moment, print_traceback
from ._load import open_app
from ._options import AppOption, QueueOption

__all__ = ["group"]

group = typer.Typer(name="dead", help="Look at dead letters, run them again, throw them away.")

# More than one looks at; `--json` gives all.
MAX_ROWS = 200

MaybeIdArgument = Annotated[
    str | None, typer.Argument(metavar="ID", help="One job's.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="All of the app's.")]


@group.callback(no_args_is_help=True)
def prepare() -> None:
    """Look at dead letters, run them again, throw them away."""
    configure_logging(LogLevel.ERROR)


@group.command("list")
def list_(app: AppOption, queue: QueueOption = None, json: JsonOption = False) -> None:
    """List dead letters, oldest first; with --json one a line, all of them."""
    asyncio.run(print_letters(app, queue, json))


@group.command()
def show(
    id: IdArgument,
    app: AppOption,
    json: JsonOption = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the job's body only, byte for byte.")
    ] = False,
) -> None:
    """Show one dead letter: why it died, and the job as it arrived."""
    letter = asyncio.run(find_letter(app, id))
    if raw:
        sys.stdout.buffer.write(letter.body)
    elif json:
        print_json(letter)
    else:
        print_letter(letter)


@group.command()
def retry(
    app: AppOption,
    id: MaybeIdArgument = None,
    queue: QueueOption = None,
    all: AllOption = False,
    json: JsonOption = False,
) -> None:
    """Put dead jobs back on their queues, with all their attempts before them."""
    check_choice(id, queue, all)
    retried = asyncio.run(retry_letters(app, id, queue))
    if json:
        print_json({"retried": retried})
    else:
        say(f"put {counted(len(retried))} back")


@group.command()
def purge(
    app: AppOption,
    id: MaybeIdArgument = None,
    queue: QueueOption = None,
    all: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Throw dead letters away, for good."""
    what = check_choice(id, queue, all)
    if not yes:
        typer.confirm(f"Throw away {what} of app {app!r}?", abort=True, err=True)

    async def ask() -> int:
        async with open_app(app) as opened:
            return await opened.dead_letters.purge(job_id=id, queue=queue)

    purged = asyncio.run(ask())
    if id is not None and not purged:
        raise NoDeadLetterError(id)
    if json:
        print_json({"purged": purged})
    else:
        say(f"threw {counted(purged)} away")


def check_choice(id: str | None, queue: str | None, all: bool) -> str:
    """Return in words which letters are meant.

    Raises:
        typer.BadParameter: None, or more than one thing is.
    """
    if (id is not None) + (queue is not None) + all != 1:
        raise typer.BadParameter("say which: an ID, --queue NAME, or --all")
    if id is not None:
        return f"dead letter {id!r}"
    return "all dead letters" if queue is None else f"all dead letters of queue {queue!r}"


def counted(number: int) -> str:
    """Return "1 dead letter", "2 dead letters"."""
    return f"{number} dead letter{'' if number == 1 else 's'}"


async def find_letter(place: str, id: str) -> DeadLetter:
    """Return a job's dead letter.

    Raises:
        NoDeadLetterError: It has none.
    """
    async with open_app(place) as app:
        letter = await app.dead_letters.find(app.job(id).id)
    if letter is None:
        raise NoDeadLetterError(id)
    return letter


async def retry_letters(place: str, id: str | None, queue: str | None) -> list[str]:
    """Put dead jobs back; return their ids."""
    async with open_app(place) as app:
        # All ids first: a letter that dies again at once is not put back twice.
        letters = app.dead_letters.list(queue)
        ids = [id] if id is not None else [letter.job_id async for letter in letters]
        for one in ids:
            await app.dead_letters.retry(one)
    return ids


async def print_letters(place: str, queue: str | None, as_json: bool) -> None:
    """Print dead letters as a table, or as lines of JSON."""
    rows: list[list[str]] = []
    async with open_app(place) as app:
        async for letter in app.dead_letters.list(queue):
            if as_json:
                print_json(letter)
                continue
            if len(rows) == MAX_ROWS:
                note(f"the oldest {MAX_ROWS} only; --json lists all")
                break
            task, attempts = letter.task or "(unknown)", str(letter.attempts)
            reason = letter.reason.partition("\n")[0]
            age = since(letter.died_at)
            rows.append([letter.job_id, letter.queue, task, age, attempts, reason])
    if rows:
        print_table(["ID", "QUEUE", "TASK", "AGE", "ATTEMPTS", "REASON"], rows)
    elif not as_json:
        note("no dead letters")


def print_letter(letter: DeadLetter) -> None:
    """Print all of a dead letter, for people."""
    print_fields(
        [
            ("job", letter.job_id),
            ("task", letter.task or "(unknown)"),
            ("queue", letter.queue),
            ("priority", letter.priority),
            ("reason", letter.reason),
            ("attempts", str(letter.attempts)),
            ("died", moment(letter.died_at)),
            ("subject", letter.subject),
            ("error", in_words(letter.error)),
            ("body", letter.body.decode(errors="backslashreplace")),
        ]
    )
    print_traceback(letter.error)
