"""Which changes of types break readers or writers that are not updated yet."""

import enum
import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Optional
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc import Event, Request, Service
from ipc._compatibility import compare
from ipc._schema import json_schema, schema_of
from ipc._surface import surface_of_service
from ipc._types import MessageMeta, type_of


class Small(msgspec.Struct):
    a: int


class Large(msgspec.Struct):
    a: int
    b: str


class Tree(msgspec.Struct):
    children: list["Tree"] = []


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


Aware = Annotated[datetime, msgspec.Meta(tz=True)]
Naive = Annotated[datetime, msgspec.Meta(tz=False)]


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
        ([("x", list[Any])], [("x", list[int])], {("x[]", "writers")}),
        ([("x", list[int])], [("x", list)], {("x[]", "readers")}),
        ([("x", dict[str, int])], [("x", dict[str, Any])], {("x{}", "readers")}),
        ([("x", dict)], [("x", dict[str, int])], {("x{}", "writers")}),
        (
            [("x", tuple[int, str])],
            [("x", tuple[int, int])],
            {("x[1]", "readers"), ("x[1]", "writers")},
        ),
        (
            [("x", list[int])],
            [("x", tuple[int, str])],
            {("x", "writers"), ("x[1]", "readers"), ("x[1]", "writers")},
        ),
        ([("x", Small | None)], [("x", Large | None)], {("x.b", "writers")}),
        ([("x", dict[str, int])], [("x", Small)], {("x.a", "writers")}),
        (
            [("x", Large)],
            [("x", dict[str, str])],
            {("x.a", "readers"), ("x.b", "readers"), ("x.a", "writers")},
        ),
        # Keys.
        (
            [("x", dict[str, int])],
            [("x", dict[int, int])],
            {("x{}", "readers"), ("x{}", "writers")},
        ),
        ([("x", dict[int, int])], [("x", dict[float, int])], {("x{}", "readers")}),
        ([("x", dict[int, int])], [("x", dict[int | str, int])], {("x{}", "readers")}),
        ([("x", dict[Literal["a"], int])], [("x", dict[str, int])], {("x{}", "readers")}),
        ([("x", dict[Number, int])], [("x", dict[int, int])], {("x{}", "readers")}),
        # What is text in JSON, but not in MessagePack or in Python.
        ([("x", str)], [("x", datetime)], BOTH),
        ([("x", str)], [("x", bytes)], BOTH),
        ([("x", UUID)], [("x", str)], {("x", "readers")}),
        ([("x", Aware)], [("x", datetime)], {("x", "readers")}),
        ([("x", Aware)], [("x", Naive)], BOTH),
        # The same, written in two ways.
        ([("x", Literal["a", None])], [("x", Optional[Literal["a"]])], set()),  # noqa: UP045
        ([("x", Literal["a", 1])], [("x", int | str)], {("x", "readers")}),
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
    changes = compare(export([("x", int)]), json_schema([]))

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


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("upcasts", "bridged"),
    [((1, 2), {1, 2}), ((1,), set()), ((2,), {2})],
)
def test_hole_in_the_chain_of_upcasts_breaks_writers(
    version: int, upcasts: tuple[int, ...], bridged: set[int]
):
    """From the version that is written to the one that is read, no step may be missing."""
    old = export([("x", int)], version=version)
    new = export([("y", int)], version=3, upcasts=upcasts)

    found = {path for path, breaks in broken(old, new) if breaks == "writers"}

    assert (found == set()) == (version in bridged)


def test_missing_upcast_is_named():
    """Also where all fields could be read: some steps would be taken, and others not."""
    old = export([("x", int)], version=1)
    new = export([("x", int)], version=4, upcasts=(1, 3))

    (change,) = compare(old, new)

    assert (change.path, change.breaks) == ("", "writers")
    assert change.problem == "there is no upcast from version 2, only from others"


def test_version_without_upcasts_is_read_as_it_is():
    """The number alone breaks nobody."""
    assert broken(export([("x", int)]), export([("x", int)], version=2)) == set()


def test_going_back_to_the_version_before_is_bridged_by_those_who_have_gone_on():
    """Readers that are not taken back make of it what they need."""
    first = export([("x", int)])
    second = export([("y", int)], version=2, upcasts=(1,))

    assert broken(second, first) == {("x", "writers")}


