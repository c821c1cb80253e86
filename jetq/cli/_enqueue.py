"""`jetq enqueue`: put one job on its queue."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import msgspec
import typer

from ipc.terminal import JsonOption, LogLevel, configure_logging, note, print_json, say
from jetq._app import App
from jetq._errors import JobNotCompletedError, ResultNotStoredError, ResultTimeoutError
from jetq._job import Job, JobInfo
from jetq._layout import Priority
from jetq._task import Call, Options, Task

from ._errors import TaskAmbiguousError
from ._load import load_app
from ._options import AppArgument

__all__ = ["enqueue"]


class Enqueued(msgspec.Struct, omit_defaults=True):
    """What `--json` prints."""

    id: str
    task: str
    queue: str
    created: bool
    """Whether this is a new job, and not one that was there already."""
    outcome: JobInfo | None = None
    """Only with `--wait`."""


def enqueue(
    app: AppArgument,
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help="A task's name, or its last part.", show_default=False),
    ],
    args: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="The arguments, an object by parameter name; - reads stdin."
        ),
    ] = "{}",
    priority: Annotated[
        Priority | None, typer.Option(help="Instead of the task's own.", show_default=False)
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds until it may start.", show_default=False),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(help="An id of your own: the same twice is one job.", show_default=False),
    ] = None,
    unique: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="At most one job with this key is there.", show_default=False
        ),
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds until it is dropped unstarted.", show_default=False),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS", help="Wait for the result and print it.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Enqueue a job and print its id."""
    configure_logging(LogLevel.ERROR)
    loaded = load_app(app)
    found = find_task(loaded, task)
    if wait is not None and not found.store_result:
        raise ResultNotStoredError(found.name)
    options = Options()
    if priority is not None:
        options["priority"] = priority
    if delay is not None:
        options["delay"] = delay
    if id is not None:
        options["id"] = id
    if unique is not None:
        options["unique"] = unique
    if expires is not None:
        options["expires"] = expires
    positional, named = found.signature.decode(read_arguments(args))
    call = found.using(**options).call(*positional, **named)
    is_good = asyncio.run(place(loaded, call, wait, json))
    if not is_good:
        raise typer.Exit(1)


def find_task(app: App, name: str) -> Task[..., Any]:
    """Return the task with a name, or the only one whose name ends with it.

    Raises:
        UnknownTaskError: There is none.
        TaskAmbiguousError: There are several.
    """
    fitting = [known for known in app.tasks if known.endswith(f".{name}")]
    if name in app.tasks or not fitting:
        return app.find_task(name)
    if len(fitting) > 1:
        raise TaskAmbiguousError(name, fitting)
    return app.tasks[fitting[0]]


def read_arguments(text: str) -> bytes:
    """Return what `--args` says, or stdin."""
    return sys.stdin.buffer.read() if text == "-" else text.encode()


async def place(app: App, call: Call[Any], wait: float | None, as_json: bool) -> bool:
    """Enqueue a call and print what became of it; return `False` if it failed."""
    async with app:
        job = await app.enqueue(call)
        enqueued = Enqueued(job.id, call.task.name, job.queue, job.created is not False)
        if not as_json:
            # Before waiting: whoever gives up has the id.
            say(job.id)
            if not enqueued.created:
                note("this job was there already")
        failure = None if wait is None else await failure_of(job, wait)
        if failure is not None:
            if not as_json:
                raise failure
            note(f"jetq: {failure}", style="red")
        if wait is not None:
            enqueued.outcome = await job.info()
        if as_json:
            print_json(enqueued)
        elif enqueued.outcome is not None:
            print_json(enqueued.outcome.result)
        return failure is None


async def failure_of(
    job: Job[Any], timeout: float
) -> JobNotCompletedError | ResultTimeoutError | None:
    """Wait until a job ended; return why there is no result, if there is none."""
    try:
        await job.result(timeout)
    except (JobNotCompletedError, ResultTimeoutError) as exc:
        return exc
    return None
