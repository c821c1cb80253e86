"""So many calls at once, the others in line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import structlog

__all__ = ["LAST_WORDS", "Limiter"]

log = structlog.stdlib.get_logger("ipc")

# Seconds for what has to be said while everything is being cancelled.
LAST_WORDS = 2.0

Work = Callable[[], Coroutine[Any, Any, None]]


class Limiter:
    """Runs work in asyncio tasks of its own, so many at a time, in the order it comes."""

    def __init__(self, limit: int, *, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._waiting = deque[Work]()
        self._running: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def submit(self, work: Work) -> bool:
        """Run `work` as soon as there is room; return `False` if too much waits already."""
        if len(self._running) < self._limit:
            self._start(work)
        elif len(self._waiting) < self._max_waiting:
            self._waiting.append(work)
        else:
            return False
        return True

    async def drain(self, grace: float) -> Sequence[Work]:
        """Return once all is done; what runs after `grace` seconds is cancelled.

        Returns:
            What had not begun by then.
        """
        with anyio.move_on_after(grace):
            await self._idle.wait()
        left = tuple(self._waiting)
        self._waiting.clear()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=LAST_WORDS)
        return left

    def _start(self, work: Work) -> None:
        self._idle.clear()
        task = asyncio.get_running_loop().create_task(work())
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message could not be handled", exc_info=error)
        if self._waiting:
            self._start(self._waiting.popleft())
        elif not self._running:
            self._idle.set()
