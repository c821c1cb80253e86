"""Many messages into one stream: as fast as it goes, or all of them or none.

Source: NATS ADR-50 (batch publishing).
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from ._codec import decoder
from ._connection import Connection, Message, Subscription
from ._errors import (
    BatchBrokenError,
    ConnectionLostError,
    IpcError,
    JetStreamError,
    NoResponderError,
    UnconfirmedError,
)
from ._jetstream import ApiError, JetStream, PubAck, error_for

__all__ = ["MAX_ATOMIC_BATCH", "BatchWriter", "Outgoing", "ingest", "publish_atomically"]

T = TypeVar("T")

MAX_ATOMIC_BATCH = 1000
"""Messages; the server's limit (ADR-50)."""

# The server acknowledges every so many messages, and lowers the number when it is busy.
ACK_EVERY = 500
# "Outstanding acks = 2 […] is generally optimal" (ADR-50).
ACKS_AHEAD = 2

SEND_EVERY = 50
"""Messages of a large batch."""

MAX_WRITE = 250
"""Messages that a `BatchWriter` puts into one batch: in larger ones the first wait for the last,
and producer, server and consumer for each other (a third slower with 700)."""

START, APPEND, COMMIT = 0, 1, 2

UNKNOWN_BATCH = 10208
INCOMPLETE_BATCH = 10176


Answers = asyncio.Queue[Message | None]
"""What the server says of a batch; `None` when the connection was lost."""


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A message to be stored."""

    subject: str
    data: bytes
    headers: dict[str, str] | None = None


class Flow(msgspec.Struct, frozen=True):
    """Any answer on a batch's inbox: a flow ack, an error, or the final acknowledgement."""

    type: str = ""
    seq: int = 0
    msgs: int = 0
    stream: str = ""
    count: int = 0
    error: ApiError | None = None


decode_flow = decoder(Flow)


async def ingest(
    connection: Connection, messages: Iterable[Outgoing], count: int, *, timeout: float = 5.0
) -> None:
    """Store `count` messages, all for one stream, in order and without a gap.

    Not atomic: what came before a failure stays stored.

    Args:
        messages: Taken one by one, so that making them takes no time of its own: the
            server stores those before.
        timeout: Seconds the server may take from one acknowledgement to the next.

    Raises:
        BatchBrokenError: The batch broke off; says how many are stored for certain.
        NoResponderError: No stream stores the subject.
        JetStreamError: The server refused a message.
    """
    if count == 0:
        return
    inbox, answers = connection.new_inbox(), Answers()
    prefix = f"{inbox}.{uuid.uuid4().hex}.{ACK_EVERY}.fail"
    subscription = await connection.subscribe(f"{inbox}.>", answers.put_nowait)
    stop_listening = connection.on_lost(lambda: answers.put_nowait(None))
    acknowledged, window, committed = 0, 0, False
    try:
        for number, message in enumerate(messages, start=1):
            last = number == count
            operation = COMMIT if last else START if number == 1 else APPEND
            reply = f"{prefix}.{number}.{operation}.$FI"
            connection.send(message.subject, message.data, reply=reply, headers=message.headers)
            if number % SEND_EVERY == 0:
                # What is buffered goes out: the server works on it while the rest is made.
                await asyncio.sleep(0)
            # Before the first answer the window is 0: the server first says how fast it can.
            while not committed and (last or number - acknowledged >= window):
                flow = await _next_answer(answers, message.subject, acknowledged, timeout)
                if flow.type == "ack":
                    acknowledged, window = max(acknowledged, flow.seq), flow.msgs * ACKS_AHEAD
                else:
                    # A batch of one is acknowledged like any publish, without a count.
                    acknowledged = flow.count if count > 1 else 1
                    committed = True
            if committed:
                break
    except ConnectionLostError as exc:
        raise BatchBrokenError(acknowledged, str(exc)) from exc
    finally:
        stop_listening()
        await subscription.close()
    if acknowledged < count:
        raise BatchBrokenError(acknowledged, "the server ended it early")


async def _next_answer(answers: Answers, subject: str, acknowledged: int, timeout: float) -> Flow:
    try:
        async with asyncio.timeout(timeout):
            answer = await answers.get()
    except TimeoutError:
        reason = f"no acknowledgement within {timeout:g} s"
        raise BatchBrokenError(acknowledged, reason) from None
    if answer is None:
        raise BatchBrokenError(acknowledged, "the connection was lost")
    if answer.status == "503":
        raise NoResponderError(subject)
    flow = decode_flow(answer.data)
    if flow.error is not None:
        error = error_for(subject, flow.error)
        # A server that was restarted, or a new leader, does not know the batch.
        if isinstance(error, UnconfirmedError) or flow.error.err_code == UNKNOWN_BATCH:
            raise BatchBrokenError(acknowledged, str(error))
        raise error
    return flow


