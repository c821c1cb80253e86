"""Bodies: two objects that are joined are one with the fields of both, in either way of writing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc._codec import CODECS, JSON, MSGPACK, Codec, codec_of, decoder, encode

BOTH = [JSON, MSGPACK]

# Drawn from a few characters: from the whole of Unicode takes seconds.
texts = st.text('ab"\\\n €$', max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
# Some have more fields than fit into the first byte of a MessagePack map.
objects = st.dictionaries(texts, values, max_size=30)


class Point(msgspec.Struct):
    x: int
    y: int


def test_codecs_are_known_by_name():
    """As they are chosen where a bus is made."""
    assert CODECS == {"json": JSON, "msgpack": MSGPACK}
    assert [codec.name for codec in BOTH] == ["json", "msgpack"]


@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
@given(fields=objects, data=st.data())
def test_joining_is_encoding_the_merged_object(codec: Codec, fields: dict[str, Any], data: Any):
    """Wherever an object is cut in two, joining the encoded halves gives it back."""
    cut = data.draw(st.integers(0, len(fields)))
    items = list(fields.items())
    first, second = dict(items[:cut]), dict(items[cut:])

    joined = codec.join(codec.encode(first), codec.encode(second))

    assert joined == codec.encode(fields)


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 0), (15, 0), (15, 1), (16, 1), (8, 8), (0, 65_535), (65_535, 0), (65_535, 1), (70_000, 9)],
)
@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
def test_objects_of_any_size_are_joined(codec: Codec, first: int, second: int):
    """A MessagePack map says its size in one of three ways; all can be joined."""
    fields = {f"n{number}": number for number in range(first)}
    more = {f"m{number}": number for number in range(second)}

    joined = codec.join(codec.encode(fields), codec.encode(more))

    assert joined == codec.encode(fields | more)


@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
@given(fields=objects)
def test_object_says_what_it_is_written_in(codec: Codec, fields: dict[str, Any]):
    """Its first byte does, so a receiver need not be told."""
    assert codec_of(codec.encode(fields)) is codec


@pytest.mark.parametrize("size", [0, 1, 15, 16, 65_535, 65_536])
def test_large_map_says_what_it_is_written_in(size: int):
    """However its size is written."""
    assert codec_of(MSGPACK.encode({str(number): None for number in range(size)})) is MSGPACK


@pytest.mark.parametrize("text", [b"{}", b' {"a": 1}', b'\n{"a": 1}', b"\t{}", b"[]", b"null", b""])
def test_json_of_other_writers_is_json(text: bytes):
    """With space around it, as people and other languages write it."""
    assert codec_of(text) is JSON


@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
def test_value_is_read_by_its_type(codec: Codec):
    """What has the type becomes it, what has not is an error."""
    data = codec.encode({"x": 1, "y": 2})

    assert codec.decoder_for(Point)(data) == Point(1, 2)
    with pytest.raises(msgspec.ValidationError, match="missing required field"):
        codec.decoder_for(Point)(codec.encode({"x": 1}))
    with pytest.raises(msgspec.DecodeError):
        codec.decoder_for(Point)(data[:-1])


@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
def test_decoder_is_made_once(codec: Codec):
    """Making one is what takes time."""
    assert codec.decoder_for(Point) is codec.decoder_for(Point)


@pytest.mark.parametrize("codec", BOTH, ids=list(CODECS))
def test_what_cannot_be_carried_is_a_type_error(codec: Codec):
    """Before anything is sent."""
    with pytest.raises(TypeError, match="unsupported"):
        codec.encode({"lock": object()})


def test_json_is_there_without_a_codec():
    """For what is always JSON: records, discovery."""
    read = decoder(Point)

    assert read(encode(Point(1, 2))) == Point(1, 2)
    with pytest.raises(msgspec.ValidationError):
        read(b'{"x": "one", "y": 2}')
