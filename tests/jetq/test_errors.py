"""Bad input from outside: each is a specific error that says what to do."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

import jetq._errors
from ipc import (
    JetStreamDisabledError,
    LocalServer,
    LoginRefusedError,
    ServerTooOldError,
    ServerUnavailableError,
    find_server_binary,
)
from jetq import App, InvalidNameError, JetqError, TaskArgumentError
from tests.conftest import until


async def test_nobody_at_the_address():
    """Without a server, opening fails after the timeout, saying where and how to start one."""
    app = App("shop", servers="nats://127.0.0.1:1", timeout=0.5)

    with pytest.raises(ServerUnavailableError, match="no NATS server reachable") as caught:
        async with app:
            pass
    assert "nats://127.0.0.1:1" in str(caught.value)
    assert "`jetq server` starts one" in str(caught.value)
    assert not app.is_open


@pytest.mark.parametrize("user", ["ada:wrong@", "", "bob:secret@"])
async def test_wrong_credentials(user):
    """A refused login is told at once, without showing the password."""
    async with LocalServer(config='authorization { user: "ada", password: "secret" }') as server:
        app = App("shop", servers=server.url.replace("nats://", f"nats://{user}"), timeout=5)

        with pytest.raises(LoginRefusedError, match="refused the login") as caught:
            async with app:
                pass
        assert "wrong" not in str(caught.value)
        assert "secret" not in str(caught.value)
        right = App("shop", servers=server.url.replace("nats://", "nats://ada:secret@"))
        async with right:
            assert right.is_open


async def test_server_without_jetstream(tmp_path: Path):
    """A server that cannot store anything is refused, with the option that it lacks."""
    ports = tmp_path / "ports"
    ports.mkdir()
    server = subprocess.Popen(
        [find_server_binary(), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", ports],
        stderr=subprocess.DEVNULL,
    )
    try:
        (file,) = await until(lambda: list(ports.glob("*.ports")), "the server should be up")
        ports_text = await until(lambda: file.read_text().strip(), "it should say its port")
        url = json.loads(ports_text)["nats"][0]
        with pytest.raises(JetStreamDisabledError, match="start nats-server with `-js`"):
            async with App("shop", servers=url):
                pass
    finally:
        server.kill()
        server.wait()


async def test_server_that_is_too_old():
    """The error names the version found and the one that is needed."""

    async def old_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No old server is at hand, so this one only says that it is old.
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n'
        )
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(old_server, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]

        with pytest.raises(ServerTooOldError, match=r"2\.10\.0 .* 2\.14\.0 or later is needed"):
            async with App("shop", servers=f"nats://127.0.0.1:{port}", timeout=5):
                pass


async def test_failed_opening_can_be_tried_again():
    """An app that could not be opened is as good as new."""
    async with LocalServer() as server:
        app = App("shop", servers=server.url, timeout=0.3)
        server.kill()
        with pytest.raises(ServerUnavailableError):
            async with app:
                pass
        await server.start()

        async with app:
            assert app.is_open


@pytest.mark.parametrize("name", ["", "my shop", "shop.eu", "shop>", "läden"])
def test_app_names_that_subjects_forbid(name):
    """The name of an app is part of every subject."""
    with pytest.raises(InvalidNameError, match="letters, digits"):
        App(name)


async def test_wrong_argument_sends_nothing(app: App, client):
    """An error at the call: nothing is on the server afterwards."""

    @app.task(name="mail.send")
    async def send(to: str, copies: int = 1): ...

    async with app:
        await send.enqueue("ada")
        with pytest.raises(TaskArgumentError, match=r"argument 'copies' of task 'mail\.send'"):
            await send.enqueue("ada", copies="two")  # pyright: ignore[reportArgumentType]
        with pytest.raises(TaskArgumentError, match="missing a required argument: 'to'"):
            await send.enqueue()  # pyright: ignore[reportCallIssue]
        with pytest.raises(TaskArgumentError):
            await app.enqueue_many([send.call("ada"), send.call(7)])  # pyright: ignore[reportArgumentType]

        info = await client.jetstream().stream_info(app.layout.queue_stream_name("default"))
        assert info.state.messages == 1


def test_errors_have_one_base_and_are_exported():
    """Every error is in the package's names, and one `except` catches them all."""
    for name in jetq._errors.__all__:
        kind = getattr(jetq, name)

        assert issubclass(kind, JetqError)


def test_drawing_of_the_errors_shows_each():
    """The tree in the module's docstring is complete."""
    drawing = jetq._errors.__doc__ or ""

    assert all(name in drawing for name in jetq._errors.__all__)
