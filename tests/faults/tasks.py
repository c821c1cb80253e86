"""The app that faults are tried on, the same in the test and in its worker processes.

Everything that differs from test to test comes from the environment: `NATS_URL`,
`JETQ_STORAGE`, `JETQ_REPLICAS`, and `RUNS_FILE`, where every run leaves a line.
"""

import asyncio
import os
import signal

from jetq import App, Queue, Retry, current_job

LEASE = 1.0
"""Seconds until the jobs of a worker that fell silent are delivered again."""

LONG_LEASE = 60.0
"""Longer than any test waits: who relies on it being over fails."""

# Never reached by jobs that only happen to run when their worker is killed.
OFTEN = 100


class Shop:
    """An app and its tasks, not connected yet."""

    def __init__(self) -> None:
        self.app = App(
            "faults",
            queues=[Queue("work", lease=LEASE), Queue("patient", lease=LONG_LEASE)],
            # A cluster that lost a leader accepts nothing for about 6 s.
            timeout=30,
        )
        patience = Retry(max_crashes=OFTEN)
        self.note = self.app.task(name="note", queue="work", retry=patience)(note)
        self.nap = self.app.task(name="nap", queue="work", retry=patience)(nap)
        self.long_nap = self.app.task(name="long_nap", queue="patient")(nap)
        self.succeed_late = self.app.task(
            name="succeed_late",
            queue="work",
            retry=Retry(max_attempts=3, base_delay=1, multiplier=1, max_crashes=OFTEN),
        )(succeed_late)
        self.kill_worker = self.app.task(
            name="kill_worker", queue="work", retry=Retry(max_crashes=2)
        )(kill_worker)


async def note() -> None:
    """Leave a line, and take a moment."""
    leave_line()
    await asyncio.sleep(0.005)


async def nap(seconds: float) -> None:
    """Leave a line, and take some time."""
    leave_line()
    await asyncio.sleep(seconds)


async def succeed_late() -> None:
    """Fail twice."""
    leave_line()
    if current_job().attempt < 3:
        raise ConnectionError("not yet")


async def kill_worker() -> None:
    """Take the whole process down, as running out of memory would."""
    leave_line()
    os.kill(os.getpid(), signal.SIGKILL)


def leave_line() -> None:
    """Say that a run has started; a short append is whole, whoever is killed."""
    job = current_job()
    line = f"{job.id} {job.attempt} {os.getpid()}\n"
    file = os.open(os.environ["RUNS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
