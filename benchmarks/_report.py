"""What comes out: a table for the terminal, JSON for machines, a chart for the README."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec
from rich.table import Table

from ._figures import Measured, Row, Spread
from ._machine import Machine
from ._scale import ROUNDS
from ._scenarios import Plan

__all__ = ["Report", "chart", "number", "table", "write"]


class Report(msgspec.Struct, frozen=True):
    """One run of the benchmark; what the JSON file holds."""

    machine: Machine
    plan: Plan
    rows: Sequence[Row]
    samples: Measured
    """Every measurement, by scenario and side.

    Rates are in jobs, events or requests a second, CPU in µs for one of them, delays in ms;
    for what `_scale` measures, the figures name the units.
    """


def table(report: Report) -> Table:
    """Return the figures as a table."""
    shown = Table(
        caption=f"{report.machine}\nmedian of {report.plan.rounds} rounds (least to most), "
        f"of at most {ROUNDS} where there is much of something; "
        "ratio: ours to its limit, of the same round",
        caption_justify="left",
    )
    for heading in ("figure", "ours", "limit", "measured", "ratio", "target", ""):
        shown.add_column(heading, justify="left" if heading in ("figure", "limit") else "right")
    marks = {"met": "[green]met[/]", "missed": "[red]missed[/]", "no target": ""}
    for row in report.rows:
        figure = row.figure
        shown.add_row(
            figure.name,
            f"{_shown(row.own)} {figure.unit}",
            figure.limit,
            f"{_shown(row.limit)} {figure.unit}" if row.limit else "",
            _shown(row.ratio) if row.ratio else "",
            _target(row),
            marks[row.verdict],
        )
    return shown


def write(report: Report, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.svg`, replacing what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(report), indent=2)
    (folder / f"{name}.json").write_bytes(data + b"\n")
    (folder / f"{name}.svg").write_text(chart(report), encoding="utf-8")


def _shown(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.least)} to {number(spread.most)})"


def number(value: float) -> str:
    """Return a number with three digits that matter, as people write it."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _target(row: Row) -> str:
    figure = row.figure
    if figure.target is None:
        return ""
    sign = "≤" if figure.less_is_better else "≥"
    return (
        f"{sign} {figure.target:g} {figure.unit}"
        if figure.absolute
        else f"{sign} {figure.target:g}"
    )


# -- the chart ------------------------------------------------------------------------------

WIDTH, NAMES, BARS = 900, 330, 470
"""Pixels: in all, for the names on the left, and for a bar that reaches the limit."""
LINE, TOP, BOTTOM = 34, 60, 46

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .title { font-size: 16px; font-weight: 600 }
    .small { font-size: 11px; fill: #57606a }
    .limit { stroke: #57606a }
    .target { stroke: #cf222e; stroke-width: 2 }
    .bar { fill: #2da44e } .missed { fill: #d4a72c } .none { fill: #8c959f }
    .ground { fill: #ffffff }
"""


def chart(report: Report) -> str:
    """Return an SVG with a bar a figure: how near it comes to its limit."""
    # Neither a limit nor a target: nothing to draw a bar to.
    rows = [row for row in report.rows if row.share is not None]
    height = TOP + LINE * len(rows) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        '<text class="title" x="16" y="26">jetq and ipc beside raw nats-py doing the same</text>',
        f'<text class="small" x="{NAMES}" y="50">0</text>',
        f'<text class="small" x="{NAMES + BARS}" y="50" text-anchor="middle">the limit: 1.0</text>',
    ]
    for line, row in enumerate(rows):
        lines += _bar(row, TOP + LINE * line)
    lines += [
        f'<line class="limit" x1="{x}" y1="{TOP - 4}" x2="{x}" y2="{height - BOTTOM}"/>'
        for x in (NAMES, NAMES + BARS)
    ]
    lines += [
        f'<text class="small" x="16" y="{height - 24}">Longer is better: share of the limit\'s '
        "speed; for times and CPU, limit ÷ ours. Red line: the target; where there is no "
        "limit, it is the limit.</text>",
        f'<text class="small" x="16" y="{height - 9}">{escape(str(report.machine))}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(row: Row, y: int) -> list[str]:
    figure, colour = row.figure, {"met": "", "missed": " missed", "no target": " none"}
    share = 0.0 if row.share is None else row.share
    # What beats its limit by far still has to end within the picture.
    length = min(share, 1.1) * BARS
    compared = f"{figure.limit}: {number(row.limit.median)}" if row.limit else _target(row)
    lines = [
        f'<text x="16" y="{y + 13}">{escape(figure.name)}</text>',
        f'<text class="small" x="16" y="{y + 26}">'
        f"{number(row.own.median)} {figure.unit}; {escape(compared)}</text>",
        f'<rect class="bar{colour[row.verdict]}" x="{NAMES}" y="{y + 2}" '
        f'width="{length:.0f}" height="22" rx="2"/>',
        f'<text x="{NAMES + 8}" y="{y + 18}">{"over 10" if share > 10 else f"{share:.2f}"}</text>',
    ]
    if row.target_share is not None:
        x = NAMES + min(row.target_share, 1.1) * BARS
        lines.append(f'<line class="target" x1="{x:.0f}" y1="{y}" x2="{x:.0f}" y2="{y + 26}"/>')
    return lines
