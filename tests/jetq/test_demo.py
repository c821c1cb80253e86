"""The demo's account of every job, and the demo itself, once with few jobs."""

import io
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from jetq._message import OutcomeRecord
from jetq.demo._account import Account, Enqueued, account, percentile
from jetq.demo._report import report
from jetq.demo._runs import Note

START = datetime(2026, 1, 1, tzinfo=UTC)


def outcome(status: Any = "completed", **fields: Any) -> OutcomeRecord:
    """A recorded outcome: enqueued at 0 s, started at 1 s, ended at 2 s."""
    times = {"enqueued_at": 0, "started_at": 1, "finished_at": 2}
    moments = {name: START + timedelta(seconds=fields.pop(name, at)) for name, at in times.items()}
    return OutcomeRecord(status=status, task="shop.mail", **{"attempt": 1, **moments, **fields})


def ran(*attempts: int, job: str = "a", event: Any = "started", at: float = 0) -> list[Note]:
    """The notes of a job's attempts."""
    return [Note(event, job, attempt, at) for attempt in attempts]


def balance(
    outcomes: dict[str, OutcomeRecord],
    *,
    enqueued: dict[str, Enqueued] | None = None,
    notes: list[Note] | None = None,
    dead: set[str] | None = None,
    replays: dict[str, float] | None = None,
    waiting: int = 0,
) -> Account:
    """The account of these jobs; unless said otherwise all is as it should be."""
    if notes is None:
        notes = [note for job in outcomes for note in ran(1, job=job, event="returned")]
    if dead is None:
        dead = {job for job, record in outcomes.items() if record.status == "failed"}
    enqueued = enqueued or {job: Enqueued("mail") for job in outcomes}
    return account(enqueued, outcomes, dead, notes, replays or {}, waiting)


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_a_job_counts_as_what_is_recorded(status):
    """A recorded outcome puts its job into one column, and the sum is right."""
    result = balance({"a": outcome(status)})

    assert (result.total.enqueued, getattr(result.total, status), result.total.lost) == (1, 1, 0)
    assert result.problems == []


def test_a_job_without_a_record_is_lost():
    """What was acknowledged and left no trace makes the demo fail."""
    result = balance({"a": outcome()}, enqueued={"a": Enqueued("mail"), "b": Enqueued("mail")})

    assert result.total.lost == 1
    assert result.problems == ["1 jobs are lost: enqueued, but without a recorded outcome"]


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"enqueued": {"b": Enqueued("mail")}}, "1 outcomes are of jobs that nobody enqueued"),
        ({"dead": {"a"}}, "1 dead letters are of jobs that did not fail"),
        ({"notes": []}, "1 jobs are completed though no worker ran them"),
        ({"notes": ran(1)}, "1 jobs are completed though no worker ran them"),
        ({"waiting": 3}, "3 messages are still in the queues"),
    ],
)
def test_witnesses_that_contradict_each_other_are_a_problem(facts, problem):
    """The producer, the server and the workers must tell the same story."""
    assert problem in balance({"a": outcome()}, **facts).problems


def test_a_failed_job_without_a_dead_letter_is_a_problem():
    """Whatever failed for good is kept for people to look at."""
    result = balance({"a": outcome("failed")}, dead=set())

    assert result.problems == ["1 jobs failed and left no dead letter"]


@pytest.mark.parametrize(
    ("notes", "run_twice", "returned_twice"),
    [
        (ran(1), 0, 0),
        (ran(1, 2, 3), 0, 0),  # retries
        (ran(1, 1), 1, 0),  # the worker was killed, and another one ran it
        (ran(1, 1, 1), 1, 0),
        (ran(1, 1) + ran(1, 1, event="returned"), 1, 1),
        (ran(1, 1) + ran(2, 2, job="b"), 2, 0),
        (ran(1, 2) + ran(1, at=60), 0, 0),  # replayed at 50
        (ran(1, 2) + ran(1, 1, at=60), 1, 0),
    ],
)
def test_run_twice_is_one_attempt_that_started_twice(notes, run_twice, returned_twice):
    """A retry is another attempt, and a replay begins anew; a second start of the same is not."""
    result = balance({"a": outcome(), "b": outcome()}, notes=notes, replays={"a": 50})

    assert (result.run_twice, result.returned_twice) == (run_twice, returned_twice)


