"""The limit: nats-py doing the same work on the wire, with nothing around it.

Bodies and subjects are as jetq's, made before the clock starts; streams and consumers
are those that jetq declares; what is drained was enqueued by jetq. Nothing is checked,
nothing is decoded, nothing survives a lost connection: it is fast, not right.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from ._jetq import APP, QUEUE
from ._workload import TEXT, WARM_UP, WIDTH, Part, Tally, timed

__all__ = ["body_of", "connected", "pull"]

STREAM = f"jetq-{APP}-queue-{QUEUE}"
CONSUMER = "normal"
CREDIT = 1_000
"""Messages asked for at once; asked for again when half of them have come."""

FLOW, IN_FLIGHT = 500, 1_000
"""Messages between two flow acks of a fast-ingest batch, and how many go unacknowledged."""

OUTCOME = (
    b'{"$type":"completed","task":"bench.stored","attempt":1,'
    b'"enqueued_at":"2026-01-01T00:00:00.000000Z","started_at":"2026-01-01T00:00:00.000000Z",'
    b'"finished_at":"2026-01-01T00:00:00.000000Z","worker":"benchmark-100000","result":12345}'
)

# What a copy for the second attempt has more than its first: a traceback, above all.
SECOND_ATTEMPT = (
    b',"attempt":2,"error":{"message":"the mail server hung up",'
    b'"kind":"builtins.ConnectionError","traceback":"' + b"-" * 800 + b'"}}'
)


def body_of(number: int, task: str = "bench.noop") -> bytes:
    """Return a job's body as jetq writes it."""
    return (
        f'{{"$type":"{task}","args":{{"number":{number},"text":"{TEXT}"}},'
        f'"enqueued_at":"2026-01-01T00:00:00.000000Z"}}'
    ).encode()


def _new_subject() -> str:
    return f"jetq.{APP}.task.{QUEUE}.{CONSUMER}.-.{secrets.token_urlsafe(12)}"


def _messages(jobs: int) -> list[tuple[str, bytes]]:
    return [(_new_subject(), body_of(number)) for number in range(jobs)]


@contextlib.asynccontextmanager
async def connected(part: Part) -> AsyncIterator[Client]:
    """Connect a client, and in the end send what it has buffered."""
    client = await nats.connect(part.url)
    try:
        yield client
    finally:
        await client.flush()
        await client.close()


# -- enqueueing ---------------------------------------------------------------------------


async def enqueue(part: Part) -> dict[str, Any]:
    """`js.publish`, one awaited after the other."""
    async with connected(part) as client:
        jetstream = client.jetstream()
        for message in _messages(WARM_UP):
            await jetstream.publish(*message)
        messages = _messages(part.jobs)
        started_at = time.perf_counter()
        for message in messages:
            await jetstream.publish(*message)
        return timed(part.jobs, started_at)


async def enqueue_200(part: Part) -> dict[str, Any]:
    """`js.publish_async`, with so many acknowledgements awaited at a time."""
    async with connected(part) as client:
        jetstream = client.jetstream(publish_async_max_pending=WIDTH)
        for message in _messages(WARM_UP):
            await jetstream.publish(*message)
        messages = _messages(part.jobs)
        started_at = time.perf_counter()
        for message in messages:
            # Waits by itself while so many are not acknowledged.
            await jetstream.publish_async(*message)
        await jetstream.publish_async_completed()
        return timed(part.jobs, started_at)


async def enqueue_many(part: Part) -> dict[str, Any]:
    """One fast-ingest batch over core publish.

    Source: NATS ADR-50. The reply subject is
    `<inbox>.<id>.<flow>.fail.<n>.<operation>.$FI`; operation 0 starts, 1 appends, 2 commits.
    """
    messages = _messages(part.jobs)
    async with connected(part) as client:
        for message in _messages(WARM_UP):
            await client.jetstream().publish(*message)
        inbox = client.new_inbox()
        acknowledged, moved, committed = 0, asyncio.Event(), asyncio.Event()

        async def on_answer(answer: Msg) -> None:
            nonlocal acknowledged
            flow = json.loads(answer.data)
            if flow.get("error") or flow.get("type") == "err":
                raise RuntimeError(f"batch refused: {flow}")
            if flow.get("type") == "ack":
                acknowledged = flow["seq"]
                moved.set()
            else:
                committed.set()

        await client.subscribe(f"{inbox}.>", cb=on_answer)
        await client.flush()
        started_at = time.perf_counter()
        for number, (subject, body) in enumerate(messages, start=1):
            operation = 2 if number == len(messages) else 0 if number == 1 else 1
            reply = f"{inbox}.id.{FLOW}.fail.{number}.{operation}.$FI"
            await client.publish(subject, body, reply=reply)
            while number - acknowledged >= IN_FLIGHT and operation != 2:
                moved.clear()
                await moved.wait()
        await committed.wait()
        return timed(part.jobs, started_at)


# -- working -----------------------------------------------------------------------------


async def drain(part: Part) -> dict[str, Any]:
    """Pull and ack."""
    tally = Tally(part.jobs, part.server_pid)
    async with connected(part) as client:

        async def work(msg: Msg) -> None:
            tally.count()
            await client.publish(msg.reply, b"+ACK")

        await pull(client, STREAM, CONSUMER, work)
        await tally.done.wait()
    return tally.report()


