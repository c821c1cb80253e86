"""What a running task can know of its job."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context, ContextVar, copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from ._app import App

__all__ = ["JobContext", "current_job"]


class JobContext:
    """The job that runs, as seen from inside its task."""

    __slots__ = ("app", "attempt", "enqueued_at", "headers", "id", "queue", "state", "task")

    def __init__(
        self,
        *,
        app: App,
        id: str,
        task: str,
        queue: str,
        attempt: int,
        enqueued_at: datetime | None,
        headers: Mapping[str, str],
        state: Any,
    ) -> None:
        self.app = app
        self.id = id
        self.task = task
        self.queue = queue
        self.attempt = attempt
        """Counts from 1."""
        self.enqueued_at = enqueued_at
        self.headers = headers
        """What the caller gave as `headers`."""
        self.state = state
        """What the app's `lifespan` yielded."""

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger that names the job."""
        return structlog.stdlib.get_logger("jetq").bind(
            job_id=self.id, task=self.task, attempt=self.attempt
        )


_current: ContextVar[JobContext] = ContextVar("jetq_job")


def current_job() -> JobContext:
    """Return the job that runs here: in its task, or anything that calls, threads included.

    Raises:
        LookupError: No job runs here. A task with `process=True` runs in a process
            that does not know its job.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("current_job() is for code that a worker runs") from None


def is_as_before(before: Context) -> bool:
    """Return whether this asyncio task's context variables are what they were `before`.

    The running job itself does not count: every job sets it.
    """
    now = copy_context()
    return len(now) - (_current in now) == len(before) - (_current in before) and all(
        now[var] is value for var, value in before.items() if var is not _current
    )


def enter_job(context: JobContext) -> None:
    """Say that what follows in this asyncio task belongs to a job."""
    _current.set(context)
