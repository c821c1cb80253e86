"""The benchmark runs, and what it writes has the right shape. A timing is never a test."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks._figures import FIGURES, Figure, alone, row_for
from benchmarks._ipc import BUS, FetchUser, Placed, User
from benchmarks._ipc_scenarios import IPC
from benchmarks._raw import body_of
from benchmarks._raw_ipc import EVENT, REQUEST, STREAM, event_body, reply_body, request_body
from benchmarks._report import Report
from benchmarks._scale import SCALE
from benchmarks._scenarios import SCENARIOS
from benchmarks._workload import TEXT
from ipc import Bus, Service
from jetq import App
from tests.conftest import until
from tests.ipc.conftest import serving

ROOT = Path(__file__).parent.parent


# Some hundred and twenty processes one after the other, each of them starting an interpreter.
@pytest.mark.timeout(180)
def test_every_scenario_runs_for_both_sides(tmp_path: Path):
    """A very small run measures every scenario for jetq or ipc and for raw nats-py, and writes
    the figures as JSON and as a chart."""
    options = ["--rounds", "1", "--jobs", "40", "--results", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", *options], cwd=ROOT, capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
    report = msgspec.json.decode((tmp_path / "all.json").read_bytes(), type=Report)
    assert {name: set(sides) for name, sides in report.samples.items()} == {
        **{name: {"jetq", "raw"} for name in SCENARIOS},
        **{name: {"jetq"} for name in SCALE},
        **{name: {"ipc", "raw_ipc"} for name in IPC},
    }
    assert all(row.limit.median > 0 for row in report.rows if row.limit is not None)
    assert {row.figure.scenario for row in report.rows} == {*SCENARIOS, *SCALE, *IPC}
    chart = ElementTree.parse(tmp_path / "all.svg").getroot()
    drawn = [row for row in report.rows if row.share is not None]
    assert len(chart.findall("{*}rect[@rx]")) == len(drawn)


def test_raw_side_publishes_what_jetq_does():
    """The limit is fair only if both sides put the same bytes on the wire, times aside."""
    app = App("bench")

    @app.task(name="bench.noop")
    async def noop(number: int, text: str) -> None: ...

    raw = msgspec.json.decode(body_of(7))

    assert raw["$type"] == noop.name
    assert raw["args"] == msgspec.json.decode(noop.call(7, TEXT).args)


async def test_raw_side_says_what_ipc_does(server_url: str, client: Client):
    """So it is with ipc: event, request and answer are the same bytes, ids and times aside."""
    users = Service("users")

    @users.handle
    async def fetch_user(request: FetchUser) -> User:
        return User(request.id, TEXT)

    said: dict[str, bytes] = {}

    async def note(msg: Msg) -> None:
        said[msg.subject] = msg.data

    async with Bus(BUS, servers=server_url, declare=False) as bus, serving(bus, users):
        answer = await client.request(REQUEST, request_body(7))
        for subject in (EVENT, REQUEST):
            await client.subscribe(subject, cb=note)
        await client.flush()
        await bus.publish(Placed(number=7, text=TEXT))
        await bus.request(FetchUser(id=7))
        await until(lambda: len(said) == 2, "both should be heard")

    assert bus.subjects.stream("bench") == STREAM
    assert answer.data == reply_body(7)
    assert _without_moment(said[EVENT]) == _without_moment(event_body(7))
    assert _without_moment(said[REQUEST]) == _without_moment(request_body(7))


def _without_moment(body: bytes) -> dict[str, Any]:
    """Return the fields of a message, the values left out that differ from one to the next."""
    return {**msgspec.json.decode(body), "$id": ..., "$time": ...}


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("faster", "s", "m", "jobs/s", "raw", 0.5), "met"),
        (Figure("too slow", "s", "m", "jobs/s", "raw", 0.7), "missed"),
        (Figure("short", "s", "m", "ms", "raw", 0.6, less_is_better=True), "met"),
        (Figure("long", "s", "m", "ms", "raw", 0.5, less_is_better=True), "missed"),
        (Figure("cheap", "s", "m", "µs", "raw", 60, absolute=True, less_is_better=True), "met"),
        (Figure("watched", "s", "m", "ms", "raw"), "no target"),
        (alone("little", "s", "m", "MiB", 60), "met"),
        (alone("much", "s", "m", "MiB", 59), "missed"),
        (Figure("as fast", "s", "m", "jobs/s", "b", 0.6, limit_metric="b"), "met"),
    ],
)
def test_verdict_compares_the_median_with_the_target(figure: Figure, verdict: str):
    """Ratios are taken round by round; what counts is their median, or the figure's own."""
    samples = {
        "jetq": [{"m": 60.0}, {"m": 20.0}, {"m": 66.0}],
        "raw": [{"m": 100.0, "b": 100.0}] * 3,
    }

    row = row_for(figure, {"s": samples})

    assert row is not None
    assert row.ratio is None or row.ratio.median == pytest.approx(0.6)
    assert row.verdict == verdict


def test_figure_without_samples_is_left_out():
    """`--only` measures a part; what cannot be compared is not shown."""
    assert all(row_for(figure, {}) is None for figure in FIGURES)