async def drain_results(part: Part) -> dict[str, Any]:
    """Pull, publish a result, ack the job when the result is stored."""
    tally = Tally(part.jobs, part.server_pid)
    async with connected(part) as client:
        publish_then_ack = await _Handover.open(client)
        headers = {"Nats-TTL": "3600"}

        async def work(msg: Msg) -> None:
            tally.count()
            # The job's id: its queue, key and token.
            job = msg.subject.split(".", 3)[3].replace(f".{CONSUMER}.", ".")
            await publish_then_ack(f"jetq.{APP}.result.{job}", OUTCOME, headers, msg.reply)

        await pull(client, STREAM, CONSUMER, work)
        await tally.done.wait()
        await publish_then_ack.finished()
    return tally.report()


async def retry(part: Part) -> dict[str, Any]:
    """Pull, publish a copy that is due later, ack when it is stored; then pull it and ack."""
    tally = Tally(2 * part.jobs, part.server_pid)
    async with connected(part) as client:
        publish_then_ack = await _Handover.open(client)

        async def work(msg: Msg) -> None:
            tally.count()
            if b'"attempt":2' in msg.data:
                await client.publish(msg.reply, b"+ACK")
                return
            due_at = datetime.now(UTC) + timedelta(seconds=0.1)
            headers = {
                "Nats-Schedule": f"@at {due_at:%Y-%m-%dT%H:%M:%S.%fZ}",
                "Nats-Schedule-Target": msg.subject,
            }
            later = msg.subject.replace(".task.", ".later.", 1)
            copy = msg.data[:-1] + SECOND_ATTEMPT
            await publish_then_ack(later, copy, headers, msg.reply)

        await pull(client, STREAM, CONSUMER, work)
        await tally.done.wait()
        await publish_then_ack.finished()
    report = tally.report()
    return {**report, "rate": (report["rate"] or 0) / 2}


async def receive(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Pull messages as they come, and tell how long each was on its way."""
    tally = Tally(part.jobs, 0)
    async with connected(part) as client:

        async def work(msg: Msg) -> None:
            tally.count_sent_at(json.loads(msg.data)["args"]["number"])
            await client.publish(msg.reply, b"+ACK")

        await pull(client, STREAM, CONSUMER, work)
        await client.flush()
        ready()
        await tally.done.wait()
    return {"delays_ns": tally.delays_ns}


async def respond(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Answer plain requests: no stream, nothing stored."""
    tally = Tally(part.jobs, 0)
    async with connected(part) as client:

        async def answer(msg: Msg) -> None:
            tally.count()
            await client.publish(msg.reply, OUTCOME)

        await client.subscribe("raw.ask", cb=answer)
        await client.flush()
        ready()
        await tally.done.wait()
    return tally.report()


async def pull(
    client: Client, stream: str, consumer: str, work: Callable[[Msg], Awaitable[None]]
) -> None:
    """Hand every message of a consumer to `work`, keeping a credit open."""
    inbox = client.new_inbox()
    credit = CREDIT

    async def ask(batch: int) -> None:
        request = json.dumps({"batch": batch, "expires": 60_000_000_000}).encode()
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", request, inbox)

    async def on_message(msg: Msg) -> None:
        nonlocal credit
        if not msg.reply:
            raise RuntimeError(f"pull ended: {msg.headers}")
        credit -= 1
        if credit == CREDIT // 2:
            credit = CREDIT
            await ask(CREDIT // 2)
        await work(msg)

    await client.subscribe(inbox, cb=on_message)
    await ask(CREDIT)


class _Handover:
    """Publishes messages to a stream and acks what they came from, once they are stored."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = client.new_inbox() + "."
        self._numbers = itertools.count()
        self._acks: dict[str, str] = {}
        self._empty = asyncio.Event()

    @classmethod
    async def open(cls, client: Client) -> _Handover:
        self = cls(client)
        await client.subscribe(self._prefix + "*", cb=self._on_stored)
        return self

    async def __call__(
        self, subject: str, body: bytes, headers: dict[str, str], ack_to: str
    ) -> None:
        reply = f"{self._prefix}{next(self._numbers)}"
        self._acks[reply] = ack_to
        self._empty.clear()
        await self._client.publish(subject, body, reply, headers)

    async def finished(self) -> None:
        await self._empty.wait()

    async def _on_stored(self, msg: Msg) -> None:
        if b'"error"' in msg.data:
            raise RuntimeError(f"not stored: {msg.data!r}")
        await self._client.publish(self._acks.pop(msg.subject), b"+ACK")
        if not self._acks:
            self._empty.set()


# -- one job at a time, for an idle worker -----------------------------------------------------


async def send(part: Part) -> dict[str, Any]:
    """`js.publish` of messages that carry the time of their sending."""
    async with connected(part) as client:
        jetstream = client.jetstream()
        for _ in range(part.jobs):
            await jetstream.publish(_new_subject(), body_of(time.monotonic_ns()))
            await asyncio.sleep(part.pause)
    return {}


async def ask(part: Part) -> dict[str, Any]:
    """Plain requests, one after the other."""
    delays_ns: list[int] = []
    async with connected(part) as client:
        for number in range(part.jobs):
            sent_at = time.monotonic_ns()
            await client.request("raw.ask", body_of(number), timeout=10)
            delays_ns.append(time.monotonic_ns() - sent_at)
            await asyncio.sleep(part.pause)
    return {"delays_ns": delays_ns}
