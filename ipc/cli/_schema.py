"""`ipc schema`: types as documents, and what a change of them breaks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus, Service
from ipc._compatibility import compare
from ipc._schema import asyncapi, schema_of
from ipc._surface import Surface, surface_of_bus, surface_of_module, surface_of_service
from ipc.terminal import JsonOption, import_module, load, note, print_json, say

__all__ = ["find_surface", "group"]

group = typer.Typer(
    name="schema", help="Write types down, and see what a change breaks.", no_args_is_help=True
)

PlaceArgument = Annotated[
    str,
    typer.Argument(metavar="MODULE[:NAME]", help="A module with types, or a Service or Bus in it."),
]


class Format(StrEnum):
    """What kind of document."""

    JSONSCHEMA = "jsonschema"
    ASYNCAPI = "asyncapi"


def find_surface(place: str) -> Surface:
    """Return what a module, or a service or bus in it, has to do with others."""
    if ":" not in place:
        return surface_of_module(place, import_module(place, "module", place).__dict__)
    found: Any = load(place, (Service, Bus), "service")
    return surface_of_service(found) if isinstance(found, Service) else surface_of_bus(found)


@group.command()
def export(
    place: PlaceArgument,
    format: Annotated[Format, typer.Option(help="Which kind of document.")] = Format.JSONSCHEMA,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, instead of stdout.")
    ] = None,
) -> None:
    """Write JSON Schema, or an AsyncAPI 3 document, of a program's types."""
    surface = find_surface(place)
    document = asyncapi(surface) if format is Format.ASYNCAPI else schema_of(surface)
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    if output is None:
        say(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        note(f"{len(surface.types)} types written to {output}")


@group.command()
def check(
    old: Annotated[
        Path, typer.Argument(metavar="OLD.JSON", exists=True, dir_okay=False, help="An export.")
    ],
    place: PlaceArgument,
    json: JsonOption = False,
) -> None:
    """Say which changes since an export break readers or writers; then exit with 1."""
    surface = find_surface(place)
    try:
        before: dict[str, Any] = msgspec.json.decode(old.read_bytes(), type=dict[str, Any])
        changes = compare(before, schema_of(surface))
    except (msgspec.DecodeError, ValueError) as exc:
        raise typer.BadParameter(f"{str(old)!r}: {exc}") from None
    if json:
        print_json(changes)
    elif changes:
        for change in changes:
            say(str(change))
    else:
        note("nothing breaks", style="green")
    if changes:
        raise typer.Exit(1)
