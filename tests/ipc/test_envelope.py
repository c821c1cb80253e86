"""Messages: old ones are read, unknown ones told apart, malformed ones refused; nothing else."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import Event, MessageType, type_of
from ipc._codec import CODECS, JSON, MSGPACK, Codec
from ipc._envelope import NOT_DECODABLE, Meta, UnknownTypeError, read, read_any, read_meta, write

both_codecs = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=list(CODECS))


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Card(msgspec.Struct, tag_field="$type", tag="card"):
    number: str


class Cash(msgspec.Struct, tag_field="$type", tag="cash"):
    pass


class Placed(Event, type="envelope.Placed"):
    number: int
    note: str = ""
    lines: list[int] = msgspec.field(default_factory=list)


class Renamed(Event, type="envelope.Renamed", aliases=("envelope.Older", "envelope.Oldest")):
    number: int
    by_day: dict[int, str] = msgspec.field(default_factory=dict)
    raw: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Grown(Event, type="envelope.Grown", version=3, aliases=("envelope.Small",)):
    """First `name`, then `first` and `last`, then both in a list."""

    names: list[str]
    by_day: dict[int, str] = msgspec.field(default_factory=dict)
    at: datetime | None = None
    raw: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@Grown.upcast(1)
def split_name(fields: dict[str, Any]) -> dict[str, Any]:
    first, _, last = fields.pop("name").partition(" ")
    return {**fields, "first": first, "last": last}


@Grown.upcast(2)
def list_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "names": [fields.pop("first"), fields.pop("last")]}


class Skipping(Event, type="envelope.Skipping", version=3):
    """Defaults were enough from version 1 to 2."""

    number: int
    added: str = "default"


@Skipping.upcast(2)
def double(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "number": 2 * fields["number"]}


class Clashing(Event, type="envelope.Clashing"):
    """Has fields of the names that a message's own have behind the `$`."""

    type: str
    version: str
    id: list[int]
    time: int
    source: None
    correlation: bool
    causation: float
    timeout: str
    credit: str


class Strict(Event, type="envelope.Strict", forbid_unknown_fields=True):
    number: int


class Rich(Event, type="envelope.Rich"):
    """Of all that can be on the wire."""

    integer: int = 0
    number: float = 0.0
    text: str = ""
    data: bytes = b""
    at: datetime | None = None
    lasting: timedelta = timedelta()
    price: Decimal = Decimal(0)
    key: UUID | None = None
    color: Color = Color.RED
    by_day: dict[int, str] = msgspec.field(default_factory=dict)
    paid: Card | Cash | None = None
    pair: tuple[int, str] = (0, "")
    anything: Any = None


class Checked(Event, type="envelope.Checked"):
    """Looks at itself when it is made."""

    problem: str = ""

    def __post_init__(self) -> None:
        errors = {one.__name__: one for one in (ValueError, TypeError, *UNFORESEEN)}
        if self.problem:
            raise errors[self.problem]("no such thing")


UNFORESEEN = [KeyError, AttributeError, AssertionError, ZeroDivisionError, RuntimeError, OSError]

TYPES = (Placed, Renamed, Grown, Skipping, Clashing, Strict, Rich, Checked)
KINDS: Mapping[str, MessageType] = {
    name: kind for kind in map(type_of, TYPES) for name in kind.names
}

FULL = Meta(
    version=1,
    id="id-1",
    time=datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    source="shop",
    correlation="id-0",
    causation="id-0",
    timeout=2.5,
    credit=10,
)


def on_the_wire(codec: Codec, name: str, fields: dict[str, Any], **meta: Any) -> bytes:
    """Return a message as another program may have written it."""
    return codec.encode({"$type": name, **fields, **{f"${key}": meta[key] for key in meta}})


# -- there and back ------------------------------------------------------------------------


@both_codecs
def test_message_is_one_flat_object(codec: Codec):
    """Its own fields, and those that begin with `$`; what has its default is left out of those."""
    data = write(Placed(number=1), Meta(id="id-1", source="shop"), codec)

    assert codec.decoder_for(Any)(data) == {
        "$type": "envelope.Placed",
        "number": 1,
        "note": "",
        "lines": [],
        "$id": "id-1",
        "$source": "shop",
    }


@both_codecs
def test_message_comes_back_as_it_was(codec: Codec):
    """Both halves of it."""
    placed = Placed(number=1, note="fragile", lines=[1, 2])

    data = write(placed, FULL, codec)

    assert read_any(KINDS, "envelope.Placed", data) == placed
    assert read(type_of(Placed), data) == placed
    assert read_meta(data) == msgspec.structs.replace(FULL, type="envelope.Placed")


