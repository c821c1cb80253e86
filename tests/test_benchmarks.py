"""The benchmark runs, and what it writes has the right shape. A timing is never a test."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest

from benchmarks._figures import FIGURES, Figure, alone, row_for
from benchmarks._raw import body_of
from benchmarks._report import Report
from benchmarks._scale import SCALE
from benchmarks._scenarios import SCENARIOS
from benchmarks._workload import TEXT
from jetq import App

ROOT = Path(__file__).parent.parent


# Some seventy processes one after the other, each of them starting an interpreter.
@pytest.mark.timeout(180)
def test_every_scenario_runs_for_both_sides(tmp_path: Path):
    """A very small run measures every scenario for jetq and for raw nats-py, and writes
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
    }
    assert all(row.limit.median > 0 for row in report.rows if row.limit is not None)
    assert {row.figure.scenario for row in report.rows} == {*SCENARIOS, *SCALE}
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
