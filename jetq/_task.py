"""Define: a function becomes a task, and a call of it a job to be enqueued."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, Unpack

import msgspec
from typing_extensions import TypedDict

from ipc import MAX_DELAY, Retry, check_name

from ._errors import OptionsError
from ._layout import PRIORITIES, JobId, Priority, key_token
from ._signature import Signature

if TYPE_CHECKING:
    from ._app import App
    from ._job import Job

__all__ = ["AsyncTask", "BoundTask", "Call", "JobOptions", "Options", "SyncTask", "Task"]

P = ParamSpec("P")
R = TypeVar("R")


class Options(TypedDict, total=False):
    """How one job differs from what its task says; keyword arguments of `task.using`."""

    priority: Priority
    """What starts first among what waits in the queue."""
    delay: float | timedelta
    """Seconds from now until it may start."""
    eta: datetime
    """The time at which it may start; must have a time zone."""
    unique: str
    """At most one job with this key waits, is scheduled or runs in the queue."""
    on_conflict: Literal["return", "raise"]
    """With `unique`, if there is one: return it (the default), or raise `JobExistsError`."""
    id: str
    """An id of your own: the same id twice is one job."""
    debounce: str
    """With `delay`: calls with this key become one job with the last arguments, `delay`
    seconds after the last call."""
    expires: float | timedelta | datetime
    """Seconds from now, or a time: not started by then, the job is dropped as expired."""
    timeout: float
    """Seconds a run may take, instead of the task's own."""
    headers: dict[str, str]
    """For the task to read, as `current_job().headers`."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked options of a job."""

    priority: Priority | None = None
    delay: float | timedelta | None = None
    eta: datetime | None = None
    unique: str | None = None
    on_conflict: Literal["return", "raise"] = "return"
    id: str | None = None
    debounce: str | None = None
    expires: float | timedelta | datetime | None = None
    timeout: float | None = None
    headers: dict[str, str] = {}

    def problem(self) -> str | None:
        """Return what is wrong with these options, if anything.

        Types are looked at too: who runs no type checker shall not find out from a worker.
        """
        for name, text in (("unique", self.unique), ("debounce", self.debounce)):
            if text is not None and not (isinstance(text, str) and text):  # pyright: ignore[reportUnnecessaryIsInstance]
                return f"{name} is a text that is not empty, not {text!r}"
        for name, value in (("delay", self.delay), ("expires", self.expires)):
            seconds = value.total_seconds() if isinstance(value, timedelta) else value
            if seconds is None or (name == "expires" and isinstance(seconds, datetime)):
                continue
            if not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_DELAY:  # pyright: ignore[reportUnnecessaryIsInstance]
                return f"{name} is 0 to 100 years, in seconds, not {value!r}"
        if not all(isinstance(part, str) for pair in self.headers.items() for part in pair):  # pyright: ignore[reportUnnecessaryIsInstance]
            return "headers are texts, names and values"
        if self.delay is not None and self.eta is not None:
            return "delay and eta exclude each other"
        if self.eta is not None and self.eta.tzinfo is None:
            return "eta needs a time zone, e.g. datetime.now(timezone.utc)"
        if isinstance(self.expires, datetime) and self.expires.tzinfo is None:
            return "expires needs a time zone, e.g. datetime.now(timezone.utc)"
        if self.debounce is not None:
            if self.delay is None:
                return "debounce needs a delay: how long to wait for the next call"
            if self.unique is not None or self.id is not None:
                return "debounce decides on key and id by itself; leave out unique and id"
        if self.timeout is not None and not 0 < self.timeout <= MAX_DELAY:
            return "timeout is a positive number of seconds"
        if self.priority is not None and self.priority not in PRIORITIES:
            return f"priority is {', '.join(PRIORITIES[:-1])} or {PRIORITIES[-1]}"
        if self.on_conflict not in ("return", "raise"):
            return "on_conflict is 'return' or 'raise'"
        return None


NO_OPTIONS = JobOptions()


class Call(Generic[R]):
    """A task with arguments and options, checked and encoded: ready to be enqueued."""

    __slots__ = ("args", "options", "task")

    def __init__(self, task: Task[..., R], args: msgspec.Raw, options: JobOptions) -> None:
        self.task = task
        self.args = args
        self.options = options


class BoundTask(Generic[P, R]):
    """A task with options for the jobs it enqueues."""

    def __init__(self, task: Task[P, R], options: JobOptions) -> None:
        self.task = task
        self.options = options

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return a call to be enqueued later, with others.

        Raises:
            TaskArgumentError: The arguments do not fit.
        """
        return Call(self.task, self.task.signature.encode(args, kwargs), self.options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Store a job and return it once the server has acknowledged it.

        Cancelling leaves it open whether the job was stored.

        Raises:
            TaskArgumentError: The arguments do not fit; nothing was sent.
            JobExistsError: A job with the same unique key exists and `on_conflict="raise"`.
            EnqueueError: The server did not acknowledge it within the app's timeout.
            ServerUnavailableError: The server could not be reached within that time.
            MessageTooLargeError: The job is over the server's limit.
        """
        return await self.task.app.enqueue(self.call(*args, **kwargs))


class Task(BoundTask[P, R]):
    """A function whose calls can be enqueued. Made by `@app.task`."""

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        *,
        name: str,
        queue: str,
        priority: Priority,
        retry: Retry,
        timeout: float | None,
        store_result: bool,
        result_ttl: float,
        process: bool,
    ) -> None:
        super().__init__(self, NO_OPTIONS)
        self.app = app
        self.function = function
        self.name = name
        """What jobs on the wire call this task."""
        self.queue = check_name("queue", queue)
        self.priority = Priority(priority)
        self.retry = retry
        self.timeout = timeout
        """Seconds a run may take; `None` without limit."""
        self.store_result = store_result
        self.result_ttl = result_ttl
        """Seconds that an outcome can be asked for."""
        self.process = process
        """Whether it runs in a process of its own instead of a thread."""
        self.signature = Signature(name, function)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__module__ = function.__module__
        self.__wrapped__ = function

    def using(self, **options: Unpack[Options]) -> BoundTask[P, R]:
        """Return this task with options for the jobs it enqueues.

        Raises:
            OptionsError: The options contradict each other.
            InvalidNameError: `id` cannot be part of a subject.
        """
        try:
            checked = JobOptions(**options)
        except TypeError as exc:
            raise OptionsError(self.name, str(exc)) from None
        problem = checked.problem()
        if problem:
            raise OptionsError(self.name, problem)
        if checked.id is not None:
            check_name("job id", checked.id)
        return BoundTask(self, checked)

    def job(self, id: str, *, unique: str | None = None) -> Job[R]:
        """Return the job that was enqueued with `id` (and `unique`) of your own."""
        key = "-" if unique is None else key_token(unique)
        return self.app.job_of(self, JobId(self.queue, key, check_name("job id", id)))

    def __repr__(self) -> str:
        return f"<Task {self.name!r} on queue {self.queue!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By reference, like functions: a process pool finds the task by importing it.
        return _find_task, (self.__module__, self.__qualname__)


class AsyncTask(Task[P, R]):
    """A task whose function is a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function here and now."""
        return self.function(*args, **kwargs)


class SyncTask(Task[P, R]):
    """A task whose function is an ordinary one: it runs in a thread or a process."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now."""
        return self.function(*args, **kwargs)


def _find_task(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found
