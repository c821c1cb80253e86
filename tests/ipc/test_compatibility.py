"""Which changes of types break readers or writers that are not updated yet."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import Event, Request
from ipc._compatibility import compare
from ipc._schema import json_schema
from ipc._types import MessageMeta, type_of


class Small(msgspec.Struct):
    a: int


class Large(msgspec.Struct):
    a: int
    b: str


class Tree(msgspec.Struct):
    children: list["Tree"] = []


def export(fields: list[Any], **options: Any) -> dict[str, Any]:
    """Return the export of a module that has one event with these fields."""
    return exported(Event, fields, **options)


def exported(base: Any, fields: list[Any], name: str = "shop.Thing", **options: Any) -> Any:
    annotations = {field[0]: field[1] for field in fields}
    defaults = {field[0]: field[2] for field in fields if len(field) > 2}
    namespace = {
        "__module__": __name__,
        "__qualname__": "Thing",
        "__annotations__": annotations,
        **defaults,
    }
    bases = (getattr(base, "__origin__", base),)
    if base is not Event:
        namespace["__orig_bases__"] = (base,)
    upcasts = options.pop("upcasts", ())
    made: Any = MessageMeta("Thing", bases, namespace, type=name, **options)
    for version in upcasts:
        made.upcast(version)(dict)
    return json_schema([type_of(made)])


def broken(old: Any, new: Any) -> set[tuple[str, str]]:
    return {(change.path, change.breaks) for change in compare(old, new)}


BOTH = {("x", "readers"), ("x", "writers")}


@pytest.mark.parametrize(
    ("before", "after", "breaks"),
    [
        # Fields that come and go.
        ([("x", int)], [("x", int), ("y", int, 0)], set()),
        ([("x", int)], [("x", int), ("y", int)], {("y", "writers")}),
        ([("x", int), ("y", int)], [("x", int)], {("y", "readers")}),
        ([("x", int), ("y", int, 0)], [("x", int)], set()),
        ([("x", int, 0)], [("x", int)], {("x", "writers")}),
        ([("x", int)], [("x", int, 0)], {("x", "readers")}),
        ([("x", int)], [("y", int)], {("x", "readers"), ("y", "writers")}),
        # Types that become wider or narrower.
        ([("x", int)], [("x", str)], BOTH),
        ([("x", int)], [("x", float)], {("x", "readers")}),
        ([("x", float)], [("x", int)], {("x", "writers")}),
        ([("x", int)], [("x", int | None)], {("x", "readers")}),
        ([("x", int | None)], [("x", int)], {("x", "writers")}),
        ([("x", int)], [("x", int | str)], {("x", "readers")}),
        ([("x", int)], [("x", Any)], {("x", "readers")}),
        ([("x", Literal["a"])], [("x", Literal["a", "b"])], {("x", "readers")}),
        ([("x", Literal["a", "b"])], [("x", Literal["a"])], {("x", "writers")}),
        ([("x", Literal["a"])], [("x", str)], {("x", "readers")}),
        # What is inside of others.
        ([("x", list[int])], [("x", list[str])], {("x[]", "readers"), ("x[]", "writers")}),
        ([("x", Small)], [("x", Large)], {("x.b", "writers")}),
        ([("x", list[Large])], [("x", list[Small])], {("x[].b", "readers")}),
        ([("x", dict[str, int])], [("x", dict[str, float])], {("x{}", "readers")}),
        ([("x", Tree)], [("x", Tree)], set()),
        # Limits.
        (
            [("x", Annotated[int, msgspec.Meta(ge=0)])],
            [("x", Annotated[int, msgspec.Meta(ge=1)])],
            {("x", "writers")},
        ),
        ([("x", int)], [("x", Annotated[int, msgspec.Meta(le=9)])], {("x", "writers")}),
        (
            [("x", Annotated[str, msgspec.Meta(max_length=9)])],
            [("x", Annotated[str, msgspec.Meta(max_length=10)])],
            {("x", "readers")},
        ),
    ],
)
def test_change_of_a_field(before: Any, after: Any, breaks: Any):
    """Readers are broken by what is written newly, writers by what is demanded newly."""
    assert broken(export(before), export(after)) == breaks


def test_removed_type_breaks_its_writers():
    """What they send, and what is stored, nobody reads any more."""
    changes = compare(export([("x", int)]), {"$defs": {}})

    assert [(change.type, change.breaks) for change in changes] == [("shop.Thing", "writers")]


def test_renamed_type_breaks_readers_of_the_old_name():
    """With an alias the old ones are read, but old readers do not listen to the new name."""
    old = export([("x", int)], name="shop.Old")
    new = export([("x", int)], name="shop.New", aliases=("shop.Old",))

    assert broken(old, new) == {("", "readers")}


def test_upcast_bridges_what_would_break_writers():
    """A new version with a function for the old one can read it; old readers still cannot."""
    old = export([("x", int)])
    new = export([("y", int)], version=2, upcasts=(1,))
    unbridged = export([("y", int)], version=2)

    assert broken(old, new) == {("x", "readers")}
    assert broken(old, unbridged) == {("x", "readers"), ("y", "writers")}


def test_request_and_reply_are_looked_at_both_ways():
    """Callers write the request and read the reply."""
    old = exported(Request[Small], [("x", int)])
    new = exported(Request[Large], [("x", int)])

    assert broken(old, new) == {("reply.b", "writers")}
    assert broken(new, old) == {("reply.b", "readers")}


def test_what_is_no_export_is_refused():
    """With words, not with a KeyError."""
    with pytest.raises(ValueError, match="ipc schema export"):
        compare({"openapi": "3.0.0"}, export([]))


def test_change_says_all_that_is_needed():
    """Type, place, problem and who is broken, in one line."""
    (change,) = compare(export([]), export([("x", int)]))

    assert str(change) == (
        "shop.Thing x: is required, and not written; breaks writers that are not updated"
    )


types = st.sampled_from(
    [int, str, float, bool, int | None, list[int], dict[str, int], Small, Large, Tree, Any]
)
fields = st.dictionaries(st.sampled_from("abcdef"), types, max_size=4)


@given(fields)
def test_no_change_breaks_nobody(found: dict[str, Any]):
    """Whatever the fields are."""
    document = export(list(found.items()))

    assert compare(document, document) == []


@given(fields, types)
def test_added_field_with_a_default_breaks_nobody(found: dict[str, Any], more: Any):
    """The rule that everybody can keep to."""
    before = list(found.items())

    assert compare(export(before), export([*before, ("new", more | None, None)])) == []
