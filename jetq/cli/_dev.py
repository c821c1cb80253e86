"""`jetq dev`: a server and a worker that reloads, for development."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ipc import LocalServer
from ipc.terminal import LogLevel, configure_logging, note, on_stop_signal
from jetq._supervisor import Supervisor

from ._options import AppArgument
from ._server import PortOption, alone_in, local_server
from ._worker import (
    ConcurrencyOption,
    GraceOption,
    LogLevelOption,
    QueuesOption,
    WorkerOptions,
    can_reload,
)

__all__ = ["dev"]


def dev(
    app: AppArgument,
    queues: QueuesOption = None,
    concurrency: ConcurrencyOption = 100,
    data_dir: Annotated[
        Path, typer.Option(help="Where the server keeps its data.", file_okay=False)
    ] = Path(".jetq-dev"),
    port: PortOption = 4222,
    grace: GraceOption = 5.0,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run a local server and a worker that restarts when the code changes."""
    configure_logging(log_level)
    server = local_server(data_dir, port)
    watch = Path.cwd() if can_reload() else None
    if watch is None:
        note("no reload when files change: that needs jetq's extra 'reload'")
    options = WorkerOptions(
        app=app,
        queues=queues,
        concurrency=concurrency,
        grace=grace,
        # Also where the app names another server: development stays on this machine.
        servers=server.url,
        log_level=log_level,
    )
    supervisor = Supervisor([options.command()], environment={"NATS_URL": server.url}, watch=watch)
    asyncio.run(develop(server, supervisor))


async def develop(server: LocalServer, supervisor: Supervisor) -> None:
    """Run a server, and a worker on it, until a signal comes."""

    def kill() -> None:
        supervisor.kill()
        server.kill()

    with alone_in(server.data_dir), on_stop_signal(supervisor.stop, kill=kill):
        async with server:
            note(f"nats-server at {server.url}, data in {server.data_dir}; Ctrl-C stops both")
            await supervisor.run()
