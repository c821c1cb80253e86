"""Answers of many items: sent as fast as they are taken, ended by either side.

The request says how many items may be on their way unasked (`$credit`), and for how many
seconds there may be silence (`$timeout`). Every message of the answer has as its reply subject
where the asking side gives more credit (`{"credit": 50}`) or ends it (`{"cancel": true}`). A
header tells what is no item: `Ipc-Stream: open` comes first, `end <number of items>` last,
`alive` where there would be silence. An error ends an answer as it ends any other. An item's reply
subject ends with `-` and how many came before it, so that what is lost is missed at once; a lost
connection breaks an answer off.

Who asks and is gone is noticed by the server's word that nobody listens (NATS ADR-22), as
every message has a reply subject.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from ._codec import Codec, decoder, encode
from ._connection import Connection, Message
from ._errors import (
    ConnectionLostError,
    MessageTooLargeError,
    NoResponderError,
    PermissionDeniedError,
    ReplyTimeoutError,
    StreamBrokenError,
)
from ._service_error import error_in, too_large

__all__ = ["CREDIT", "read_stream", "send_stream"]

STREAM_HEADER = "Ipc-Stream"
OPEN = {STREAM_HEADER: "open"}
ALIVE = {STREAM_HEADER: "alive"}

CREDIT = 100
"""Items that may be on their way unasked."""


class Control(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the asking side says meanwhile."""

    credit: int = 0
    cancel: bool = False


decode_control = decoder(Control)


# -- the service's side -------------------------------------------------------------------


async def send_stream(
    connection: Connection,
    request: Message,
    items: AsyncIterator[Any],
    codec: Codec,
    *,
    credit: int,
    silence: float,
) -> None:
    """Send what a handler yields, and its end, to whoever asked.

    Args:
        credit: How many items may be sent unasked.
        silence: Seconds after which the asking side would take this one for dead.

    Returns early if the asking side has ended it, or is gone.

    Raises:
        ReplyTooLargeError: An item is over the server's limit.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    given = asyncio.Event()
    quiet, left = True, False

    def leave() -> None:
        nonlocal left
        if not left:
            left = True
            task.cancel()

    def receive(message: Message) -> None:
        nonlocal credit
        control = Control(cancel=True)
        if message.status != "503":
            try:
                control = decode_control(message.data)
            except msgspec.DecodeError:
                control = Control()
        credit += control.credit
        given.set()
        if control.cancel:
            leave()

    def beat() -> None:
        nonlocal quiet, timer
        if quiet:
            connection.send(request.reply, b"", reply=channel.subject, headers=ALIVE)
        quiet = True
        timer = loop.call_later(silence / 3, beat)

    channel = connection.open_channel(receive)
    # Something may be lost then, which the asking side takes for the end.
    forget = connection.on_lost(leave)
    timer = loop.call_later(silence / 3, beat)
    sent = 0
    try:
        connection.send(request.reply, b"", reply=channel.subject, headers=OPEN)
        async for item in items:
            while credit < 1:
                given.clear()
                await given.wait()
            data = codec.encode(item)
            try:
                numbered = f"{channel.subject}-{sent}"
                await connection.publish(request.reply, data, reply=numbered)
            except MessageTooLargeError as exc:
                raise too_large(data, exc.limit_bytes) from exc
            credit -= 1
            sent += 1
            quiet = False
        connection.send(request.reply, b"", headers={STREAM_HEADER: f"end {sent}"})
    except asyncio.CancelledError:
        if not left or task.uncancel() > 0:
            raise
    finally:
        timer.cancel()
        forget()
        channel.close()
        if isinstance(items, AsyncGenerator):
            await items.aclose()


# -- the asking side ----------------------------------------------------------------------


class Replies:
    """The messages of an answer, as they come."""

    def __init__(self, connection: Connection, subject: str, silence: float) -> None:
        self._connection = connection
        self._subject = subject
        self._silence = silence
        self._waiting = deque[Message]()
        self._arrived = asyncio.Event()
        self._lost = False
        self._control = ""
        self._ended = False
        self._closed = False
        self._forget = connection.on_lost(self._on_lost)
        self._channel = connection.open_channel(self._receive, asked=subject)

    async def ask(self, data: bytes, headers: Mapping[str, str] | None) -> None:
        """Send the request."""
        await self._connection.publish(
            self._subject, data, reply=self._channel.subject, headers=headers
        )

    async def next(self) -> Message:
        """Return the next message.

        Raises:
            ConnectionLostError: The connection went away; so did some messages, perhaps.
            NoResponderError: No service answers such requests.
            PermissionDeniedError: The server does not let us ask.
            ReplyTimeoutError: There was silence for too long.
        """
        while not self._waiting:
            if self._lost:
                raise ConnectionLostError(self._connection.settings.shown_servers)
            self._arrived.clear()
            try:
                async with asyncio.timeout(self._silence):
                    await self._arrived.wait()
            except TimeoutError:
                raise ReplyTimeoutError(self._subject, self._silence) from None
        message = self._waiting.popleft()
        if message.status == "503":
            raise NoResponderError(self._subject)
        if message.status == "403":
            raise PermissionDeniedError(self._subject, "publish")
        self._control = message.reply or self._control
        return message

    def grant(self, credit: int) -> None:
        """Let so many more items be sent, if the service listens for that."""
        if not self._control:
            return
        self._connection.send(self._control, encode(Control(credit=credit)))

    def ended(self) -> None:
        """Remember that nothing more comes."""
        self._ended = True

    def close(self) -> None:
        """Tell the service to stop, if it has not."""
        self._forget()
        if self._ended:
            self._channel.close()
            return
        self._closed = True
        if self._control:
            self._cancel(self._control)
        else:
            # Where to say so comes with its first message, if that comes.
            asyncio.get_running_loop().call_later(self._silence, self._channel.close)

    def _cancel(self, control: str) -> None:
        self._channel.close()
        with contextlib.suppress(ConnectionLostError):
            # It notices by itself that nobody is there any more.
            self._connection.send(control, encode(Control(cancel=True)))

    def _receive(self, message: Message) -> None:
        if self._closed and message.reply:
            self._cancel(message.reply)
        if self._lost:
            # What came between is lost, so this is not the next.
            return
        self._waiting.append(message)
        self._arrived.set()

    def _on_lost(self) -> None:
        self._lost = True
        self._arrived.set()


async def read_stream(
    connection: Connection,
    subject: str,
    data: bytes,
    headers: Mapping[str, str] | None,
    *,
    codec: Codec,
    decode: Callable[[Message], Any],
    silence: float,
) -> AsyncGenerator[Any]:
    """Ask for an answer of many items and yield them; leaving the loop ends it.

    Raises:
        StreamBrokenError: Some items were lost.
        ServiceError: The service has failed.
    """
    replies = Replies(connection, subject, silence)
    count = taken = 0
    try:
        await replies.ask(data, headers)
        while True:
            message = await replies.next()
            said = message.headers or {}
            if (error := error_in(said, message.data, codec)) is not None:
                replies.ended()
                raise error
            state, _, number = said.get(STREAM_HEADER, "").partition(" ")
            if state == "end":
                replies.ended()
                if number != str(count):
                    raise StreamBrokenError(subject, count, number)
                return
            if state:
                continue
            _, dash, number = message.reply.rpartition(".")[2].partition("-")
            if dash and number != str(count):
                raise StreamBrokenError(subject, count, number)
            yield decode(message)
            count += 1
            taken += 1
            if taken >= CREDIT // 2:
                replies.grant(taken)
                taken = 0
    finally:
        replies.close()