# Drawn from a few characters: from the whole of Unicode takes a second.
texts = st.text('aÄ€"\\\n$', max_size=5)
whole = st.integers(-(2**63), 2**63 - 1)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
rich = st.builds(
    Rich,
    integer=whole,
    number=st.floats(allow_nan=False, allow_infinity=False),
    text=texts,
    data=st.binary(max_size=5),
    at=st.none() | moments,
    lasting=st.timedeltas(timedelta(days=-1_000), timedelta(days=1_000)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    key=st.none() | st.uuids(),
    color=st.sampled_from(Color),
    by_day=st.dictionaries(whole, texts, max_size=3),
    paid=st.none() | st.builds(Card, texts) | st.builds(Cash),
    pair=st.tuples(whole, texts),
    anything=st.none() | st.booleans() | texts | st.lists(whole, max_size=2),
)


@both_codecs
@given(message=rich)
def test_every_message_comes_back_as_it_was(codec: Codec, message: Rich):
    """Whatever its fields hold, in either way of writing."""
    assert read_any(KINDS, "envelope.Rich", write(message, FULL, codec)) == message


@both_codecs
def test_fields_never_clash_with_what_a_message_says_of_itself(codec: Codec):
    """A field `id` is not the message's `$id`."""
    clashing = Clashing(
        type="a",
        version="b",
        id=[1],
        time=2,
        source=None,
        correlation=True,
        causation=0.5,
        timeout="c",
        credit="d",
    )

    data = write(clashing, FULL, codec)

    assert read_any(KINDS, "envelope.Clashing", data) == clashing
    assert read_meta(data) == msgspec.structs.replace(FULL, type="envelope.Clashing")


@both_codecs
def test_tagged_fields_keep_their_own_tags(codec: Codec):
    """`$type` inside of a field is the field's."""
    data = write(Rich(paid=Card("42")), Meta(), codec)

    assert read_any(KINDS, "", data).paid == Card("42")
    assert read_meta(data).type == "envelope.Rich"


# -- what others write ---------------------------------------------------------------------


@both_codecs
def test_all_but_the_fields_can_be_left_out(codec: Codec):
    """The subject says what it is, and a message says nothing more of itself."""
    data = codec.encode({"number": 1})

    assert read_any(KINDS, "envelope.Placed", data) == Placed(number=1)
    assert read_any(KINDS, "envelope.Older", data) == Renamed(number=1)
    assert read(type_of(Placed), data) == Placed(number=1)
    assert read_meta(data) == Meta()


@both_codecs
def test_type_counts_for_more_than_the_subject(codec: Codec):
    """A message says best what it is."""
    data = on_the_wire(codec, "envelope.Placed", {"number": 1})

    assert read_any(KINDS, "envelope.Renamed", data) == Placed(number=1)
    assert read_any(KINDS, "", data) == Placed(number=1)


@both_codecs
def test_unheard_of_fields_are_ignored(codec: Codec):
    """A newer sender may say more, in its fields and of itself."""
    fields = {"number": 1, "color": "red", "$shade": [1, 2]}

    assert read_any(KINDS, "", on_the_wire(codec, "envelope.Placed", fields)) == Placed(number=1)


@both_codecs
def test_class_may_forbid_unknown_fields(codec: Codec):
    """What a message says of itself is none of them; a field that is unknown is."""
    assert read_any(KINDS, "", write(Strict(number=1), FULL, codec)) == Strict(number=1)

    with pytest.raises(NOT_DECODABLE, match="color"):
        read_any(KINDS, "", on_the_wire(codec, "envelope.Strict", {"number": 1, "color": 2}))


# -- evolution -----------------------------------------------------------------------------


@both_codecs
@pytest.mark.parametrize("name", ["envelope.Renamed", "envelope.Older", "envelope.Oldest"])
@pytest.mark.parametrize("hint", ["envelope.Renamed", "envelope.Oldest", "envelope.Placed", ""])
def test_old_names_are_read(codec: Codec, name: str, hint: str):
    """All that a type had, whatever subject the message comes on."""
    data = on_the_wire(codec, name, {"number": 1}, id="id-1")

    assert read_any(KINDS, hint, data) == Renamed(number=1)
    assert read(type_of(Renamed), data) == Renamed(number=1)


@both_codecs
def test_added_fields_have_their_defaults(codec: Codec):
    """An event that was sent before they were there is read all the same."""
    data = on_the_wire(codec, "envelope.Placed", {"number": 1})

    assert read_any(KINDS, "", data) == Placed(number=1, note="", lines=[])


@both_codecs
@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (1, {"name": "Ada Lovelace"}),
        (2, {"first": "Ada", "last": "Lovelace"}),
        (3, {"names": ["Ada", "Lovelace"]}),
        (4, {"names": ["Ada", "Lovelace"], "titles": ["Countess"]}),
    ],
)
@pytest.mark.parametrize("name", ["envelope.Grown", "envelope.Small"])
def test_old_versions_are_lifted_step_by_step(
    codec: Codec, name: str, version: int, fields: dict[str, Any]
):
    """From each version to the next, also under an old name; a newer one is read as it is."""
    data = on_the_wire(codec, name, fields, version=version, id="id-1")

    assert read_any(KINDS, "", data) == Grown(names=["Ada", "Lovelace"])
    assert read(type_of(Grown), data) == Grown(names=["Ada", "Lovelace"])