def test_latency_counts_from_the_time_a_job_was_due():
    """A job that was to start after 0.4 s and started after 1 s was 0.6 s late."""
    result = balance({"a": outcome()}, enqueued={"a": Enqueued("mail", delay=0.4)})

    assert result.total.start_p50 == pytest.approx(0.6)


def test_latency_leaves_out_retries_and_replays():
    """What starts late because it failed before says nothing of the queue."""
    result = balance({"a": outcome(attempt=2), "b": outcome()}, replays={"b": 50})

    assert result.total.start_p50 is None


def test_throughput_is_taken_from_the_records():
    """Three jobs in four seconds, two of them within one."""
    ends = {"a": 2.1, "b": 2.9, "c": 4}
    result = balance({job: outcome(finished_at=end) for job, end in ends.items()})

    assert (result.jobs_per_second, result.busiest_second) == (0.75, 2)


@pytest.mark.parametrize(
    ("values", "p50", "p99"),
    [
        ([], None, None),
        ([7], 7, 7),
        ([1, 2], 1, 2),
        (list(range(1, 101)), 50, 99),
        (list(range(1, 1001)), 500, 990),
    ],
)
def test_percentiles_are_values_that_occurred(values, p50, p99):
    """Nearest rank: no average of two values that nobody measured."""
    assert (percentile(values, 50), percentile(values, 99)) == (p50, p99)


def test_the_report_fits_80_columns():
    """Tens of thousands of jobs are read without a line that wraps or is cut."""
    written = io.StringIO()
    tasks = ["send_newsletter"] * 99_000 + ["charge_card"] * 500 + ["lost_job"] * 500
    enqueued = {str(number): Enqueued(task) for number, task in enumerate(tasks)}
    outcomes = {job: outcome() for job, one in enqueued.items() if one.task != "lost_job"}
    report(Console(file=written, width=80), balance(outcomes, enqueued=enqueued))
    lines = written.getvalue().splitlines()

    assert max(len(line) for line in lines) <= 80
    assert "…" not in written.getvalue()
    assert " 100,000 enqueued = 99,500 completed + 0 failed + 0 cancelled + 0 expired" in lines
    assert any(line.startswith(" lost 500, run twice 0") for line in lines)


# Fails if a process that the demo started is still a child of it.
RUN = """
import os, sys
from jetq.demo import run
code = run(jobs=300, json=True, seconds=4)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    sys.exit(code)
sys.exit("a child process is left")
"""


def start_demo(tmp_path: Path) -> subprocess.Popen[str]:
    """Start a short demo that keeps its files in `tmp_path`."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # What a shell starts with `&`, such as these tests, inherits that it ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_demo_accounts_for_every_job_and_leaves_nothing(tmp_path):
    """With a worker killed on the way, all jobs are found again, and no process or file stays."""
    demo = start_demo(tmp_path)
    stdout, stderr = demo.communicate(timeout=50)
    result = msgspec.json.decode(stdout, type=Account)
    total = result.total

    assert demo.returncode == 0, stderr
    assert "killed with SIGKILL" in stderr
    assert total.enqueued == total.completed + total.failed + total.cancelled + total.expired
    assert total.enqueued > 250
    assert min(total.cancelled, total.failed + result.replayed, result.retries) > 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_demo_and_leaves_nothing(tmp_path):
    """Interrupted in the middle, the demo takes its server, workers and files with it."""
    demo = start_demo(tmp_path)
    assert demo.stderr is not None
    for line in demo.stderr:
        if "enqueued" in line:
            break
    demo.send_signal(signal.SIGINT)
    stopped_at = time.monotonic()
    _, stderr = demo.communicate(timeout=30)

    assert demo.returncode == 130, stderr
    assert time.monotonic() - stopped_at < 15
    assert list(tmp_path.iterdir()) == []
