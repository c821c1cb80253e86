"""Plain functions in threads that can be interrupted.

Python cannot stop a thread, but CPython can raise an exception in one, at its next
step in Python code. A call into C (a blocking read, `time.sleep`) ends first. A task
that must be stoppable at any moment runs in a process instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread

__all__ = ["ThreadInterrupt", "run_in_thread"]


class ThreadInterrupt(BaseException):
    """Raised inside a task's thread when its job is cancelled or out of time.

    Not an `Exception`, so that `except Exception` in the task does not swallow it.
    """


async def run_in_thread(call: Callable[[], Any], limiter: anyio.CapacityLimiter) -> Any:
    """Run `call` in a thread and return its result; when cancelled, interrupt it there.

    Does not wait for an interrupted thread: what it still does is ignored.
    """
    threaded = ThreadCall(call)
    try:
        return await anyio.to_thread.run_sync(threaded, abandon_on_cancel=True, limiter=limiter)
    except anyio.get_cancelled_exc_class():
        threaded.interrupt()
        raise


class ThreadCall:
    """A call in a thread, and the way to interrupt it and nothing that runs there later."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._thread_id: int | None = None
        self._interrupted = False
        self._done = False

    def __call__(self) -> Any:
        """Run the call; called once, in the thread."""
        with self._lock:
            if self._interrupted:
                raise ThreadInterrupt
            self._thread_id = threading.get_ident()
        try:
            return self._call()
        finally:
            with self._lock:
                self._done = True
            if self._interrupted:
                # Raised at some step to come: let it be here, not in the thread's next job.
                with contextlib.suppress(ThreadInterrupt):
                    for _ in range(50):
                        time.sleep(0.001)

    def interrupt(self) -> None:
        """Raise `ThreadInterrupt` in the thread, if it still runs the call."""
        with self._lock:
            self._interrupted = True
            if self._thread_id is not None and not self._done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread_id), ctypes.py_object(ThreadInterrupt)
                )
