"""Types as documents: JSON Schema for programs that check, AsyncAPI for people and tools.

Sources: JSON Schema 2020-12; AsyncAPI 3.0.0 (operations, channels, replies, NATS bindings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec
from msgspec import inspect

from ._envelope import Meta
from ._errors import TypeDefinitionError
from ._micro import QUEUE_GROUP
from ._subjects import Subjects
from ._surface import Surface
from ._types import MessageType

__all__ = ["EXTENSION", "META", "asyncapi", "json_schema", "schema_of"]

EXTENSION = "x-ipc"
"""What JSON Schema has no word for: kind, version, aliases, upcasts, key, reply, streams."""

META = "ipc.Meta"
"""Where the fields are described that every message may have."""

Document = dict[str, Any]

# What the keys of a mapping are in Python, and in MessagePack; in JSON they are text.
KEYS: Mapping[type[inspect.Type], Document] = {
    inspect.IntType: {"type": "string", "format": "integer"},
    inspect.FloatType: {"type": "string", "format": "number"},
    inspect.BoolType: {"type": "string", "format": "boolean"},
    inspect.BytesType: {"type": "string", "contentEncoding": "base64"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.TimeType: {"type": "string", "format": "time"},
    inspect.TimeDeltaType: {"type": "string", "format": "duration"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
    inspect.DecimalType: {"type": "string", "format": "decimal"},
}


def schema_of(surface: Surface, *, at: str = "#/$defs/") -> Document:
    """Return one document with the schemas of all types that a program has to do with.

    Raises:
        TypeDefinitionError: The type of a field, or of a reply, has no schema.
    """
    streams = {kind.name: kind.name in surface.streams for kind in surface.answers}
    return json_schema(surface.types, streams=streams, at=at)


def json_schema(
    kinds: Iterable[MessageType],
    *,
    streams: Mapping[str, bool] | None = None,
    at: str = "#/$defs/",
) -> Document:
    """Return one document with the schemas of types, each under its name.

    Args:
        streams: Whether requests are answered with many items; of those of which that is known.
        at: What references begin with.

    Raises:
        TypeDefinitionError: The type of a field, or of a reply, has no schema.
    """
    wanted = {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.name)}
    structs = [kind.python for kind in wanted.values()]
    replies = {name: kind.reply for name, kind in wanted.items() if kind.kind == "request"}
    described = [*structs, Meta, *replies.values()]
    for kind in wanted.values():
        check_schema(kind)
    schemas, components = msgspec.json.schema_components(described, ref_template=at + "{name}")
    complete(zip(inspect.multi_type_info(described), schemas, strict=True), components)
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
        if streams and name in streams:
            said["streams"] = streams[name]
        definitions[name] = {**definitions[name], "title": name, EXTENSION: said}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": dict(sorted(definitions.items())),
    }


def check_schema(kind: MessageType) -> None:
    """Check that there is a schema of a type, and of what it is answered with.

    Raises:
        TypeDefinitionError: There is none.
    """
    try:
        msgspec.json.schema(kind.python)
        if kind.kind == "request":
            msgspec.json.schema(kind.reply)
    except TypeDefinitionError:
        raise
    except TypeError as exc:
        reason = str(exc).rpartition("\n")[2]
        raise TypeDefinitionError(kind.name, f"it has no JSON Schema: {reason}") from exc


def complete(pairs: Iterable[tuple[inspect.Type, Document]], components: Document) -> None:
    """Say what msgspec leaves out: what keys of mappings are, and that a text is a time.

    Args:
        pairs: Types and their schemas.
        components: The schemas that are referred to.
    """
    todo, seen = list(pairs), set[str]()
    while todo:
        info, schema = todo.pop()
        info = bare(info)
        ref: str | None = schema.get("$ref")
        if ref is not None:
            if ref in seen:
                continue
            seen.add(ref)
            schema = components[ref.rpartition("/")[2]]
        todo += parts_of(info, schema)
        if isinstance(info, inspect.DictType):
            keys = key_schema(info.key_type)
            if keys is not None:
                schema["propertyNames"] = keys
        elif isinstance(info, inspect.DateTimeType):
            say_format(schema, info.tz, "date-time")
        elif isinstance(info, inspect.TimeType):
            say_format(schema, info.tz, "time")


def bare(info: inspect.Type) -> inspect.Type:
    """Return a type without what is said about it."""
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def parts_of(info: inspect.Type, schema: Document) -> Iterator[tuple[inspect.Type, Document]]:
    """Yield the types that a type is made of, with their schemas."""
    match info:
        case (
            inspect.StructType()
            | inspect.TypedDictType()
            | inspect.DataclassType()
            | inspect.NamedTupleType()
        ):
            named: Document = schema.get("properties", {})
            # Before the fields of an array may stand its tag.
            listed = schema.get("prefixItems", ())[-len(info.fields) :]
            for number, field in enumerate(info.fields):
                yield field.type, named[field.encode_name] if named else listed[number]
        case inspect.DictType():
            if "additionalProperties" in schema:
                yield info.value_type, schema["additionalProperties"]
        case inspect.CollectionType():
            if "items" in schema:
                yield info.item_type, schema["items"]
        case inspect.TupleType():
            yield from zip(info.item_types, schema.get("prefixItems", ()), strict=True)
        case inspect.UnionType():
            yield from options_of(info, schema)
        case _:
            pass


def options_of(
    info: inspect.UnionType, schema: Document
) -> Iterator[tuple[inspect.Type, Document]]:
    """Yield the types of a union, with their schemas."""
    structs: list[inspect.Type] = []
    others: list[inspect.Type] = []
    for one in map(bare, info.types):
        if isinstance(one, inspect.StructType) and not one.array_like:
            structs.append(one)
        elif not isinstance(one, inspect.NoneType):
            others.append(one)
    # Objects come after all others but null; several stand together, for their tags.
    options: list[Document] = schema["anyOf"]
    yield from zip(others, options, strict=False)
    rest = [one for option in options[len(others) :] for one in option.get("anyOf", [option])]
    yield from zip(structs, rest, strict=False)


def key_schema(info: inspect.Type) -> Document | None:
    """Return the schema of a mapping's keys; `None` if they are any text, or described already."""
    info = bare(info)
    if isinstance(info, inspect.UnionType):
        return {"anyOf": [key_schema(one) or {"type": "string"} for one in info.types]}
    if isinstance(info, (inspect.LiteralType, inspect.EnumType)):
        is_literal = isinstance(info, inspect.LiteralType)
        values = info.values if is_literal else [one.value for one in info.cls]
        are_numbers = all(isinstance(value, int) for value in values)
        numbers = {"format": "integer"} if are_numbers else {}
        return {"enum": sorted(map(str, values)), **numbers}
    return KEYS.get(type(info))


def say_format(schema: Document, tz: bool | None, name: str) -> None:
    """Say that a text is a time, with an offset from UTC, without, or either."""
    if "format" in schema:
        return
    if tz is False:
        schema["format"] = f"partial-{name}"
    elif tz is None:
        either = (name, f"partial-{name}")
        schema["anyOf"] = [{"type": schema["type"], "format": one} for one in either]
        del schema["type"]


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
    schemas = schema_of(surface, at=at)["$defs"]
    channels: Document = {}
    messages: Document = {}
    operations: Document = {}

    def channel(kind: MessageType) -> Document:
        if kind.kind == "request":
            address = subjects.request(kind.name)
        elif kind.key is None:
            address = subjects.event(kind.name)
        else:
            address = subjects.events(kind.name).replace("*", "{part}")
        messages[kind.name] = {
            "name": kind.name,
            "title": kind.python.__name__,
            "summary": summary(kind.python),
            "contentType": "application/json",
            "payload": {"allOf": [{"$ref": at + kind.name}, {"$ref": at + META}]},
        }
        described: Document = {
            "address": address,
            "messages": {kind.name: {"$ref": f"#/components/messages/{kind.name}"}},
        }
        if kind.key is not None:
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
