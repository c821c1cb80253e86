"""JetStream in a few requests: declare, publish, look up, remove."""

import pytest

from ipc import (
    Connection,
    ConsumerConfig,
    JetStream,
    JetStreamError,
    NoResponderError,
    Settings,
    StreamConfig,
    SubjectTakenError,
    TemporarilyUnavailableError,
)


@pytest.fixture
async def jetstream(server_url):
    """JetStream on the shared server."""
    connection = Connection(Settings.load(server_url))
    await connection.open()
    yield JetStream(connection)
    await connection.close()


@pytest.fixture
async def stream(jetstream, namespace):
    """A stream in memory for everything below the namespace."""
    config = StreamConfig(
        name=namespace,
        subjects=(f"{namespace}.>",),
        storage="memory",
        allow_direct=True,
        allow_msg_ttl=True,
    )
    await jetstream.create_stream(config)
    return namespace


async def test_server_with_jetstream_passes_the_check(jetstream):
    """Nothing happens where JetStream answers."""
    await jetstream.check()


async def test_stream_is_found_as_it_was_created(jetstream, stream):
    """What the server has can be compared with what was wanted."""
    info = await jetstream.find_stream(stream)

    assert info.config["storage"] == "memory"
    assert info.config["subjects"] == [f"{stream}.>"]
    assert info.state.messages == 0
    assert [one.config["name"] for one in await jetstream.list_streams(f"{stream}.a")] == [stream]


async def test_creating_the_same_again_changes_nothing(jetstream, stream):
    """A stream can be declared by everybody who needs it; another under its name is refused."""
    same = StreamConfig(
        name=stream,
        subjects=(f"{stream}.>",),
        storage="memory",
        allow_direct=True,
        allow_msg_ttl=True,
    )
    await jetstream.create_stream(same)

    with pytest.raises(JetStreamError, match="already in use"):
        await jetstream.create_stream(StreamConfig(name=stream, subjects=(f"{stream}.other",)))


async def test_what_is_missing_is_none(jetstream, stream):
    """Streams, consumers and messages that are not there are no error."""
    assert await jetstream.find_stream(f"{stream}-other") is None
    assert await jetstream.find_consumer(stream, "nobody") is None
    assert await jetstream.find_consumer(f"{stream}-other", "nobody") is None
    assert await jetstream.find_last(stream, f"{stream}.a") is None
    assert await jetstream.find_last(f"{stream}-other", f"{stream}.a") is None
    assert await jetstream.peek_last(stream, f"{stream}.a") is None
    assert not await jetstream.delete_message(stream, 99)


async def test_published_message_is_found(jetstream, stream):
    """The newest on a subject, wildcards included, with its headers and its time."""
    first = await jetstream.publish(f"{stream}.a.1", b"one", headers={"Name": "x: y"})
    second = await jetstream.publish(f"{stream}.a.2", b"two")

    found = await jetstream.find_last(stream, f"{stream}.*.1")
    assert (found.subject, found.seq, found.data) == (f"{stream}.a.1", first.seq, b"one")
    assert found.headers["Name"] == "x: y"
    assert found.stored_at.tzinfo is not None
    assert (await jetstream.find_last(stream, f"{stream}.a.*")).seq == second.seq
    peeked = await jetstream.peek_last(stream, f"{stream}.a.1")
    assert (peeked.seq, peeked.data) == (first.seq, b"one")


async def test_publish_without_a_stream_says_so(jetstream, namespace):
    """A subject that no stream stores is an error at once."""
    with pytest.raises(NoResponderError):
        await jetstream.publish(f"{namespace}-nowhere.x", b"")


async def test_expectation_that_does_not_hold_is_refused(jetstream, stream):
    """ "Nothing there yet" is checked by the server, over a filter too."""
    expect = {
        "Nats-Expected-Last-Subject-Sequence": "0",
        "Nats-Expected-Last-Subject-Sequence-Subject": f"{stream}.*.1",
    }
    await jetstream.publish(f"{stream}.a.1", b"", headers=expect)

    with pytest.raises(SubjectTakenError):
        await jetstream.publish(f"{stream}.b.1", b"", headers=expect)


async def test_repeated_message_id_is_stored_once(jetstream, stream):
    """The server says that it had it before."""
    headers = {"Nats-Msg-Id": "1"}
    first = await jetstream.publish(f"{stream}.a", b"", headers=headers)
    second = await jetstream.publish(f"{stream}.a", b"", headers=headers)

    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.seq == second.seq


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
async def test_scan_yields_everything_once_in_order(jetstream, stream, count):
    """Page by page, from the oldest; other subjects are passed over."""
    for number in range(count):
        await jetstream.publish(f"{stream}.a.{number}", str(number).encode())
        await jetstream.publish(f"{stream}.other", b"")

    found = [one.data async for one in jetstream.scan(stream, f"{stream}.a.*", page=8)]

    assert found == [str(number).encode() for number in range(count)]


async def test_purge_removes_by_filter(jetstream, stream):
    """What matches is gone, the rest stays; it says how many there were."""
    for subject in ("a.1", "a.2", "b.1"):
        await jetstream.publish(f"{stream}.{subject}", b"")

    assert await jetstream.purge(stream, f"{stream}.a.*") == 2
    assert await jetstream.purge(stream, f"{stream}.a.*") == 0
    assert (await jetstream.find_stream(stream)).state.messages == 1


async def test_consumer_is_found_as_it_was_created(jetstream, stream):
    """A durable pull consumer with explicit acknowledgement."""
    config = ConsumerConfig(
        durable_name="normal", filter_subject=f"{stream}.a.*", ack_wait=5_000_000_000
    )
    await jetstream.create_consumer(stream, config)
    await jetstream.create_consumer(stream, config)

    info = await jetstream.find_consumer(stream, "normal")
    assert info.config["ack_policy"] == "explicit"
    assert info.config["ack_wait"] == 5_000_000_000
    assert info.num_pending == 0


async def test_refusal_carries_the_servers_reason(jetstream, namespace):
    """What the server does not allow is an error with its number and its words."""
    with pytest.raises(JetStreamError) as caught:
        await jetstream.create_stream(StreamConfig(name=namespace, subjects=("a..b",)))

    assert caught.value.err_code > 0
    assert caught.value.description
    assert str(caught.value.err_code) in str(caught.value)


async def test_full_stream_is_not_a_taken_subject(jetstream, namespace):
    """Both are "store failed"; taking one for the other would pass over what was not stored."""
    config = StreamConfig(
        name=namespace,
        subjects=(f"{namespace}.>",),
        storage="memory",
        max_msgs_per_subject=1,
        discard="new",
        discard_new_per_subject=True,
    )
    created = await jetstream.create_stream(config)
    await jetstream.update_stream({**created.config, "max_msgs": 1})
    await jetstream.publish(f"{namespace}.a", b"")

    with pytest.raises(TemporarilyUnavailableError, match="maximum messages exceeded"):
        await jetstream.publish(f"{namespace}.b", b"")
    with pytest.raises(SubjectTakenError):
        await jetstream.publish(f"{namespace}.a", b"")
