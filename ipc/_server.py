"""A nats-server of one's own on this machine, alone or as a cluster.

Development, tests and the demo run a real server. It listens on loopback only,
keeps everything it writes in one directory, and does not outlive the process
that started it, however that process ends. A deployment runs its servers by
other means: see `deploy/`.

What is here never speaks to a server as a client does. "Ready" is read from the
`INFO` line that a server sends to whoever connects.
"""

from __future__ import annotations

import ctypes
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from ._errors import ServerBinaryMissingError, ServerStartError

HOST = "127.0.0.1"

# Below the ports that Linux and macOS give to outgoing connections: while a
# killed server is down, none of those can take the port it will come back to.
PORTS = range(20_000, 32_000)

# A server is up within some 20 ms of its start.
POLL_INTERVAL = 0.01

# A server that is asked to stop is gone within milliseconds, unless it has much
# to write; after this long it is killed.
STOP_TIMEOUT = 10.0

# Real INFO lines have less than 1 kB, plus the addresses of a cluster's servers.
MAX_INFO_BYTES = 64 * 1024

MAX_LOG_LINES = 20


def find_server_binary() -> Path:
    """Return the `nats-server` program to run.

    That is what the environment variable `NATS_SERVER` names, if it is set;
    else the one that jetq's extra `server` put beside this Python; else
    the first on `PATH`.

    Raises:
        ServerBinaryMissingError: There is none, or `NATS_SERVER` names no program.
    """
    if chosen := os.environ.get("NATS_SERVER"):
        searched = f"NATS_SERVER={chosen}"
        found = shutil.which(chosen)
    else:
        beside_python = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
        searched = f"{', '.join(dict.fromkeys(beside_python))} and PATH"
        found = shutil.which("nats-server", path=os.pathsep.join(beside_python))
        found = found or shutil.which("nats-server")
    if found is None:
        raise ServerBinaryMissingError(searched)
    return Path(found)


