"""Types as documents: JSON Schema for programs that check, AsyncAPI for people and tools.

Sources: JSON Schema 2020-12; AsyncAPI 3.0.0 (operations, channels, replies, NATS bindings).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from ._envelope import Meta
from ._micro import QUEUE_GROUP
from ._subjects import Subjects
from ._surface import Surface
from ._types import MessageType

__all__ = ["EXTENSION", "asyncapi", "json_schema"]

EXTENSION = "x-ipc"
"""What JSON Schema has no word for: kind, version, aliases, upcasts, key, reply."""

META = "ipc.Meta"
"""Where the fields are described that every message may have."""

Document = dict[str, Any]


def json_schema(kinds: Iterable[MessageType], *, at: str = "#/$defs/") -> Document:
    """Return one document with the schemas of types, each under its name.

    Raises:
        TypeError: A field's type has no schema.
    """
    wanted = {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.name)}
    structs = [kind.python for kind in wanted.values()]
    replies = {name: kind.reply for name, kind in wanted.items() if kind.kind == "request"}
    schemas, components = msgspec.json.schema_components(
        [*structs, Meta, *replies.values()], ref_template=at + "{name}"
    )
    refs = [schema.get("$ref", "").removeprefix(at) for schema in schemas]
    # The library names a schema after its class; ours are found by what is on the wire.
    renamed = {ref: name for ref, name in zip(refs, [*wanted, META], strict=False) if ref}
    definitions: Document = {}
    for ref, schema in components.items():
        definitions[renamed.get(ref, ref)] = _renamed(schema, renamed, at)
    for name, kind in wanted.items():
        said: Document = {"kind": kind.kind, "version": kind.version}
        if kind.aliases:
            said["aliases"] = list(kind.aliases)
        if kind.upcasts:
            said["upcasts"] = sorted(kind.upcasts)
        if kind.key is not None:
            said["key"] = kind.key
        if name in replies:
            reply = schemas[len(structs) + 1 + list(replies).index(name)]
            said["reply"] = _renamed(reply, renamed, at)
        definitions[name] = {**definitions[name], "title": name, EXTENSION: said}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": dict(sorted(definitions.items())),
    }


def _renamed(schema: Any, names: Mapping[str, str], at: str) -> Any:
    """Return a schema whose references lead to where the schemas are."""
    if isinstance(schema, dict):
        found: dict[str, Any] = {}
        for key, value in cast("dict[str, Any]", schema).items():
            if key == "$ref":
                ref = str(value).removeprefix(at)
                found[key] = at + names.get(ref, ref)
            else:
                found[key] = _renamed(value, names, at)
        return found
    if isinstance(schema, list):
        return [_renamed(one, names, at) for one in cast("list[Any]", schema)]
    return schema


def asyncapi(surface: Surface, *, subjects: Subjects | None = None) -> Document:
    """Return an AsyncAPI 3 document of what a program receives and sends."""
    subjects = subjects or Subjects()
    at = "#/components/schemas/"
    schemas = json_schema(surface.types, at=at)["$defs"]
    channels: Document = {}
    messages: Document = {}
    operations: Document = {}

    def channel(kind: MessageType) -> Document:
        place = subjects.event(kind.name) if kind.kind == "event" else subjects.request(kind.name)
        parts = "" if kind.key is None else ".{part}"
        messages[kind.name] = {
            "name": kind.name,
            "title": kind.python.__name__,
            "summary": summary(kind.python),
            "contentType": "application/json",
            "payload": {"allOf": [{"$ref": at + kind.name}, {"$ref": at + META}]},
        }
        described: Document = {
            "address": place + parts,
            "messages": {kind.name: {"$ref": f"#/components/messages/{kind.name}"}},
        }
        if parts:
            described["parameters"] = {
                "part": {"description": "CRC-32 of the key's JSON, modulo 32."}
            }
        channels[kind.name] = described
        return {"$ref": f"#/channels/{kind.name}"}

    def operation(prefix: str, action: str, kind: MessageType, **more: Any) -> None:
        described: Document = {"action": action, "channel": channel(kind), **more}
        if kind.kind == "request":
            name = f"{kind.name}.reply"
            messages[name] = {
                "name": name,
                "contentType": "application/json",
                "payload": schemas[kind.name][EXTENSION]["reply"],
            }
            channels[name] = {
                "address": None,
                "messages": {name: {"$ref": f"#/components/messages/{name}"}},
            }
            described["reply"] = {"channel": {"$ref": f"#/channels/{name}"}}
        operations[f"{prefix}.{kind.name}"] = described

    for kind in surface.answers:
        how = "Answered with a stream of items." if kind.name in surface.streams else "Answered."
        bindings = {"nats": {"queue": QUEUE_GROUP}}
        operation("answer", "receive", kind, summary=how, bindings=bindings)
    for kind in surface.handles:
        operation("handle", "receive", kind, summary="Handled while it listens.")
    for durable, kinds in sorted(surface.durables.items()):
        for kind in kinds:
            how = f"Handled durably, as {durable}."
            operation(f"handle.{durable}", "receive", kind, summary=how)
    for kind in surface.publishes:
        operation("publish", "send", kind)
    for kind in surface.asks:
        operation("ask", "send", kind)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": surface.name,
            "version": surface.version,
            **({"description": surface.description} if surface.description else {}),
        },
        "defaultContentType": "application/json",
        "channels": dict(sorted(channels.items())),
        "operations": operations,
        "components": {"messages": dict(sorted(messages.items())), "schemas": schemas},
    }


def summary(python: type) -> str:
    """Return the first line of a class's docstring."""
    return (python.__doc__ or "").strip().partition("\n")[0]