class BatchWriter(Generic[T]):
    """Stores messages in one stream without waiting for each.

    What comes while one batch is being stored becomes the next: a lone message goes at
    once, of many a second hundreds share an acknowledgement. One at a time, because the
    server acknowledges several open batches of a stream more often.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_stored: Callable[[T], None],
        on_open: Callable[[T], None],
        timeout: float = 5.0,
    ) -> None:
        """Set up; nothing can be added before `open`.

        Args:
            on_stored: Called with what was added with a message, once that is stored.
            on_open: Called with it instead if the message may be stored or not: refused, or
                nothing was heard of it.
            timeout: Seconds the server may take for a batch.
        """
        self._connection = connection
        self._on_stored = on_stored
        self._on_open = on_open
        self._timeout = timeout
        self._waiting: list[tuple[Outgoing, T]] = []
        self._sent: list[tuple[Outgoing, T]] = []
        self._scheduled = False
        self._batch = ""
        self._numbers = itertools.count(1)
        self._overdue: asyncio.TimerHandle | None = None
        self._subscription: Subscription | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Begin to listen for acknowledgements."""
        self._loop = asyncio.get_running_loop()
        self._inbox = self._connection.new_inbox()
        self._id = uuid.uuid4().hex
        self._subscription = await self._connection.subscribe(f"{self._inbox}.>", self._on_answer)
        self._stop_listening = self._connection.on_lost(lambda: self._end(0))

    async def close(self) -> list[T]:
        """Stop listening; return what is not known to be stored."""
        left = [item for _, item in (*self._sent, *self._waiting)]
        self._sent, self._waiting = [], []
        self._end(0)
        self._stop_listening()
        if self._subscription is not None:
            await self._subscription.close()
        return left

    def add(self, message: Outgoing, item: T) -> None:
        """Store a message; `item` is handed back when it is known what became of it."""
        self._waiting.append((message, item))
        if not self._sent and not self._scheduled:
            self._scheduled = True
            # Not yet: what else this turn of the event loop adds goes along.
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        if self._sent or not self._waiting:
            return
        self._sent, self._waiting = self._waiting[:MAX_WRITE], self._waiting[MAX_WRITE:]
        self._batch = f"{self._id}-{next(self._numbers)}"
        self._overdue = self._loop.call_later(self._timeout, self._end, 0)
        prefix, last = f"{self._inbox}.{self._batch}.{ACK_EVERY}.fail", len(self._sent)
        try:
            for number, (message, _) in enumerate(self._sent, start=1):
                operation = COMMIT if number == last else START if number == 1 else APPEND
                self._connection.send(
                    message.subject,
                    message.data,
                    reply=f"{prefix}.{number}.{operation}.$FI",
                    headers=message.headers,
                )
        except IpcError:
            # What was sent of it is stored or not; without its end the server forgets it.
            self._end(0)

    def _on_answer(self, answer: Message) -> None:
        if not self._sent or not answer.subject.startswith(f"{self._inbox}.{self._batch}."):
            return
        if answer.headers is not None:
            # Nobody there who stores it.
            self._end(0)
            return
        flow = decode_flow(answer.data)
        if flow.type:
            # How fast to go on, or why the end will come early.
            return
        if flow.error is not None:
            self._end(0)
        else:
            # A batch of one is acknowledged like any publish, without a count.
            self._end(flow.count if len(self._sent) > 1 else 1)

    def _end(self, stored: int) -> None:
        """Hand everything back, of which the first so many are stored."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        sent, self._sent = self._sent, []
        for _, item in sent[:stored]:
            self._on_stored(item)
        for _, item in sent[stored:]:
            self._on_open(item)
        self._send()


async def publish_atomically(
    jetstream: JetStream, messages: Sequence[Outgoing], *, timeout: float = 5.0
) -> PubAck:
    """Store all of `messages`, all for one stream, or none of them.

    Raises:
        ValueError: More than `MAX_ATOMIC_BATCH` messages, or none.
        SubjectTakenError: An expectation of one of them did not hold; none is stored.
        UnconfirmedError: Whether they were stored is unknown.
    """
    if not 1 <= len(messages) <= MAX_ATOMIC_BATCH:
        raise ValueError(f"an atomic batch has 1 to {MAX_ATOMIC_BATCH} messages")
    batch_id = uuid.uuid4().hex

    def headers(number: int) -> dict[str, str]:
        own = messages[number - 1].headers or {}
        return {**own, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}

    *others, last = messages
    for number, message in enumerate(others, start=1):
        if number == 1:
            # Answered at once, so that a stream without batches is found out here.
            reply = await jetstream.connection.request(
                message.subject, message.data, headers=headers(1), timeout=timeout
            )
            error = decode_flow(reply.data).error if reply.data else None
            if error is not None:
                raise error_for(message.subject, error)
        else:
            await jetstream.connection.publish(
                message.subject, message.data, headers=headers(number)
            )
    commit = {**headers(len(messages)), "Nats-Batch-Commit": "1"}
    try:
        return await jetstream.publish(last.subject, last.data, headers=commit, timeout=timeout)
    except JetStreamError as exc:
        if exc.err_code != INCOMPLETE_BATCH:
            raise
        # The connection was lost on the way, or another leader does not know the beginning.
        raise BatchBrokenError(0, str(exc)) from exc
