"""A network between client and server that can be taken away."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import urlsplit

from ipc._server import _free_ports


class Proxy:
    """Passes TCP connections on to a server, on a port of its own."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        # A port that no outgoing connection can take while nobody listens there.
        self._port = _free_ports(1)[0]
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    @property
    def url(self) -> str:
        """The server's address, by way of this network."""
        return f"nats://127.0.0.1:{self._port}"

    async def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        assert self._listener is not None
        self._listener.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def restore(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", self._port)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._server.hostname, self._server.port)
        await asyncio.gather(self._pass_on(reader, there[1]), self._pass_on(there[0], writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                writer.write(data)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()
