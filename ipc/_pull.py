"""Messages of durable pull consumers, delivered as they are asked for.

One inbox serves every consumer of a process. A request for messages names how many;
each message that answers it carries in its reply subject what the server knows of it;
what ends a request early arrives as a status on the request's own inbox.

Sources: NATS ADR-37 (pull requests), ADR-15 (the reply subject of a delivered message).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import msgspec

from ._codec import encode
from ._connection import Connection, Message, Subscription
from ._jetstream import NANOSECONDS

__all__ = ["PullEnded", "PullInbox", "Pulled"]

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"


class Pulled(msgspec.Struct, frozen=True, gc=False):
    """A message handed over by a consumer, and what the server says of it."""

    consumer: str
    stream: str
    message: Message
    reply: str
    """Where the answer goes: `ack`, `nak` or `renew`."""
    num_delivered: int
    """1 on the first delivery."""
    stream_seq: int
    stored_at_ns: int
    """Unix time by the server's clock."""
    num_pending: int
    """Messages that wait behind this one for the same consumer."""

    @property
    def subject(self) -> str:
        """What it was published to."""
        return self.message.subject

    @property
    def data(self) -> bytes:
        """Its body."""
        return self.message.data

    @property
    def headers(self) -> Mapping[str, str] | None:
        """Its headers."""
        return self.message.headers


class PullEnded(msgspec.Struct, frozen=True):
    """A request for messages that ended before all it asked for had come."""

    request: int
    status: str
    """"404" nothing there, "408" expired, "409" consumer gone or moved, "503" no consumer."""
    description: str


class PullRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    batch: int
    expires: int = 0
    idle_heartbeat: int = 0
    no_wait: bool = False


class PullInbox:
    """Where the messages of all pull requests of one worker arrive."""

    def __init__(
        self,
        connection: Connection,
        *,
        on_pulled: Callable[[Pulled], None],
        on_ended: Callable[[PullEnded], None],
        on_heartbeat: Callable[[int], None],
    ) -> None:
        """Set up; nothing arrives before `open`.

        Args:
            on_pulled: Called with each message; must not block.
            on_ended: Called when a request ends early.
            on_heartbeat: Called with the number of a request that is still waiting.
        """
        self._connection = connection
        self._on_pulled = on_pulled
        self._on_ended = on_ended
        self._on_heartbeat = on_heartbeat
        self._numbers = itertools.count(1)
        self._inbox = ""
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Begin to listen."""
        self._inbox = self._connection.new_inbox() + "."
        self._subscription = await self._connection.subscribe(self._inbox + "*", self._receive)

    async def close(self) -> None:
        """Stop listening, after handling what the server had already sent."""
        if self._subscription is not None:
            await self._subscription.drain()

    def new_request(self) -> int:
        """Return a number for a request; what ends it early will name it."""
        return next(self._numbers)

    async def ask(
        self,
        number: int,
        stream: str,
        consumer: str,
        batch: int,
        *,
        wait: float,
        heartbeat: float = 0,
    ) -> None:
        """Ask for up to `batch` messages.

        Args:
            number: From `new_request`.
            wait: Seconds the request stays open for messages yet to come; 0 answers
                with what is there.
            heartbeat: Seconds between the server's signs of life while nothing comes.
        """
        request = PullRequest(
            batch,
            expires=int(wait * NANOSECONDS),
            idle_heartbeat=int(heartbeat * NANOSECONDS),
            no_wait=wait == 0,
        )
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}",
            encode(request),
            reply=self._inbox + str(number),
        )

    def ack(self, reply: str) -> None:
        """Say that a message is done with; it is removed from a WorkQueue stream."""
        self._connection.send(reply, ACK)

    def nak(self, reply: str, *, delay: float = 0) -> None:
        """Give a message back; it is delivered again after `delay` seconds, or at once."""
        how = b' {"delay": %d}' % int(delay * NANOSECONDS) if delay else b""
        self._connection.send(reply, NAK + how)

    def renew(self, reply: str) -> None:
        """Say that a message is still worked on; its ack wait begins anew."""
        self._connection.send(reply, IN_PROGRESS)

    def _receive(self, message: Message) -> None:
        if message.reply:
            self._on_pulled(parse_pulled(message))
            return
        status = message.status
        number = int(message.subject.rpartition(".")[2])
        if status == "100":
            self._on_heartbeat(number)
        elif status is not None and message.headers is not None:
            self._on_ended(PullEnded(number, status, message.headers.get("Description", "")))


def parse_pulled(message: Message) -> Pulled:
    """Return what the reply subject of a delivered message says.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`,
    with a domain and an account hash after `ACK` behind leaf nodes and imports.
    """
    tokens = message.reply.split(".")
    if len(tokens) > 9:
        tokens = tokens[:2] + tokens[4:]
    return Pulled(
        tokens[3],
        tokens[2],
        message,
        message.reply,
        int(tokens[4]),
        int(tokens[5]),
        int(tokens[7]),
        int(tokens[8]),
    )
