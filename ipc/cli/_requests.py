"""`ipc request`: ask a service, as its clients do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus, Connection, Gathered, IpcError, Message
from ipc._codec import JSON
from ipc._envelope import Meta
from ipc._gathering import gather
from ipc._service_error import error_in
from ipc._stream import CREDIT, read_stream
from ipc.terminal import JsonOption, note, print_json, print_table, say

from ._bus import (
    ModuleOption,
    PrefixOption,
    ServerOption,
    TimeoutOption,
    body_of,
    define_types,
    fields_of,
    open_bus,
)

__all__ = ["request"]


def request(
    name: Annotated[str, typer.Argument(metavar="TYPE", help="Its name, such as shop.FetchUser.")],
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
    define_types(module)
    bus = open_bus(server, prefix, timeout=timeout)
    asked = fields_of(fields)
    if every:
        show_gathered(asyncio.run(ask_all(bus, name, asked, timeout)), json)
    elif stream:
        asyncio.run(print_stream(bus, name, asked, timeout))
    else:
        print_json(asyncio.run(ask(bus, name, asked, timeout)))


def message(bus: Bus, name: str, fields: dict[str, Any], timeout: float, credit: int = 0) -> bytes:
    """Return a request as bytes."""
    meta = Meta(
        id=bus.new_id(),
        time=datetime.now(UTC),
        source=bus.name,
        timeout=timeout,
        credit=credit,
    )
    return body_of(name, fields, meta)


def raw(reply: Message) -> Any:
    """Return a reply as it came; what is not JSON, as text."""
    try:
        return msgspec.json.decode(reply.data)
    except msgspec.DecodeError:
        return reply.data.decode(errors="replace")


async def ask(bus: Bus, name: str, fields: dict[str, Any], timeout: float) -> Any:
    """Return the one answer."""
    async with bus:
        data = message(bus, name, fields, timeout)
        subject = bus.subjects.request(name)
        reply = await bus.connection.request(subject, data, timeout=timeout)
    if (error := error_in(reply.headers or {}, reply.data, JSON)) is not None:
        raise error
    return raw(reply)


async def ask_all(bus: Bus, name: str, fields: dict[str, Any], timeout: float) -> Gathered[Any]:
    """Return the answers of all."""
    async with bus:
        expected = None
        try:
            expected = await bus.registry.answering(name)
        except IpcError as exc:
            note(f"nobody knows who runs, so this takes the whole time: {exc}", style="yellow")
        return await gather(
            bus.connection,
            bus.subjects.gather(name),
            message(bus, name, fields, timeout),
            None,
            codec=JSON,
            decode=raw,
            expected=expected,
            first=None,
            timeout=timeout,
        )


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


async def print_stream(bus: Bus, name: str, fields: dict[str, Any], timeout: float) -> None:
    """Print items as they come."""
    async with bus:
        connection: Connection = bus.connection
        async for item in read_stream(
            connection,
            bus.subjects.request(name),
            message(bus, name, fields, timeout, CREDIT),
            None,
            codec=JSON,
            decode=raw,
            silence=timeout,
        ):
            say(msgspec.json.encode(item).decode())