def test_dropped_alias_breaks_its_writers():
    """What they send under the old name, and what is stored, nobody reads any more."""
    old = export([("x", int)], aliases=("shop.Older", "shop.Old"))
    new = export([("x", int)], aliases=("shop.Older",))

    (change,) = compare(old, new)

    assert (change.path, change.breaks) == ("", "writers")
    assert "'shop.Old' is not read any more" in change.problem


def test_going_back_to_an_old_name_breaks_nobody():
    """Readers know it as an alias; what the name was meanwhile becomes one."""
    old = export([("x", int)], name="shop.New", aliases=("shop.Old",))
    new = export([("x", int)], name="shop.Old", aliases=("shop.New",))

    assert broken(old, new) == set()


class Count(Request[int], type="shop.Count"):
    to: int


def service_that(streams: bool) -> Any:
    """Return the export of a service that answers once, or with a stream."""

    async def once(request: Count) -> int:
        return request.to

    async def many(request: Count) -> AsyncIterator[int]:
        for number in range(request.to):
            yield number

    service = Service("shop")
    service.handle(many if streams else once)
    return schema_of(surface_of_service(service))


def test_answer_that_becomes_a_stream_breaks_both():
    """Callers ask in another way than they are answered, whichever side is updated first."""
    once, stream = service_that(streams=False), service_that(streams=True)

    assert broken(once, stream) == {("reply", "readers"), ("reply", "writers")}
    assert broken(stream, once) == {("reply", "readers"), ("reply", "writers")}
    assert [change.problem for change in compare(once, stream)] == [
        "was one answer, is a stream of items"
    ] * 2
    assert broken(stream, stream) == broken(once, once) == set()


def test_request_of_which_nobody_knows_how_it_is_answered_is_not_judged():
    """A module's export does not say; nothing is made up."""
    unknown = json_schema([type_of(Count)])

    assert broken(unknown, service_that(streams=True)) == set()
    assert broken(service_that(streams=True), unknown) == set()


def test_request_and_reply_are_looked_at_both_ways():
    """Callers write the request and read the reply."""
    old = exported(Request[Small], [("x", int)])
    new = exported(Request[Large], [("x", int)])

    assert broken(old, new) == {("reply.b", "writers")}
    assert broken(new, old) == {("reply.b", "readers")}


JUNK: dict[str, Any] = {
    "another document": {"openapi": "3.0.0"},
    "schemas of others": {"$defs": {"Pet": {"type": "object"}}},
    "no object": {"$defs": ["shop.Thing"]},
    "damaged": {"$defs": {"ipc.Meta": {}, "shop.Thing": {"x-ipc": {"kind": "event"}}}},
    "not of ours": {"$defs": {"ipc.Meta": {}, "shop.Thing": {"properties": {}, "x-ipc": 1}}},
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_what_is_no_export_is_refused(junk: Any):
    """With words, not with a KeyError; and never taken for one without types."""
    with pytest.raises(ValueError, match="ipc schema export"):
        compare(junk, export([]))


def test_reference_to_nowhere_is_named():
    """Somebody has cut the document."""
    cut = export([("x", Small)])
    del cut["$defs"]["Small"]

    with pytest.raises(ValueError, match="'#/\\$defs/Small' leads nowhere"):
        compare(cut, export([("x", Small)]))


def test_change_says_all_that_is_needed():
    """Type, place, problem and who is broken, in one line."""
    (change,) = compare(export([]), export([("x", int)]))

    assert str(change) == (
        "shop.Thing x: is required, and not written; breaks writers that are not updated"
    )


def test_of_what_may_be_missing_the_thing_itself_is_looked_at():
    """What is wrong with a `Large` is told, not that it is neither a `Large` nor nothing."""
    (change,) = compare(export([("x", Small | None)]), export([("x", Large | None)]))

    assert (change.path, change.problem) == ("x.b", "is required, and not written")


# -- whatever the types are ---------------------------------------------------------------


class Kind(NamedTuple):
    """A type, and values of it."""

    python: Any
    values: st.SearchStrategy[Any]


ints, texts = st.integers(-2, 2), st.text("a1", max_size=2)
naive = st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1))
aware = naive.map(lambda moment: moment.replace(tzinfo=UTC))

