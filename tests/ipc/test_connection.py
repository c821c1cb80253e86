"""The connection: requests that end with a reason, and a life longer than the server's."""

import asyncio

import pytest

from ipc import (
    Connection,
    ConnectionLostError,
    LocalServer,
    LoginRefusedError,
    Message,
    MessageTooLargeError,
    NoResponderError,
    ReplyTimeoutError,
    ServerUnavailableError,
    Settings,
)
from tests.conftest import until


def connection_to(url: str, **options) -> Connection:
    """Return a connection that is not open yet."""
    return Connection(Settings.load(url, **options))


@pytest.fixture
async def connection(server_url):
    """A connection to the shared server."""
    connection = connection_to(server_url)
    await connection.open()
    yield connection
    await connection.close()


async def test_request_gets_its_reply(connection, namespace):
    """One question, one answer, however many are asked at once."""

    def echo(message: Message) -> None:
        answer = connection.publish(message.reply, message.data + b"!")
        answering.append(asyncio.ensure_future(answer))

    answering = []
    await connection.subscribe(f"{namespace}.echo", echo)
    questions = [str(number).encode() for number in range(100)]

    replies = await asyncio.gather(
        *(connection.request(f"{namespace}.echo", question) for question in questions)
    )

    assert [reply.data for reply in replies] == [question + b"!" for question in questions]


async def test_request_without_a_listener_fails_at_once(connection, namespace):
    """The server knows that nobody listens; there is nothing to wait for."""
    with pytest.raises(NoResponderError, match="nobody listens"):
        await connection.request(f"{namespace}.nobody", timeout=60)


async def test_request_without_an_answer_runs_out_of_time(connection, namespace):
    """Somebody listens and says nothing: the error names subject and time."""
    await connection.subscribe(f"{namespace}.silent", lambda message: None)

    with pytest.raises(ReplyTimeoutError, match=r"within 0\.05 s") as caught:
        await connection.request(f"{namespace}.silent", timeout=0.05)
    assert caught.value.subject == f"{namespace}.silent"


async def test_headers_arrive(connection, namespace):
    """Headers go with a message, those of other alphabets too."""
    arrived = asyncio.get_running_loop().create_future()
    await connection.subscribe(f"{namespace}.x", arrived.set_result)

    await connection.publish(f"{namespace}.x", b"body", headers={"Name": "Ada Ä"})

    message = await asyncio.wait_for(arrived, 5)
    assert message.data == b"body"
    assert message.headers is not None
    assert message.headers["Name"] == "Ada Ä"
    assert message.status is None


@pytest.mark.parametrize("excess", ["data", "headers"])
async def test_message_over_the_limit_is_refused(connection, namespace, excess):
    """It is refused before it is sent, because the server would hang up; all else goes on."""
    big = "x" * connection.max_payload
    data, headers = (big.encode() + b"x", None) if excess == "data" else (b"", {"Big": big})

    with pytest.raises(MessageTooLargeError, match="raise max_payload") as caught:
        await connection.publish(f"{namespace}.x", data, headers=headers)

    assert caught.value.limit_bytes == connection.max_payload
    with pytest.raises(NoResponderError):
        await connection.request(f"{namespace}.nobody")


async def test_largest_message_passes(connection, namespace):
    """The limit itself is allowed."""
    arrived = asyncio.get_running_loop().create_future()
    await connection.subscribe(f"{namespace}.x", arrived.set_result)

    await connection.publish(f"{namespace}.x", b"x" * connection.max_payload)

    assert len((await asyncio.wait_for(arrived, 5)).data) == connection.max_payload


async def test_queue_group_shares_messages(connection, namespace):
    """Each message goes to one member of a group."""
    seen = []
    for member in ("one", "two"):
        await connection.subscribe(
            f"{namespace}.x", lambda message, member=member: seen.append(member), queue="group"
        )

    for _ in range(50):
        await connection.publish(f"{namespace}.x", b"")

    await until(lambda: len(seen) == 50, "each should arrive once")
    assert set(seen) == {"one", "two"}


