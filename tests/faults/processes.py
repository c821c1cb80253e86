"""Worker processes to do harm to."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from jetq._worker import WorkerStats

ROOT = Path(__file__).parents[2]


class WorkerProcess:
    """A worker in a process of its own, running once constructed."""

    def __init__(self, log: Path, *, concurrency: int, grace: float) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.work", str(concurrency), str(grace)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
        )

    @property
    def pid(self) -> int:
        """The process id, as the runs of its jobs show it."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.communicate()

    def suspend(self) -> None:
        """SIGSTOP: it holds its jobs and its connection, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: ask it to stop in order."""
        self._process.terminate()

    def stats(self) -> WorkerStats:
        """Return what it did, once it has stopped in order."""
        assert not self.running, "wait for its end first"
        assert self._process.stdout is not None
        return msgspec.json.decode(self._process.stdout.read(), type=WorkerStats)
