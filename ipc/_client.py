"""The client library's client, with a shorter way for each message in and out.

nats-py puts every message into a queue, from which a task of the subscription takes it,
and awaits four coroutines to send one. Here messages are handed over as they are read,
and sending only adds to the buffer. Connecting, authentication, reconnecting, pings and
the flushing of the buffer are nats-py's. What is overridden is private there: the tests
of `Connection` say whether a new version still fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec
from nats.aio.client import Client as NatsPyClient
from nats.aio.subscription import Subscription as NatsPySubscription
from nats.errors import (
    BadSubjectError,
    ConnectionClosedError,
    MaxPayloadError,
    OutboundBufferLimitError,
    ProtocolError,
)
from nats.protocol.parser import Parser as NatsPyParser

__all__ = ["Client", "Listener", "Message", "header_block", "parse_headers"]

CRLF = b"\r\n"

CONNECTED = NatsPyClient.CONNECTED


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as it came from the server."""

    subject: str
    data: bytes
    reply: str = ""
    header_block: bytes = b""
    """The headers as they came."""

    @property
    def headers(self) -> Mapping[str, str] | None:
        """The headers, read when they are asked for: most never are."""
        return parse_headers(self.header_block) if self.header_block else None

    @property
    def status(self) -> str | None:
        """The server's own status code ("404", "408", "100"…), `None` on ordinary messages.

        Source: NATS ADR-4 (inline status).
        """
        return parse_headers(self.header_block).get("Status") if self.header_block else None


class Listener(NatsPySubscription):
    """Interest in a subject; its messages go to `receive`."""

    def __init__(
        self,
        client: Client,
        sid: int,
        subject: str,
        queue: str,
        receive: Callable[[Message], None],
    ) -> None:
        super().__init__(client, sid, subject, queue=queue)  # pyright: ignore[reportUnknownMemberType]
        self.sid = sid
        self.receive = receive


class Client(NatsPyClient):
    """A connection to a server, brought back by itself when it is lost."""

    _subs: dict[int, Listener]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self) -> None:
        super().__init__()
        self._ps = Parser(self)

    async def listen(
        self, subject: str, queue: str, receive: Callable[[Message], None]
    ) -> Listener:
        """Hand every message on `subject` to `receive`, in the order they come.

        Raises:
            BadSubjectError: `subject` or `queue` is none; the server would read it as another, or
                close the connection for it.
            ConnectionClosedError: The client is closed.
        """
        tokens = subject.split(".")
        if not (all(tokens) and is_word(subject) and ">" not in tokens[:-1]):
            raise BadSubjectError
        if queue and not is_word(queue):
            raise BadSubjectError
        if self.is_closed:
            raise ConnectionClosedError
        self._sid += 1
        listener = Listener(self, self._sid, subject, queue, receive)
        self._subs[self._sid] = listener
        await self._send_subscribe(listener)
        return listener

    async def end(self, listener: Listener) -> None:
        """Tell the server to send nothing more; what it has sent already still arrives."""
        if not self.is_closed and not self.is_reconnecting:
            await self._send_unsubscribe(listener.sid)

    def forget(self, listener: Listener) -> None:
        """Drop what still comes for a listener."""
        self._remove_sub(listener.sid)

    async def flushed(self) -> None:
        """Return once the server takes what waits to be sent, or after 10 seconds."""
        await self._flush_pending(force_flush=True)

    def send(
        self, subject: str, data: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> int:
        """Add a message to what is sent next; never waits. Returns how many bytes that is now.

        Raises:
            BadSubjectError: `subject` is none.
            ConnectionClosedError: The client is closed.
            MaxPayloadError: It is too large; the server would close the connection for it.
            OutboundBufferLimitError: The connection is away and the buffer full.
        """
        if not subject or " " in subject or not subject.isprintable():
            raise BadSubjectError
        if self._status != CONNECTED:
            if self.is_closed:
                raise ConnectionClosedError
            if self._pending_data_size + len(data) > self._max_pending_size:
                raise OutboundBufferLimitError
        size = len(data)
        if headers is None:
            command = f"PUB {subject} {reply} {size}\r\n".encode() + data + CRLF
        else:
            block = header_block(headers)
            size += len(block)
            command = (
                f"HPUB {subject} {reply} {len(block)} {size}\r\n".encode() + block + data + CRLF
            )
        if size > self._max_payload:
            raise MaxPayloadError
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return self._pending_data_size

    async def take(
        self, sid: bytes, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        """Hand a message over to its listener."""
        listener = self._subs.get(int(sid))
        if listener is None:
            return
        # The server checks no encoding, so anybody may store a subject that is not UTF-8.
        message = Message(
            subject.decode(errors="replace"),
            data,
            reply.decode(errors="replace"),
            headers,
        )
        try:
            listener.receive(message)
        except Exception as exc:
            await self._error_cb(exc)


class Parser(NatsPyParser):
    """Reads messages; leaves what else the server says to the library's parser."""

    nc: Client

    def reset(self) -> None:
        """Forget a message of which only a part has come."""
        super().reset()
        self._rest = bytearray()
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Hand over every message that is complete.

        `MSG <subject> <sid> [<reply>] <bytes>`, with headers
        `HMSG <subject> <sid> [<reply>] <header bytes> <bytes>`.

        Raises:
            ProtocolError: The server does not speak NATS.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end, take = 0, len(data), self.nc.take
        self._needed = 0
        while at < end:
            line_end = data.find(CRLF, at)
            if line_end < 0:
                break
            start = line_end + 2
            plain = data.startswith(b"MSG ", at)
            if not plain and not data.startswith(b"HMSG ", at):
                await super().parse(data[at:start])
                at = start
                continue
            words = data[at:line_end].split()
            try:
                stop = start + int(words[-1])
                body = start if plain else start + int(words[-2])
                subject, sid = words[1], words[2]
                reply = words[3] if len(words) == (5 if plain else 6) else b""
            except (ValueError, IndexError) as exc:
                raise ProtocolError(f"malformed: {data[at:line_end]!r}") from exc
            if stop + 2 > end:
                self._needed = stop + 2 - at
                break
            await take(sid, subject, reply, data[body:stop], data[start:body])
            at = stop + 2
        if at < end:
            self._rest += data[at:]


def is_word(text: str) -> bool:
    """Return whether a text can stand as one word in what is sent to the server."""
    return bool(text) and " " not in text and text.isprintable()


def parse_headers(block: bytes) -> dict[str, str]:
    """Return headers as they came; what the server says in the first line is `Status`,
    and `Description` if there are words to it (NATS ADR-4).

    Of several with one name the first counts.
    """
    first, *lines = block.decode(errors="replace").split("\r\n")
    _, _, said = first.partition(" ")
    headers: dict[str, str] = {}
    if said:
        headers["Status"], _, description = said.strip().partition(" ")
        if description:
            headers["Description"] = description.strip()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name, value.strip())
    return headers


def header_block(headers: Mapping[str, str]) -> bytes:
    """Return headers as they go on the wire (NATS ADR-4).

    Raises:
        ValueError: One has a line break, which would begin another header.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers):
        raise ValueError(f"headers are one line each, not {dict(headers)!r}")
    return f"NATS/1.0\r\n{lines}\r\n".encode()