@both_codecs
def test_version_that_is_not_said_is_the_first(codec: Codec):
    """There was nothing to say then; other languages need not."""
    data = codec.encode({"name": "Ada Lovelace"})

    assert read_any(KINDS, "envelope.Grown", data) == Grown(names=["Ada", "Lovelace"])


@both_codecs
def test_version_without_an_upcast_is_bridged_by_defaults(codec: Codec):
    """From 1 to 2 nothing had to be done, from 2 to 3 it had."""
    first = on_the_wire(codec, "envelope.Skipping", {"number": 1}, version=1)
    third = on_the_wire(codec, "envelope.Skipping", {"number": 1, "added": "x"}, version=3)

    assert read_any(KINDS, "", first) == Skipping(number=2, added="default")
    assert read_any(KINDS, "", third) == Skipping(number=1, added="x")


@both_codecs
def test_written_version_is_not_lifted(codec: Codec):
    """What is written here says its version."""
    grown = Grown(names=["Ada", "Lovelace"])
    meta = Meta(version=type_of(Grown).version)

    assert read_any(KINDS, "", write(grown, meta, codec)) == grown


@both_codecs
@pytest.mark.parametrize("version", [1, 2, 3])
def test_lifted_fields_keep_their_types(codec: Codec, version: int):
    """A date, keys that are numbers, what is to stay undecoded: as in a message that is new."""
    names = {1: {"name": "Ada "}, 2: {"first": "Ada", "last": ""}, 3: {"names": ["Ada", ""]}}
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    fields = {**names[version], "by_day": {1: "one"}, "at": at, "raw": [1, 2]}

    grown = read_any(KINDS, "", on_the_wire(codec, "envelope.Grown", fields, version=version))

    assert (grown.by_day, grown.at) == ({1: "one"}, at)
    assert codec.decoder_for(Any)(grown.raw) == [1, 2]


@both_codecs
def test_fields_under_an_old_name_keep_their_types(codec: Codec):
    """As under the new one."""
    fields = {"number": 1, "by_day": {1: "one"}, "raw": [1, 2]}

    for name in type_of(Renamed).names:
        renamed = read_any(KINDS, "", on_the_wire(codec, name, fields))
        assert renamed.by_day == {1: "one"}
        assert codec.decoder_for(Any)(renamed.raw) == [1, 2]


@both_codecs
@pytest.mark.parametrize(
    "fields", [{}, {"name": 7}, {"name": None}, {"name": ["Ada"]}, {"names": ["Ada", "L"]}]
)
def test_message_that_cannot_be_lifted_is_malformed(codec: Codec, fields: dict[str, Any]):
    """An upcast counts on the fields of its version; whatever it raises without them."""
    with pytest.raises(NOT_DECODABLE):
        read_any(KINDS, "", on_the_wire(codec, "envelope.Grown", fields, version=1))


@both_codecs
@pytest.mark.parametrize("version", [0, -1, -(2**63), "2", 1.5, None, [1]])
@pytest.mark.parametrize(
    ("name", "message"),
    [("envelope.Grown", Grown(names=["Ada", "Lovelace"])), ("envelope.Oldest", Renamed(number=1))],
)
def test_version_that_makes_no_sense_is_the_first(
    codec: Codec, version: Any, name: str, message: Event
):
    """It counts as not said; nobody goes through all versions below nothing."""
    data = on_the_wire(codec, name, {"name": "Ada Lovelace", "number": 1}, version=version)

    assert read_any(KINDS, "", data) == message


