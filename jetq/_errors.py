"""What jetq tells its users when something cannot be done.

    JetqError
    ├── TaskDefinitionError     a function that cannot be a task
    ├── UnknownTaskError        a task name that this app does not know
    ├── TaskArgumentError       wrong arguments for a task
    ├── OptionsError            job options that contradict each other
    ├── AppNotOpenError         used outside `async with app`
    ├── InvalidJobIdError       not the id of a job
    ├── JobExistsError          a job with the same unique key is there already
    ├── EnqueueError            a job was not accepted
    │   └── EnqueueManyError    some of several jobs were not
    ├── QueueMissingError       the queue's stream is not there, and may not be created
    ├── JobNotFoundError        no trace of a job
    ├── JobNotRetryableError    a job that did not fail
    ├── ResultNotStoredError    the task stores no results
    ├── ResultTimeoutError      no outcome yet
    └── JobNotCompletedError    the job ended without a result
        ├── JobFailedError
        ├── JobCancelledError
        └── JobExpiredError

What concerns the server itself (gone, too old, wrong login) is an `ipc.IpcError`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AppNotOpenError",
    "EnqueueError",
    "EnqueueManyError",
    "InvalidJobIdError",
    "JetqError",
    "JobCancelledError",
    "JobExistsError",
    "JobExpiredError",
    "JobFailedError",
    "JobNotCompletedError",
    "JobNotFoundError",
    "JobNotRetryableError",
    "OptionsError",
    "QueueMissingError",
    "ResultNotStoredError",
    "ResultTimeoutError",
    "TaskArgumentError",
    "TaskDefinitionError",
    "UnknownTaskError",
]


class JetqError(Exception):
    """Base of every error that `jetq` raises on purpose."""


class TaskDefinitionError(JetqError, TypeError):
    """A function cannot be made a task."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task = task
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.task!r} cannot be a task: {self.reason}"


class UnknownTaskError(JetqError, LookupError):
    """An app has no task of that name."""

    def __init__(self, task: str, known: Sequence[str]) -> None:
        super().__init__(task, known)
        self.task = task
        self.known = tuple(known)

    def __str__(self) -> str:
        shown = ", ".join(self.known[:10]) or "none"
        return (
            f"unknown task {self.task!r}; this app knows {shown}; "
            "is the module that defines it imported?"
        )


class TaskArgumentError(JetqError, TypeError):
    """The arguments of a call do not fit the task."""

    def __init__(self, task: str, problem: str, argument: str | None = None) -> None:
        super().__init__(task, problem, argument)
        self.task = task
        self.problem = problem
        self.argument = argument

    def __str__(self) -> str:
        where = f"argument {self.argument!r} of " if self.argument else ""
        return f"{where}task {self.task!r}: {self.problem}"


class OptionsError(JetqError, ValueError):
    """The options of a job contradict each other."""

    def __init__(self, task: str, problem: str) -> None:
        super().__init__(task, problem)
        self.task = task
        self.problem = problem

    def __str__(self) -> str:
        return f"options for task {self.task!r}: {self.problem}"


class AppNotOpenError(JetqError):
    """An app is used without a connection."""

    def __init__(self, app: str) -> None:
        super().__init__(app)
        self.app = app

    def __str__(self) -> str:
        return f"app {self.app!r} is not connected; use it inside `async with app:`"


class InvalidJobIdError(JetqError, ValueError):
    """A text is not the id of a job."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return (
            f"{self.text!r} is not a job id; an id looks like 'mail.-.x7Kf2mQ9_aZw4tYb', "
            "as `job.id` and `jetq enqueue` show it; for an id of your own use `task.job(…)`"
        )


class JobExistsError(JetqError):
    """A job with the same unique key waits or runs already."""

    def __init__(self, task: str, job_id: str) -> None:
        super().__init__(task, job_id)
        self.task = task
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"task {self.task!r} was not enqueued: job {self.job_id!r} has the same unique "
            "key or id; wait for it, cancel it, or use on_conflict='return'"
        )


class EnqueueError(JetqError):
    """The server did not acknowledge a job in time."""

    def __init__(self, task: str, job_id: str, timeout: float, reason: str) -> None:
        super().__init__(task, job_id, timeout, reason)
        self.task = task
        self.job_id = job_id
        self.timeout = timeout
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"job {self.job_id!r} of task {self.task!r} was not acknowledged within "
            f"{self.timeout:g} s ({self.reason}); it may have been stored all the same: "
            "enqueue it again with an id of your own to be safe from doubles"
        )


class EnqueueManyError(JetqError):
    """Some of several jobs were not acknowledged."""

    def __init__(
        self, acknowledged: Sequence[str], unconfirmed: Sequence[str], reason: str
    ) -> None:
        super().__init__(acknowledged, unconfirmed, reason)
        self.acknowledged = tuple(acknowledged)
        """Ids of the jobs that are stored for certain."""
        self.unconfirmed = tuple(unconfirmed)
        """Ids of the jobs of which it is not known."""
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{len(self.unconfirmed)} of {len(self.unconfirmed) + len(self.acknowledged)} jobs "
            f"were not acknowledged ({self.reason}); `acknowledged` and `unconfirmed` say which"
        )


class QueueMissingError(JetqError):
    """A queue's stream does not exist, and this app may not create it."""

    def __init__(self, queue: str, stream: str) -> None:
        super().__init__(queue, stream)
        self.queue = queue
        self.stream = stream

    def __str__(self) -> str:
        return (
            f"queue {self.queue!r} has no stream {self.stream!r} on the server; create it with "
            "`jetq streams apply`, or let the app do it with declare=True"
        )


class JobNotFoundError(JetqError, LookupError):
    """There is no trace of a job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"no trace of job {self.job_id!r}: never enqueued, its result has expired "
            "(result_ttl), or it completed and its task stores no results"
        )


class JobNotRetryableError(JetqError):
    """A job did not fail, so it cannot be retried."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(job_id, status)
        self.job_id = job_id
        self.status = status

    def __str__(self) -> str:
        return f"job {self.job_id!r} is {self.status}; only a failed job can be retried"


class ResultNotStoredError(JetqError):
    """A task stores no results, so there is none to wait for."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.task = task

    def __str__(self) -> str:
        return f"task {self.task!r} stores no results; define it without result=False"


class ResultTimeoutError(JetqError, TimeoutError):
    """A job had no outcome in time; it goes on."""

    def __init__(self, job_id: str, timeout: float) -> None:
        super().__init__(job_id, timeout)
        self.job_id = job_id
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"job {self.job_id!r} has no outcome after {self.timeout:g} s; it is not affected; "
            "is a worker running for its queue?"
        )


class JobNotCompletedError(JetqError):
    """Base of the ways a job ends without a result."""

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(job_id, reason)
        self.job_id = job_id
        self.reason = reason


class JobFailedError(JobNotCompletedError):
    """A job failed for good."""

    def __init__(self, job_id: str, reason: str, kind: str = "", traceback: str = "") -> None:
        super().__init__(job_id, reason)
        self.kind = kind
        """The class of the task's exception, as `module.Class`; "" if there was none."""
        self.traceback = traceback
        """Where it was raised, as the worker saw it."""

    def __str__(self) -> str:
        return f"job {self.job_id!r} failed: {self.reason}"


class JobCancelledError(JobNotCompletedError):
    """A job was cancelled."""

    def __str__(self) -> str:
        return f"job {self.job_id!r} was cancelled: {self.reason}"


class JobExpiredError(JobNotCompletedError):
    """A job was not started before it expired."""

    def __str__(self) -> str:
        return f"job {self.job_id!r} expired before a worker could start it"
