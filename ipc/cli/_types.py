"""`ipc types`: the registry of types, and who speaks them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus, NoResponderError, RunningBus, TypeRecord
from ipc.terminal import JsonOption, note, print_fields, print_json, print_table

from ._bus import PrefixOption, ServerOption, open_bus

__all__ = ["types"]


class TypeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A type and who runs that has to do with it."""

    record: TypeRecord
    publishes: list[str] = []
    handles: list[str] = []
    answers: list[str] = []


def types(
    name: Annotated[str | None, typer.Argument(metavar="[TYPE]", help="Show all of one.")] = None,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """List the types that were ever used, and which running programs use them."""
    reports = asyncio.run(look(open_bus(server, prefix)))
    if name is not None:
        reports = [report for report in reports if report.record.name == name]
        if not reports:
            note(f"ipc: no type {name!r} is registered", style="red")
            raise typer.Exit(1)
    if json:
        print_json(reports if name is None else reports[0])
    elif name is not None:
        print_one(reports[0])
    elif not reports:
        note("no type is registered")
    else:
        print_table(
            ("TYPE", "KIND", "VERSION", "PUBLISHED BY", "HANDLED BY", "ANSWERED BY"),
            [
                (
                    one.record.name,
                    one.record.kind,
                    str(one.record.version),
                    ", ".join(one.publishes),
                    ", ".join(one.handles),
                    ", ".join(one.answers),
                )
                for one in reports
            ],
        )


async def look(bus: Bus) -> list[TypeReport]:
    """Ask the registry."""
    async with bus:
        try:
            running = await bus.registry.instances()
            records = await bus.registry.types()
        except NoResponderError:
            # Nobody has registered anything yet.
            return []
    return [report_of(record, running) for record in sorted(records, key=lambda one: one.name)]


def report_of(record: TypeRecord, running: list[RunningBus]) -> TypeReport:
    """Return who has to do with a type."""

    def names(found: Any) -> list[str]:
        return sorted(set(found))

    return TypeReport(
        record=record,
        publishes=names(one.name for one in running if record.name in one.publishes),
        handles=names(one.name for one in running if record.name in one.subscribes),
        answers=names(
            service.name
            for one in running
            for service in one.services
            if record.name in service.handles
        ),
    )


def print_one(report: TypeReport) -> None:
    """Print all that is known of a type."""
    record = report.record
    fields = [
        ("type", record.name),
        ("kind", record.kind),
        ("version", str(record.version)),
        ("aliases", ", ".join(record.aliases)),
        ("published by", ", ".join(report.publishes)),
        ("handled by", ", ".join(report.handles)),
        ("answered by", ", ".join(report.answers)),
        ("schema", shown(record.schema)),
        ("reply", shown(record.reply) if record.reply is not None else ""),
    ]
    print_fields(fields)


def shown(schema: dict[str, Any]) -> str:
    """Return a schema for people."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode()
