"""Which changes of types break whom.

Two programs that talk are never updated at the same moment, and stored events are older than
any of them. So each change is looked at from both sides, with one question: can what one side
writes by its schema be read by the other's?

    writers not updated yet, and stored events:   written by the old, read by the new schema
    readers not updated yet:                      written by the new, read by the old schema

Of a request the caller writes the request and reads the reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import msgspec

from ._schema import EXTENSION

__all__ = ["Change", "compare"]

Schema = dict[str, Any]

Side = Literal["readers", "writers"]

# What a reader demands beyond the type, by what makes a writer's promise enough.
AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
THE_SAME = ("pattern", "format", "multipleOf", "contentEncoding")


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


def compare(old: Schema, new: Schema) -> list[Change]:
    """Return the breaking changes from one export of JSON Schema to another.

    Raises:
        ValueError: One of them is not such an export.
    """
    changes: list[Change] = []
    after = types_in(new)
    by_alias = {
        alias: name for name in after for alias in after[name][EXTENSION].get("aliases", ())
    }
    for name, before in types_in(old).items():
        current = name if name in after else by_alias.get(name)
        if current is None:
            problem = "is gone; keep its name among another type's aliases, or the type itself"
            changes.append(Change(name, "", problem, "writers"))
            continue
        if current != name:
            problem = f"is {current!r} now, which readers of the old name do not listen to"
            changes.append(Change(name, "", problem, "readers"))
        changes += Comparison(name, old, new).of(before, after[current])
    return changes


def types_in(document: Schema) -> dict[str, Schema]:
    """Return the types of an export, by name."""
    try:
        definitions: dict[str, Schema] = document["$defs"]
        return {name: schema for name, schema in definitions.items() if EXTENSION in schema}
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not an export of `ipc schema export`: it has no $defs of types") from None


class Comparison:
    """One type, before and after."""

    def __init__(self, name: str, old: Schema, new: Schema) -> None:
        self._name = name
        self._old = Reading(writer=old, reader=new)
        self._new = Reading(writer=new, reader=old)

    def of(self, before: Schema, after: Schema) -> Iterator[Change]:
        """Yield what breaks."""
        was, now = before[EXTENSION], after[EXTENSION]
        if was["kind"] != now["kind"]:
            problem = f"was {was['kind']}, is {now['kind']}"
            yield Change(self._name, "", problem, "readers")
            yield Change(self._name, "", problem, "writers")
            return
        for path, problem in self._new.problems(message(after), message(before), ""):
            yield Change(self._name, path, problem, "readers")
        if was["version"] not in now.get("upcasts", ()):
            for path, problem in self._old.problems(message(before), message(after), ""):
                yield Change(self._name, path, problem, "writers")
        if "reply" in was and "reply" in now:
            for path, problem in self._new.problems(now["reply"], was["reply"], "reply"):
                yield Change(self._name, path, problem, "readers")
            for path, problem in self._old.problems(was["reply"], now["reply"], "reply"):
                yield Change(self._name, path, problem, "writers")


def message(schema: Schema) -> Schema:
    """Return a type's schema without its name, which is compared by itself."""
    properties = {key: value for key, value in schema["properties"].items() if key != "$type"}
    required = [name for name in schema.get("required", ()) if name != "$type"]
    return {**schema, "properties": properties, "required": required}


