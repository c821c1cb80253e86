"""`ipc publish` and `ipc subscribe`."""

from __future__ import annotations

import asyncio
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from ipc import Bus, Context, Events, UnknownEvent
from ipc._envelope import Meta
from ipc._subjects import NO_PART, part_of_key
from ipc._types import find_type
from ipc.terminal import (
    JsonOption,
    note,
    on_stop_signal,
    print_json,
    printable,
    say,
)

from ._bus import (
    ModuleOption,
    PrefixOption,
    ServerOption,
    body_of,
    define_types,
    fields_of,
    open_bus,
)

__all__ = ["TypeArgument", "publish", "subscribe"]

# Events between two words about progress.
PROGRESS = 1_000

# What a class may be called on the wire.
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def type_name(text: str) -> str:
    """Return the name of a type as it was given.

    Raises:
        typer.BadParameter: No type can have it.
    """
    if not NAME.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is no type's name, such as shop.UserCreated: parts of letters, digits and "
            "'_', at least two, joined by dots"
        )
    return text


TypeArgument = Annotated[
    str,
    typer.Argument(metavar="TYPE", help="Its name, such as shop.UserCreated.", callback=type_name),
]


def publish(
    name: TypeArgument,
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
    kind = find_type(name)
    if kind is not None and kind.kind != "event":
        raise typer.BadParameter(f"{name} is a request, which is asked: `ipc request {name}`")
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
    kind = find_type(name)
    version = 1 if kind is None else kind.version
    async with bus:
        for number, text in enumerate(given, start=1):
            event_id = id or bus.new_id()
            fields = fields_of(text)
            if own := [field for field in fields if field.startswith("$")]:
                raise typer.BadParameter(f"field {own[0]!r}: names with '$' are ipc's own")
            meta = Meta(id=event_id, time=datetime.now(UTC), source=bus.name, version=version)
            data = body_of(name, fields, meta)
            subject = bus.subjects.event(name, part_of(name, fields))
            if durable:
                await bus.streams.ensure(name.partition(".")[0])
                stored_once = {"Nats-Msg-Id": f"{name}.{event_id}"}
                await bus.jetstream.publish(subject, data, headers=stored_once)
            else:
                await bus.connection.publish(subject, data)
            sent.append(event_id)
            if number % PROGRESS == 0:
                note(f"{number} published")
        await bus.connection.confirm()
    return sent


def part_of(name: str, fields: dict[str, Any]) -> str:
    """Return the part that an event's key leads to, if its class is known and has one."""
    kind = find_type(name)
    if kind is None or kind.key is None:
        return NO_PART
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
    # What is wrong with an event is told on stderr, where it is not taken for one.
    bus = open_bus(server, prefix)
    try:
        events = bus.subscribe(*names, unknown="keep", group=group)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    said = f"listening to {', '.join(names)}"
    asyncio.run(print_events(bus, events, said, count, verbose, json))


async def print_events(
    bus: Bus, events: Events[Any], said: str, count: int | None, verbose: bool, json: bool
) -> None:
    """Print events until told to stop."""
    async with bus, events:
        with on_stop_signal(events.stop):
            note(said, style="dim")
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
        "fields": {key: msgspec.Raw(as_json(value)) for key, value in fields.items()},
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
    line = Text(clock(context.time or datetime.now(UTC)), style="dim")
    line.append(f"  {one_line(name)}", style="bold cyan")
    for key, value in fields.items():
        line.append(f"  {one_line(key)}=", style="dim")
        line.append(one_line(as_json(value).decode()))
    if verbose:
        said = f"  from {context.source or '?'}  id {context.id or '?'}"
        if context.causation_id:
            said += f"  because of {context.causation_id}, {context.correlation_id}"
        line.append(one_line(said), style="dim")
    Console(highlight=False, soft_wrap=True, emoji=False, markup=False).print(line)


def in_words(value: Any) -> str:
    """Return as text what MessagePack can carry and JSON cannot."""
    if isinstance(value, msgspec.msgpack.Ext):
        return f"Ext({value.code}, {value.data!r})"
    return repr(value)


encoder = msgspec.json.Encoder(enc_hook=in_words)


def as_json(value: Any) -> bytes:
    """Return a field of an event as JSON; as a short text, if JSON cannot carry it."""
    try:
        return encoder.encode(value)
    except (TypeError, ValueError, RecursionError):
        # Keys that are no text, or so many things within each other as could just be read.
        return encoder.encode(reprlib.repr(value))


def one_line(text: str) -> str:
    """Return a text as part of a line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def clock(moment: datetime) -> str:
    """Return a moment as the clock on the wall shows it; as it came, if that cannot be."""
    try:
        return f"{moment.astimezone():%H:%M:%S.%f}"[:-3]
    except (OverflowError, ValueError):
        # In the first year, or the last.
        return moment.isoformat()
