"""The worker processes of the demo: started, watched, killed, and stopped at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import anyio

from ._runs import FOLDER, notes_path

__all__ = ["Crew", "WorkerProcess", "WorkerStartError"]

# It ends with its stdin, of which we hold the other end: should we be killed, it stops.
COMMAND = (
    *("-m", "jetq", "worker", "--concurrency=20", "--grace=5"),
    *("--stop-with-stdin", "--", "jetq.demo.shop:app"),
)
# A process starts in a second; a busy machine may need many.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
POLL = 0.02


class WorkerStartError(Exception):
    """A worker process ended, or did not get ready, before the show began."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, log)
        self.number = number
        self.log = log

    def __str__(self) -> str:
        return f"worker {self.number} did not start; it wrote:\n{self.log or '(nothing)'}"


class WorkerProcess:
    """One `jetq worker` process."""

    def __init__(self, number: int, folder: Path, environment: Mapping[str, str]) -> None:
        self.number = number
        self._folder = folder
        self._log = folder / f"worker-{number}.log"
        self.state: Literal["starting", "working", "killed", "gone"] = "starting"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C at the terminal is for us; we stop the workers afterwards.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it works: its notes are begun once it is connected."""
        return notes_path(self._folder, self.pid).exists()

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """End it at once, in the middle of everything."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """Tell it to finish what it has and to leave."""
        self._process.terminate()


class Crew:
    """All worker processes that there were; entering starts none, leaving ends all."""

    def __init__(self, folder: Path, url: str) -> None:
        self.members: list[WorkerProcess] = []
        self._folder = folder
        ours = {"NATS_URL": url, FOLDER: str(folder), "PYTHONUNBUFFERED": "1"}
        # Somebody's login for a real server is no business of this one.
        theirs = {name: value for name, value in os.environ.items() if name != "NATS_CREDS"}
        self._environment = theirs | ours

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop()

    def add(self) -> WorkerProcess:
        """Start one more."""
        worker = WorkerProcess(len(self.members) + 1, self._folder, self._environment)
        self.members.append(worker)
        return worker

    async def wait_ready(self) -> None:
        """Return once all that were started work.

        Raises:
            WorkerStartError: One does not.
        """
        deadline = time.monotonic() + START_TIMEOUT
        for worker in self.members:
            while worker.state == "starting" and not worker.ready:
                if not worker.running or time.monotonic() > deadline:
                    raise WorkerStartError(worker.number, worker.log)
                await anyio.sleep(POLL)
        self.look()

    def kill(self, number: int) -> WorkerProcess:
        """SIGKILL a worker, counted from 1."""
        worker = self.members[number - 1]
        worker.kill()
        worker.state = "killed"
        return worker

    def look(self) -> list[WorkerProcess]:
        """See who works now; return those that ended by themselves since the last look."""
        ended: list[WorkerProcess] = []
        for worker in self.members:
            if worker.state == "starting" and worker.ready:
                worker.state = "working"
            if worker.state != "killed" and worker.state != "gone" and not worker.running:
                worker.state = "gone"
                ended.append(worker)
        return ended

    @property
    def any_running(self) -> bool:
        """Whether there is still somebody to do the work."""
        return any(worker.running for worker in self.members)

    async def stop(self) -> None:
        """Let all finish and leave; who does not is killed."""
        for worker in self.members:
            worker.stop()
        with anyio.move_on_after(STOP_TIMEOUT):
            while self.any_running:
                await anyio.sleep(POLL)
        for worker in self.members:
            worker.kill()
            worker.state = "gone"
