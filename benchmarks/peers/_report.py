"""What comes out: tables for the terminal, JSON for machines, a chart for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import msgspec
from rich.table import Table

from benchmarks._figures import Figure, Row, Spread, row_for
from benchmarks._machine import Machine
from benchmarks._report import Report as Comparison
from benchmarks._report import number
from benchmarks._report import table as comparison_table
from benchmarks._scenarios import Plan, Sample

from ._peers import JETQ_DURABILITY, JETQ_SETTINGS, SERVERS, Peer

__all__ = ["JETQ", "Report", "Side", "chart", "compare", "tables", "write"]

JETQ = "jetq"

Samples = Mapping[str, Mapping[str, Sequence[Sample]]]
"""By scenario and side, one a round; fewer where a measurement failed."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """jetq or a peer, as it was measured."""

    title: str
    server: str
    versions: Mapping[str, str]
    """Of the packages that matter."""
    settings: str
    durability: str
    problems: Sequence[str] = ()
    """Why something was not measured, and what was lost or executed again."""

    @classmethod
    def of_jetq(cls, machine: Machine) -> Side:
        """Return jetq, measured as users would run it."""
        return cls(
            title=JETQ,
            server="nats",
            versions={"jetq": machine.jetq, "nats-py": machine.nats_py},
            settings=JETQ_SETTINGS,
            durability=JETQ_DURABILITY,
        )

    @classmethod
    def of(cls, peer: Peer, versions: Mapping[str, str], problems: Sequence[str] = ()) -> Side:
        """Return a peer with the versions of its packages."""
        return cls(
            title=peer.title,
            server=peer.server,
            versions=versions,
            settings=peer.settings,
            durability=peer.durability,
            problems=problems,
        )

    def with_problems(self, problems: Sequence[str]) -> Side:
        """Return the same with further problems."""
        return msgspec.structs.replace(self, problems=[*self.problems, *problems])


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run; what the JSON file holds."""

    machine: Machine
    redis_server: str | None
    plan: Plan
    sides: Mapping[str, Side]
    """By name, jetq first."""
    rows: Sequence[Row]
    """jetq beside the best peer of each figure."""
    samples: Samples
    """Every measurement: rates in jobs/s, CPU in µs a job, the rest in ms."""

    def spread(self, side: str, scenario: str, metric: str) -> Spread | None:
        """Return what was measured of a side, if anything was."""
        return _spread(self.samples, side, scenario, metric)

    def __str__(self) -> str:
        redis = f"redis-server {self.redis_server}" if self.redis_server else "no redis-server"
        return f"{self.machine}, {redis}"


# -- jetq beside the best peer -----------------------------------------------------------------


class Compared(msgspec.Struct, frozen=True):
    """A figure for which the best peer is sought."""

    name: str
    scenario: str
    metric: str
    unit: str
    target: float | None = None
    """For the ratio of jetq to the best peer."""
    less_is_better: bool = False


COMPARED = (
    Compared("enqueue_many", "enqueue_many", "rate", "jobs/s", 6),
    Compared("drain, no results", "drain", "rate", "jobs/s", 10),
    Compared("drain, results stored", "drain_results", "rate", "jobs/s", 10),
    Compared("enqueue to start, p50", "latency_start", "p50", "ms", 1, less_is_better=True),
    Compared("enqueue to start, p99", "latency_start", "p99", "ms", less_is_better=True),
    Compared("enqueue to result, p50", "latency_result", "p50", "ms", 1, less_is_better=True),
    Compared("enqueue to result, p99", "latency_result", "p99", "ms", less_is_better=True),
    Compared("worker's CPU a job, no results", "drain", "worker_cpu", "µs", less_is_better=True),
    Compared("server's CPU a job, no results", "drain", "server_cpu", "µs", less_is_better=True),
)


def compare(samples: Samples, titles: Mapping[str, str], rounds: int) -> list[Row]:
    """Return a row for each figure that jetq and at least one peer have in every round."""
    return [row for compared in COMPARED if (row := _row(compared, samples, titles, rounds))]


