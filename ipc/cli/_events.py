"""`ipc publish` and `ipc subscribe`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from ipc import Bus, Context, UnknownEvent
from ipc._envelope import Meta
from ipc._subjects import part_of_key
from ipc._types import find_type
from ipc.terminal import JsonOption, note, on_stop_signal, print_json, say

from ._bus import (
    ModuleOption,
    PrefixOption,
    ServerOption,
    body_of,
    define_types,
    fields_of,
    open_bus,
)

__all__ = ["publish", "subscribe"]

# Events between two words about progress.
PROGRESS = 1_000


def publish(
    name: Annotated[
        str, typer.Argument(metavar="TYPE", help="Its name, such as shop.UserCreated.")
    ],
    fields: Annotated[
        str, typer.Argument(metavar="[JSON]", help="Its fields; - reads one object a line.")
    ] = "{}",
    durable: Annotated[
        bool, typer.Option("--durable", help="Wait until the server has stored it.")
    ] = False,
    id: Annotated[
        str, typer.Option(help="Its id: the same id within two minutes is stored once.")
    ] = "",
    module: ModuleOption = None,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Publish an event, or many."""
    if id and (not durable or fields == "-"):
        raise typer.BadParameter("--id is for one event, with --durable")
    define_types(module)
    given = lines_of(sys.stdin) if fields == "-" else iter([fields])
    sent = asyncio.run(send_all(open_bus(server, prefix), name, given, durable, id))
    if json:
        print_json({"type": name, "ids": sent if fields != "-" else [], "published": len(sent)})
    elif fields == "-":
        say(f"published {len(sent)} events")
    else:
        say(sent[0])


def lines_of(file: Iterable[str]) -> Iterator[str]:
    """Return the lines that are not empty."""
    return (line for line in file if line.strip())


async def send_all(bus: Bus, name: str, given: Iterator[str], durable: bool, id: str) -> list[str]:
    """Publish events; return their ids."""
    sent: list[str] = []
    async with bus:
        for number, text in enumerate(given, start=1):
            event_id = id or bus.new_id()
            fields = fields_of(text)
            meta = Meta(id=event_id, time=datetime.now(UTC), source=bus.name)
            data = body_of(name, fields, meta)
            subject = bus.subjects.event(name, part_of(name, fields))
            if durable:
                await bus.jetstream.publish(subject, data, headers={"Nats-Msg-Id": event_id})
            else:
                await bus.connection.publish(subject, data)
            sent.append(event_id)
            if number % PROGRESS == 0:
                note(f"{number} published")
        await bus.connection.confirm()
    return sent


def part_of(name: str, fields: dict[str, Any]) -> int | None:
    """Return the part that an event's key leads to, if its class is known and has one."""
    kind = find_type(name)
    if kind is None or kind.key is None:
        return None
    return part_of_key(kind.key_of(msgspec.convert(fields, kind.python)))


def subscribe(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAMES...", help="Of types, or with wildcards: 'shop.>'."),
    ],
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    group: Annotated[str, typer.Option(help="Share the events with others of this group.")] = "",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also say who sent it, and why.")
    ] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Print events as they are published, until Ctrl-C."""
    asyncio.run(print_events(open_bus(server, prefix), names, count, group, verbose, json))


async def print_events(
    bus: Bus, names: list[str], count: int | None, group: str, verbose: bool, json: bool
) -> None:
    """Print events until told to stop."""
    async with bus, bus.subscribe(*names, unknown="keep", group=group) as events:
        with on_stop_signal(events.stop):
            note(f"listening to {', '.join(names)}", style="dim")
            number = 0
            async for event in events:
                show = print_as_json if json else print_for_people
                show(event, events.context, verbose)
                number += 1
                if number == count:
                    return


def told(event: Any) -> tuple[str, dict[str, Any]]:
    """Return an event's type and its own fields."""
    if isinstance(event, UnknownEvent):
        return event.type, event.fields
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return fields.pop("$type"), fields


def print_as_json(event: Any, context: Context, verbose: bool) -> None:
    """Print an event as one line of JSON."""
    name, fields = told(event)
    said = {
        "type": name,
        "fields": fields,
        "id": context.id,
        "time": context.time,
        "source": context.source,
        "subject": context.subject,
        "correlation_id": context.correlation_id,
        "causation_id": context.causation_id,
    }
    print_json(said)


def print_for_people(event: Any, context: Context, verbose: bool) -> None:
    """Print an event as one line of text, with colour where there is a screen."""
    name, fields = told(event)
    moment = context.time or datetime.now(UTC)
    line = Text(f"{moment.astimezone():%H:%M:%S.%f}"[:-3], style="dim")
    line.append(f"  {name}", style="bold cyan")
    for key, value in fields.items():
        line.append(f"  {key}=", style="dim")
        line.append(msgspec.json.encode(value).decode())
    if verbose:
        line.append(f"  from {context.source or '?'}  id {context.id or '?'}", style="dim")
        if context.causation_id:
            because = f"  because of {context.causation_id}, {context.correlation_id}"
            line.append(because, style="dim")
    Console(highlight=False, soft_wrap=True, emoji=False, markup=False).print(line)
