"""The figures of the table: what is compared with what, and where it should get."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ._scenarios import Sample

__all__ = ["FIGURES", "Figure", "Measured", "Row", "Spread", "row_for"]

Measured = Mapping[str, Mapping[str, Sequence[Sample]]]
"""Scenario to side to samples, a sample a round."""


class Figure(msgspec.Struct, frozen=True):
    """A line of the table: a metric of jetq or ipc beside a metric of another measurement."""

    name: str
    scenario: str
    metric: str
    unit: str
    limit: str = ""
    """What the limit is, in words; without one there is only the figure itself."""
    target: float | None = None
    """For the ratio to the limit, or for the figure itself if `absolute`."""
    absolute: bool = False
    less_is_better: bool = False
    side: str = "jetq"
    limit_side: str = "raw"
    limit_scenario: str = ""
    """If it is another than the figure's own."""
    limit_metric: str = ""
    """If it is another than the figure's own."""


def alone(name: str, scenario: str, metric: str, unit: str, target: float | None) -> Figure:
    """Return a figure with no limit but its target, of which less is better."""
    return Figure(name, scenario, metric, unit, target=target, absolute=True, less_is_better=True)


def of_ipc(
    name: str,
    scenario: str,
    metric: str,
    unit: str,
    limit: str,
    target: float | None = None,
    *,
    less_is_better: bool = False,
) -> Figure:
    """Return a figure of ipc beside raw nats-py."""
    return Figure(
        f"ipc: {name}",
        scenario,
        metric,
        unit,
        limit,
        target,
        less_is_better=less_is_better,
        side="ipc",
        limit_side="raw_ipc",
    )


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
    alone("idle worker's CPU", "idle", "cpu", "% of a core", 0.5),
    alone("idle worker's memory", "idle", "memory", "MiB", 60),
    alone("idle worker to server", "idle", "messages", "messages/s", 1),
    Figure(
        "1,000,000 waiting jobs, drain",
        "million",
        "rate",
        "jobs/s",
        "20,000 waiting jobs",
        0.9,
        limit_side="jetq",
        limit_metric="rate_of_small",
    ),
    alone("1,000,000 waiting jobs, look-up, p50", "million", "look_up_p50", "ms", 20),
    alone("1,000,000 waiting jobs, look-up, p99", "million", "look_up_p99", "ms", None),
    alone("1,000,000 waiting jobs, server's memory", "million", "server_memory", "MiB", None),
    alone("1,000 new queues, worker's start", "many_queues", "start", "s", 10),
    alone("1,000 queues, idle worker's CPU", "many_queues", "cpu", "% of a core", 0.5),
    alone("1,000 queues, idle worker's memory", "many_queues", "memory", "MiB", 60),
    alone("1,000 queues, idle worker to server", "many_queues", "messages", "messages/s", 1),
    Figure(
        "1,000 queues, drain",
        "many_queues",
        "rate",
        "jobs/s",
        "jetq's drain of one queue",
        limit_side="jetq",
        limit_scenario="drain",
    ),
    alone("10,000 sleeping jobs, until all run", "sleepers", "all_run", "s", None),
    alone("10,000 sleeping jobs, memory", "sleepers", "memory", "MiB", 250),
    alone("10,000 sleeping jobs, loop delay", "sleepers", "loop_delay", "ms", None),
    Figure(
        "two processes, jobs of 200 µs",
        "processes",
        "rate",
        "jobs/s",
        "one process",
        1.4,
        limit_side="jetq",
        limit_metric="rate_of_one",
    ),
    of_ipc("publish", "ipc_publish", "rate", "events/s", "publish", 0.6),
    of_ipc("receive in a loop", "ipc_receive_loop", "rate", "events/s", "callback"),
    of_ipc("receive in a handler", "ipc_receive_handler", "rate", "events/s", "callback"),
    of_ipc(
        "publish durably, one after the other",
        "ipc_publish_durable",
        "rate",
        "events/s",
        "js.publish",
        0.6,
    ),
    of_ipc(
        "publish durably, 200 at a time",
        "ipc_publish_durable_200",
        "rate",
        "events/s",
        "js.publish_async",
        0.6,
    ),
    of_ipc(
        "request, one after the other",
        "ipc_request",
        "rate",
        "requests/s",
        "request, callback",
        0.7,
    ),
    of_ipc(
        "request, 200 at a time", "ipc_request_200", "rate", "requests/s", "request, callback", 0.7
    ),
    of_ipc("fan-out to 1 durable", "ipc_fan_out_1", "rate", "events/s", "pull and ack"),
    of_ipc("fan-out to 5 durables", "ipc_fan_out_5", "rate", "events/s", "pull and ack"),
    of_ipc("request, p50", "ipc_request", "p50", "ms", "request, callback", less_is_better=True),
    of_ipc("request, p99", "ipc_request", "p99", "ms", "request, callback", less_is_better=True),
    of_ipc(
        "publish to handler, p50",
        "ipc_latency",
        "p50",
        "ms",
        "publish to callback",
        less_is_better=True,
    ),
    of_ipc(
        "publish to handler, p99",
        "ipc_latency",
        "p99",
        "ms",
        "publish to callback",
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
    own: Spread
    limit: Spread | None
    ratio: Spread | None
    """Own to limit, of the same round; `None` without a limit."""
    verdict: Literal["met", "missed", "no target"]

    @property
    def share(self) -> float | None:
        """How near to the limit it comes, in speed: 1 is as fast, whatever the unit.

        Without a limit, how near to the target; `None` without either.
        """
        if self.ratio is not None:
            ratio = self.ratio.median
        elif self.figure.target is not None:
            ratio = self.own.median / self.figure.target
        else:
            return None
        if self.figure.less_is_better:
            return 1 / ratio if ratio else math.inf
        return ratio

    @property
    def target_share(self) -> float | None:
        """What `share` should be at least."""
        figure = self.figure
        if figure.target is None:
            return None
        if self.limit is None:
            return 1.0
        ratio = figure.target / self.limit.median if figure.absolute else figure.target
        return 1 / ratio if figure.less_is_better else ratio


def row_for(figure: Figure, measured: Measured) -> Row | None:
    """Return a line of the table, or `None` if something for it was not measured."""
    values = _values(measured, figure.scenario, figure.side, figure.metric)
    if not values:
        return None
    own = Spread.of(values)
    limit: Spread | None = None
    ratio: Spread | None = None
    if figure.limit:
        limits = _values(
            measured,
            figure.limit_scenario or figure.scenario,
            figure.limit_side,
            figure.limit_metric or figure.metric,
        )
        if not limits or not all(limits):
            return None
        # One may have been measured in fewer rounds: the first ones, of both.
        ratio = Spread.of([a / b for a, b in zip(values, limits, strict=False)])
        limit = Spread.of(limits)
    judged = ratio if ratio and not figure.absolute else own
    if figure.target is None:
        verdict = "no target"
    elif figure.less_is_better:
        verdict = "met" if judged.median <= figure.target else "missed"
    else:
        verdict = "met" if judged.median >= figure.target else "missed"
    return Row(figure, own, limit, ratio, verdict)


def _values(measured: Measured, scenario: str, side: str, metric: str) -> list[float]:
    samples = measured.get(scenario, {}).get(side, ())
    # What a process uses is unknown where the system does not tell.
    if any(metric not in sample for sample in samples):
        return []
    return [sample[metric] for sample in samples]