# -- what is unknown -----------------------------------------------------------------------


@both_codecs
def test_unknown_type_is_told_with_its_fields(codec: Codec):
    """Without those that it says of itself."""
    data = on_the_wire(codec, "envelope.Unheard", {"a": {"b": [1, None]}}, id="id-1", version=7)

    with pytest.raises(UnknownTypeError) as caught:
        read_any(KINDS, "envelope.Placed", data)

    assert caught.value.name == "envelope.Unheard"
    assert caught.value.fields == {"a": {"b": [1, None]}}


@both_codecs
def test_message_on_an_unknown_subject_has_that_type(codec: Codec):
    """If it says none itself."""
    with pytest.raises(UnknownTypeError) as caught:
        read_any(KINDS, "envelope.Unheard", codec.encode({"a": 1}))

    assert (caught.value.name, caught.value.fields) == ("envelope.Unheard", {"a": 1})


@both_codecs
def test_only_what_is_expected_is_known(codec: Codec):
    """A type that is defined and not asked for is as unknown as one that is not."""
    data = on_the_wire(codec, "envelope.Placed", {"number": 1})

    with pytest.raises(UnknownTypeError, match="Placed"):
        read_any({"envelope.Renamed": type_of(Renamed)}, "envelope.Renamed", data)
    for other in (Renamed, Grown):
        with pytest.raises(UnknownTypeError, match="Placed"):
            read(type_of(other), data)


@both_codecs
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "tests.ipc.test_envelope.Card"])
def test_no_name_is_ever_looked_up_elsewhere(codec: Codec, name: str):
    """What can be imported is as unknown as what cannot."""
    with pytest.raises(UnknownTypeError):
        read_any(KINDS, name, on_the_wire(codec, name, {"number": "1"}))


# -- what is malformed ---------------------------------------------------------------------

