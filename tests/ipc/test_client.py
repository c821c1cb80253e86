"""The client: how what the server sends is read."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from ipc._client import Client, Listener, Message, header_block

subjects = st.text("aZ0.$*>-é\N{SNOWMAN}", min_size=1)
bodies = st.binary(max_size=50)
blocks = st.dictionaries(
    st.sampled_from(["A", "B-c"]), st.sampled_from(["x", "y: z"]), min_size=1
).map(header_block)


@st.composite
def sent_messages(draw) -> Message:
    """Return a message as anybody may send it, with or without reply subject and headers."""
    reply = draw(st.just("") | subjects)
    return Message(draw(subjects), draw(bodies), reply, draw(st.just(b"") | blocks))


def on_the_wire(message: Message, sid: int) -> bytes:
    """Return a message as the server sends it.

    Source: NATS client protocol, `MSG` and `HMSG`.
    """
    names = " ".join(filter(None, (message.subject, str(sid), message.reply)))
    block = message.header_block
    if not block:
        head = f"MSG {names} {len(message.data)}\r\n".encode()
    else:
        head = f"HMSG {names} {len(block)} {len(block) + len(message.data)}\r\n".encode() + block
    return head + message.data + b"\r\n"


def read(chunks: list[bytes]) -> list[Message]:
    """Return what a client hands over that reads these chunks one after the other."""

    async def parse() -> list[Message]:
        client, received = Client(), []
        client._subs[7] = Listener(client, 7, "", "", received.append)
        for chunk in chunks:
            await client._ps.parse(chunk)
        return received

    return asyncio.run(parse())


@given(st.lists(sent_messages(), max_size=5), st.lists(st.integers(0, 600), max_size=8))
def test_messages_are_read_wherever_the_network_cuts_them(messages, cuts):
    """Each message arrives once and whole, in order, whatever else the server says between."""
    wire = b"+OK\r\n".join(on_the_wire(message, 7) for message in messages)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]

    received = read([wire[start:end] for start, end in itertools.pairwise(edges)])

    assert received == messages


def test_message_for_nobody_is_skipped():
    """What still comes for a subscription that has ended disturbs nothing."""
    gone, there = Message("a", b"1"), Message("b", b"2")

    received = read([on_the_wire(gone, 6) + on_the_wire(there, 7)])

    assert received == [there]


def test_subject_that_is_no_text_is_read():
    """The server checks no encoding, so anybody may store such a message."""
    (received,) = read([b"MSG \xff.a 7 \xff.b 2\r\nhi\r\n"])

    assert received == Message("\ufffd.a", b"hi", "\ufffd.b")


@pytest.mark.parametrize("line", [b"MSG a 7 x\r\n", b"MSG 5\r\n", b"WHAT\r\n"])
def test_what_is_not_nats_is_refused(line):
    """The connection is then opened anew."""
    with pytest.raises(ProtocolError):
        read([line])
