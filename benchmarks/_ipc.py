"""ipc's side: what a user would write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ipc import Bus, Event, Request, Service

from ._workload import TEXT, WARM_UP, WIDTH, Part, Tally, percentile, timed

__all__ = ["BUS", "FetchUser", "Placed", "User", "durable_name"]

BUS = "bench"


class Placed(Event, type="bench.Placed"):
    """The event of the workload."""

    number: int
    text: str


class User(msgspec.Struct):
    """What a request is answered with."""

    id: int
    email: str


class FetchUser(Request[User], type="bench.FetchUser"):
    """The request of the workload."""

    id: int


def durable_name(number: int) -> str:
    """Return the name of one of the durables."""
    return f"durable-{number}"


def _bus(part: Part) -> Bus:
    return Bus(BUS, servers=part.url)


# -- publishing ---------------------------------------------------------------------------


async def publish(part: Part) -> dict[str, Any]:
    """Publish events; the time ends when the server has read them."""
    async with _bus(part) as bus:
        started_at = time.perf_counter()
        for number in range(part.jobs):
            await bus.publish(Placed(number=number, text=TEXT))
        await bus.connection.confirm()
        return timed(part.jobs, started_at)


async def publish_durable(part: Part) -> dict[str, Any]:
    """Publish one event after the other, each stored for the durables."""
    async with _bus(part) as bus:
        await _store(bus, WARM_UP)
        started_at = time.perf_counter()
        for number in range(part.jobs):
            await bus.publish(Placed(number=number, text=TEXT), durable=True)
        return timed(part.jobs, started_at)


async def publish_durable_200(part: Part) -> dict[str, Any]:
    """The same from several coroutines at a time, as a busy web service does."""
    async with _bus(part) as bus:
        await _store(bus, WARM_UP)
        started_at = time.perf_counter()
        await _store(bus, part.jobs)
        return timed(part.jobs, started_at)


async def _store(bus: Bus, events: int) -> None:
    numbers = iter(range(events))

    async def produce() -> None:
        for number in numbers:
            await bus.publish(Placed(number=number, text=TEXT), durable=True)

    await asyncio.gather(*(produce() for _ in range(WIDTH)))


# -- receiving ----------------------------------------------------------------------------


async def receive_loop(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Take events in a loop, as they come."""
    tally = Tally(part.jobs, 0)
    async with _bus(part) as bus, bus.subscribe(Placed) as events:
        ready()
        async for _ in events:
            tally.count()
            if tally.done.is_set():
                break
    return tally.report()


async def receive_handler(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Have events handled, as they come."""
    tally = Tally(part.jobs, 0)
    bus = _bus(part)

    @bus.on(Placed)
    async def count(event: Placed) -> None:
        tally.count()

    async with bus:
        ready()
        await tally.done.wait()
    return tally.report()


async def receive_times(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Have events handled, and tell how long each was on its way."""
    tally = Tally(part.jobs, 0)
    bus = _bus(part)

    @bus.on(Placed)
    async def count(event: Placed) -> None:
        tally.count_sent_at(event.number)

    async with bus:
        ready()
        await tally.done.wait()
    return {"delays_ns": tally.delays_ns}


async def send_times(part: Part) -> dict[str, Any]:
    """Publish events that carry the time of their publishing, one by one."""
    async with _bus(part) as bus:
        for _ in range(part.jobs):
            await bus.publish(Placed(number=time.monotonic_ns(), text=TEXT))
            await asyncio.sleep(part.pause)
    return {}


# -- requests -----------------------------------------------------------------------------


async def serve(part: Part, ready: Callable[[], None]) -> dict[str, Any]:
    """Answer requests, until killed."""
    users = Service("users")

    @users.handle
    async def fetch_user(request: FetchUser) -> User:
        return User(request.id, TEXT)

    async with _bus(part) as bus:
        serving = asyncio.create_task(bus.serve(users))
        while not bus.serving:
            await asyncio.sleep(0.01)
        ready()
        await serving
    return {}


async def request(part: Part) -> dict[str, Any]:
    """Ask one request after the other."""
    delays_ns: list[int] = []
    async with _bus(part) as bus:
        await _ask(bus, WARM_UP)
        started_at = time.perf_counter()
        for number in range(part.jobs):
            sent_at = time.monotonic_ns()
            await bus.request(FetchUser(id=number))
            delays_ns.append(time.monotonic_ns() - sent_at)
        report = timed(part.jobs, started_at)
    return {**report, "p50": percentile(delays_ns, 50), "p99": percentile(delays_ns, 99)}


async def request_200(part: Part) -> dict[str, Any]:
    """Ask from several coroutines at a time, as a busy web service does."""
    async with _bus(part) as bus:
        await _ask(bus, WARM_UP)
        started_at = time.perf_counter()
        await _ask(bus, part.jobs)
        return timed(part.jobs, started_at)


async def _ask(bus: Bus, requests: int) -> None:
    numbers = iter(range(requests))

    async def ask() -> None:
        for number in numbers:
            await bus.request(FetchUser(id=number))

    await asyncio.gather(*(ask() for _ in range(WIDTH)))


# -- durable fan-out --------------------------------------------------------------------------


async def declare(part: Part) -> dict[str, Any]:
    """Create the stream and the durables; every side uses these."""
    async with _with_durables(part, Tally(0, 0)):
        return {}


async def fill(part: Part) -> dict[str, Any]:
    """Publish the events that the durables will handle."""
    await declare(part)
    async with _bus(part) as bus:
        await _store(bus, part.jobs)
    return {}


async def fan_out(part: Part) -> dict[str, Any]:
    """Handle all events of all durables, then leave in order."""
    tally = Tally(part.jobs * part.durables, part.server_pid)
    async with _with_durables(part, tally):
        await tally.done.wait()
    return tally.report()


def _with_durables(part: Part, tally: Tally) -> Bus:
    bus = _bus(part)

    async def count(event: Placed) -> None:
        tally.count()

    for number in range(part.durables):
        bus.on(Placed, durable=durable_name(number))(count)
    return bus
