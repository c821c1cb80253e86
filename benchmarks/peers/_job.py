"""What the app of a peer is given: where its server is, and how to count its jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from benchmarks._workload import Tally

__all__ = ["RESULTS", "URL", "JobTally", "count", "count_with"]

# Both are set before the app is imported.
URL = ""
"""Of the server of this measurement, which holds nothing else."""

RESULTS = False
"""Whether results are stored, in this measurement."""


class JobTally(Tally):
    """Counts jobs by their number, in any thread, so that what is lost or repeated shows."""

    def __init__(self, expected: int, server_pid: int) -> None:
        super().__init__(expected, server_pid)
        self._expected_jobs = expected
        self._numbers: set[int] = set()
        self._repeated = 0
        self._lock = threading.Lock()

    def count_job(self, number: int) -> None:
        """Say that a job is being executed; only the first time counts as its execution."""
        with self._lock:
            if number in self._numbers:
                self._repeated += 1
            else:
                self._numbers.add(number)
                self.count()

    def report(self) -> dict[str, float | None]:
        """Return the figures, as far as there are any, with what went wrong."""
        lost = self._expected_jobs - self.executions
        figures = {} if lost else super().report()
        return {**figures, "lost": lost, "repeated": self._repeated}


_tell: Callable[[int], None] = lambda number: None  # noqa: E731


def count_with(tell: Callable[[int], None]) -> None:
    """Let `count` tell this function of each job."""
    global _tell
    _tell = tell


def count(number: int) -> int | None:
    """Do what a job does: be counted. Returns what the job is to return."""
    _tell(number)
    return number if RESULTS else None
