"""Which changes of types break whom.

Two programs that talk are never updated at the same moment, and stored events are older than
any of them. So each change is looked at from both sides, with one question: can what one side
writes by its schema be read by the other's?

    writers not updated yet, and stored events:   written by the old, read by the new schema
    readers not updated yet:                      written by the new, read by the old schema

Of a request the caller writes the request and reads the reply.

Where a schema says nothing, a reader takes anything and a writer may write anything; but a
writer of an object or array with described places writes those and no more. Both ways to write
are looked at: what is text in JSON only, as the keys of a mapping or bytes, is no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from ._schema import EXTENSION, META

__all__ = ["Change", "compare"]

Schema = dict[str, Any]

Problem = tuple[str, str]
"""Where in a type, and what."""

Side = Literal["readers", "writers"]

# What a reader demands beyond the type, by what makes a writer's promise enough.
SIZE_AT_LEAST = ("minLength", "minItems", "minProperties")
AT_LEAST = ("minimum", "exclusiveMinimum", *SIZE_AT_LEAST)
AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
THE_SAME = ("pattern", "format", "multipleOf")

# Formats of JSON's text that are other types in MessagePack; the last three are of keys.
TYPES_OF_THEIR_OWN = ("date-time", "integer", "number", "boolean")

# What the types of values are called.
NAMES: Mapping[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}

TEXT: Schema = {"type": "string"}


class Change(msgspec.Struct, frozen=True):
    """A change that breaks somebody who is not updated yet."""

    type: str
    path: str
    """Where in the type: "" for all of it, `user.name`, `reply.items[]`."""
    problem: str
    breaks: Side
    """`readers`: cannot read what updated ones write. `writers`: what they write, or have
    stored, cannot be read by updated ones."""

    def __str__(self) -> str:
        where = f"{self.type} {self.path}".rstrip()
        return f"{where}: {self.problem}; breaks {self.breaks} that are not updated"


class Exported(msgspec.Struct, frozen=True):
    """A type as an export describes it."""

    kind: Literal["event", "request"]
    version: int
    aliases: tuple[str, ...] = ()
    upcasts: tuple[int, ...] = ()
    reply: Schema | None = None
    streams: bool | None = None
    """Whether it is answered with many items; `None` where that is not known."""
    message: Schema = {}
    """Its fields."""


def compare(old: Schema, new: Schema) -> list[Change]:
    """Return the breaking changes from one export of JSON Schema to another.

    Raises:
        ValueError: One of them is not such an export.
    """
    changes: list[Change] = []
    before, after = types_in(old), types_in(new)
    by_alias = {alias: name for name, now in after.items() for alias in now.aliases}
    comparison = Comparison(old, new)
    for name, was in before.items():
        current = name if name in after else by_alias.get(name)
        if current is None:
            problem = "is gone; keep its name among another type's aliases, or the type itself"
            changes.append(Change(name, "", problem, "writers"))
            continue
        now = after[current]
        if current not in (name, *was.aliases):
            problem = f"is {current!r} now, which readers of the old name do not listen to"
            changes.append(Change(name, "", problem, "readers"))
        for alias in was.aliases:
            if alias not in (current, *now.aliases):
                problem = f"what comes as {alias!r} is not read any more; keep that alias"
                changes.append(Change(name, "", problem, "writers"))
        for side, path, problem in comparison.of(was, now):
            changes.append(Change(name, path, problem, side))
    return changes


def types_in(document: Schema) -> dict[str, Exported]:
    """Return the types of an export, by name.

    Raises:
        ValueError: It is none.
    """
    try:
        definitions = document["$defs"]
        if META not in definitions:
            raise KeyError(META)
        return {
            name: msgspec.convert({**schema[EXTENSION], "message": message(schema)}, Exported)
            for name, schema in definitions.items()
            if EXTENSION in schema
        }
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError):
        raise ValueError("not what `ipc schema export` writes as JSON Schema") from None


def message(schema: Schema) -> Schema:
    """Return a type's schema without its name, which is compared by itself."""
    properties = {key: value for key, value in schema["properties"].items() if key != "$type"}
    required = [name for name in schema.get("required", ()) if name != "$type"]
    return {**schema, "properties": properties, "required": required}


