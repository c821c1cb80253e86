"""Many messages into one stream: fast, or all or none."""

from collections.abc import Sequence

import pytest

from ipc import (
    MAX_ATOMIC_BATCH,
    BatchBrokenError,
    BatchWriter,
    Connection,
    JetStream,
    JetStreamError,
    LocalServer,
    NoResponderError,
    Outgoing,
    Settings,
    StreamConfig,
    SubjectTakenError,
    ingest,
    publish_atomically,
)
from tests.conftest import until


@pytest.fixture
async def jetstream(server_url):
    """JetStream on the shared server."""
    connection = Connection(Settings.load(server_url))
    await connection.open()
    yield JetStream(connection)
    await connection.close()


def config(name: str, **options) -> StreamConfig:
    """Return a stream in memory for everything below its name."""
    return StreamConfig(name=name, subjects=(f"{name}.>",), storage="memory", **options)


@pytest.fixture
async def stream(jetstream, namespace):
    """A stream that takes batches of both kinds."""
    await jetstream.create_stream(config(namespace, allow_atomic=True, allow_batched=True))
    return namespace


def messages(stream: str, count: int) -> list[Outgoing]:
    """Return numbered messages for one stream."""
    return [Outgoing(f"{stream}.x", str(number).encode()) for number in range(count)]


async def number_of_messages(jetstream: JetStream, stream: str) -> int:
    """Return how many messages a stream holds."""
    info = await jetstream.find_stream(stream)
    assert info is not None
    return info.state.messages


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 5000])
async def test_ingested_messages_are_stored_in_order(jetstream, stream, count):
    """Whatever the number, each is there once when `ingest` returns, in order."""
    await ingest(jetstream.connection, messages(stream, count), count)

    assert await number_of_messages(jetstream, stream) == count
    if count:
        last = await jetstream.find_last(stream, f"{stream}.x")
        assert last is not None
        assert (last.seq, last.data) == (count, str(count - 1).encode())


async def test_ingest_takes_headers(jetstream, stream):
    """Headers are stored with their messages."""
    await ingest(jetstream.connection, [Outgoing(f"{stream}.x", b"", {"Name": "x"})], 1)

    stored = await jetstream.find_last(stream, f"{stream}.x")
    assert stored is not None
    assert stored.headers is not None
    assert stored.headers["Name"] == "x"


async def test_ingest_without_a_stream_says_so(jetstream, namespace):
    """A subject that no stream stores is an error at once."""
    with pytest.raises(NoResponderError):
        await ingest(jetstream.connection, messages(f"{namespace}-nowhere", 3), 3)


async def test_stream_that_takes_no_batches_is_an_error(jetstream, namespace):
    """The server's refusal is told, for both kinds."""
    await jetstream.create_stream(config(namespace))

    with pytest.raises(JetStreamError):
        await ingest(jetstream.connection, messages(namespace, 3), 3)
    with pytest.raises(JetStreamError):
        await publish_atomically(jetstream, messages(namespace, 3))
    assert await number_of_messages(jetstream, namespace) == 0


async def test_broken_batch_says_how_many_are_stored():
    """With a server that falls silent, what was acknowledged is certain, the rest is not."""
    async with LocalServer() as server:
        connection = Connection(Settings.load(server.url))
        await connection.open()
        jetstream = JetStream(connection)
        await jetstream.create_stream(config("s", allow_batched=True))
        server.suspend()

        with pytest.raises(BatchBrokenError, match="broke off after 0 ack") as caught:
            await ingest(connection, messages("s", 5000), 5000, timeout=0.3)

        assert caught.value.acknowledged == 0
        server.resume()
        await connection.close()


@pytest.mark.parametrize("count", [1, 2, MAX_ATOMIC_BATCH])
async def test_atomic_batch_is_stored_whole(jetstream, stream, count):
    """All messages are there when it returns."""
    await publish_atomically(jetstream, messages(stream, count))

    assert await number_of_messages(jetstream, stream) == count


async def test_atomic_batch_with_a_broken_expectation_stores_nothing(jetstream, stream):
    """One that may not be stored, and none is."""
    await jetstream.publish(f"{stream}.taken", b"")
    batch = messages(stream, 10)
    batch[5] = Outgoing(f"{stream}.taken", b"", {"Nats-Expected-Last-Subject-Sequence": "0"})

    with pytest.raises(SubjectTakenError):
        await publish_atomically(jetstream, batch)
    assert await number_of_messages(jetstream, stream) == 1


