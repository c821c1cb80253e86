"""Who ran what, and what every job came to: from outside, without trusting a worker."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ipc import JetStreamError, NoResponderError, UnconfirmedError
from jetq import App, Job
from jetq._message import OutcomeRecord, decode_outcome

POLL_INTERVAL = 0.02


async def until(
    condition: Callable[[], object] | Callable[[], Awaitable[object]],
    hope: str,
    timeout: float = 20,
) -> None:
    """Return once `condition` holds; fail with what was hoped for if it does not in time.

    A server that is away or without a leader for now counts as "not yet".
    """
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    found = condition()
                    if await found if inspect.isawaitable(found) else found:
                        return
                except (JetStreamError, NoResponderError, UnconfirmedError):
                    pass
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        raise AssertionError(f"not within {timeout:g} s: {hope}") from None


class Run(NamedTuple):
    """One start of a job."""

    job_id: str
    attempt: int
    pid: int


class Runs:
    """Every start of a job in any worker, read from the file where tasks leave lines."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> list[Run]:
        """Return the starts so far, in order."""
        if not self._file.exists():
            return []
        lines = (line.split() for line in self._file.read_text().splitlines())
        return [Run(job_id, int(attempt), int(pid)) for job_id, attempt, pid in lines]

    def by(self, pid: int) -> set[str]:
        """Return the ids of the jobs that a process has started."""
        return {run.job_id for run in self.all() if run.pid == pid}

    def num_repeated(self) -> int:
        """Return how many attempts were started more than once."""
        starts = Counter((run.job_id, run.attempt) for run in self.all())
        return sum(count > 1 for count in starts.values())


async def one_outcome_each(
    app: App, jobs: Iterable[Job[Any]], *, timeout: float = 30
) -> dict[str, OutcomeRecord]:
    """Return the outcomes of `jobs`, by id, once nothing of them is left in a queue.

    Fails if a job has none, if there is one of any other job, or if a job ever had two:
    the sequence of the stream counts whatever was stored on it.
    """
    wanted = {job.id for job in jobs}
    stream, subjects = app.layout.results_stream, f"{app.layout.root}.result.>"

    async def all_recorded() -> bool:
        found = await app.jetstream.find_stream(stream)
        return found is not None and found.state.messages >= len(wanted)

    async def queues_are_empty() -> bool:
        for queue in app.queues:
            found = await app.jetstream.find_stream(app.layout.queue_stream_name(queue))
            if found is not None and found.state.messages:
                return False
        return True

    await until(all_recorded, f"an outcome of each of {len(wanted)} jobs", timeout)
    await until(queues_are_empty, "queues without a job that has an outcome", timeout)
    outcomes = {
        stored.subject.removeprefix(f"{app.layout.root}.result."): decode_outcome(stored.data)
        async for stored in app.jetstream.scan(stream, subjects)
    }
    assert outcomes.keys() == wanted
    found = await app.jetstream.find_stream(stream)
    assert found is not None
    assert found.state.last_seq == len(wanted), "an outcome was stored twice"
    return outcomes
