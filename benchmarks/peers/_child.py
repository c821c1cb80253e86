"""One part of a measurement, in the environment of a peer.

    python -m benchmarks.peers._child <app> <role> <part as JSON> <loop>

Speaks as `benchmarks._child` does: a line of JSON for each answer.

The app of a peer is a module with these functions, async or not as its users would write
them:

- `connect()` returns whatever the others need as their first argument;
- `fill(client, numbers)` enqueues a job for each number, in the fastest way that the peer
  documents;
- `send(client, number)` enqueues one job;
- `ask(client, number)` enqueues one job and returns its result;
- `work()` runs the worker and need not return.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks._workload import WARM_UP, Part, Tally, timed

from . import _job

# After the last job, for repeated ones to show and for acks and results to be sent.
LINGER = 1.0

# Without a further execution, after which the rest counts as lost. Longer than any of the
# peers takes to start or to look for jobs again.
PATIENCE = 45.0

Say = Callable[[Any], None]


async def fill(app: ModuleType, part: Part) -> dict[str, Any]:
    """Enqueue all jobs at once, a few of them before to warm up."""
    client = await _done(app.connect())
    await _done(app.fill(client, range(min(WARM_UP, part.jobs))))
    rest = range(min(WARM_UP, part.jobs), part.jobs)
    started_at = time.perf_counter()
    await _done(app.fill(client, rest))
    return timed(len(rest), started_at)


async def send(app: ModuleType, part: Part) -> dict[str, Any]:
    """Enqueue jobs that carry the time of their sending."""
    client = await _done(app.connect())
    for _ in range(part.jobs):
        await _done(app.send(client, time.monotonic_ns()))
        await asyncio.sleep(part.pause)
    return {}


async def ask(app: ModuleType, part: Part) -> dict[str, Any]:
    """Enqueue a job and wait for its result, one after the other."""
    client = await _done(app.connect())
    delays_ns: list[int] = []
    for number in range(part.jobs):
        sent_at = time.monotonic_ns()
        result = await _done(app.ask(client, number))
        delays_ns.append(time.monotonic_ns() - sent_at)
        if result != number:
            raise ValueError(f"result of job {number} is {result!r}")
        await asyncio.sleep(part.pause)
    return {"delays_ns": delays_ns}


async def drain(app: ModuleType, part: Part, say: Say) -> None:
    """Work until all jobs were executed."""
    tally = _job.JobTally(part.jobs, part.server_pid)
    _job.count_with(tally.count_job)
    _start_thread(_report, tally, say, tally.report)
    await _done(app.work())


async def receive(app: ModuleType, part: Part, say: Say) -> None:
    """Work jobs as they come, ready after the first, and tell how long each was on its way."""
    tally = Tally(part.jobs, 0)
    _job.count_with(tally.count_sent_at)
    _start_thread(_say_ready, tally, say)
    _start_thread(_report, tally, say, lambda: {"delays_ns": tally.delays_ns})
    await _done(app.work())


async def _done(value: Any) -> Any:
    """Return the value, or what it comes to: the functions of an app are async or not."""
    return await value if inspect.isawaitable(value) else value


# -- answers -----------------------------------------------------------------------------

# From threads, for a worker that is not async holds up everything else.


def _start_thread(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _say_ready(tally: Tally, say: Say) -> None:
    while not tally.executions:
        time.sleep(0.01)
    say("ready")


def _report(tally: Tally, say: Say, figures: Callable[[], dict[str, Any]]) -> None:
    """Wait until all is done or nothing happens any more, report and end the process."""
    executions, changed_at = 0, time.monotonic()
    while not tally.done.is_set() and time.monotonic() < changed_at + PATIENCE:
        if executions != tally.executions:
            executions, changed_at = tally.executions, time.monotonic()
        time.sleep(0.05)
    time.sleep(LINGER)
    say(figures())
    # No worker has to stop in order: nothing of this measurement is used again.
    os._exit(0)


# Each with whether results are stored.
ROLES: dict[str, tuple[Callable[..., Any], bool]] = {
    "fill": (fill, False),
    "fill_results": (fill, True),
    "drain": (drain, False),
    "drain_results": (drain, True),
    "send": (send, False),
    "receive": (receive, False),
    "ask": (ask, True),
    "respond": (receive, True),
}


def main(app: str, role: str, part: str, loop: str) -> None:
    """Play the role that the command line names."""
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints, in whichever way, must not be taken for an answer.
    os.dup2(2, 1)

    # As jetq's own worker, here: a line for each job is no part of the work.
    logging.disable(logging.WARNING)

    def say(answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    play, _job.RESULTS = ROLES[role]
    arguments: dict[str, Any] = {"part": Part(**json.loads(part))}
    _job.URL = arguments["part"].url
    arguments["app"] = importlib.import_module(app)
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        if "say" in inspect.signature(play).parameters:
            runner.run(play(**arguments, say=say))
        else:
            say(runner.run(play(**arguments)))
            # Nor has any connection to be closed in order.
            os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
