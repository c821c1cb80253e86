"""Watch for tasks that block the event loop, from a thread that they cannot block."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

import anyio
import structlog

__all__ = ["Watchdog"]

log = structlog.stdlib.get_logger("jetq")

BEAT = 0.25


class Watchdog:
    """Notices when the event loop stands still, and says which job holds it up."""

    def __init__(
        self,
        name_of: Callable[[asyncio.Task[object]], tuple[str, str] | None],
        *,
        threshold: float = 1.0,
    ) -> None:
        """Set up.

        Args:
            name_of: Given the asyncio task that runs, returns job id and task name.
            threshold: Seconds without a beat that count as blocked.
        """
        self._name_of = name_of
        self._threshold = threshold
        self._beat_at = time.monotonic()
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Watch this event loop, until cancelled."""
        loop, thread_id = asyncio.get_running_loop(), threading.get_ident()
        self._beat_at = time.monotonic()
        thread = threading.Thread(
            target=self._watch, args=(loop, thread_id), name="jetq-watchdog", daemon=True
        )
        thread.start()
        try:
            while True:
                self._beat_at = time.monotonic()
                await anyio.sleep(BEAT)
        finally:
            self._stopped.set()

    @property
    def delay(self) -> float:
        """Seconds since the event loop last gave a sign of life."""
        return time.monotonic() - self._beat_at

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        reported = 0.0
        while not self._stopped.wait(BEAT):
            beat = self._beat_at
            if time.monotonic() - beat < self._threshold or beat == reported:
                continue
            reported = beat
            self._report(loop, thread_id)

    def _report(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        current = asyncio.current_task(loop)
        job = self._name_of(current) if current is not None else None
        frame = sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage]
        job_id, task = job or ("", "")
        log.warning(
            "the event loop is blocked; leases are not renewed meanwhile",
            task=task or "(not a job)",
            job_id=job_id,
            blocked_for=round(self.delay, 2),
            stack="".join(traceback.format_stack(frame, limit=8)) if frame else "",
            hint="await instead of blocking, or make the task a plain function",
        )
