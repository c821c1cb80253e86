"""Subjects: which event lies where, and back from a subject to what it names."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import InvalidNameError
from ipc._subjects import PARTS, Subjects, part_of_key

# Drawn from a few characters: from the whole of Unicode takes a second.
token = st.text("aZ_", min_size=1, max_size=3)
words = st.builds(str.__add__, token, st.text("aZ_09", max_size=3))
names = st.lists(words, min_size=2, max_size=4).map(".".join)
parts = st.just("-") | st.integers(0, PARTS - 1).map(str)
prefixes = st.text("aZ09_-=", min_size=1, max_size=8)
durables = st.text("aZ09_-=", min_size=1, max_size=8)

keys = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("aÄ€1 "),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def test_subjects_are_laid_out_as_the_protocol_says():
    """What other languages write by hand."""
    subjects = Subjects()

    assert subjects.event("shop.Placed") == "ipc.event.-.shop.Placed"
    assert subjects.event("shop.Placed", "7") == "ipc.event.7.shop.Placed"
    assert subjects.events("shop.Placed") == "ipc.event.*.shop.Placed"
    assert subjects.again("mailer", "shop.Placed") == "ipc.again.mailer.*.shop.Placed"
    assert subjects.again("mailer", "shop.Placed", "7") == "ipc.again.mailer.7.shop.Placed"
    assert subjects.request("shop.Fetch") == "ipc.request.shop.Fetch"
    assert subjects.gather("shop.Fetch") == "ipc.gather.shop.Fetch"
    assert subjects.stream("shop") == "ipc-shop"
    assert subjects.stored("shop") == ("ipc.event.*.shop.>", "ipc.again.*.*.shop.>")
    assert subjects.dead_stream("shop") == "ipc-shop-dead"
    assert subjects.dead("shop", "mailer", "1-2") == "ipc.dead.shop.mailer.1-2"
    assert subjects.bucket_stream == "KV_ipc"
    assert subjects.type_key("shop.Placed") == "$KV.ipc.type.shop.Placed"
    assert subjects.instance_key("shop", "id") == "$KV.ipc.instance.shop.id"
    assert subjects.tries_key("shop", "mailer", "1-2") == "$KV.ipc.tries.shop.mailer.1-2"


@given(prefixes, names, parts)
def test_subject_of_an_event_names_its_type(prefix: str, name: str, part: str):
    """Whatever the prefix, with and without the part of a key."""
    subjects = Subjects(prefix)
    subject = subjects.event(name, part)

    assert subjects.event_name(subject) == name
    assert subjects.part_of(subject) == part


@given(prefixes, durables, names, parts)
def test_subject_of_an_event_again_names_its_type(prefix: str, durable: str, name: str, part: str):
    """Behind the durable that gets it once more."""
    subjects = Subjects(prefix)
    subject = subjects.again(durable, name, part)

    assert subjects.event_name(subject) == name
    assert subjects.part_of(subject) == part


@given(names)
def test_subject_to_listen_on_names_the_type(name: str):
    """Also with a wildcard for the part."""
    subjects = Subjects()

    assert subjects.event_name(subjects.events(name)) == name


@given(names, names, parts)
def test_events_of_a_type_are_heard_and_no_others(name: str, other: str, part: str):
    """Also of a type whose name goes on where another one ends."""
    subjects = Subjects()

    assert matches(subjects.event(name, part), subjects.events(name))
    assert matches(subjects.event(other, part), subjects.events(name)) == (name == other)
    assert not matches(subjects.event(f"{name}.{other}", part), subjects.events(name))


@given(st.text("a.²٣1*ä") | names.map("ipc.event.{}".format))
def test_any_subject_can_be_asked(subject: str):
    """What others publish on need not be laid out as ours is; digits are 0 to 9."""
    subjects = Subjects()

    part = subjects.part_of(subject)

    assert part == "-" or set(part) <= set("0123456789")
    assert isinstance(subjects.event_name(subject), str)


@pytest.mark.parametrize("prefix", ["", "a.b", "*", ">", "a b", "ä"])
def test_prefix_is_one_token(prefix: str):
    """Another one is another world, so nothing of it may be a wildcard."""
    with pytest.raises(InvalidNameError, match="prefix"):
        Subjects(prefix)


@given(keys)
def test_part_of_a_key_is_its_checksum(key: Any):
    """CRC-32 of its JSON, modulo 32: any language can say where an event goes."""
    text = json.dumps(key, separators=(",", ":"), ensure_ascii=False)

    assert part_of_key(key) == str(zlib.crc32(text.encode()) % 32)


@pytest.mark.parametrize(
    ("key", "part"),
    [("", 27), ("account-1", 17), ("account-2", 18), (0, 1), (7, 2), (-1, 10), (None, 15)],
)
def test_part_of_a_key_never_changes(key: Any, part: int):
    """Events that are stored lie there; another part would break the order of the key."""
    assert part_of_key(key) == str(part)


def matches(subject: str, pattern: str) -> bool:
    """Return whether NATS delivers what is published on `subject` for `pattern`, without `>`."""
    tokens, wanted = subject.split("."), pattern.split(".")
    return len(tokens) == len(wanted) and all(
        expected in ("*", found) for found, expected in zip(tokens, wanted, strict=True)
    )
