"""Execute: run a task's function, within its time, and say what it came to."""

from __future__ import annotations

import asyncio
import math
import pickle
import signal
import traceback
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_process

from ipc import Middleware, own_frames, wrap

from ._context import JobContext, enter_job
from ._delivery import Attempt
from ._layout import JobId
from ._message import ErrorInfo
from ._outcome import Cancelled, Completed, Failed, Outcome, PutOff, Rejected
from ._steering import Reject, RetryAfter, Snooze
from ._task import AsyncTask, Task
from ._thread import run_in_thread

__all__ = ["Executor", "Slot", "describe"]

MAX_TRACEBACK = 8_192
"""Characters; the end is kept, which says where it was raised."""


class Slot:
    """A place for one job at a time: a coroutine that lives as long as its worker."""

    __slots__ = ("cancelled", "job", "name", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.job: JobId | None = None
        """What runs here now."""
        self.name = ""
        """Of the job's task."""
        self.cancelled = False

    def enter(self, job: JobId, name: str) -> None:
        """Say that a job runs here from now on."""
        self.job, self.name, self.cancelled = job, name, False

    def leave(self) -> None:
        """Say that it runs no more."""
        self.job = None

    def cancel(self) -> None:
        """Stop the job: somebody cancelled it."""
        if not self.cancelled:
            self.cancelled = True
            self.task.cancel()


class RemoteError(Exception):
    """Carries the traceback of an exception out of a process."""


class Executor:
    """Runs attempts: coroutines here, plain functions in threads or processes."""

    def __init__(self, concurrency: int, middleware: Sequence[Middleware[JobContext]]) -> None:
        self._threads = anyio.CapacityLimiter(concurrency)
        self._processes = anyio.CapacityLimiter(concurrency)
        self._middleware = middleware

    async def run(self, attempt: Attempt, context: JobContext, slot: Slot) -> Outcome:
        """Run an attempt and return what it came to.

        Only the cancellation of the slot itself is raised: the worker has to stop.
        """
        enter_job(context)
        try:
            outcome = await self._run(attempt, context)
            if slot.task.cancelling():
                # asyncio delivers at the next await: here, not in what comes after the job.
                await asyncio.sleep(0)
        except asyncio.CancelledError as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Not the worker's scope: somebody cancelled the job, the task cancelled itself
            # (`asyncio.current_task().cancel()`), or awaited something that was cancelled.
            outcome = Failed(describe(exc))
        while slot.task.cancelling():
            slot.task.uncancel()
        # Whatever it made of being cancelled; that it is over is recorded already.
        return Cancelled() if slot.cancelled else outcome

    async def _run(self, attempt: Attempt, context: JobContext) -> Outcome:
        task, timeout = attempt.task, attempt.message.timeout or attempt.task.timeout
        try:
            # A cancel scope costs as much as all else here: only who has a timeout pays it.
            if timeout is None:
                result = await self._call(attempt, context)
            else:
                with anyio.move_on_after(timeout) as scope:
                    result = await self._call(attempt, context)
                if scope.cancelled_caught:
                    late = TimeoutError(f"ran longer than its timeout of {timeout:g} s")
                    return Failed(describe(late), task.retry.covers(late))
            if not task.store_result:
                return Completed()
            # Checked here, so that a wrong result is the task's failure.
            return Completed(task.signature.encode_result(result))  # pyright: ignore[reportPossiblyUnboundVariable]
        except Exception as exc:
            return outcome_of(exc, attempt)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exc:
            # SystemExit, KeyboardInterrupt, or a library's own: raised by the task, as a
            # signal to this process is not handled inside of one. It would end the worker.
            return Failed(describe(exc))

    def _call(self, attempt: Attempt, context: JobContext) -> Awaitable[Any]:
        call = partial(run_function, attempt.task, attempt, self._threads, self._processes)
        return wrap(call, context, self._middleware)()


def run_function(
    task: Task[..., Any],
    attempt: Attempt,
    threads: anyio.CapacityLimiter,
    processes: anyio.CapacityLimiter,
) -> Awaitable[Any]:
    """Call a task's function where it belongs."""
    if isinstance(task, AsyncTask):
        return task.function(*attempt.args, **attempt.kwargs)
    if not task.process:
        call = partial(task.function, *attempt.args, **attempt.kwargs)
        return run_in_thread(call, threads)
    return run_in_process(task, attempt, processes)


async def run_in_process(
    task: Task[..., Any], attempt: Attempt, processes: anyio.CapacityLimiter
) -> Any:
    """Call a task's function in a process of the pool."""
    result, error, trace = await anyio.to_process.run_sync(
        call_in_process, task, attempt.args, attempt.kwargs, cancellable=True, limiter=processes
    )
    if error is not None:
        raise error from RemoteError(trace)
    return result


def call_in_process(
    task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[Any, Exception | None, str]:
    """Call a function in a process of the pool; an exception is returned with its traceback."""
    # Ctrl-C at a terminal reaches this process too; the worker decides what becomes of jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return task.function(*args, **kwargs), None, ""
    except Exception as exc:
        trace = "".join(traceback.format_exception(exc))
        try:
            pickle.loads(pickle.dumps(exc))
        except Exception:
            # Made of something that cannot leave this process; its words can.
            return None, RuntimeError(f"{type(exc).__qualname__}: {words_of(exc)}"), trace
        return None, exc, trace


def outcome_of(exc: Exception, attempt: Attempt) -> Outcome:
    """Return what an exception from a task means for its job."""
    match exc:
        case Snooze(delay=delay, reason=reason):
            return PutOff(delay, reason)
        case RetryAfter(delay=delay):
            return Failed(describe(exc), delay=delay)
        case Reject(reason=reason):
            return Rejected(reason, describe(exc))
        case _:
            return Failed(describe(exc), attempt.retry.covers(exc))


def describe(exc: BaseException) -> ErrorInfo:
    """Return an exception in words that can be stored."""
    kind = type(exc)
    if isinstance(exc.__cause__, RemoteError):
        trace = str(exc.__cause__)
    else:
        told = traceback.TracebackException(kind, exc, own_frames(exc, "jetq._", "anyio"))
        for frame in told.stack:
            # Without the carets, for which every line is parsed: most of the cost of a retry.
            frame.colno = None
        trace = "".join(told.format())
    return ErrorInfo(
        message=words_of(exc) or kind.__name__,
        kind=f"{kind.__module__}.{kind.__qualname__}",
        traceback=trace[-MAX_TRACEBACK:],
    )


def words_of(exc: BaseException) -> str:
    """Return what an exception says; "" if that fails too."""
    try:
        return str(exc)
    except Exception:
        return ""