class LocalServer:
    """A nats-server with JetStream on a loopback port, as a child process.

        async with LocalServer() as server:
            connection = await connect(server.url)

    The port and the data stay the same over `kill`, `start` and `restart`, so
    that clients find the server, and what it stored, again.

    The server belongs to the thread that started it and on Linux is killed when
    that thread ends. It needs no event loop in between: one loop may start it and
    another stop it.

    Args:
        data_dir: Where configuration, log and streams are kept. By default a new
            temporary directory, which `stop` removes.
        port: The port for clients. By default a free one.
        name: The server's own name, by default a random one. Different servers
            need different names.
        config: More of the server's configuration, in its own syntax. A setting
            given here replaces ours of the same name.
        sync_interval: How long a stored message may wait for its flush to disk,
            or "always". A power loss, not a crash, costs what was not flushed.
        startup_timeout: Seconds until a server that does not answer is given up.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        name: str | None = None,
        config: str = "",
        sync_interval: str = "2m",
        startup_timeout: float = 10,
    ) -> None:
        token = secrets.token_hex(4)
        self.name = name or f"local-{token}"
        self._data_dir_is_temporary = data_dir is None
        self._data_dir = data_dir or Path(tempfile.gettempdir()) / f"nats-server-{token}"
        # Until the first start succeeds, a port of our own choice may be changed.
        self._port_may_change = port is None
        self._port = port or _free_ports(1)[0]
        self._config = config
        self._sync_interval = sync_interval
        self._startup_timeout = startup_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """The address for clients, with the port; settled once `start` returned."""
        return f"nats://{HOST}:{self._port}"

    @property
    def data_dir(self) -> Path:
        """The directory of configuration, log and streams; made by `start`."""
        return self._data_dir

    @property
    def log_path(self) -> Path:
        """The file with what the server wrote, over all its starts."""
        return self._data_dir / "server.log"

    @property
    def running(self) -> bool:
        """Whether the process exists; a suspended one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id, or None while the server does not run."""
        return self._process.pid if self._process and self.running else None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and return when it answers with JetStream on.

        Does nothing if it runs already. Cancelling kills it again.

        Raises:
            ServerBinaryMissingError: There is no `nats-server` on this machine.
            ServerStartError: It exited, or did not answer in time; carries the
                last lines of its log.
        """
        if self.running:
            return
        try:
            while not await self._comes_up():
                error = self._start_error()
                self.kill()
                if not (self._port_may_change and "address already in use" in error.log):
                    raise error
                # Someone else took the port after we had found it free.
                self._port = _free_ports(1)[0]
        except BaseException:
            self.kill()
            raise
        self._port_may_change = False

    async def stop(self) -> None:
        """Stop the server and remove its data if the directory was a temporary one.

        Cancelling does not cut it short: it ends within seconds by itself.
        """
        with anyio.CancelScope(shield=True):
            await self._end_process()
            if self._data_dir_is_temporary:
                await anyio.to_thread.run_sync(_remove_tree, self._data_dir)

    async def restart(self) -> None:
        """Stop the server and start it again, on the same port with the same data."""
        await self._end_process()
        await self.start()

    def kill(self) -> None:
        """End the process at once, as a crash would; its data stays for `start`."""
        if self._process is not None:
            self._process.kill()
            # Returns within milliseconds: a killed process cannot delay its end.
            self._process.wait()

    def suspend(self) -> None:
        """Freeze the process: connections stay open and nothing is answered."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGSTOP)
            # The signal returns before all threads of the server have stopped.
            # WNOWAIT: should it have ended instead, that is left for `running`.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a suspended process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def _end_process(self) -> None:
        self._signal(signal.SIGTERM)
        # A suspended process does not see the SIGTERM before it goes on.
        self._signal(signal.SIGCONT)
        with anyio.move_on_after(STOP_TIMEOUT, shield=True):
            while self.running:
                await anyio.sleep(POLL_INTERVAL)
        self.kill()

    async def _comes_up(self) -> bool:
        """Launch the server; return whether it answered before it ended or time was up."""
        self._launch()
        with anyio.move_on_after(self._startup_timeout):
            while self.running:
                info = await _read_info(self._port)
                # By its name, as the port may have gone to another server.
                if info and info.server_name == self.name and info.jetstream:
                    return True
                await anyio.sleep(POLL_INTERVAL)
        return False

    def _launch(self) -> None:
        binary = find_server_binary()
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        config_path = self._data_dir / "nats.conf"
        config_path.write_text(self._full_config(), encoding="utf-8")
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            # Not `anyio.open_process`: its process ends with the event loop. Not
            # in a worker thread: the server would be killed when that one ends.
            self._process = subprocess.Popen(
                [binary, "--config", config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is for us; we stop the server afterwards.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    def _full_config(self) -> str:
        # The server lets the last of several settings with one name win.
        return f"""\
