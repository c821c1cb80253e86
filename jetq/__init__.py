"""Background tasks on NATS JetStream."""

from ipc import (
    InvalidNameError,
    IpcError,
    JetStreamDisabledError,
    LoginRefusedError,
    MessageTooLargeError,
    Retry,
    ServerTooOldError,
    ServerUnavailableError,
)

from ._app import App
from ._context import JobContext, current_job
from ._errors import (
    AppNotOpenError,
    EnqueueError,
    EnqueueManyError,
    InvalidJobIdError,
    JetqError,
    JobCancelledError,
    JobExistsError,
    JobExpiredError,
    JobFailedError,
    JobNotCompletedError,
    JobNotFoundError,
    JobNotRetryableError,
    OptionsError,
    QueueMissingError,
    ResultNotStoredError,
    ResultTimeoutError,
    TaskArgumentError,
    TaskDefinitionError,
    UnknownTaskError,
)
from ._job import Job, JobInfo
from ._layout import Priority
from ._lifecycle import (
    JobCancelled,
    JobCompleted,
    JobEnqueued,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRetried,
    JobStarted,
)
from ._message import DeadLetter, ErrorInfo, Status
from ._queue import Queue
from ._steering import Reject, RetryAfter, Snooze
from ._task import BoundTask, Call, Task
from ._worker import Worker

__all__ = [
    "App",
    "AppNotOpenError",
    "BoundTask",
    "Call",
    "DeadLetter",
    "EnqueueError",
    "EnqueueManyError",
    "ErrorInfo",
    "InvalidJobIdError",
    "InvalidNameError",
    "IpcError",
    "JetStreamDisabledError",
    "JetqError",
    "Job",
    "JobCancelled",
    "JobCancelledError",
    "JobCompleted",
    "JobContext",
    "JobEnqueued",
    "JobEvent",
    "JobExistsError",
    "JobExpired",
    "JobExpiredError",
    "JobFailed",
    "JobFailedError",
    "JobInfo",
    "JobNotCompletedError",
    "JobNotFoundError",
    "JobNotRetryableError",
    "JobRetried",
    "JobStarted",
    "LoginRefusedError",
    "MessageTooLargeError",
    "OptionsError",
    "Priority",
    "Queue",
    "QueueMissingError",
    "Reject",
    "ResultNotStoredError",
    "ResultTimeoutError",
    "Retry",
    "RetryAfter",
    "ServerTooOldError",
    "ServerUnavailableError",
    "Snooze",
    "Status",
    "Task",
    "TaskArgumentError",
    "TaskDefinitionError",
    "UnknownTaskError",
    "Worker",
    "current_job",
]
