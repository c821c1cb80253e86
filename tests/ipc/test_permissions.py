"""A service runs under just the permissions that it is said to need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from ipc import (
    Bus,
    Context,
    Event,
    LocalServer,
    NoResponderError,
    PermissionDeniedError,
    Request,
    Service,
)
from ipc._permissions import permissions
from ipc._surface import surface_of_bus, surface_of_service
from tests.conftest import until

from .conftest import serving


class Ordered(Event, type="guarded.Ordered"):
    number: int


class Billed(Event, type="guarded.Billed", key="number"):
    number: int


class Secret(Event, type="guarded.Secret"):
    number: int


class Bill(Request[int], type="guarded.Bill"):
    number: int


class Price(Request[int], type="guarded.Price"):
    number: int


class Rows(Request[int], type="guarded.Rows"):
    count: int


def billing() -> Service:
    """A service that answers, asks, publishes, and handles durably."""
    service = Service("billing", publishes=[Billed], requests=[Price])

    @service.handle
    async def bill(request: Bill, ctx: Context) -> int:
        return await ctx.bus.request(Price(number=request.number))

    @service.on(Ordered, durable="billing")
    async def handle(event: Ordered, ctx: Context) -> None:
        await ctx.bus.publish(Billed(number=event.number), durable=True)

    return service


def prices() -> Service:
    service = Service("prices")

    @service.handle
    async def price(request: Price) -> int:
        return 100 * request.number

    return service


def asker(**options: Any) -> Bus:
    """A bus that asks, and nothing else."""
    return Bus("asker", requests=[Rows], **options)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """A server on which service and asker may do what they need, and the admin everything."""
    block = str(permissions(surface_of_service(billing())))
    asking = str(permissions(surface_of_bus(asker())))
    config = (
        "accounts { SHOP { jetstream: enabled, users: [\n"
        f'{{ user: "billing", password: "secret", {block} }}\n'
        f'{{ user: "asker", password: "secret", {asking} }}\n'
        '{ user: "admin", password: "secret" }\n'
        "] } }"
    )
    async with LocalServer(config=config) as running:
        yield running


def url_of(server: LocalServer, user: str) -> str:
    return server.url.replace("//", f"//{user}:secret@")


def bus_of(server: LocalServer, user: str, name: str, **options: Any) -> Bus:
    return Bus(name, servers=url_of(server, user), storage="memory", **options)


async def declare(admin: Bus) -> None:
    """Do what the admin does first: streams and durables are there before the service is."""
    async with serving(admin, billing()):
        await admin.streams.ensure_dead("guarded")


async def test_service_runs_under_its_own_permissions(server: LocalServer):
    """It answers, asks, publishes, handles durably, registers; nothing else."""
    async with (
        bus_of(server, "admin", "admin") as admin,
        bus_of(server, "billing", "billing", declare=False, grace=1) as bus,
    ):
        await declare(admin)
        billed: list[int] = []

        @admin.on(Billed, durable="books")
        async def book(event: Billed) -> None:
            billed.append(event.number)

        async def is_registered() -> bool:
            return "billing" in {one.name for one in await admin.registry.instances()}

        async with serving(admin, prices()), serving(bus, billing()):
            assert await admin.request(Bill(number=7)) == 700
            assert (await admin.gather(Bill(number=2))).is_complete
            assert "billing" in {one.name for one in await admin.services()}
            await admin.publish(Ordered(number=3), durable=True)
            await until(lambda: billed == [3], "the event should have been handled")
            await until(is_registered, "it should be known to run")

            with pytest.raises(PermissionDeniedError):
                await bus.connection.request("$JS.API.STREAM.DELETE.ipc-guarded")
            with pytest.raises(PermissionDeniedError):
                await bus.connection.request(bus.subjects.event("guarded.Secret"))


async def test_dead_letter_can_be_left(server: LocalServer):
    """What fails for good is set aside under these permissions too."""
    async with bus_of(server, "admin", "admin") as admin:
        await declare(admin)
        service = Service("billing", publishes=[Billed], requests=[Price])

        @service.on(Ordered, durable="billing", unknown="error")
        async def handle(event: Ordered) -> None: ...

        async with (
            bus_of(server, "billing", "billing", declare=False, grace=1) as bus,
            serving(bus, service),
        ):
            await admin.connection.publish(admin.subjects.event("guarded.Ordered"), b"nonsense")

            async def is_dead() -> list[Any]:
                return [one async for one in admin.dead_letters.list("billing")]

            (letter,) = await until(is_dead, "it should be dead")
    assert letter.body == b"nonsense"


async def test_what_it_does_not_need_is_refused(server: LocalServer):
    """It cannot listen to others' events, nor answer others' requests."""
    async with bus_of(server, "billing", "billing", declare=False) as bus:
        heard: list[Any] = []
        await bus.connection.subscribe(bus.subjects.event("guarded.Secret"), heard.append)
        await bus.connection.subscribe(bus.subjects.request("guarded.Price"), heard.append)
        await bus.connection.confirm()
        async with bus_of(server, "admin", "admin") as admin:
            await admin.publish(Secret(number=1))
            with pytest.raises(NoResponderError):
                await admin.request(Price(number=1))
            await admin.connection.confirm()
        await bus.connection.confirm()

    assert heard == []


def test_block_says_why():
    """Every subject has its reason behind it."""
    lines = str(permissions(surface_of_service(billing()))).splitlines()

    subjects = [line for line in lines if line.strip().startswith('"')]
    assert subjects
    assert all("  # " in line for line in subjects)
    assert any('"ipc.request.guarded.Bill"' in line for line in subjects)


async def test_replies_to_others_are_not_its_own(server: LocalServer):
    """It cannot listen to inboxes but its own: they carry answers, and what durables get."""
    async with (
        bus_of(server, "admin", "admin") as admin,
        bus_of(server, "billing", "billing", declare=False) as bus,
        serving(admin, prices()),
    ):
        heard: list[Any] = []
        for subject in ("_INBOX.>", "_INBOX.admin.>", "_INBOX.*.*", ">"):
            listening = await bus.connection.subscribe(subject, heard.append)
            with pytest.raises(PermissionDeniedError, match="subscribe"):
                await bus.connection.confirm([listening])
        assert await admin.request(Price(number=1)) == 100
        await bus.connection.confirm()

    assert heard == []


async def test_registry_of_others_is_not_its_own(server: LocalServer):
    """It can neither remove what they have written there nor overwrite it."""
    async with (
        bus_of(server, "admin", "admin") as admin,
        bus_of(server, "billing", "billing", declare=False) as bus,
    ):
        await admin.publish(Secret(number=1))
        await admin.registry.write()
        bucket, subjects = bus.subjects.bucket_stream, bus.subjects
        for subject in (
            f"$JS.API.STREAM.PURGE.{bucket}",
            f"$JS.API.STREAM.MSG.DELETE.{bucket}",
            subjects.instance_key("admin", admin.id),
            subjects.type_key("guarded.Secret"),
            subjects.tries_key("guarded", "books", "1-1"),
        ):
            with pytest.raises(PermissionDeniedError, match="publish"):
                await bus.connection.request(subject, b"{}")

        assert [one.name for one in await admin.registry.instances()] == ["admin"]
        assert [one.name for one in await admin.registry.types()] == ["guarded.Secret"]


async def test_who_asks_for_a_stream_may_give_credit(server: LocalServer):
    """More items come than may be on their way unasked, and leaving the loop ends them."""
    service, ended = Service("rows"), asyncio.Event()

    @service.handle
    async def rows(request: Rows) -> AsyncIterator[int]:
        try:
            for number in range(request.count):
                yield number
        finally:
            ended.set()

    async with (
        bus_of(server, "admin", "admin") as admin,
        asker(servers=url_of(server, "asker"), declare=False) as bus,
        serving(admin, service),
    ):
        assert [row async for row in bus.stream(Rows(count=300))] == list(range(300))

        ended.clear()
        async with aclosing(bus.stream(Rows(count=1_000_000))) as items:
            assert await anext(items) == 0
        await asyncio.wait_for(ended.wait(), 5)
