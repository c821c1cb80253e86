"""The figures of the table: what is compared with what, and where it should get."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ._scenarios import Sample

__all__ = ["FIGURES", "Figure", "Measured", "Row", "Spread", "row_for"]

Measured = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Scenario to side to samples, a sample a round."""


class Figure(msgspec.Struct, frozen=True):
    """A line of the table: a metric of jetq beside a metric of another measurement."""

    name: str
    scenario: str
    metric: str
    unit: str
    limit: str
    """What the limit is, in words."""
    target: float | None = None
    """For the ratio to the limit, or for the figure itself if `absolute`."""
    absolute: bool = False
    less_is_better: bool = False
    limit_side: str = "raw"
    limit_scenario: str = ""
    """If it is another than the figure's own."""


FIGURES = (
    Figure("enqueue, one after the other", "enqueue", "rate", "jobs/s", "js.publish", 0.85),
    Figure("enqueue, 200 at a time", "enqueue_200", "rate", "jobs/s", "js.publish_async", 0.8),
    Figure("enqueue_many", "enqueue_many", "rate", "jobs/s", "fast-ingest batch", 0.7),
    Figure("drain, no results", "drain", "rate", "jobs/s", "pull and ack", 0.6),
    Figure(
        "drain, results stored",
        "drain_results",
        "rate",
        "jobs/s",
        "pull and ack",
        0.4,
        limit_scenario="drain",
    ),
    Figure(
        "drain, results stored", "drain_results", "rate", "jobs/s", "pull, publish a result, ack"
    ),
    Figure(
        "every job fails once",
        "retry",
        "rate",
        "jobs/s",
        "jetq's drain, no results",
        0.25,
        limit_side="jetq",
        limit_scenario="drain",
    ),
    Figure("every job fails once", "retry", "rate", "jobs/s", "pull, publish a copy, ack"),
    Figure(
        "enqueue to start, p50",
        "latency_start",
        "p50",
        "ms",
        "js.publish to pull",
        1.5,
        less_is_better=True,
    ),
    Figure(
        "enqueue to start, p99",
        "latency_start",
        "p99",
        "ms",
        "js.publish to pull",
        less_is_better=True,
    ),
    Figure(
        "enqueue to result, p50",
        "latency_result",
        "p50",
        "ms",
        "request/reply",
        2.5,
        less_is_better=True,
    ),
    Figure(
        "enqueue to result, p99",
        "latency_result",
        "p99",
        "ms",
        "request/reply",
        less_is_better=True,
    ),
    Figure(
        "worker's CPU a job, no results",
        "drain",
        "worker_cpu",
        "µs",
        "pull and ack",
        40,
        absolute=True,
        less_is_better=True,
    ),
    Figure(
        "server's CPU a job, no results",
        "drain",
        "server_cpu",
        "µs",
        "pull and ack",
        30,
        absolute=True,
        less_is_better=True,
    ),
    Figure(
        "worker's CPU a job, results stored",
        "drain_results",
        "worker_cpu",
        "µs",
        "pull, publish a result, ack",
        less_is_better=True,
    ),
    Figure(
        "server's CPU a job, results stored",
        "drain_results",
        "server_cpu",
        "µs",
        "pull, publish a result, ack",
        less_is_better=True,
    ),
)


class Spread(msgspec.Struct, frozen=True):
    """The samples of all rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))


class Row(msgspec.Struct, frozen=True):
    """A figure with what was measured."""

    figure: Figure
    jetq: Spread
    limit: Spread
    ratio: Spread
    """jetq to limit, of the same round."""
    verdict: Literal["met", "missed", "no target"]

    @property
    def share(self) -> float:
        """How near to the limit it comes, in speed: 1 is as fast, whatever the unit."""
        return 1 / self.ratio.median if self.figure.less_is_better else self.ratio.median

    @property
    def target_share(self) -> float | None:
        """What `share` should be at least."""
        figure = self.figure
        if figure.target is None:
            return None
        ratio = figure.target / self.limit.median if figure.absolute else figure.target
        return 1 / ratio if figure.less_is_better else ratio


def row_for(figure: Figure, measured: Measured) -> Row | None:
    """Return a line of the table, or `None` if something for it was not measured."""
    own = _values(measured, figure.scenario, "jetq", figure.metric)
    limit_scenario = figure.limit_scenario or figure.scenario
    limit = _values(measured, limit_scenario, figure.limit_side, figure.metric)
    if not own or not limit:
        return None
    jetq, ratio = Spread.of(own), Spread.of([a / b for a, b in zip(own, limit, strict=True)])
    judged = jetq if figure.absolute else ratio
    if figure.target is None:
        verdict = "no target"
    elif figure.less_is_better:
        verdict = "met" if judged.median <= figure.target else "missed"
    else:
        verdict = "met" if judged.median >= figure.target else "missed"
    return Row(figure, jetq, Spread.of(limit), ratio, verdict)


def _values(measured: Measured, scenario: str, side: str, metric: str) -> list[float]:
    samples = measured.get(scenario, {}).get(side, ())
    # The server's CPU is unknown where the system does not tell, and too little to be
    # seen where the jobs are few.
    if not all(sample.get(metric) for sample in samples):
        return []
    return [sample[metric] for sample in samples]
