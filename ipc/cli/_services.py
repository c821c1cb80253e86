"""`ipc services`: who answers now, of any language."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus, ServiceInfo, ServiceStats
from ipc.terminal import JsonOption, note, print_json, print_table

from ._bus import PrefixOption, ServerOption, open_bus

__all__ = ["services"]


def services(
    name: Annotated[str | None, typer.Argument(help="Only this service.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="How each endpoint has done.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """List the services that answer now, with their endpoints (NATS micro protocol)."""
    bus = open_bus(server, prefix)
    found: list[Any] = asyncio.run(look(bus, name, stats))
    if json:
        print_json(found)
    elif not found:
        note("no service answers")
    elif stats:
        print_stats(found)
    else:
        print_services(found)


async def look(bus: Bus, name: str | None, stats: bool) -> list[Any]:
    """Ask all services."""
    async with bus:
        found = await (bus.service_stats(name) if stats else bus.services(name))
    return sorted(found, key=lambda one: (one.name, one.id))


def print_services(found: list[ServiceInfo]) -> None:
    """Print a line for each endpoint."""
    print_table(
        ("SERVICE", "VERSION", "INSTANCE", "ENDPOINT", "SUBJECT"),
        [
            (one.name, one.version, one.id, endpoint.name, endpoint.subject)
            for one in found
            for endpoint in one.endpoints
        ],
    )


def print_stats(found: list[ServiceStats]) -> None:
    """Print a line for each endpoint."""
    print_table(
        ("SERVICE", "INSTANCE", "ENDPOINT", "REQUESTS", "ERRORS", "AVERAGE", "LAST ERROR"),
        [
            (
                one.name,
                one.id,
                endpoint.name,
                str(endpoint.num_requests),
                str(endpoint.num_errors),
                f"{endpoint.average_processing_time / 1e6:.2f} ms",
                shown(endpoint.last_error),
            )
            for one in found
            for endpoint in one.endpoints
        ],
    )


def shown(error: Any) -> str:
    """Return an endpoint's last error as text."""
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()
