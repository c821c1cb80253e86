"""`ipc serve` and `ipc apply`: run services until told to stop, and what they need beforehand."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import anyio
import msgspec
import typer

from ipc import Bus, Service, Settings
from ipc.terminal import (
    LEAVE,
    HealthHostOption,
    HealthPortOption,
    JsonOption,
    LogLevel,
    check_health_port,
    configure_logging,
    fast_event_loop,
    health_checks,
    load,
    on_stop_signal,
    print_json,
    say,
    stop_with_stdin,
)

from ._bus import DEFAULT_PREFIX, PrefixOption, ServerOption

__all__ = ["apply", "serve"]


PlacesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODULE:NAME...", help="Services, such as shop.users:users; or a Bus and services."
    ),
]


def find(places: list[str], server: str | None, prefix: str, **options: Any) -> Found:
    """Return the bus and the services that are named; a bus of the first service's name, if none.

    Raises:
        typer.BadParameter: More than one bus is named, or what it says itself is given too.
    """
    named: list[Any] = [load(place, (Service, Bus), "service") for place in places]
    services = [one for one in named if isinstance(one, Service)]
    buses = [one for one in named if isinstance(one, Bus)]
    if len(buses) > 1:
        raise typer.BadParameter("one bus at a time; services may be many")
    if not buses:
        name = options.pop("name", None) or services[0].name
        return Found(Bus(name, servers=server, prefix=prefix, **options), services)
    (bus,) = buses
    if options.get("name") is not None:
        raise typer.BadParameter(f"--name is for services alone; the bus is named {bus.name!r}")
    if prefix not in (DEFAULT_PREFIX, bus.subjects.prefix):
        raise typer.BadParameter(f"the bus says itself what its prefix is: {bus.subjects.prefix!r}")
    if server is not None:
        bus.settings = msgspec.structs.replace(bus.settings, servers=Settings.load(server).servers)
    return Found(bus, services)


class Found(msgspec.Struct, frozen=True):
    """What a command is to run."""

    bus: Bus
    services: list[Service]


def serve(
    places: PlacesArgument,
    name: Annotated[
        str | None,
        typer.Option(help="Of the bus, if none is named; else that of the first service."),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds to finish what was begun, when told to stop.",
            show_default="what the bus says, else 30",
        ),
    ] = None,
    health_port: HealthPortOption = None,
    health_host: HealthHostOption = "127.0.0.1",
    log_level: Annotated[LogLevel, typer.Option(help="What is logged at least.")] = LogLevel.INFO,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
    own_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Serve, and handle events, until SIGINT or SIGTERM; then finish what was begun."""
    configure_logging(log_level, as_json=log_json)
    check_health_port(health_port)
    found = find(places, server, prefix, name=name)
    bus = found.bus
    if grace is not None:
        bus.grace = grace
    if own_stdin:
        stop_with_stdin(bus.grace + LEAVE)
    with asyncio.Runner(loop_factory=fast_event_loop()) as runner:
        runner.run(run(bus, found.services, health_checks(bus, health_host, health_port)))


async def run(bus: Bus, services: list[Service], health: AbstractAsyncContextManager[None]) -> None:
    """Serve until told to stop."""

    def stop() -> None:
        bus.stop()
        if not bus.is_open:
            connecting.cancel()

    with anyio.CancelScope() as connecting, on_stop_signal(stop):
        async with health, bus:
            await bus.serve(*services)


def apply(
    places: PlacesArgument,
    server: ServerOption = None,
    prefix: PrefixOption = DEFAULT_PREFIX,
    json: JsonOption = False,
) -> None:
    """Create the streams and durables that are missing, for programs that may not do so."""
    configure_logging(LogLevel.WARNING)
    found = find(places, server, prefix)
    there = asyncio.run(apply_all(found.bus, found.services))
    if json:
        print_json({"there": there})
    else:
        for name in there:
            say(name)


async def apply_all(bus: Bus, services: list[Service]) -> list[str]:
    """Create what is missing, and handle nothing meanwhile."""
    handlers, bus.handlers = bus.handlers, []
    async with bus:
        bus.handlers = handlers
        return await bus.apply(*services)