DEPTH = 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"\x00",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"number": 1',
        b'{"number": 1}}',
        b'{"number": 1} {"number": 2}',
        b"{'number': 1}",
        b'{"number": "one"}',
        b'{"number": 1.5}',
        b'{"number": ' + b"1" * 5_000 + b"}",
        b'{"number": 1e999}',
        b'{"number": NaN}',
        b'{"note": "without number"}',
        b'{"number": 1, "note": "\\ud800"}',
        b'{"number": 1, "note": "\xff"}',
        b'{"number": 1, "lines": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b'{"number": 1, "more": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b'{"number": 1, "more": ' + b'{"a":' * DEPTH,
        b'{"$type": "\\ud800", "number": 1}',
        b'{"$type": 7, "number": "one"}',
        b'{"$id": 7, "number": 1}}',
        b"\xef\xbb\xbf" + b'{"number": 1}',
        b"\x80",
        b"\x90",
        b"\xc0",
        b"\xc1",
        b"\xff",
        b"\x81",
        b"\x81\xa6number",
        b"\x81\xa6number\xa3one",
        b"\x81\xa6number\x01\x01",
        b"\x81\x01\x01",
        b"\xde\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa6number\xdd\xff\xff\xff\xff",
        b"\x82\xa6number\x01\xa5lines\xdd\xff\xff\xff\xff",
        b"\x82\xa6number\x01\xa4more\xc6\xff\xff\xff\xff",
        b"\x82\xa6number\x01\xa4note\xa1\xff",
        b"\x82\xa6number\x01\xa4more" + b"\x91" * DEPTH + b"\xc0",
        b"\x82\xa6number\x01\xa5lines" + b"\x91" * DEPTH + b"\xc0",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_malformed_message_is_refused(data: bytes):
    """With one of the errors that everybody who reads is prepared for."""
    with pytest.raises(NOT_DECODABLE):
        read(type_of(Placed), data)
    with pytest.raises(NOT_DECODABLE):
        read_any(KINDS, "envelope.Placed", data)


@both_codecs
@pytest.mark.parametrize("error", [ValueError, TypeError, *UNFORESEEN])
def test_class_that_refuses_a_message_makes_it_malformed(codec: Codec, error: type[Exception]):
    """Whatever its own code raises."""
    data = on_the_wire(codec, "envelope.Checked", {"problem": error.__name__})

    for hint in ("envelope.Checked", "envelope.Placed", ""):
        with pytest.raises(NOT_DECODABLE):
            read_any(KINDS, hint, data)
    with pytest.raises(NOT_DECODABLE):
        read(type_of(Checked), data)


@both_codecs
def test_nested_as_deep_as_people_do(codec: Codec):
    """What is not absurd is read."""
    nested: Any = 1
    for _ in range(100):
        nested = {"in": [nested]}

    rich = read_any(KINDS, "", on_the_wire(codec, "envelope.Rich", {"anything": nested}))

    assert rich.anything == nested


# Values of any type in any field, those of messages among them.
anything = st.recursive(
    st.none() | st.booleans() | whole | st.floats() | texts | st.sampled_from(list(KINDS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
fields_of_messages = sorted(
    {"$type", *(f"${one}" for one in Meta.__struct_fields__)}
    | {field for one in TYPES for field in one.__struct_fields__}
    | {"name", "first", "last"}
)
objects = st.dictionaries(
    st.sampled_from(fields_of_messages) | texts,
    anything,
    max_size=8,
)
valid = st.sampled_from(
    [
        write(message, msgspec.structs.replace(FULL, version=version), codec)
        for codec in CODECS.values()
        for message in (Placed(1, "x", [1]), Renamed(1), Grown(["a", "b"]), Strict(1), Rich())
        for version in (1, 3)
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return a message of which something was cut, changed or doubled."""
    data = draw(valid)
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(start + 10, len(data))))
    return data[:start] + draw(st.binary(max_size=4) | st.just(2 * data[start:end])) + data[end:]


bodies = (
    st.binary(max_size=40)
    | damaged()
    | objects.map(JSON.encode)
    | objects.map(MSGPACK.encode)
    | st.tuples(st.sampled_from([b"\x81", b"\x82", b"{", b'{"']), st.binary(max_size=20)).map(
        b"".join
    )
)


@given(bodies, st.sampled_from([*KINDS, "envelope.Unheard", ""]))
def test_anything_is_read_or_refused(data: bytes, hint: str):
    """It becomes a message of one of the types, is unknown, or is malformed. Nothing else."""
    try:
        message = read_any(KINDS, hint, data)
    except UnknownTypeError as exc:
        name, fields = exc.name, exc.fields
    except NOT_DECODABLE:
        return
    else:
        assert type(message) in TYPES
        return
    assert name not in KINDS
    assert not any(field.startswith("$") for field in fields)


@given(bodies, st.sampled_from(TYPES))
def test_anything_is_read_as_one_type_or_refused(data: bytes, python: type[Any]):
    """Where one type is expected, as of a request."""
    try:
        message = read(type_of(python), data)
    except (UnknownTypeError, *NOT_DECODABLE):
        pass
    else:
        assert type(message) is python


@given(bodies)
def test_what_a_message_says_of_itself_can_always_be_asked(data: bytes):
    """What cannot be read says nothing."""
    meta = read_meta(data)

    assert isinstance(meta, Meta)
    assert meta.time is None or isinstance(meta.time, datetime)


@both_codecs
@pytest.mark.parametrize(
    "said",
    [
        {"$id": 7},
        {"$time": "yesterday"},
        # Whose time? One without a time zone could be compared with no other.
        {"$time": "2030-01-02T03:04:05"},
        {"$source": None, "$correlation": None, "$causation": None},
        {"$timeout": "2"},
        {"$version": []},
        {"$credit": {}},
    ],
    ids=repr,
)
def test_malformed_words_of_itself_do_not_spoil_a_message(codec: Codec, said: dict[str, Any]):
    """What cannot be read counts as not said: the rest of them, and the fields, are as they are."""
    data = codec.encode({"$type": "envelope.Placed", "number": 1, "$id": "id-1", **said})

    assert read_any(KINDS, "envelope.Placed", data) == Placed(number=1)
    id = "" if "$id" in said else "id-1"
    assert read_meta(data) == Meta(type="envelope.Placed", id=id)


@both_codecs
@pytest.mark.parametrize("name", [7, None, ["envelope.Paid"]])
def test_type_that_is_no_name_counts_as_not_said(codec: Codec, name: Any):
    """Then the subject says what a message is."""
    data = codec.encode({"$type": name, "number": 1})

    assert read_any(KINDS, "envelope.Placed", data) == Placed(number=1)
    with pytest.raises(UnknownTypeError) as caught:
        read_any(KINDS, "envelope.Unheard", data)
    assert (caught.value.name, caught.value.fields) == ("envelope.Unheard", {"number": 1})
