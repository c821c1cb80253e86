"""`jetq server`: a JetStream server for this machine, in the foreground."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import anyio
import typer

from ipc import LocalServer
from ipc.terminal import PortTakenError, note, on_stop_signal

from ._errors import DataDirTakenError, LocalServerEndedError

__all__ = ["HOST", "PortOption", "alone_in", "local_server", "server"]

HOST = "127.0.0.1"

PortOption = Annotated[
    int, typer.Option(min=1, max=65_535, help="The port on 127.0.0.1 for clients.")
]


def server(
    data_dir: Annotated[
        Path, typer.Option(help="Where streams, configuration and log are kept.", file_okay=False)
    ] = Path("jetq-data"),
    port: PortOption = 4222,
) -> None:
    """Run a local NATS server with JetStream; Ctrl-C stops it."""
    asyncio.run(serve(local_server(data_dir, port)))


def local_server(data_dir: Path, port: int) -> LocalServer:
    """Return a server, not started.

    Raises:
        PortTakenError: Another program listens on the port.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as exc:
        raise PortTakenError(HOST, port, os.strerror(exc.errno or 0), "--port") from None
    return LocalServer(data_dir=data_dir.resolve(), port=port)


@contextmanager
def alone_in(data_dir: Path) -> Generator[None]:
    """Keep other servers out of a data directory: two in one destroy its streams.

    Raises:
        DataDirTakenError: One is there already.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirTakenError(data_dir) from None
        yield


async def serve(server: LocalServer) -> None:
    """Run a server until a signal comes.

    Raises:
        DataDirTakenError: Another one keeps its data where this one would.
        LocalServerEndedError: It ended by itself.
    """
    stopping = asyncio.Event()
    with alone_in(server.data_dir), on_stop_signal(stopping.set, kill=server.kill):
        async with server:
            note(f"nats-server at {server.url}, data in {server.data_dir}; Ctrl-C stops it")
            while not stopping.is_set():
                if not server.running:
                    raise LocalServerEndedError(server.url, server.log_path)
                with anyio.move_on_after(0.5):
                    await stopping.wait()
            note("stopping nats-server")
