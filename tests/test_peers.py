"""Peers are measured as jetq is, and what goes wrong with one is shown."""

from __future__ import annotations

import io
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks._machine import Machine
from benchmarks._scenarios import Plan
from benchmarks.peers import __main__ as command
from benchmarks.peers._install import InstallError
from benchmarks.peers._job import JobTally
from benchmarks.peers._measure import MEASURED, measure_peer
from benchmarks.peers._peers import PEERS, Peer
from benchmarks.peers._report import Report, Side, compare, tables, write

REQUIREMENTS = Path(command.__file__).parent / "requirements"
APPS = Path(command.__file__).parent / "apps"


class MadeUpPeer(Peer, frozen=True):
    """A peer whose app is in the tests."""

    @property
    def app(self) -> str:
        return "tests.peers_app"


MADE_UP = MadeUpPeer(
    name="made_up", title="Made up", server="nats", settings="none", durability="none"
)


def report_of(samples: dict[str, dict[str, list[dict[str, float]]]], problem: str) -> Report:
    machine = Machine.here("asyncio")
    sides = {
        "jetq": Side.of_jetq(machine),
        "made_up": Side.of(MADE_UP, {"made-up": "1"}, [problem]),
    }
    return Report(
        machine=machine,
        redis_server=None,
        plan=Plan(jobs=10, rounds=1, loop="asyncio"),
        sides=sides,
        rows=compare(samples, {"jetq": "jetq", "made_up": "Made up"}, rounds=1),
        samples=samples,
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_peer_has_an_app_and_pinned_requirements(peer: Peer):
    """Two runs measure the same versions."""
    lines = (REQUIREMENTS / f"{peer.name}.txt").read_text().splitlines()

    assert (APPS / f"_{peer.name}.py").exists()
    assert all("==" in line for line in lines if not line.startswith("#"))


async def test_peer_is_measured_in_every_scenario():
    """Its app runs in processes of its own; a job that is executed twice is told."""
    plan = Plan(jobs=40, rounds=1, loop="asyncio")

    found = await measure_peer(MADE_UP, Path(sys.executable), plan, lambda what: None)

    assert set(found.samples) == set(MEASURED)
    assert found.samples["enqueue_many"]["rate"] > 0
    assert found.samples["drain"]["rate"] > 0
    assert found.samples["latency_result"]["p50"] > 0
    assert found.problems == ["drain: 0 jobs lost, 1 executed again"]


def test_lost_jobs_leave_no_figures():
    """A rate of some of the jobs is not the rate of all."""
    tally = JobTally(3, 0)
    for number in (0, 1, 1):
        tally.count_job(number)

    assert tally.report() == {"lost": 1, "repeated": 1}


async def test_peer_that_cannot_be_installed_is_shown(monkeypatch: pytest.MonkeyPatch):
    """The others are measured nevertheless."""

    async def fail(peer: str, environments: Path) -> Path:
        raise InstallError(peer, "ERROR: No matching distribution found for made-up==1")

    monkeypatch.setattr(command, "install", fail)
    plan = Plan(jobs=40, rounds=1, loop="asyncio")

    report = await command.run([MADE_UP], plan, Path(), Console(quiet=True))

    assert report.spread("jetq", "drain", "rate") is not None
    assert report.sides["made_up"].problems == [
        "skipped: not installed: ERROR: No matching distribution found for made-up==1"
    ]


def test_jetq_is_compared_with_the_best_peer():
    """The best of each figure, by the median; a side without samples is none."""
    samples = {
        "drain": {"jetq": [{"rate": 100.0}], "slow": [{"rate": 5.0}], "fast": [{"rate": 10.0}]},
        "latency_start": {"jetq": [{"p50": 1.0}], "slow": [{"p50": 0.5}], "fast": [{"p50": 2.0}]},
        "drain_results": {"jetq": [{"rate": 100.0}], "slow": []},
    }

    rows = compare(samples, {"slow": "Slow", "fast": "Fast"}, rounds=1)

    assert [(row.figure.scenario, row.figure.limit, row.verdict) for row in rows] == [
        ("drain", "Fast", "met"),
        ("latency_start", "Slow", "missed"),
    ]


def test_report_shows_what_was_not_measured(tmp_path: Path):
    """In the table with its reason, in the chart as missing; the JSON has all of it."""
    report = report_of({"drain": {"jetq": [{"rate": 100.0}]}}, "skipped: no redis-server")
    console = Console(width=170, file=io.StringIO(), record=True)

    write(report, tmp_path)
    console.print(*tables(report))

    assert "no redis-server" in console.export_text()
    read = msgspec.json.decode((tmp_path / "peers.json").read_bytes(), type=Report)
    assert msgspec.json.encode(read) == msgspec.json.encode(report)
    chart = ElementTree.parse(tmp_path / "peers.svg").getroot()
    assert "not measured" in "".join(chart.itertext())
