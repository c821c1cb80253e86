"""`ipc serve`: run services until told to stop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import anyio
import typer

from ipc import Bus, Service
from ipc.terminal import (
    LEAVE,
    HealthHostOption,
    HealthPortOption,
    LogLevel,
    check_health_port,
    configure_logging,
    fast_event_loop,
    health_checks,
    load,
    on_stop_signal,
    stop_with_stdin,
)

from ._bus import PrefixOption, ServerOption

__all__ = ["serve"]


def serve(
    places: Annotated[
        list[str],
        typer.Argument(metavar="MODULE:SERVICE...", help="Such as shop.users:users."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the bus; else that of the first service.")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what was begun, when told to stop.")
    ] = 30.0,
    health_port: HealthPortOption = None,
    health_host: HealthHostOption = "127.0.0.1",
    log_level: Annotated[LogLevel, typer.Option(help="What is logged at least.")] = LogLevel.INFO,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    own_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was begun."""
    configure_logging(log_level, as_json=log_json)
    check_health_port(health_port)
    if own_stdin:
        stop_with_stdin(grace + LEAVE)
    services: list[Any] = [load(place, Service, "service") for place in places]
    bus = Bus(name or services[0].name, servers=server, prefix=prefix, grace=grace)
    with asyncio.Runner(loop_factory=fast_event_loop()) as runner:
        runner.run(run(bus, services, health_checks(bus, health_host, health_port)))


async def run(bus: Bus, services: list[Service], health: AbstractAsyncContextManager[None]) -> None:
    """Serve until told to stop."""

    def stop() -> None:
        bus.stop()
        if not bus.is_open:
            connecting.cancel()

    with anyio.CancelScope() as connecting, on_stop_signal(stop):
        async with health, bus:
            await bus.serve(*services)
