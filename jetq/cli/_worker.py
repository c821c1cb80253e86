"""`jetq worker`: run jobs, in this process or in several."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import math
import os
import sys
import threading
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import structlog
import typer

from ipc import Settings
from ipc.terminal import (
    LEAVE,
    MAX_PORT,
    ExtraMissingError,
    HealthHostOption,
    HealthPortOption,
    LogLevel,
    check_health_port,
    configure_logging,
    fast_event_loop,
    health_checks,
    on_stop_signal,
    stop_with_stdin,
)
from jetq._app import App
from jetq._supervisor import Supervisor
from jetq._worker import Worker

from ._load import load_app
from ._options import AppArgument

__all__ = [
    "ConcurrencyOption",
    "GraceOption",
    "LogJsonOption",
    "LogLevelOption",
    "QueuesOption",
    "WorkerOptions",
    "can_reload",
    "worker",
]


log = structlog.stdlib.get_logger("jetq")

QueuesOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Queues to work on, such as mail,images:3 where images gets three times the "
        "slots that mail gets.",
        show_default="all of the app's",
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="How many jobs run at once.")]
GraceOption = Annotated[
    float,
    typer.Option(min=0, help="Seconds that running jobs get to finish when told to stop."),
]
LogLevelOption = Annotated[LogLevel, typer.Option(help="What to log at least.")]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Log as lines of JSON.")]


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker is told on the command line."""

    app: str
    queues: str | None = None
    concurrency: int = 100
    grace: float = 30.0
    name: str | None = None
    servers: str | None = None
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    log_level: LogLevel = LogLevel.INFO
    log_json: bool = False

    def command(self, number: int | None = None) -> list[str]:
        """Return the command for a child process; with several, `number` counts from 0."""
        offset = number or 0
        name = self.name if number is None or self.name is None else f"{self.name}-{number}"
        port = None if self.health_port is None else self.health_port + offset
        given = {
            "--queues": self.queues,
            "--concurrency": self.concurrency,
            "--grace": self.grace,
            "--name": name,
            "--servers": self.servers,
            "--health-host": self.health_host,
            "--health-port": port,
            "--log-level": self.log_level.value,
        }
        return [
            *(sys.executable, "-m", "jetq", "worker"),
            *(f"{option}={value}" for option, value in given.items() if value is not None),
            *(["--log-json"] if self.log_json else []),
            *("--stop-with-stdin", "--", self.app),
        ]


def worker(
    app: AppArgument,
    queues: QueuesOption = None,
    concurrency: ConcurrencyOption = 100,
    processes: Annotated[
        int, typer.Option(min=1, help="How many worker processes, each with all these slots.")
    ] = 1,
    grace: GraceOption = 30.0,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file below here changes.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help="Shown in outcomes and logs.", show_default="host and process id"),
    ] = None,
    servers: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="NATS servers, separated by commas.",
            show_default="what the app says, else NATS_URL",
        ),
    ] = None,
    health_port: HealthPortOption = None,
    health_host: HealthHostOption = "127.0.0.1",
    log_level: LogLevelOption = LogLevel.INFO,
    log_json: LogJsonOption = False,
    own_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Run an app's jobs.

    SIGTERM or Ctrl-C: take no more jobs, give back what has not started, let running
    jobs finish within the grace period, and end. A second one ends at once.
    """
    configure_logging(log_level, as_json=log_json)
    options = WorkerOptions(
        app=app,
        queues=queues,
        concurrency=concurrency,
        grace=grace,
        name=name,
        servers=servers,
        health_host=health_host,
        health_port=health_port,
        log_level=log_level,
        log_json=log_json,
    )
    check_health_port(health_port)
    if reload and not can_reload():
        raise ExtraMissingError("--reload", "reload")
    if own_stdin:
        stop_with_stdin(grace + LEAVE)
    if health_port is not None and health_port + processes - 1 > MAX_PORT:
        raise typer.BadParameter(
            f"{processes} processes need as many ports, and there are none above {MAX_PORT}"
        )
    if processes == 1 and not reload:
        run_here(options, supervised=own_stdin)
        return
    if not reload:
        # What is wrong with the app is said once, here, and not by every process.
        make_worker(options)
    numbers = [None] if processes == 1 else range(processes)
    commands = [options.command(number) for number in numbers]
    asyncio.run(supervise(Supervisor(commands, watch=Path.cwd() if reload else None)))


def can_reload() -> bool:
    """Return whether `--reload` has what it needs."""
    return importlib.util.find_spec("watchfiles") is not None


async def supervise(supervisor: Supervisor) -> None:
    """Run a supervisor until a signal comes."""
    with on_stop_signal(supervisor.stop, kill=supervisor.kill):
        await supervisor.run()


# -- one worker in this process ---------------------------------------------------------------


def make_worker(options: WorkerOptions) -> Worker:
    """Load the app and return its worker, not started.

    Raises:
        typer.BadParameter: The queues cannot be worked on like this.
    """
    app = load_app(options.app)
    if options.servers is not None:
        use_servers(app, options.servers)
    try:
        queues = parse_queues(options.queues)
        for queue in queues or {}:
            if queue not in app.queue_names:
                log.warning("no task of the app uses this queue", queue=queue, app=app.name)
        return app.worker(
            queues=queues,
            concurrency=options.concurrency,
            grace=options.grace,
            name=options.name,
        )
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


def use_servers(app: App, servers: str) -> None:
    """Connect an app to other servers than it says itself."""
    urls = Settings.load(servers).servers
    app.settings = msgspec.structs.replace(app.settings, servers=urls)


def parse_queues(text: str | None) -> dict[str, float] | None:
    """Return queues and their weights of `mail,images:3`.

    Raises:
        ValueError: No queue is named, or a weight is not a number.
    """
    if text is None:
        return None
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = part.partition(":")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise ValueError(f"weight {weight!r} of queue {name!r} is not a number") from None
        if not math.isfinite(weights[name]):
            raise ValueError(f"weight {weight!r} of queue {name!r} is not a finite number")
    if not weights:
        raise ValueError(f"--queues {text!r} names no queue; leave it out to work on all")
    return weights


def run_here(options: WorkerOptions, *, supervised: bool) -> None:
    """Run a worker in this process until a signal comes."""
    worker = make_worker(options)
    with asyncio.Runner(loop_factory=fast_event_loop()) as runner:
        health = health_checks(worker, options.health_host, options.health_port)
        runner.run(work(worker, health, supervised=supervised))
    leave_threads_behind()


async def work(
    worker: Worker, health: AbstractAsyncContextManager[None], *, supervised: bool
) -> None:
    """Start a worker and run it until a signal comes."""
    is_started = False

    def stop() -> None:
        worker.stop()
        if not is_started:
            starting.cancel()

    with anyio.CancelScope() as starting, on_stop_signal(stop, patient=supervised):
        async with health, worker:
            is_started = True
            await worker.run()


def leave_threads_behind() -> None:
    """End the process now if a thread runs a job that was given back already.

    Nothing can stop such a thread, and Python would wait for it.
    """
    others = [one for one in threading.enumerate() if one is not threading.main_thread()]
    if all(thread.daemon for thread in others):
        return
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
