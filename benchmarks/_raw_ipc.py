"""The limit of ipc: nats-py doing the same work on the wire, with nothing around it.

As in `_raw`: bodies and subjects are as ipc's, made before the clock starts; the stream and its
consumers are those that ipc declares; what durables handle was published by ipc. Nothing is
encoded, decoded or checked, no id or time is new, nothing survives a lost connection: it is
fast, not right.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from ._ipc import BUS, durable_name
from ._raw import connected, pull
from ._workload import TEXT, WARM_UP, WIDTH, Part, Tally, percentile, timed

__all__ = ["EVENT", "REQUEST", "STREAM", "event_body", "reply_body", "request_body"]

STREAM = "ipc-bench"
EVENT = "ipc.event.-.bench.Placed"
REQUEST = "ipc.request.bench.FetchUser"


def event_body(number: int) -> bytes:
    """Return an event as ipc writes it."""
    return (
        f'{{"$type":"bench.Placed","number":{number},"text":"{TEXT}",{_meta(number)}}}'
    ).encode()


def request_body(number: int) -> bytes:
    """Return a request as ipc writes it."""
    return (f'{{"$type":"bench.FetchUser","id":{number},{_meta(number)},"$timeout":5.0}}').encode()


def reply_body(number: int) -> bytes:
    """Return the answer to it."""
    return f'{{"id":{number},"email":"{TEXT}"}}'.encode()


def _meta(number: int) -> str:
    return f'"$id":"{_id(number)}","$time":"2026-01-01T00:00:00.000000Z","$source":"{BUS}"'


def _id(number: int) -> str:
    return f"0123456789ab-{number}"


# -- publishing ---------------------------------------------------------------------------


async def publish(part: Part) -> dict[str, Any]:
    """`publish`; the time ends when the server has read all."""
    bodies = [event_body(number) for number in range(part.jobs)]
    async with connected(part) as client:
        started_at = time.perf_counter()
        for body in bodies:
            await client.publish(EVENT, body)
        await client.flush()
        return timed(part.jobs, started_at)


async def publish_durable(part: Part) -> dict[str, Any]:
    """`js.publish`, one awaited after the other, with the id by which the server knows it."""
    async with connected(part) as client:
        jetstream = client.jetstream()
        for body, headers in _stored(range(WARM_UP)):
            await jetstream.publish(EVENT, body, headers=headers)
        messages = _stored(range(WARM_UP, WARM_UP + part.jobs))
        started_at = time.perf_counter()
        for body, headers in messages:
            await jetstream.publish(EVENT, body, headers=headers)
        return timed(part.jobs, started_at)


async def publish_durable_200(part: Part) -> dict[str, Any]:
    """`js.publish_async`, with so many acknowledgements awaited at a time."""
    async with connected(part) as client:
        jetstream = client.jetstream(publish_async_max_pending=WIDTH)
        for body, headers in _stored(range(WARM_UP)):
            await jetstream.publish(EVENT, body, headers=headers)
        messages = _stored(range(WARM_UP, WARM_UP + part.jobs))
        started_at = time.perf_counter()
        for body, headers in messages:
            # Waits by itself while so many are not acknowledged.
            await jetstream.publish_async(EVENT, body, headers=headers)
        await jetstream.publish_async_completed()
        return timed(part.jobs, started_at)


def _stored(numbers: range) -> list[tuple[bytes, dict[str, str]]]:
    return [
        (event_body(number), {"Nats-Msg-Id": f"bench.Placed.{_id(number)}"}) for number in numbers
    ]


# -- receiving ----------------------------------------------------------------------------


async def receive_handler(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """A subscription with a callback, which is the fastest."""
    tally = Tally(part.jobs, 0)
    async with connected(part) as client:

        async def count(msg: Msg) -> None:
            tally.count()

        await client.subscribe(EVENT, cb=count)
        await client.flush()
        ready()
        await tally.done.wait()
    return tally.report()


receive_loop = receive_handler


async def receive_times(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """The same, and tell how long each was on its way."""
    tally = Tally(part.jobs, 0)
    async with connected(part) as client:

        async def count(msg: Msg) -> None:
            tally.count_sent_at(json.loads(msg.data)["number"])

        await client.subscribe(EVENT, cb=count)
        await client.flush()
        ready()
        await tally.done.wait()
    return {"delays_ns": tally.delays_ns}


async def send_times(part: Part) -> dict[str, Any]:
    """`publish` of messages that carry the time of their publishing."""
    async with connected(part) as client:
        for _ in range(part.jobs):
            await client.publish(EVENT, event_body(time.monotonic_ns()))
            await asyncio.sleep(part.pause)
    return {}


# -- requests -----------------------------------------------------------------------------


async def serve(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Answer requests, all with the same, until killed."""
    answer = reply_body(100)
    async with connected(part) as client:

        async def respond(msg: Msg) -> None:
            await client.publish(msg.reply, answer)

        await client.subscribe(REQUEST, "q", cb=respond)
        await client.flush()
        ready()
        await asyncio.Event().wait()
    return {}


async def request(part: Part) -> dict[str, Any]:
    """`request`, one after the other."""
    delays_ns: list[int] = []
    bodies = [request_body(number) for number in range(part.jobs)]
    async with connected(part) as client:
        await _ask(client, bodies[:WARM_UP])
        started_at = time.perf_counter()
        for body in bodies:
            sent_at = time.monotonic_ns()
            await client.request(REQUEST, body, timeout=5)
            delays_ns.append(time.monotonic_ns() - sent_at)
        report = timed(part.jobs, started_at)
    return {**report, "p50": percentile(delays_ns, 50), "p99": percentile(delays_ns, 99)}


async def request_200(part: Part) -> dict[str, Any]:
    """`request` from several coroutines at a time."""
    bodies = [request_body(number) for number in range(part.jobs)]
    async with connected(part) as client:
        await _ask(client, bodies[:WARM_UP])
        started_at = time.perf_counter()
        await _ask(client, bodies)
        return timed(part.jobs, started_at)


async def _ask(client: Client, bodies: list[bytes]) -> None:
    left = iter(bodies)

    async def ask() -> None:
        for body in left:
            await client.request(REQUEST, body, timeout=5)

    await asyncio.gather(*(ask() for _ in range(WIDTH)))


# -- durable fan-out --------------------------------------------------------------------------


async def fan_out(part: Part) -> dict[str, Any]:
    """Pull and ack all events of all consumers."""
    tally = Tally(part.jobs * part.durables, part.server_pid)
    async with connected(part) as client:

        async def work(msg: Msg) -> None:
            tally.count()
            await client.publish(msg.reply, b"+ACK")

        for number in range(part.durables):
            await pull(client, STREAM, durable_name(number), work)
        await tally.done.wait()
    return tally.report()
