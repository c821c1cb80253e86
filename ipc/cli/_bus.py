"""The bus of a command, and messages of types that are known by name only."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from ipc import Bus
from ipc._envelope import Meta
from ipc._types import find_type
from ipc.terminal import LogLevel, configure_logging, import_module

__all__ = [
    "DEFAULT_PREFIX",
    "ModuleOption",
    "PrefixOption",
    "ServerOption",
    "TimeoutOption",
    "body_of",
    "define_types",
    "fields_of",
    "open_bus",
]

DEFAULT_PREFIX = "ipc"

ServerOption = Annotated[
    str | None,
    typer.Option("--server", "-s", metavar="URL", help="Of NATS; else NATS_URL, else localhost."),
]
PrefixOption = Annotated[
    str, typer.Option(help="What all subjects begin with.", envvar="IPC_PREFIX", metavar="NAME")
]
ModuleOption = Annotated[
    str | None,
    typer.Option(
        "--module", "-m", help="A module that defines the type: then the fields are checked."
    ),
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")]


def open_bus(server: str | None, prefix: str, **options: Any) -> Bus:
    """Return the bus of a command, to be opened; it creates nothing on the server.

    What is logged goes to stderr from then on.
    """
    configure_logging(LogLevel.WARNING)
    return Bus("cli", servers=server, prefix=prefix, declare=False, **options)


def define_types(module: str | None) -> None:
    """Import a module, so that its types are known."""
    if module is not None:
        import_module(module, "module", module)


def fields_of(text: str) -> dict[str, Any]:
    """Return the fields that were given as JSON.

    Raises:
        typer.BadParameter: It is not a JSON object.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise typer.BadParameter(f"the fields are a JSON object, not {text!r} ({exc})") from None


def body_of(name: str, fields: dict[str, Any], meta: Meta) -> bytes:
    """Return a message of a type: checked if its class is known, else as it was given.

    Raises:
        typer.BadParameter: The fields are not those of the class.
    """
    kind = find_type(name)
    if kind is not None:
        try:
            fields = msgspec.to_builtins(msgspec.convert(fields, kind.python))
        except Exception as exc:
            # Also what the class's own code raises.
            raise typer.BadParameter(f"not the fields of {name}: {exc}") from None
    said: dict[str, Any] = msgspec.to_builtins(meta)
    return msgspec.json.encode({"$type": name, **fields, **said})