def _row(
    compared: Compared, samples: Samples, titles: Mapping[str, str], rounds: int
) -> Row | None:
    sides = samples.get(compared.scenario, {})
    medians = {
        name: found.median
        for name in sides
        if len(sides[name]) == rounds
        and (found := _spread(samples, name, compared.scenario, compared.metric))
    }
    if JETQ not in medians or len(medians) == 1:
        return None
    del medians[JETQ]
    best = (min if compared.less_is_better else max)(medians, key=medians.__getitem__)
    figure = Figure(
        compared.name,
        compared.scenario,
        compared.metric,
        compared.unit,
        limit=titles[best],
        target=compared.target,
        less_is_better=compared.less_is_better,
        limit_side=best,
    )
    return row_for(figure, samples)


def _spread(samples: Samples, side: str, scenario: str, metric: str) -> Spread | None:
    taken = [sample.get(metric) for sample in samples.get(scenario, {}).get(side, ())]
    found = [value for value in taken if value]
    # A run in which jobs were lost has no figures; then the side has none.
    return Spread.of(found) if found and len(found) == len(taken) else None


# -- tables --------------------------------------------------------------------------------------

COLUMNS = (
    ("enqueue_many\njobs/s", "enqueue_many", "rate"),
    ("drain\njobs/s", "drain", "rate"),
    ("with results\njobs/s", "drain_results", "rate"),
    ("to start\np50 ms", "latency_start", "p50"),
    ("\np99 ms", "latency_start", "p99"),
    ("to result\np50 ms", "latency_result", "p50"),
    ("\np99 ms", "latency_result", "p99"),
    ("worker\nµs a job", "drain", "worker_cpu"),
    ("server\nµs a job", "drain", "server_cpu"),
)


def tables(report: Report) -> list[Table]:
    """Return all figures of all sides, jetq beside the best peers, and what they promise."""
    return [_figures(report), _compared(report), _promises(report)]


def _figures(report: Report) -> Table:
    shown = Table(
        title="jetq beside its peers",
        caption=f"{report}\n{_method(report)}",
        caption_justify="left",
    )
    shown.add_column("", vertical="bottom")
    for heading, _, _ in COLUMNS:
        shown.add_column(heading, justify="right")
    for name in _fastest_first(report, "drain"):
        spreads = [report.spread(name, scenario, metric) for _, scenario, metric in COLUMNS]
        values = [number(spread.median) if spread else "-" for spread in spreads]
        shown.add_row(report.sides[name].title, *values, style="bold" if name == JETQ else "")
    return shown


def _compared(report: Report) -> Table:
    shown = comparison_table(Comparison(report.machine, report.plan, report.rows, report.samples))
    shown.title = "jetq beside the best peer of each figure"
    shown.caption = "ratio: jetq to the best peer, of the same round; from least to most"
    return shown


def _promises(report: Report) -> Table:
    shown = Table(title="How each was set, and what became of a job", show_lines=True)
    shown.add_column("")
    shown.add_column("settings")
    shown.add_column("if its worker is killed")
    shown.add_column("problems")
    for side in report.sides.values():
        versions = "\n".join(f"{name} {version}" for name, version in side.versions.items())
        problems = "\n".join(side.problems)
        shown.add_row(
            f"[bold]{side.title}[/]\n{versions}",
            f"{SERVERS[side.server]}\n{side.settings}",
            side.durability,
            f"[red]{problems}[/]" if problems else "",
        )
    return shown


def _method(report: Report) -> str:
    rounds = f"median of {report.plan.rounds} rounds" if report.plan.rounds > 1 else "one round"
    return (
        f"{report.plan.jobs:,} no-op jobs, one worker process, 100 slots or their nearest, every "
        f"execution counted; {rounds}"
    )


def _fastest_first(report: Report, scenario: str, metric: str = "rate") -> list[str]:
    """Return the sides, the fastest first and those without a figure last."""

    def rate(name: str) -> float:
        spread = report.spread(name, scenario, metric)
        return spread.median if spread else 0

    return sorted(report.sides, key=rate, reverse=True)


# -- files ---------------------------------------------------------------------------------------


