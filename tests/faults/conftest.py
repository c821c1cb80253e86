"""What fault tests need: a server of their own, worker processes, and an account of runs.

How many jobs ran twice is not a failure but the price of losing none. Every test says
it, and the summary of the test run shows it.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from ipc import LocalServer
from tests.conftest import ACCOUNT
from tests.faults.accounts import Runs
from tests.faults.processes import WorkerProcess
from tests.faults.tasks import Shop


class StartWorker(Protocol):
    """Starts a worker process on all queues."""

    def __call__(self, *, concurrency: int = 20, grace: float = 30) -> WorkerProcess: ...


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Every start of a job in any worker of this test."""
    file = tmp_path / "runs"
    monkeypatch.setenv("RUNS_FILE", str(file))
    return Runs(file)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalServer]:
    """A server for one test to kill; `Shop` and worker processes connect to it."""
    async with LocalServer() as server:
        monkeypatch.setenv("NATS_URL", server.url)
        yield server


@pytest.fixture
async def shop(server: LocalServer) -> AsyncIterator[Shop]:
    """The app, open, on this test's `server`."""
    shop = Shop()
    async with shop.app:
        yield shop


@pytest.fixture
def start_worker(runs: Runs, tmp_path: Path) -> Iterator[StartWorker]:
    """Start a worker process; whatever is left of it is killed after the test."""
    started: list[WorkerProcess] = []

    def start(*, concurrency: int = 20, grace: float = 30) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started) + 1}.log"
        started.append(WorkerProcess(log, concurrency=concurrency, grace=grace))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        # Shown by pytest if the test failed.
        print(f"-- log of worker {worker.pid}", worker.log[-5000:], sep="\n")


@pytest.fixture
def account(record_property: Callable[[str, object], None], runs: Runs) -> Callable[[int], None]:
    """Note, for the summary, how many jobs there were and how many of them ran twice."""

    def note(jobs: int) -> None:
        said = f"{jobs} jobs, {jobs} outcomes, lost 0, ran twice {runs.num_repeated()}"
        record_property(ACCOUNT, said)

    return note
