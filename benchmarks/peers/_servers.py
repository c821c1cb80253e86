"""A server for one measurement: new, empty, on a free loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from ipc import LocalServer

__all__ = ["REDIS_SETTINGS", "Server", "find_redis", "redis_version", "start_server"]

REDIS_SETTINGS = ("--save", "", "--appendonly", "no")
"""Everything stays in memory: the fastest setting, which loses all jobs with the server."""

STARTUP_TIMEOUT = 10.0


class Server(msgspec.Struct, frozen=True):
    """A running server."""

    url: str
    pid: int
    """0 where nobody can say what a process of others has used."""


class RedisStartError(Exception):
    """A redis-server did not start."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output

    def __str__(self) -> str:
        return f"redis-server did not start: {self.output}"


def find_redis() -> str | None:
    """Return the path of a redis-server, if there is one."""
    return shutil.which("redis-server")


async def redis_version() -> str | None:
    """Return the version of redis-server, if there is one."""
    binary = find_redis()
    if binary is None:
        return None
    process = await asyncio.create_subprocess_exec(binary, "--version", stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return re.findall(r"v=(\S+)", output.decode())[0]


@contextlib.asynccontextmanager
async def start_server(kind: str) -> AsyncIterator[Server]:
    """Run a NATS or a Redis server while the context lasts."""
    if kind == "nats":
        async with LocalServer() as nats:
            yield Server(nats.url, _known(nats.pid or 0))
    else:
        async with _redis() as redis:
            yield redis


@contextlib.asynccontextmanager
async def _redis() -> AsyncIterator[Server]:
    binary = find_redis()
    assert binary is not None
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="redis-server-") as folder:
        log = Path(folder) / "log"
        process = await asyncio.create_subprocess_exec(
            *(binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
            *(*REDIS_SETTINGS, "--logfile", str(log)),
            stdout=subprocess.DEVNULL,
        )
        try:
            await _answering(port, process, log)
            yield Server(f"redis://127.0.0.1:{port}/0", _known(process.pid))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _answering(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until somebody can connect.

    Raises:
        RedisStartError: The server ended, or took too long.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STARTUP_TIMEOUT):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)
    raise RedisStartError(log.read_text(errors="replace") if log.exists() else "no output")


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def _known(pid: int) -> int:
    return pid if sys.platform == "linux" else 0
