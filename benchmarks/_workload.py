"""What every side is measured by: the same jobs, counted and timed the same way.

A job is a no-op async task with one int and one short string; for ipc, an event or a request.
A side is something that works such jobs: jetq or ipc, or raw nats-py. It takes part in
processes of its own: `Part` is what such a process is told, a `dict` of figures is what it
answers.

Needs nothing but the standard library: the peers have none of what jetq needs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CONCURRENCY",
    "TEXT",
    "WARM_UP",
    "WIDTH",
    "Part",
    "Tally",
    "cpu_seconds",
    "percentile",
    "timed",
]

TEXT = "ada@example.com"
"""The short string; the int is the job's number, or the time when it was sent."""

CONCURRENCY = 100
"""Slots of the one worker."""

WIDTH = 200
"""How many jobs are enqueued at a time."""

WARM_UP = 20
"""Jobs before the measured ones, where one job is measured after the other."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of a side has to do."""

    url: str
    """Of the nats-server."""
    jobs: int
    """Or events, or requests."""
    server_pid: int = 0
    pause: float = 0.0
    """Seconds between one job and the next, where they are sent one by one; or that a job
    sleeps, or a worker idles."""
    queues: int = 1
    durables: int = 0
    """That get all events, each."""


class Tally:
    """Counts executions and measures what they took, from the first to the last."""

    def __init__(self, expected: int, server_pid: int) -> None:
        self.executions = 0
        self.delays_ns: list[int] = []
        self.done = asyncio.Event()
        self._expected = expected
        self._server_pid = server_pid
        self._first = self._last = (0.0, 0.0, 0.0)

    def count(self) -> None:
        """Say that a job is being executed."""
        self.executions += 1
        if self.executions == 1:
            self._first = self._now()
        elif self.executions == self._expected:
            self._last = self._now()
        if self.executions == self._expected:
            self.done.set()

    def count_sent_at(self, sent_at_ns: int) -> None:
        """Say that a job is being executed that was sent at a time on the monotonic clock."""
        # The monotonic clock is the same in all processes of a machine.
        self.delays_ns.append(time.monotonic_ns() - sent_at_ns)
        self.count()

    def report(self) -> dict[str, float | None]:
        """Return jobs per second, and microseconds of CPU time that a job took."""
        seconds, own, server = (b - a for a, b in zip(self._first, self._last, strict=True))
        jobs = max(self._expected - 1, 1)
        return {
            "executions": self.executions,
            "rate": jobs / max(seconds, 1e-9),
            "worker_cpu": own / jobs * 1e6,
            # Too little to be seen where the jobs are few.
            "server_cpu": server / jobs * 1e6 or None,
        }

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), cpu_seconds(self._server_pid)


def timed(jobs: int, started_at: float) -> dict[str, float | None]:
    """Return the rate of something that began at `started_at` (`perf_counter`) and ends now."""
    return {"rate": jobs / (time.perf_counter() - started_at)}


def percentile(delays_ns: Sequence[int], percent: float) -> float:
    """Return the delay in milliseconds that `percent` of all delays do not exceed."""
    ordered = sorted(delays_ns)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] / 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used, in user and kernel mode; 0 for process 0."""
    if pid == 0:
        return 0.0
    # After the name, which may hold spaces: user and system time are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