class Reading:
    """Whether what is written by one document's schemas can be read by another's."""

    def __init__(self, *, writer: Schema, reader: Schema) -> None:
        self._writer: Schema = writer["$defs"]
        self._reader: Schema = reader["$defs"]
        self._under_way: set[tuple[str, str]] = set()

    def problems(self, written: Schema, read: Schema, path: str) -> list[tuple[str, str]]:
        """Return what cannot be read: where, and why."""
        key = (str(written.get("$ref", "")), str(read.get("$ref", "")))
        if all(key):
            # A type that contains itself is compared once.
            if key in self._under_way:
                return []
            self._under_way.add(key)
            try:
                return self._compare(self._resolve(written, self._writer), read, path)
            finally:
                self._under_way.discard(key)
        return self._compare(self._resolve(written, self._writer), read, path)

    def _compare(self, written: Schema, read: Schema, path: str) -> list[tuple[str, str]]:
        read = self._resolve(read, self._reader)
        if "anyOf" in written:
            return [
                problem
                for option in cast("list[Schema]", written["anyOf"])
                for problem in self.problems(option, read, path)
            ]
        if "anyOf" in read:
            options: list[Schema] = read["anyOf"]
            tried = [self.problems(written, option, path) for option in options]
            if not all(tried):
                return []
            # What came closest says most.
            return (
                min(tried, key=len)
                if len(tried) == 1
                else [(path, f"{shown(written)} is none of {', '.join(map(shown, options))}")]
            )
        return list(self._plain(written, read, path))

    def _plain(self, written: Schema, read: Schema, path: str) -> Iterator[tuple[str, str]]:
        if "enum" in read:
            extra = set(written.get("enum", ())) - set(read["enum"])
            if extra or "enum" not in written:
                what = ", ".join(sorted(map(repr, extra))) or shown(written)
                yield path, f"{what} is none of {', '.join(map(repr, read['enum']))}"
            return
        wrote = written.get("type") or type_of_values(written)
        reads = read.get("type")
        if reads is None:
            return
        if wrote != reads and (wrote, reads) != ("integer", "number"):
            yield path, f"{shown(written)} is written where {shown(read)} is read"
            return
        yield from demands(written, read, path)
        if reads == "object":
            yield from self._object(written, read, path)
        if reads == "array":
            yield from self._array(written, read, path)

    def _object(self, written: Schema, read: Schema, path: str) -> Iterator[tuple[str, str]]:
        has: dict[str, Schema] = written.get("properties", {})
        knows: dict[str, Schema] = read.get("properties", {})
        always = set(written.get("required", ()))
        for name in read.get("required", ()):
            if name not in has:
                yield join(path, name), "is required, and not written"
            elif name not in always:
                yield join(path, name), "is required, and may be left out"
        for name in has:
            if name in knows:
                yield from self.problems(has[name], knows[name], join(path, name))
            elif read.get("additionalProperties") is False:
                yield join(path, name), "is written, and not allowed"
        values, wanted = written.get("additionalProperties"), read.get("additionalProperties")
        if isinstance(values, dict) and isinstance(wanted, dict):
            inner = cast(Schema, values), cast(Schema, wanted)
            yield from self.problems(*inner, f"{path}{{}}")

    def _array(self, written: Schema, read: Schema, path: str) -> Iterator[tuple[str, str]]:
        items, wanted = written.get("items"), read.get("items")
        if isinstance(items, dict) and isinstance(wanted, dict):
            inner = cast(Schema, items), cast(Schema, wanted)
            yield from self.problems(*inner, f"{path}[]")
        pairs = zip(written.get("prefixItems", ()), read.get("prefixItems", ()), strict=False)
        for number, (one, other) in enumerate(pairs):
            yield from self.problems(one, other, f"{path}[{number}]")

    @staticmethod
    def _resolve(schema: Schema, definitions: Schema) -> Schema:
        ref: str | None = schema.get("$ref")
        return schema if ref is None else definitions[ref.rpartition("/")[2]]


def demands(written: Schema, read: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Yield what the reader demands and the writer does not promise."""
    for word in (*AT_LEAST, *AT_MOST, *THE_SAME):
        wanted, has = read.get(word), written.get(word)
        if wanted is None or wanted == has:
            continue
        if has is None or word in THE_SAME or (has < wanted) == (word in AT_LEAST):
            promised = "anything" if has is None else repr(has)
            yield path, f"{word} {wanted!r} is demanded, and {promised} written"


def type_of_values(schema: Schema) -> str | None:
    """Return the type of the values of an enumeration."""
    names = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    kinds = {
        names.get(type(value).__name__) for value in cast("list[object]", schema.get("enum", []))
    }
    return kinds.pop() if len(kinds) == 1 else None


def shown(schema: Schema) -> str:
    """Return a schema in a word or two."""
    ref: str | None = schema.get("$ref")
    if ref is not None:
        return ref.rpartition("/")[2]
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    return str(schema.get("title") or schema.get("type") or "anything")


def join(path: str, name: str) -> str:
    """Return a path into a field."""
    return f"{path}.{name}" if path else name
