"""Between jobs and services: events that enqueue jobs, jobs that ask services."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ipc import (
    MAX_NAME_LENGTH,
    Context,
    Event,
    InvalidNameError,
    MessageTooLargeError,
    Request,
    Retry,
    ServiceError,
    Start,
    check_name,
)

from ._context import current_job
from ._errors import TaskArgumentError
from ._steering import Reject
from ._task import BoundTask

__all__ = ["Reaction", "asking"]

# While jobs cannot be stored events stay where they are; what can never be a job is set aside.
UNTIL_STORED = Retry(
    max_attempts=1_000, max_delay=60, give_up_on=(TaskArgumentError, MessageTooLargeError)
)

# Below that a service says that the request is at fault: the same again changes nothing.
FIRST_SERVER_ERROR = 500


class Reaction(msgspec.Struct, frozen=True):
    """An event that enqueues a job."""

    event: type[Event]
    task: BoundTask[[Any], Any]
    durable: str
    start: Start

    async def react(self, event: Any, context: Context) -> None:
        """Enqueue the job of an event; the same event again is the same job."""
        task, options = self.task, self.task.options
        if options.unique is options.debounce is None and context.id:
            options = msgspec.structs.replace(options, id=job_token(self.durable, context.id))
        await BoundTask(task.task, options).enqueue(event)


def durable_name(app: str, task: str, event: str) -> str:
    """Return the durable by which an app gets the events that enqueue a task's jobs."""
    # The digest tells names apart that differ in what a durable's may not have, or in length.
    name = re.sub(r"[^A-Za-z0-9_]+", "-", f"jetq-{app}-{task}")
    return f"{name[: MAX_NAME_LENGTH - 9]}-{digest(app, task, event)[:8]}"


def job_token(durable: str, event_id: str) -> str:
    """Return the id of the job that an event becomes, for one of the tasks that it enqueues."""
    token = f"{event_id}-{digest(durable)[:8]}"
    try:
        return check_name("job id", token)
    except InvalidNameError:
        return digest(durable, event_id)[:40]


def digest(*texts: str) -> str:
    """Return a text of fixed length that stands for others."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def asking(
    request: type[Request[Any]], reply: Any, name: str, timeout: float
) -> Callable[[Any], Awaitable[Any]]:
    """Return the function of a task that asks a service and returns its answer.

    Args:
        timeout: Seconds that the service has.
    """

    async def ask(request: Any) -> Any:
        try:
            return await current_job().bus.request(request, timeout=timeout)
        except ServiceError as exc:
            if exc.code >= FIRST_SERVER_ERROR:
                raise
            raise Reject(f"the service refuses it: {exc}") from exc

    ask.__annotations__ = {"request": request, "return": reply}
    ask.__name__ = ask.__qualname__ = name.rpartition(".")[2]
    ask.__doc__ = f"Ask a service: {name}."
    return ask
