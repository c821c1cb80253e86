"""What happens to jobs, told to the world as events, where an app asks for it.

Sent as it happens, and not waited for: an event may be lost where a job never is. A durable
that handles them gets those that the server has stored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, assert_never

import structlog

from ipc import Bus, Cause, ConnectionLostError, Event, current_origin, following

from ._context import JobContext
from ._delivery import Delivery
from ._message import NOT_DECODABLE, JobMessage, decode_job
from ._outcome import EXPIRED, Bury, Drop, Finish, GiveBack, RetryAt, Settlement

__all__ = [
    "ALL_JOB_EVENTS",
    "JobCancelled",
    "JobCompleted",
    "JobEnqueued",
    "JobEvent",
    "JobExpired",
    "JobFailed",
    "JobRetried",
    "JobStarted",
    "Lifecycle",
]

log = structlog.stdlib.get_logger("jetq")


class JobEvent(Event, type="jetq.JobEvent", kw_only=True):
    """What all events of jobs have in common."""

    app: str
    job_id: str
    task: str
    """The task's name; "" of a job that could not be read."""
    queue: str
    attempt: int = 0
    """The attempt that this is about; 0 where none has begun."""
    worker: str = ""
    """The worker that it happened at."""


class JobEnqueued(JobEvent, type="jetq.JobEnqueued"):
    """A job is stored."""


class JobStarted(JobEvent, type="jetq.JobStarted"):
    """An attempt begins."""


class JobCompleted(JobEvent, type="jetq.JobCompleted"):
    """A job's task has returned."""


class JobRetried(JobEvent, type="jetq.JobRetried", kw_only=True):
    """An attempt has failed, or put the job off; another one comes."""

    delay: float
    """Seconds until then."""
    reason: str


class JobFailed(JobEvent, type="jetq.JobFailed", kw_only=True):
    """A job is dead: no attempt comes any more."""

    reason: str


class JobExpired(JobEvent, type="jetq.JobExpired"):
    """A job was not started in time."""


class JobCancelled(JobEvent, type="jetq.JobCancelled", kw_only=True):
    """A job was cancelled by somebody."""

    reason: str


UNREADABLE = JobMessage(task="", attempt=1)

ALL_JOB_EVENTS: tuple[type[JobEvent], ...] = (
    JobEnqueued,
    JobStarted,
    JobCompleted,
    JobRetried,
    JobFailed,
    JobExpired,
    JobCancelled,
)


class Lifecycle:
    """Publishes the events of jobs that an app asks for."""

    def __init__(self, bus: Bus, app: str, wanted: Collection[type[JobEvent]]) -> None:
        self.wanted = frozenset(wanted)
        self._bus = bus
        self._app = app

    def enqueued(self, job_id: str, task: str, queue: str) -> None:
        """Tell that a job is stored."""
        origin = current_origin.get()
        cause = Cause(
            job_id,
            correlation_id="" if origin is None else origin.correlation_id,
            traceparent=None if origin is None else origin.traceparent,
        )
        with following(cause):
            self._send(JobEnqueued(app=self._app, job_id=job_id, task=task, queue=queue))

    def started(self, context: JobContext, worker: str) -> None:
        """Tell that an attempt begins."""
        with following(context):
            self._send(
                JobStarted(
                    app=self._app,
                    job_id=context.id,
                    task=context.task,
                    queue=context.queue,
                    attempt=context.attempt,
                    worker=worker,
                )
            )

    def settled(self, delivery: Delivery, settlement: Settlement, worker: str) -> None:
        """Tell what became of a job."""
        try:
            message = decode_job(delivery.pulled.data)
        except NOT_DECODABLE:
            # That is why it is dead, as the event says.
            message = UNREADABLE
        common: dict[str, Any] = {
            "app": self._app,
            "job_id": str(delivery.job),
            "task": message.task,
            "queue": delivery.job.queue,
            "attempt": message.attempt,
            "worker": worker,
        }
        cause = Cause(
            str(delivery.job),
            correlation_id=message.correlation_id,
            traceparent=message.traceparent or None,
        )
        with following(cause):
            match settlement:
                case Finish(status) if status == EXPIRED:
                    self._send(JobExpired(**common))
                case Finish():
                    self._send(JobCompleted(**common))
                case RetryAt(delay, _, error):
                    self._send(JobRetried(**common, delay=delay, reason=error.message))
                case Bury(reason):
                    self._send(JobFailed(**common, reason=reason))
                case Drop() | GiveBack():
                    # Told where it was settled, or not settled yet.
                    pass
                case _:
                    assert_never(settlement)

    def cancelled(self, job_id: str, task: str, queue: str, attempt: int, reason: str) -> None:
        """Tell that a job was cancelled."""
        self._send(
            JobCancelled(
                app=self._app,
                job_id=job_id,
                task=task,
                queue=queue,
                attempt=attempt,
                reason=reason,
            )
        )

    def _send(self, event: JobEvent) -> None:
        if type(event) in self.wanted:
            try:
                self._bus.publish_nowait(event)
            except ConnectionLostError:
                log.debug("event of a job not sent, the connection is away", job_id=event.job_id)