def write(report: Report, folder: Path) -> None:
    """Write `peers.json` and `peers.svg`, replacing what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(report), indent=2)
    (folder / "peers.json").write_bytes(data + b"\n")
    (folder / "peers.svg").write_text(chart(report), encoding="utf-8")


PANELS = (
    ("Drain a full queue", "jobs/s, no results", "drain"),
    ("Drain, results stored", "jobs/s", "drain_results"),
    ("Enqueue 20,000 at once", "jobs/s", "enqueue_many"),
)

WIDTH, NAMES, GAP, LINE, TOP, BOTTOM = 1080, 140, 26, 26, 92, 62
"""Pixels: in all, for the names on the left, between panels, and from bar to bar."""
PANEL = (WIDTH - NAMES - 16 - GAP * (len(PANELS) - 1)) / len(PANELS)

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .title { font-size: 17px; font-weight: 600 }
    .head { font-weight: 600 }
    .small { font-size: 11px; fill: #57606a }
    .own { font-weight: 600 }
    .value { font-size: 12px }
    .track { fill: #f3f5f7 }
    .bar { fill: #9aa5b1 } .bar.own { fill: #2da44e }
    .none { fill: #8c959f; font-style: italic }
    .ground { fill: #ffffff }
"""


def chart(report: Report) -> str:
    """Return an SVG with a panel for each rate, a bar for each side, longer is faster.

    The scale is linear: that one bar dwarfs the others is what there is to see.
    """
    names = _fastest_first(report, "drain")
    height = TOP + LINE * len(names) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        '<text class="title" x="16" y="28">jetq beside other Python job queues</text>',
        f'<text class="small" x="16" y="46">{escape(_method(report))}</text>',
    ]
    for index, name in enumerate(names):
        y = TOP + LINE * index
        own = ' class="own"' if name == JETQ else ""
        title = escape(report.sides[name].title)
        lines.append(f'<text{own} x="{NAMES - 10}" y="{y + 15}" text-anchor="end">{title}</text>')
    for index, (title, unit, scenario) in enumerate(PANELS):
        x = NAMES + index * (PANEL + GAP)
        lines.append(
            f'<text x="{x:.0f}" y="{TOP - 14}"><tspan class="head">{title}</tspan> '
            f'<tspan class="small" dx="4">{unit}</tspan></text>'
        )
        lines += _panel(report, names, scenario, x)
    lines += [
        f'<text class="small" x="16" y="{height - 26}">Longer is better; "&#215;" is how many '
        "times faster jetq is. Each in its fastest documented settings; peers.json has them, "
        "with all other figures and the versions.</text>",
        f'<text class="small" x="16" y="{height - 10}">{escape(str(report))}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(report: Report, names: Sequence[str], scenario: str, x: float) -> list[str]:
    spreads = {name: report.spread(name, scenario, "rate") for name in names}
    most = max((spread.median for spread in spreads.values() if spread), default=1)
    jetq = spreads[JETQ]
    lines: list[str] = []
    for index, name in enumerate(names):
        y, spread = TOP + LINE * index, spreads[name]
        lines.append(
            f'<rect class="track" x="{x:.0f}" y="{y}" width="{PANEL:.0f}" height="20" rx="2"/>'
        )
        if spread is None:
            lines.append(
                f'<text class="small none" x="{x + 6:.0f}" y="{y + 14}">not measured</text>'
            )
            continue
        length = max(spread.median / most * PANEL, 2)
        own = " own" if name == JETQ else ""
        label = number(spread.median)
        if jetq and name != JETQ:
            label += f"   {jetq.median / spread.median:.1f}&#215;"
        # Inside the bar where it would not fit beside it.
        inside = length > PANEL - 110
        label_x, anchor = (x + length - 8, "end") if inside else (x + length + 6, "start")
        fill = ' style="fill:#ffffff"' if inside else ""
        lines += [
            f'<rect class="bar{own}" x="{x:.0f}" y="{y}" width="{length:.1f}" height="20" rx="2"/>',
            f'<text class="value" x="{label_x:.0f}" y="{y + 14}" text-anchor="{anchor}"{fill} '
            f'xml:space="preserve">{label}</text>',
        ]
    return lines