LEAVES = [
    Kind(int, ints),
    Kind(Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 2)),
    Kind(float, st.floats(-2, 2)),
    Kind(str, texts),
    Kind(Annotated[str, msgspec.Meta(max_length=1)], st.sampled_from(["", "a"])),
    Kind(bool, st.booleans()),
    Kind(None, st.none()),
    Kind(bytes, st.binary(max_size=2)),
    Kind(datetime, aware | naive),
    Kind(Aware, aware),
    Kind(UUID, st.uuids()),
    Kind(Literal["a"], st.just("a")),
    Kind(Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    Kind(Number, st.sampled_from(Number)),
    Kind(int | str, ints | texts),
    Kind(Any, ints | texts | st.lists(ints, max_size=1) | st.dictionaries(texts, ints, max_size=1)),
]

numbers = itertools.count()


def struct(*fields: tuple[Any, ...], **options: Any) -> Any:
    return msgspec.defstruct(f"Struct{next(numbers)}", fields, **options)


def record(one: Kind, other: Kind | None = None, **options: Any) -> Kind:
    """Return a struct of a field, and perhaps another one with a default."""
    if other is None:
        python = struct(("a", one.python), **options)
        return Kind(python, st.builds(python, one.values))
    python = struct(("a", one.python), ("b", Optional[other.python], None), **options)  # noqa: UP045
    return Kind(python, st.builds(python, one.values, other.values | st.none()))


def either(one: Kind, other: Kind) -> Kind:
    """Return a union of two structs that are told apart by their tags."""
    first, second = record(one, tag="A"), record(other, tag="B")
    return Kind(first.python | second.python, first.values | second.values)


# What is made of one type, or of two.
MADE_OF: list[Callable[[Kind, Kind], Kind]] = [
    lambda one, _: Kind(list[one.python], st.lists(one.values, max_size=2)),
    lambda one, _: Kind(
        Annotated[list[one.python], msgspec.Meta(min_length=1, max_length=2)],
        st.lists(one.values, min_size=1, max_size=2),
    ),
    lambda one, other: Kind(tuple[one.python, other.python], st.tuples(one.values, other.values)),
    lambda one, _: Kind(Optional[one.python], one.values | st.none()),  # noqa: UP045
    lambda one, _: Kind(dict[str, one.python], st.dictionaries(texts, one.values, max_size=2)),
    lambda one, _: Kind(dict[int, one.python], st.dictionaries(ints, one.values, max_size=2)),
    lambda one, _: Kind(
        dict[Number, one.python], st.dictionaries(st.sampled_from(Number), one.values, max_size=2)
    ),
    lambda one, _: record(one),
    lambda one, other: record(one, other),
    lambda one, _: record(one, forbid_unknown_fields=True),
    lambda one, other: record(one, other, omit_defaults=True),
    lambda one, other: record(one, other, array_like=True),
    lambda one, _: record(one, tag="A"),
    either,
]

leaves, made_of = st.sampled_from(LEAVES), st.sampled_from(MADE_OF)


@st.composite
def two_kinds(draw: st.DrawFn, depth: int = 2) -> tuple[Kind, Kind]:
    """Return a type before and after: the same one often, so that not all is broken."""
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        leaf = draw(leaves)
        return leaf, draw(st.just(leaf) | leaves)
    make = draw(made_of)
    make_other = draw(st.just(make) | made_of)
    one, other = draw(two_kinds(depth - 1)), draw(two_kinds(depth - 1))
    return make(one[0], other[0]), make_other(one[1], other[1])


@settings(max_examples=150)
@given(two_kinds(), st.data())
def test_what_breaks_nobody_is_read_by_both(kinds: tuple[Kind, Kind], data: st.DataObject):
    """What is not called broken can be decoded, whichever side writes it, and in both codecs."""
    old, new = kinds
    before, after = (struct(("x", kind.python)) for kind in kinds)

    breaks = {side for _, side in broken(export([("x", old.python)]), export([("x", new.python)]))}

    for side, kind, written, read in (
        ("readers", new, after, before),
        ("writers", old, before, after),
    ):
        value = written(data.draw(kind.values))
        if side not in breaks:
            msgspec.json.decode(msgspec.json.encode(value), type=read)
            msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=read)


@settings(max_examples=50)
@given(two_kinds())
def test_no_change_breaks_nobody(kinds: tuple[Kind, Kind]):
    """Whatever the type is."""
    document = export([("x", kinds[0].python)])

    assert compare(document, document) == []


@settings(max_examples=50)
@given(two_kinds())
def test_added_field_with_a_default_breaks_nobody(kinds: tuple[Kind, Kind]):
    """The rule that everybody can keep to."""
    before = [("x", kinds[0].python)]
    more = ("new", Optional[kinds[1].python], None)  # noqa: UP045

    assert compare(export(before), export([*before, more])) == []
