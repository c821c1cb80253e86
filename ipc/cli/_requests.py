"""`ipc request`: ask a service, as its clients do."""

from __future__ import annotations

import asyncio
import types
from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus, Gathered, Request
from ipc._types import find_type
from ipc.terminal import (
    JsonOption,
    print_json,
    print_table,
    say,
)

from ._bus import (
    ModuleOption,
    PrefixOption,
    ServerOption,
    TimeoutOption,
    define_types,
    fields_of,
    open_bus,
)
from ._events import TypeArgument

__all__ = ["request"]


def request(
    name: TypeArgument,
    fields: Annotated[str, typer.Argument(metavar="[JSON]", help="Its fields.")] = "{}",
    every: Annotated[bool, typer.Option("--all", help="Ask every instance.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the items of an answer as they come.")
    ] = False,
    timeout: TimeoutOption = 5.0,
    module: ModuleOption = None,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Ask a service and print what it answers, as JSON."""
    if every and stream:
        raise typer.BadParameter("give --all or --stream, not both")
    define_types(module)
    asked = request_of(name, fields_of(fields))
    bus = open_bus(server, prefix, timeout=timeout)
    if every:
        show_gathered(asyncio.run(ask_all(bus, asked)), json)
    elif stream:
        asyncio.run(print_stream(bus, asked))
    else:
        print_json(asyncio.run(ask(bus, asked)))


def request_of(name: str, fields: dict[str, Any]) -> Request[Any]:
    """Return a request: of its class, if that is known here.

    Raises:
        typer.BadParameter: The fields are not those of the class, or that is an event's.
    """
    kind = find_type(name)
    if kind is not None and kind.kind != "request":
        raise typer.BadParameter(f"{name} is an event, which is published: `ipc publish {name}`")
    python: Any = class_for(name, fields) if kind is None else kind.python
    try:
        return msgspec.convert(fields, python)
    except msgspec.ValidationError as exc:
        raise typer.BadParameter(f"not the fields of {name}: {exc}") from None


def class_for(name: str, fields: dict[str, Any]) -> type[Request[Any]]:
    """Return a class for a request of which only the name is known, and what it is to say.

    Raises:
        TypeDefinitionError: A field has a name that only ipc's own have.
    """
    # What a field is called on the wire need not be a name in Python.
    names = {f"field_{number}": field for number, field in enumerate(fields)}

    def fill(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__annotations__"] = dict.fromkeys(names, Any)

    return types.new_class("Asked", (Request[Any],), {"type": name, "rename": names}, fill)


async def ask(bus: Bus, asked: Request[Any]) -> Any:
    """Return the one answer."""
    async with bus:
        return await bus.request(asked)


async def ask_all(bus: Bus, asked: Request[Any]) -> Gathered[Any]:
    """Return the answers of all."""
    async with bus:
        return await bus.gather(asked)


async def print_stream(bus: Bus, asked: Request[Any]) -> None:
    """Print items as they come."""
    async with bus:
        async for item in bus.stream(asked):
            say(msgspec.json.encode(item).decode())


def show_gathered(gathered: Gathered[Any], json: bool) -> None:
    """Print what all have answered, and say who has not."""
    if json:
        print_json(
            {
                "replies": {answer.instance: answer.reply for answer in gathered.answers},
                "errors": {one: str(error) for one, error in gathered.errors.items()},
                "silent": gathered.silent,
            }
        )
    else:
        rows = [
            (answer.instance, msgspec.json.encode(answer.reply).decode())
            for answer in gathered.answers
        ]
        rows += [(instance, f"error: {error}") for instance, error in gathered.errors.items()]
        rows += [(instance, "silent") for instance in gathered.silent]
        print_table(("INSTANCE", "REPLY"), rows)
    if not gathered.is_complete:
        raise typer.Exit(1)