@pytest.mark.parametrize("count", [0, MAX_ATOMIC_BATCH + 1])
async def test_number_of_an_atomic_batch_is_limited(jetstream, stream, count):
    """The server's limit is checked before anything is sent."""
    with pytest.raises(ValueError, match="1 to 1000"):
        await publish_atomically(jetstream, messages(stream, count))


async def test_atomic_batch_with_a_gap_is_unconfirmed(jetstream, stream, monkeypatch):
    """A message lost on the way is no refusal: nothing is stored, and it can be sent again."""
    publish, lost = jetstream.connection.publish, f"{stream}.1"

    async def publish_most(subject, *args, **options):
        if subject != lost:
            await publish(subject, *args, **options)

    monkeypatch.setattr(jetstream.connection, "publish", publish_most)
    messages = [Outgoing(f"{stream}.{number}", b"") for number in range(3)]

    with pytest.raises(BatchBrokenError, match="incomplete"):
        await publish_atomically(jetstream, messages)
    assert await jetstream.find_last(stream, f"{stream}.>") is None


class Followed:
    """A batch writer, and what became of the items it was given."""

    def __init__(self, connection: Connection, timeout: float = 5.0) -> None:
        self.stored, self.open = [], []
        self.writer = BatchWriter[int](
            connection, on_stored=self.stored.append, on_open=self.open.append, timeout=timeout
        )

    async def add(self, messages: Sequence[Outgoing]) -> None:
        """Add messages, numbered from 0, and wait until it is known what became of each."""
        for number, message in enumerate(messages):
            self.writer.add(message, number)
        await until(
            lambda: len(self.stored) + len(self.open) == len(messages), "every item is handed back"
        )


@pytest.fixture
async def followed(jetstream):
    """A writer on the shared server."""
    followed = Followed(jetstream.connection)
    await followed.writer.open()
    yield followed
    await followed.writer.close()


@pytest.mark.parametrize("count", [1, 2, 600, 5000])
async def test_written_messages_are_stored_in_order(jetstream, stream, followed, count):
    """Each is there once when its item is handed back, in order."""
    await followed.add(messages(stream, count))

    assert followed.stored == list(range(count))
    assert await number_of_messages(jetstream, stream) == count
    last = await jetstream.find_last(stream, f"{stream}.x")
    assert last is not None
    assert last.data == str(count - 1).encode()


@pytest.mark.parametrize("refused", [0, 4, 9])
async def test_refused_message_leaves_itself_and_those_behind_it_open(
    jetstream, namespace, followed, refused
):
    """Nothing is called stored that is not, wherever in the batch the server says no."""
    options = {"discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 1}
    await jetstream.create_stream(config(namespace, allow_batched=True, **options))
    await jetstream.publish(f"{namespace}.{refused}", b"first")

    await followed.add([Outgoing(f"{namespace}.{number}", b"second") for number in range(10)])

    assert followed.stored == list(range(refused))
    assert followed.open == list(range(refused, 10))
    for number in followed.stored:
        stored = await jetstream.find_last(namespace, f"{namespace}.{number}")
        assert stored is not None
        assert stored.data == b"second"


@pytest.mark.parametrize("count", [1, 10])
async def test_messages_that_no_stream_stores_stay_open(namespace, followed, count):
    """Without a stream there is nobody to say that they are stored."""
    await followed.add(messages(f"{namespace}-nowhere", count))

    assert followed.open == list(range(count))


async def test_writer_goes_on_after_a_refused_batch(jetstream, stream, followed):
    """What comes later is stored, whatever became of what came before."""
    await followed.add(messages(f"{stream}-nowhere", 3))
    followed.open.clear()

    await followed.add(messages(stream, 3))

    assert followed.stored == [0, 1, 2]


async def test_silent_server_leaves_messages_open():
    """When the time is up, or the writer is closed, nothing is called stored."""
    async with LocalServer() as server:
        connection = Connection(Settings.load(server.url))
        await connection.open()
        await JetStream(connection).create_stream(config("s", allow_batched=True))
        followed = Followed(connection, timeout=0.2)
        await followed.writer.open()
        server.suspend()

        await followed.add(messages("s", 3))
        followed.writer.add(Outgoing("s.x", b""), 3)
        left = await followed.writer.close()

        assert followed.open == [0, 1, 2]
        assert left == [3]
        server.resume()
        await connection.close()
