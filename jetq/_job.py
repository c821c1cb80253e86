"""A job and what can be known and done about it, from anywhere, by its id alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from ipc import encode

from ._errors import (
    JobCancelledError,
    JobExpiredError,
    JobFailedError,
    JobNotFoundError,
    ResultNotStoredError,
)
from ._layout import JobId
from ._message import NOT_DECODABLE, ErrorInfo, JobMessage, OutcomeRecord, Status, decode_job

if TYPE_CHECKING:
    from ._app import App
    from ._task import Task

__all__ = ["Job", "JobInfo"]

R = TypeVar("R")


class JobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job at one moment."""

    id: str
    task: str
    queue: str
    status: Status
    attempt: int
    """The attempt that runs, comes next or was the last; 0 if it never started."""
    enqueued_at: datetime | None = None
    due_at: datetime | None = None
    """When it may start; only if `scheduled` or `retrying`."""
    started_at: datetime | None = None
    """When the last attempt started; only once it has ended."""
    finished_at: datetime | None = None
    worker: str = ""
    """Which worker ended it."""
    error: ErrorInfo | None = None
    """Why it failed, was cancelled, or has to be run again."""
    result: Any = None
    """What it returned; only if `completed`."""


class Job(Generic[R]):
    """One enqueued call of a task. Cheap to make: holds an id, asks the server when asked."""

    def __init__(
        self, app: App, job: JobId, task: Task[..., R] | None, *, created: bool | None = None
    ) -> None:
        self._app = app
        self._job = job
        self._task = task
        self.created = created
        """Whether `enqueue` stored a new job (`True`) or found this one there already
        (`False`, with an id, unique key or debounce key of your own); `None` if looked up."""

    @property
    def id(self) -> str:
        """What `app.job` and the command line find this job by."""
        return str(self._job)

    @property
    def queue(self) -> str:
        """The queue it was put on."""
        return self._job.queue

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id  # pyright: ignore[reportUnknownMemberType]

    def __hash__(self) -> int:
        return hash(self._job)

    # -- know ---------------------------------------------------------------------------

    async def result(self, timeout: float | None = None) -> R:
        """Return what the task returned, once it has.

        Cancelling this, or running out of time, does nothing to the job.

        Args:
            timeout: Seconds to wait; `None` waits as long as it takes.

        Raises:
            JobFailedError: It failed for good; carries the error and its traceback.
            JobCancelledError: It was cancelled.
            JobExpiredError: It was not started in time.
            ResultTimeoutError: There is no outcome yet.
            ResultNotStoredError: The task is defined with `result=False`.
        """
        if self._task is not None and not self._task.store_result:
            raise ResultNotStoredError(self._task.name)
        record = await self._app.outcomes.wait(self._job, timeout)
        error = record.error or ErrorInfo("no reason given")
        match record.status:
            case "completed":
                return self._decode(record)
            case "failed":
                raise JobFailedError(self.id, error.message, error.kind, error.traceback)
            case "cancelled":
                raise JobCancelledError(self.id, error.message)
            case "expired":
                raise JobExpiredError(self.id, error.message)

    async def status(self) -> Status:
        """Return where the job is; see `info` for more.

        Raises:
            JobNotFoundError: There is no trace of it.
        """
        return (await self.info()).status

    async def info(self) -> JobInfo:
        """Return what is known of the job: recorded if it ended, else from where it lies.

        Raises:
            JobNotFoundError: There is no trace of it.
        """
        app, job = self._app, self._job
        # A job moves from the queue to its outcome, never back: looked for in this order
        # it cannot slip through between two looks.
        waiting = await self._waiting()
        record = await app.outcomes.find(job)
        if record is not None:
            return self._ended(record)
        if waiting is not None:
            return waiting
        letter = await app.dead_letters.find(self.id)
        if letter is not None:
            return JobInfo(
                id=self.id,
                task=letter.task,
                queue=job.queue,
                status="failed",
                attempt=letter.attempts,
                finished_at=letter.died_at,
                error=letter.error or ErrorInfo(letter.reason),
            )
        raise JobNotFoundError(self.id)

    # -- steer --------------------------------------------------------------------------

    async def cancel(self, reason: str = "cancelled by request") -> bool:
        """Cancel the job, wherever it is; return `False` if it had ended before.

        A waiting or scheduled job is removed. A running one is interrupted: an `async`
        task at its next `await`, a process at once; a thread cannot be interrupted inside
        a blocking call, and what it returns is then ignored.

        Raises:
            JobNotFoundError: There is no trace of it.
        """
        app, job = self._app, self._job
        info = await self.info()
        if info.status in ("completed", "failed", "cancelled", "expired"):
            return False
        record = OutcomeRecord(
            status="cancelled",
            task=info.task,
            attempt=info.attempt,
            enqueued_at=info.enqueued_at,
            finished_at=datetime.now(UTC),
            error=ErrorInfo(reason),
        )
        # First the record, which every worker respects, then the message, then word to
        # whoever runs it: stopping half-way leaves a job that is cancelled.
        if not await app.outcomes.record(job, record, app.ttl_of(info.task)):
            return False
        layout = app.layout
        await app.jetstream.purge(layout.queue_stream_name(job.queue), layout.anywhere(job))
        await app.connection.publish(layout.control("cancel"), encode(self.id))
        app.lifecycle.cancelled(self.id, info.task, job.queue, info.attempt, reason)
        return True

    async def retry(self) -> None:
        """Put a failed job back on its queue, with all its attempts before it.

        Raises:
            JobNotRetryableError: It has not failed, or its dead letter was thrown away.
            JobNotFoundError: There is no trace of it.
        """
        await self._app.dead_letters.retry(self.id)

    # -- where it lies ------------------------------------------------------------------

    async def _waiting(self) -> JobInfo | None:
        """Return what the queue's stream says, or `None` if the job is not in it."""
        app, job = self._app, self._job
        stream = app.layout.queue_stream_name(job.queue)
        found = await app.jetstream.find_last(stream, app.layout.anywhere(job))
        known = None if found is None else app.layout.parse(found.subject)
        if found is None or known is None:
            return None
        try:
            message = decode_job(found.data)
        except NOT_DECODABLE as exc:
            message = JobMessage(task="", error=ErrorInfo(f"cannot be decoded: {exc}"))
        status: Status
        if found.subject == app.layout.later(*known):
            status = "scheduled" if message.error is None else "retrying"
        else:
            consumer = await app.jetstream.find_consumer(stream, known[1])
            taken = consumer is not None and found.seq <= consumer.delivered.stream_seq
            status = "processing" if taken else "pending"
        return JobInfo(
            id=self.id,
            task=message.task,
            queue=job.queue,
            status=status,
            attempt=message.attempt,
            enqueued_at=message.enqueued_at or found.stored_at,
            due_at=_due_at(found.headers),
            error=message.error,
        )

    def _ended(self, record: OutcomeRecord) -> JobInfo:
        return JobInfo(
            id=self.id,
            task=record.task,
            queue=self._job.queue,
            status=record.status,
            attempt=record.attempt,
            enqueued_at=record.enqueued_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            worker=record.worker,
            error=record.error,
            result=self._decode_leniently(record),
        )

    def _decode_leniently(self, record: OutcomeRecord) -> Any:
        """Return a result to look at, also if the task returns another type by now."""
        try:
            return self._decode(record)
        except msgspec.ValidationError:
            return msgspec.json.decode(record.result) if record.result else None

    def _decode(self, record: OutcomeRecord) -> Any:
        task = self._task or self._app.tasks.get(record.task)
        if record.result is msgspec.UNSET:
            return None
        if task is None:
            return msgspec.json.decode(record.result)
        return task.signature.decode_result(record.result)


def _due_at(headers: Mapping[str, str] | None) -> datetime | None:
    schedule = headers.get("Nats-Schedule", "") if headers else ""
    try:
        return datetime.fromisoformat(schedule.removeprefix("@at "))
    except ValueError:
        # None, or another kind of schedule, which jetq does not use for jobs.
        return None
