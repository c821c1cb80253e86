"""`ipc serve`: run services until told to stop."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ipc import Bus, Service
from ipc.terminal import LogLevel, configure_logging, load, on_stop_signal

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
    log_level: Annotated[LogLevel, typer.Option(help="What is logged at least.")] = LogLevel.INFO,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was begun."""
    configure_logging(log_level, as_json=log_json)
    services: list[Any] = [load(place, Service, "service") for place in places]
    bus = Bus(name or services[0].name, servers=server, prefix=prefix, grace=grace)
    asyncio.run(run(bus, services))


async def run(bus: Bus, services: list[Service]) -> None:
    """Serve until told to stop."""
    async with bus:
        with on_stop_signal(bus.stop):
            await bus.serve(*services)