class Comparison:
    """Types before and after."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._by_old = Reading(writer=new, reader=old)
        self._by_new = Reading(writer=old, reader=new)

    def of(self, was: Exported, now: Exported) -> Iterator[tuple[Side, str, str]]:
        """Yield who is broken, where, and why."""
        problem = f"was {was.kind}, is {now.kind}"
        if was.kind != now.kind:
            yield "readers", "", problem
            yield "writers", "", problem
            return
        for path, problem in problems_of_message(now, was, self._by_old):
            yield "readers", path, problem
        for path, problem in problems_of_message(was, now, self._by_new):
            yield "writers", path, problem
        if was.reply is None or now.reply is None:
            return
        if None not in (was.streams, now.streams) and was.streams != now.streams:
            how = ("one answer", "a stream of items")
            problem = f"was {how[bool(was.streams)]}, is {how[bool(now.streams)]}"
            yield "readers", "reply", problem
            yield "writers", "reply", problem
        for path, problem in self._by_old.problems(now.reply, was.reply, "reply"):
            yield "readers", path, problem
        for path, problem in self._by_new.problems(was.reply, now.reply, "reply"):
            yield "writers", path, problem


def problems_of_message(written: Exported, read: Exported, reading: Reading) -> Iterable[Problem]:
    """Return what cannot be read of a message, of perhaps another version."""
    steps = range(written.version, read.version)
    missing = [version for version in steps if version not in read.upcasts]
    if len(missing) == len(steps):
        # It is read as it is.
        return reading.problems(written.message, read.message, "")
    which = ", ".join(map(str, missing))
    return [("", f"there is no upcast from version {which}, only from others")] if missing else []


class Reading:
    """Whether what is written by one document's schemas can be read by another's."""

    def __init__(self, *, writer: Schema, reader: Schema) -> None:
        self._writer: Schema = writer["$defs"]
        self._reader: Schema = reader["$defs"]
        self._under_way: set[tuple[str, str]] = set()

    def problems(self, written: Schema, read: Schema | bool, path: str) -> list[Problem]:
        """Return what cannot be read: where, and why.

        Args:
            read: `False` where nothing may stand.

        Raises:
            ValueError: A reference leads nowhere.
        """
        if isinstance(read, bool):
            return [] if read else [(path, "is written, and not allowed")]
        key = (str(written.get("$ref", "")), str(read.get("$ref", "")))
        written, read = resolve(written, self._writer), resolve(read, self._reader)
        if not all(key):
            return self._compare(written, read, path)
        # A type that contains itself is compared once.
        if key in self._under_way:
            return []
        self._under_way.add(key)
        try:
            return self._compare(written, read, path)
        finally:
            self._under_way.discard(key)

    def _compare(self, written: Schema, read: Schema, path: str) -> list[Problem]:
        if "anyOf" in written:
            return self._each(written["anyOf"], read, path)
        if "enum" in written and "enum" not in read and len(kinds := by_kind(written)) > 1:
            return self._each(kinds, read, path)
        if "anyOf" in read:
            return self._one_of(written, read["anyOf"], path)
        return list(self._plain(written, read, path))

    def _each(self, choices: list[Schema], read: Schema, path: str) -> list[Problem]:
        """Return what cannot be read of any of what may be written."""
        found = [one for choice in choices for one in self.problems(choice, read, path)]
        return list(dict.fromkeys(found))

    def _one_of(self, written: Schema, options: list[Schema], path: str) -> list[Problem]:
        """Return why what is written is none of what may be read."""
        tried = [self.problems(written, option, path) for option in options]
        if not all(tried):
            return []
        # Of `User | None` it is of interest why a user cannot be read, not that it is not null.
        kinds = [kind_of(resolve(option, self._reader)) for option in options]
        if kinds.count(kind_of(written)) == 1:
            return tried[kinds.index(kind_of(written))]
        return [(path, f"{shown(written)} is none of {', '.join(map(shown, options))}")]

    def _plain(self, written: Schema, read: Schema, path: str) -> Iterator[Problem]:
        wrote, reads = kind_of(written), kind_of(read)
        if "enum" in read:
            may_be = [None] if wrote == "null" else written.get("enum", ())
            extra = [value for value in may_be if value not in read["enum"]]
            if extra or not may_be:
                what = ", ".join(map(repr, extra)) or shown(written)
                yield path, f"{what} is none of {', '.join(map(repr, read['enum']))}"
            return
        if reads is None:
            return
        if wrote != reads and (wrote, reads) != ("integer", "number"):
            yield path, f"{shown(written)} is written where {shown(read)} is read"
            return
        if "prefixItems" in written:
            written = {"maxItems": len(written["prefixItems"]), **written}
        yield from demands(written, read, path)
        if reads == "object":
            yield from self._object(written, read, path)
        if reads == "array":
            yield from self._array(written, read, path)

    def _object(self, written: Schema, read: Schema, path: str) -> Iterator[Problem]:
        is_mapping = "properties" not in written
        values: Schema = written.get("additionalProperties", {})
        others: Schema | bool = read.get("additionalProperties", {})
        knows: dict[str, Schema] = read.get("properties", {})
        # Among the names of a mapping may be any that the reader knows.
        has: dict[str, Schema] = (
            dict.fromkeys(knows, values) if is_mapping else written["properties"]
        )
        always = written.get("required", ())
        for name in read.get("required", ()):
            if name not in has:
                yield join(path, name), "is required, and not written"
            elif name not in always:
                yield join(path, name), "is required, and may be left out"
        for name, value in has.items():
            yield from self.problems(value, knows.get(name, others), join(path, name))
        if is_mapping:
            yield from self.problems(values, others, f"{path}{{}}")
        if is_mapping or has:
            keys = TEXT | written.get("propertyNames", {}) if is_mapping else {"enum": [*has]}
            wanted = TEXT | read.get("propertyNames", {})
            for place, problem in self.problems(keys, wanted, f"{path}{{}}"):
                yield place, f"of its keys, {problem}"

    def _array(self, written: Schema, read: Schema, path: str) -> Iterator[Problem]:
        places: list[Schema] = written.get("prefixItems", [])
        expected: list[Schema] = read.get("prefixItems", [])
        items: Schema = written.get("items", {})
        # Whether more are allowed has been looked at.
        others: Schema = read.get("items") or {}
        if not places:
            # A list: any item may come, in any place.
            places = [items] * len(expected)
            yield from self.problems(items, others, f"{path}[]")
        for number, item in enumerate(places):
            wanted = expected[number] if number < len(expected) else others
            yield from self.problems(item, wanted, f"{path}[{number}]")


def resolve(schema: Schema, definitions: Schema) -> Schema:
    """Return what a schema refers to, or itself."""
    ref: str | None = schema.get("$ref")
    if ref is None:
        return schema
    try:
        return definitions[ref.rpartition("/")[2]]
    except KeyError:
        raise ValueError(f"{ref!r} leads nowhere in it") from None


def demands(written: Schema, read: Schema, path: str) -> Iterator[Problem]:
    """Yield what the reader demands and the writer does not promise."""
    for word in (*AT_LEAST, *AT_MOST, *THE_SAME):
        wanted, has = read.get(word), written.get(word)
        if has is None and word in SIZE_AT_LEAST:
            has = 0
        if wanted is None or wanted == has or wanted in TYPES_OF_THEIR_OWN:
            continue
        if has is None or word in THE_SAME or (has < wanted) == (word in AT_LEAST):
            promised = "anything" if has is None else repr(has)
            yield path, f"{word} {wanted!r} is demanded, and {promised} written"


def kind_of(schema: Schema) -> str | None:
    """Return the type that values have on the wire; `None` if it may be any."""
    format = schema.get("format")
    if format in TYPES_OF_THEIR_OWN:
        return format
    if "contentEncoding" in schema:
        return "bytes"
    values: list[object] = schema.get("enum", [])
    return NAMES.get(type(values[0])) if values else schema.get("type")


def by_kind(enumeration: Schema) -> list[Schema]:
    """Return an enumeration as several, of values of one type each."""
    kinds: dict[type, list[object]] = {}
    values: list[object] = enumeration["enum"]
    for value in values:
        kinds.setdefault(type(value), []).append(value)
    return [{"enum": values} for values in kinds.values()]


def shown(schema: Schema) -> str:
    """Return a schema in a word or two."""
    ref: str | None = schema.get("$ref")
    if ref is not None:
        return ref.rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(shown, schema["anyOf"]))
    return str(schema.get("title") or schema.get("format") or kind_of(schema) or "anything")


def join(path: str, name: str) -> str:
    """Return a path into a field."""
    return f"{path}.{name}" if path else name