async def test_drained_subscription_handles_what_was_sent(connection, namespace):
    """After `drain` nothing new comes, and nothing that came before is lost."""
    seen = []
    subscription = await connection.subscribe(f"{namespace}.x", seen.append)
    for _ in range(100):
        await connection.publish(f"{namespace}.x", b"")

    await subscription.drain()

    await until(lambda: len(seen) == 100, "what was sent before should arrive")


async def test_error_in_a_receiver_is_not_the_end(connection, namespace):
    """A message that its receiver cannot handle does not stop those behind it."""
    seen = []

    def receive(message: Message) -> None:
        if message.data == b"bad":
            raise ValueError("cannot be handled")
        seen.append(message.data)

    await connection.subscribe(f"{namespace}.x", receive)
    for data in (b"1", b"bad", b"2"):
        await connection.publish(f"{namespace}.x", data)

    await until(lambda: seen == [b"1", b"2"], "the others should be handled")


# -- a server that goes away --------------------------------------------------------------


async def test_open_request_fails_when_the_connection_is_lost():
    """Nobody waits out a time-out for an answer that cannot come."""
    async with LocalServer() as server:
        connection = connection_to(server.url)
        await connection.open()
        await connection.subscribe("silent", lambda message: None)
        request = asyncio.create_task(connection.request("silent", timeout=60))
        await connection.subscribe("other", lambda message: None)

        server.kill()

        with pytest.raises(ConnectionLostError, match="lost while waiting"):
            await asyncio.wait_for(request, 10)
        await connection.close()


async def test_subscriptions_outlive_the_server():
    """After a restart messages arrive as before, and listeners were told."""
    async with LocalServer() as server:
        connection = connection_to(server.url)
        await connection.open()
        seen, reconnected = [], asyncio.Event()

        async def note() -> None:
            reconnected.set()

        connection.on_reconnect(note)
        await connection.subscribe("x", lambda message: seen.append(message.data))
        server.kill()
        await until(lambda: not connection.is_connected, "the loss should be noticed")
        await server.start()
        await asyncio.wait_for(reconnected.wait(), 10)

        await connection.publish("x", b"again")

        await until(lambda: seen == [b"again"], "the message should arrive")
        await connection.close()


async def test_request_waits_for_a_lost_connection():
    """A request made while the server is away is sent when it is back, if that is in time."""
    async with LocalServer() as server:
        connection = connection_to(server.url)
        await connection.open()
        server.kill()
        await until(lambda: not connection.is_connected, "the loss should be noticed")

        with pytest.raises(ServerUnavailableError, match="no NATS server reachable"):
            await connection.request("nobody", timeout=0.1)
        request = asyncio.create_task(connection.request("nobody", timeout=20))
        await server.start()

        with pytest.raises(NoResponderError):
            await request
        await connection.close()


async def test_closing_ends_what_waits(server_url, namespace):
    """A request that is still open when its connection is closed does not hang."""
    connection = connection_to(server_url)
    await connection.open()
    await connection.subscribe(f"{namespace}.silent", lambda message: None)
    request = asyncio.create_task(connection.request(f"{namespace}.silent", timeout=60))
    await asyncio.sleep(0)

    await connection.close()

    with pytest.raises(ConnectionLostError):
        await asyncio.wait_for(request, 5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), ("not credentials\n", "lacks a user JWT")],
)
async def test_credentials_that_are_none_are_refused_at_once(server_url, tmp_path, content, reason):
    """A missing or broken credentials file is an error that names it, not a time-out."""
    path = tmp_path / "user.creds"
    if content is not None:
        path.write_text(content)

    with pytest.raises(LoginRefusedError, match=reason) as caught:
        await Connection(Settings.load(server_url, credentials=path)).open()

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("subject", "headers"),
    [("", {}), ("a b", {}), ("a\r\nPUB b 0", {}), ("a", {"X": "1\r\nY: 2"}), ("a", {"X\n": ""})],
)
async def test_nothing_is_smuggled_into_a_message(connection, subject, headers):
    """What would be read as another command or header is refused; the connection goes on."""
    with pytest.raises(ValueError, match=r"not a subject|one line each"):
        await connection.publish(subject, b"", headers=headers or None)

    assert connection.is_connected
