"""What became of every job: the server's records beside what was enqueued and what ran.

Pure functions. Three witnesses are heard, and they must agree:

    the producer    the ids that the server acknowledged               what must be there
    the server      recorded outcomes, dead letters, queue lengths     what is there
    the workers     their notes of every start and return of a task    what really ran

A job that was acknowledged and has no recorded outcome is lost, whatever anybody hoped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime

import msgspec

from jetq._message import OutcomeRecord

from ._runs import Note

__all__ = ["Account", "Enqueued", "Row", "account", "percentile"]


class Enqueued(msgspec.Struct, frozen=True):
    """A job that the server acknowledged."""

    task: str
    delay: float = 0.0
    """Seconds after which it was to start."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of some jobs."""

    task: str
    enqueued: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    lost: int
    start_p50: float | None
    """Seconds from enqueue, or from the time it was due, to the start of a first attempt
    that completed; `None` if there was none."""
    start_p99: float | None


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all jobs."""

    rows: list[Row]
    total: Row
    retries: int
    """Attempts after the first, of the jobs' last lives."""
    replayed: int
    """Dead letters that were put back on their queues."""
    run_twice: int
    """Jobs of which one attempt started more than once. A retry is another attempt."""
    returned_twice: int
    """Those of them whose task came to its end more than once."""
    jobs_per_second: float
    """From the first enqueue to the last end."""
    busiest_second: int
    """Jobs that ended in the second in which most did."""
    problems: list[str]
    """What does not add up; empty if all is well."""


def account(
    enqueued: Mapping[str, Enqueued],
    outcomes: Mapping[str, OutcomeRecord],
    dead: Set[str],
    notes: Iterable[Note],
    replays: Mapping[str, float],
    waiting: int = 0,
) -> Account:
    """Return what became of the jobs, and what does not add up.

    Args:
        enqueued: By job id; the order of the tasks here is that of the rows.
        outcomes: As recorded, by job id.
        dead: The ids of the dead letters.
        replays: When a dead letter was put back on its queue, by job id.
        waiting: How many messages the queues still hold.
    """
    rows = [
        row(task, {id: job for id, job in enqueued.items() if job.task == task}, outcomes, replays)
        for task in dict.fromkeys(job.task for job in enqueued.values())
    ]
    total = row("total", enqueued, outcomes, replays)
    starts, returns = runs(notes, replays)
    records = [outcomes[id] for id in enqueued if id in outcomes]
    rate, busiest = throughput(records)
    return Account(
        rows=rows,
        total=total,
        retries=sum(max(record.attempt - 1, 0) for record in records),
        replayed=len(replays),
        run_twice=len(more_than_once(starts)),
        returned_twice=len(more_than_once(returns)),
        jobs_per_second=rate,
        busiest_second=busiest,
        problems=problems(total, enqueued, outcomes, dead, returns, waiting),
    )


def row(
    task: str,
    enqueued: Mapping[str, Enqueued],
    outcomes: Mapping[str, OutcomeRecord],
    replays: Mapping[str, float],
) -> Row:
    """Return what became of some jobs."""
    count = Counter(outcomes[id].status if id in outcomes else "lost" for id in enqueued)
    waits = sorted(
        (record.started_at - record.enqueued_at).total_seconds() - job.delay
        for id, job in enqueued.items()
        if (record := outcomes.get(id)) is not None
        and record.status == "completed"
        and record.attempt == 1
        and id not in replays
        and record.started_at is not None
        and record.enqueued_at is not None
    )
    return Row(
        task=task,
        enqueued=len(enqueued),
        completed=count["completed"],
        failed=count["failed"],
        cancelled=count["cancelled"],
        expired=count["expired"],
        lost=count["lost"],
        start_p50=percentile(waits, 50),
        start_p99=percentile(waits, 99),
    )


Run = tuple[str, int, bool]
"""A job, the attempt, and whether it was after the job's replay, which counts anew."""


def runs(notes: Iterable[Note], replays: Mapping[str, float]) -> tuple[Counter[Run], Counter[Run]]:
    """Return how often each attempt was started, and how often it returned."""
    starts: Counter[Run] = Counter()
    returns: Counter[Run] = Counter()
    for note in notes:
        replayed = note.at >= replays.get(note.job_id, math.inf)
        counter = starts if note.event == "started" else returns
        counter[note.job_id, note.attempt, replayed] += 1
    return starts, returns


def more_than_once(counter: Counter[Run]) -> set[str]:
    """Return the jobs of which one attempt was counted more than once."""
    return {run[0] for run, times in counter.items() if times > 1}


def throughput(records: Sequence[OutcomeRecord]) -> tuple[float, int]:
    """Return jobs per second over the whole time, and in the second with most of them."""
    begun = [record.enqueued_at for record in records if record.enqueued_at is not None]
    if not begun:
        return 0.0, 0
    first: datetime = min(begun)
    ended = [(record.finished_at - first).total_seconds() for record in records]
    seconds = Counter(math.floor(end) for end in ended)
    return len(ended) / max(*ended, 0.001), max(seconds.values())


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Return the value that `percent` of the ordered values do not exceed (nearest rank)."""
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def problems(
    total: Row,
    enqueued: Mapping[str, Enqueued],
    outcomes: Mapping[str, OutcomeRecord],
    dead: Set[str],
    returns: Counter[Run],
    waiting: int,
) -> list[str]:
    """Return, in words, where the witnesses contradict each other."""
    ended = total.completed + total.failed + total.cancelled + total.expired
    failed = {id for id, record in outcomes.items() if record.status == "failed"}
    completed = {id for id, record in outcomes.items() if record.status == "completed"}
    returned = {job_id for job_id, _, _ in returns}
    checks = [
        (total.enqueued - ended, "jobs are lost: enqueued, but without a recorded outcome"),
        (len(outcomes.keys() - enqueued.keys()), "outcomes are of jobs that nobody enqueued"),
        (len(failed - dead), "jobs failed and left no dead letter"),
        (len(dead - failed), "dead letters are of jobs that did not fail"),
        (len(completed - returned), "jobs are completed though no worker ran them"),
        (waiting, "messages are still in the queues"),
    ]
    return [f"{count:,} {what}" for count, what in checks if count]