server_name: "{self.name}"
host: "{HOST}"
port: {self._port}
max_payload: 1MB
jetstream {{
    store_dir: "{self._data_dir}"
    sync_interval: "{self._sync_interval}"
}}
{self._config}
"""

    def _start_error(self) -> ServerStartError:
        if self._process is not None and not self.running:
            reason = f"it exited with status {self._process.returncode}"
        else:
            reason = f"it did not answer within {self._startup_timeout:g} s"
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return ServerStartError(self.name, reason, "\n".join(lines[-MAX_LOG_LINES:]))


class LocalCluster:
    """Several local servers that form one JetStream cluster.

        async with LocalCluster() as cluster:
            connection = await connect(cluster.urls)
            cluster.nodes[0].kill()

    Args:
        size: How many servers. With three, one may be lost.
        data_dir: Each server keeps its data in a directory below this one. By
            default in a temporary directory of its own.
        config: More configuration for every server.
        sync_interval: As for `LocalServer`.
        startup_timeout: Seconds for a server to answer, and again for all of
            them to agree on a leader.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        data_dir: Path | None = None,
        config: str = "",
        sync_interval: str = "2m",
        startup_timeout: float = 30,
    ) -> None:
        # All ports are chosen together, because a server must know the routes to
        # the others before any of them runs.
        ports = _free_ports(3 * size)
        client_ports, route_ports, self._monitor_ports = (ports[i::3] for i in range(3))
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in route_ports)
        self._startup_timeout = startup_timeout
        self.nodes: list[LocalServer] = []
        for number, (client, route, monitor) in enumerate(
            zip(client_ports, route_ports, self._monitor_ports, strict=True), start=1
        ):
            name = f"node{number}"
            membership = f"""\
http: "{HOST}:{monitor}"
cluster {{
    name: "local"
    listen: "{HOST}:{route}"
    routes: [{routes}]
}}
"""
            node = LocalServer(
                data_dir=data_dir and data_dir / name,
                port=client,
                name=name,
                config=membership + config,
                sync_interval=sync_interval,
                startup_timeout=startup_timeout,
            )
            self.nodes.append(node)

    @property
    def urls(self) -> list[str]:
        """The address for clients of every server, of those that are down too."""
        return [node.url for node in self.nodes]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every server that is down and wait until the cluster is ready.

        Raises:
            ServerStartError: A server did not come up, or they did not form a
                cluster in time.
        """
        # One after the other: each answers before it has found the others.
        for node in self.nodes:
            await node.start()
        await self.wait_until_ready()

    async def stop(self) -> None:
        """Stop all servers; removes their data if it was in temporary directories."""
        async with anyio.create_task_group() as stopping:
            for node in self.nodes:
                stopping.start_soon(node.stop)

    async def wait_until_ready(self) -> None:
        """Return when all running servers follow one leader and are up to date.

        From then on streams can be created with a replica on each of them. A stream
        that lost its leader may take seconds more to elect another.

        Raises:
            ServerStartError: They did not agree within the startup timeout.
        """
        with anyio.move_on_after(self._startup_timeout):
            while not await self._agrees():
                await anyio.sleep(POLL_INTERVAL)
            return
        reason = f"no leader that all nodes follow within {self._startup_timeout:g} s"
        names = ", ".join(node.name for node in self.nodes)
        raise ServerStartError(names, reason)

    async def _agrees(self) -> bool:
        """Return whether all running servers name one leader, and it has them all."""
        groups: dict[str, _MetaGroup] = {}
        for node, port in zip(self.nodes, self._monitor_ports, strict=True):
            if node.running:
                group = await anyio.to_thread.run_sync(_read_meta_group, port)
                if group is None:
                    return False
                groups[node.name] = group
        leaders = {group.leader for group in groups.values()}
        if len(leaders) != 1:
            return False
        # Only the leader knows how far each of the others is.
        leading = groups.get(leaders.pop())
        if leading is None or leading.cluster_size != len(self.nodes):
            return False
        up_to_date = {replica.name for replica in leading.replicas if replica.current}
        return up_to_date >= groups.keys() - {leading.leader}


class _Info(msgspec.Struct, frozen=True):
    """What we need of the INFO line; the server sends more."""

    server_name: str
    jetstream: bool = False


class _Replica(msgspec.Struct, frozen=True):
    name: str
    current: bool = False


class _MetaGroup(msgspec.Struct, frozen=True):
    """The servers that keep a cluster's list of streams, as one of them sees it."""

    leader: str = ""
    cluster_size: int = 0
    replicas: tuple[_Replica, ...] = ()


class _JetStreamReport(msgspec.Struct, frozen=True):
    """What we need of the monitoring page `/jsz`."""

    meta_cluster: _MetaGroup | None = None


async def _read_info(port: int) -> _Info | None:
    """Return what the server on `port` says of itself, None if there is no server."""
    try:
        async with await anyio.connect_tcp(HOST, port) as connection:
            reader = BufferedByteReceiveStream(connection)
            line = await reader.receive_until(b"\r\n", MAX_INFO_BYTES)
        return msgspec.json.decode(line.removeprefix(b"INFO "), type=_Info)
    except (
        OSError,
        anyio.BrokenResourceError,
        anyio.DelimiterNotFound,
        anyio.IncompleteRead,
        msgspec.DecodeError,
    ):
        return None


def _read_meta_group(port: int) -> _MetaGroup | None:
    """Return the cluster as the server with this monitoring port sees it, if it does."""
    # Without the proxies of the environment, which are not for loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}/jsz", timeout=1) as response:
            return msgspec.json.decode(response.read(), type=_JetStreamReport).meta_cluster
    except (OSError, msgspec.DecodeError):
        return None


def _free_ports(count: int) -> list[int]:
    """Return `count` different ports that nothing listens on just now."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports.add(port)
    return list(ports)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what a new child runs to be killed when its parent ends, where that exists."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: the child should do as little as possible.
    prctl = ctypes.CDLL(None).prctl
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>

    def ask_kernel() -> None:
        prctl(set_parent_death_signal, signal.SIGKILL)

    return ask_kernel


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
