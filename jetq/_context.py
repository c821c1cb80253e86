"""What a running task can know of its job."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context, copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from ipc import Bus, current_origin

from ._delivery import Attempt
from ._layout import JobId

if TYPE_CHECKING:
    from ._app import App

__all__ = ["JobContext", "current_job"]


class JobContext:
    """The job that runs, as seen from inside its task."""

    __slots__ = ("_attempt", "_job", "_traceparent", "app", "state")

    deadline = None
    """Nobody waits for a job: what its task asks of services may take its own time."""

    def __init__(self, app: App, job: JobId, attempt: Attempt, state: Any) -> None:
        self.app = app
        self.state = state
        """What the app's `lifespan` yielded."""
        self._job = job
        self._attempt = attempt
        self._traceparent: str | None = None

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
    def correlation_id(self) -> str:
        """Id of the message or job that began it all: the same for all that follows from it."""
        return self._attempt.message.correlation_id or self.id

    @property
    def causation_id(self) -> str:
        """Id of the message or job whose handler enqueued this one; "" at the beginning."""
        return self._attempt.message.causation_id

    @property
    def traceparent(self) -> str | None:
        """The trace that it belongs to (W3C Trace Context), sent along with what follows.

        Middleware that starts a span sets it to that span's.
        """
        return self._traceparent or self._attempt.message.traceparent or None

    @traceparent.setter
    def traceparent(self, value: str) -> None:
        self._traceparent = value

    @property
    def bus(self) -> Bus:
        """The app's bus, for events and requests that follow from this job."""
        return self.app.bus

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


def current_job() -> JobContext:
    """Return the job that runs here: in its task, or anything that calls, threads included.

    Raises:
        LookupError: No job runs here. A task with `process=True` runs in a process
            that does not know its job.
    """
    origin = current_origin.get()
    if not isinstance(origin, JobContext):
        raise LookupError("current_job() is for code that a worker runs")
    return origin


def is_as_before(before: Context) -> bool:
    """Return whether this asyncio task's context variables are what they were `before`.

    The running job itself does not count: every job sets it.
    """
    now = copy_context()
    if len(now) - (current_origin in now) != len(before) - (current_origin in before):
        return False
    for var, value in before.items():
        if var is not current_origin and now[var] is not value:
            return False
    return True


def enter_job(context: JobContext) -> None:
    """Say that what follows in this asyncio task belongs to a job."""
    current_origin.set(context)
