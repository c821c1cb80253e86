"""What a running task can know of its job."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context, ContextVar, copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from ._delivery import Attempt
from ._layout import JobId

if TYPE_CHECKING:
    from ._app import App

__all__ = ["JobContext", "current_job"]


class JobContext:
    """The job that runs, as seen from inside its task."""

    __slots__ = ("_attempt", "_job", "app", "state")

    def __init__(self, app: App, job: JobId, attempt: Attempt, state: Any) -> None:
        self.app = app
        self.state = state
        """What the app's `lifespan` yielded."""
        self._job = job
        self._attempt = attempt

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self._job)

    @property
    def task(self) -> str:
        """The task's name."""
        return self._attempt.task.name

    @property
    def queue(self) -> str:
        """The name of the queue that it came from."""
        return self._job.queue

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        return self._attempt.number

    @property
    def enqueued_at(self) -> datetime | None:
        """UTC, from the enqueuer's clock; `None` where the job does not say."""
        return self._attempt.message.enqueued_at

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller gave as `headers`."""
        return self._attempt.message.headers

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
    if len(now) - (_current in now) != len(before) - (_current in before):
        return False
    for var, value in before.items():  # noqa: SIM110 - asked for every job; twice as fast
        if var is not _current and now[var] is not value:
            return False
    return True


def enter_job(context: JobContext) -> None:
    """Say that what follows in this asyncio task belongs to a job."""
    _current.set(context)
