"""Who runs, and which types they speak: what is told to the server, and what it tells."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from structlog.testing import capture_logs

from ipc import (
    Bus,
    Event,
    LocalServer,
    NoResponderError,
    Request,
    RunningBus,
    RunningService,
    Service,
    StoredMessage,
    TypeRecord,
)
from ipc._registry import decode_instance, decode_type
from tests.conftest import until

from .conftest import BusFactory, serving


class User(msgspec.Struct):
    name: str


class Placed(Event, type="registry.Placed", version=3, aliases=("registry.Ordered",)):
    number: int


class Paid(Event, type="registry.Paid"):
    number: int


class Fetch(Request[User], type="registry.Fetch"):
    id: int


class Blob(Event, type="registry.Blob"):
    content: msgspec.msgpack.Ext


def users() -> Service:
    """Make a service that answers something, and handles something."""
    service = Service("users", version="1.2.0")

    @service.handle
    async def fetch(request: Fetch) -> User:
        return User("Noel")

    @service.on(Paid)
    async def count(event: Paid) -> None: ...

    return service


async def types_by_name(bus: Bus) -> dict[str, TypeRecord]:
    """Return the types that are registered."""
    try:
        return {record.name: record for record in await bus.registry.types()}
    except NoResponderError:
        return {}


async def running(bus: Bus) -> dict[str, RunningBus]:
    """Return the buses that are registered."""
    try:
        return {instance.name: instance for instance in await bus.registry.instances()}
    except NoResponderError:
        return {}


async def until_type(bus: Bus, name: str) -> TypeRecord:
    """Return a type once it is registered."""

    async def find() -> TypeRecord | None:
        return (await types_by_name(bus)).get(name)

    return await until(find, f"{name} should be registered")


async def stored(bus: Bus, key: str) -> StoredMessage:
    """Return what lies under a key once something does."""

    async def find() -> StoredMessage | None:
        return await bus.jetstream.find_last(bus.subjects.bucket_stream, key)

    return await until(find, f"something should lie under {key}")


# -- who runs -----------------------------------------------------------------------------


async def test_running_bus_says_what_it_is_and_does(bus: Bus, new_bus: BusFactory):
    """Its services and what they answer, what it publishes and handles, and where it runs."""
    before = datetime.now(UTC)
    async with new_bus("shop") as shop:

        @shop.on(Placed, durable="books")
        async def book(event: Placed) -> None: ...

        async with serving(shop, users()):
            await shop.publish(Placed(number=1))
            await shop.registry.write()
            instance = (await running(bus))["shop"]
            id = shop.serving[0].id

    assert (instance.name, instance.id) == ("shop", instance.id)
    assert (instance.host, instance.pid) == (socket.gethostname(), os.getpid())
    assert before <= instance.started_at <= datetime.now(UTC)
    assert instance.services == [
        RunningService(name="users", version="1.2.0", id=id, handles=["registry.Fetch"])
    ]
    assert instance.publishes == ["registry.Placed"]
    assert sorted(instance.subscribes) == ["registry.Paid", "registry.Placed"]
    assert instance.durables == ["books"]


async def test_what_changes_is_told_by_itself(bus: Bus):
    """Soon, and without anybody asking for it."""
    await bus.publish(Placed(number=1))

    async def publishes() -> bool:
        instance = (await running(bus)).get("test")
        return instance is not None and instance.publishes == ["registry.Placed"]

    await until(publishes, "the bus should be registered")


async def test_what_is_served_is_known_when_serving_has_begun(bus: Bus, new_bus: BusFactory):
    """So that those who ask all instances miss none."""
    async with new_bus("server") as server, serving(server, users()):

        async def answers() -> set[str]:
            return await bus.registry.answering("registry.Fetch")

        assert await until(answers, "it should be known") == {server.serving[0].id}
        assert await bus.registry.answering("registry.Other") == set()


async def test_service_that_has_ended_is_no_more(bus: Bus):
    """The bus that served it still is."""
    async with serving(bus, users()):
        pass

    instance = (await running(bus))["test"]
    assert instance.services == []


async def test_bus_that_is_closed_is_no_more(bus: Bus, new_bus: BusFactory):
    """It says so at once; the server need not find out."""
    async with new_bus("gone") as gone, serving(gone, users()):
        await gone.registry.write()
        assert "gone" in await running(bus)

    assert "gone" not in await running(bus)


async def test_bus_that_is_open_for_a_moment_leaves_nothing(bus: Bus, new_bus: BusFactory):
    """Also where it is closed while it is being written that it runs."""
    await bus.registry.write()
    for step in range(40):
        async with new_bus(f"brief-{step}") as brief:
            writing = asyncio.create_task(brief.registry.write())
            # At another point of what takes about a millisecond, each.
            await asyncio.sleep(step / 20_000)
        await asyncio.wait({writing})

    await bus.connection.confirm()
    assert [name for name in await running(bus) if name.startswith("brief")] == []


async def test_buses_of_one_name_are_told_apart(bus: Bus, new_bus: BusFactory):
    """By an id, which is another one whenever a bus is opened."""
    async with new_bus("twin") as one, new_bus("twin") as two:
        for twin in (one, two):
            await twin.publish(Placed(number=1))
            await twin.registry.write()
        ids = {one.id for one in await bus.registry.instances() if one.name == "twin"}
        assert ids == {one.id, two.id}
        first = one.id
    async with new_bus("twin") as one:
        assert one.id != first


async def test_bus_that_does_nothing_writes_nothing(bus: Bus):
    """There is nothing to know of it, and perhaps it may not even write."""
    await bus.connection.confirm()

    with pytest.raises(NoResponderError):
        await bus.registry.instances()
    assert await bus.jetstream.find_stream(bus.subjects.bucket_stream) is None


async def test_killed_process_is_forgotten(bus: Bus):
    """The server removes an entry by itself, unless it is written again and again."""
    async with serving(bus, users()):
        key = bus.subjects.instance_key(bus.name, bus.id)
        message = await stored(bus, key)

    assert (message.headers or {})["Nats-TTL"] == "30s"


async def test_type_is_not_forgotten(bus: Bus):
    """What was spoken once may lie in streams for ever."""
    await bus.publish(Placed(number=1))
    await until_type(bus, "registry.Placed")
    message = await stored(bus, bus.subjects.type_key("registry.Placed"))

    assert "Nats-TTL" not in (message.headers or {})


async def test_any_client_can_read_it(bus: Bus, client: Client, namespace: str):
    """As the JSON values of a key-value bucket."""
    async with serving(bus, users()):
        await bus.registry.write()
        bucket = await client.jetstream().key_value(namespace)
        entry = await bucket.get(f"instance.test.{bus.id}")
        keys = await bucket.keys()

    assert entry.value is not None
    assert json.loads(entry.value)["services"][0]["name"] == "users"
    assert {"type.registry.Fetch", "type.registry.Paid"} <= set(keys)


async def test_registry_outlives_its_bucket():
    """A server with all in memory was restarted: whoever runs says so again."""
    async with (
        LocalServer() as server,
        Bus("server", servers=server.url, storage="memory", grace=0) as bus,
        serving(bus, users()),
    ):
        await bus.registry.write()
        assert await bus.registry.answering("registry.Fetch")

        await server.restart()
        await until(lambda: bus.is_ready, "the connection should be back")
        # What the next beat does.
        await bus.registry.write()

        assert set(await running(bus)) == {"server"}
        assert set(await types_by_name(bus)) == {"registry.Fetch", "registry.Paid"}


# -- which types --------------------------------------------------------------------------


async def test_types_are_described(bus: Bus):
    """Name, kind, version, old names, and their fields as JSON Schema."""
    await bus.publish(Placed(number=1))
    async with serving(bus, users()):
        placed = await until_type(bus, "registry.Placed")
        fetch = await until_type(bus, "registry.Fetch")

    assert (placed.name, placed.kind, placed.version) == ("registry.Placed", "event", 3)
    assert placed.aliases == ("registry.Ordered",)
    assert placed.schema == msgspec.json.schema(Placed)
    assert placed.reply is None
    assert (fetch.kind, fetch.version) == ("request", 1)
    assert fetch.reply == msgspec.json.schema(User)


async def test_type_is_known_to_others_when_its_user_is_gone(bus: Bus, new_bus: BusFactory):
    """It is written once and stays."""
    async with new_bus("gone") as gone:
        await gone.publish(Placed(number=1))
        await until_type(bus, "registry.Placed")

    assert "registry.Placed" in await types_by_name(bus)
    assert "gone" not in await running(bus)


def grown(version: int, **fields: Any) -> type[Any]:
    """Define an event as a program of some version has it."""

    class Grown(Event, type="registry.Grown", version=version):
        __annotations__ = fields

    return Grown


@pytest.mark.parametrize(
    ("versions", "shown"), [((1, 2), 2), ((2, 1), 2), ((2, 3, 1), 3), ((5, 5), 5)]
)
async def test_newest_version_is_kept(
    bus: Bus, new_bus: BusFactory, versions: tuple[int, ...], shown: int
):
    """Whoever comes later: an old program may start after a new one."""
    for version in versions:
        kind = grown(version, **{f"field_{version}": int})
        async with new_bus("one") as one:
            await one.publish(kind(1))
            await one.registry.write()

    record = (await types_by_name(bus))["registry.Grown"]
    assert record.version == shown
    assert f"field_{shown}" in str(record.schema)


async def test_same_version_may_be_corrected(bus: Bus, new_bus: BusFactory):
    """A field with a default was added, which needs no new version: the last one counts."""
    for fields in ({"number": int}, {"number": int, "more": str}):
        kind = grown(1, **fields)
        async with new_bus("one") as one:
            await one.publish(kind(*[1, ""][: len(fields)]))
            await one.registry.write()

    assert "more" in str((await types_by_name(bus))["registry.Grown"].schema)


async def test_what_is_the_same_is_not_written_again(bus: Bus, new_bus: BusFactory):
    """However often processes start."""
    await bus.publish(Placed(number=1))
    await until_type(bus, "registry.Placed")
    key = bus.subjects.type_key("registry.Placed")
    first = await stored(bus, key)
    async with new_bus("other") as other:
        await other.publish(Placed(number=1))
        await other.registry.write()

    assert (await stored(bus, key)).seq == first.seq


# -- what others wrote, or forbid ---------------------------------------------------------


MALFORMED = [b"nonsense", b"[]", b'{"name": 7}', b'{"name": "\xff"}', b"\xff", b"[" * 5_000]


@pytest.mark.parametrize("entry", MALFORMED, ids=lambda entry: repr(entry[:20]))
async def test_malformed_entry_is_skipped(bus: Bus, client: Client, namespace: str, entry: bytes):
    """Whoever wrote it; the others are told."""
    await bus.publish(Placed(number=1))
    await until_type(bus, "registry.Placed")
    await client.jetstream().publish(f"$KV.{namespace}.type.strange.Type", entry)
    await client.jetstream().publish(f"$KV.{namespace}.instance.strange.1", entry)

    with capture_logs() as logs:
        types, instances = await bus.registry.types(), await bus.registry.instances()

    assert [record.name for record in types] == ["registry.Placed"]
    assert [instance.name for instance in instances] == ["test"]
    assert [entry["event"] for entry in logs] == ["registry entry skipped"] * 2


@pytest.mark.parametrize("entry", MALFORMED, ids=lambda entry: repr(entry[:20]))
async def test_malformed_type_is_replaced(
    bus: Bus, new_bus: BusFactory, client: Client, namespace: str, entry: bytes
):
    """Nobody can read it, and it stops nobody from serving what it should describe."""
    async with new_bus("first") as first:
        await first.publish(Placed(number=1))
        await until_type(bus, "registry.Placed")
    await client.jetstream().publish(f"$KV.{namespace}.type.registry.Fetch", entry)

    async with serving(bus, users()):
        assert await bus.request(Fetch(id=7)) == User("Noel")
        assert (await until_type(bus, "registry.Fetch")).kind == "request"
    assert bus.is_live


async def test_type_without_a_schema_is_known_by_name(bus: Bus, new_bus: BusFactory):
    """Not all that MessagePack carries can be said in JSON Schema; the bus works all the same."""
    async with new_bus("binary", codec="msgpack") as binary, bus.subscribe(Blob) as events:
        blob = Blob(content=msgspec.msgpack.Ext(1, b"\x00"))
        await binary.publish(blob)
        assert await asyncio.wait_for(anext(events), 5) == blob

        record = await until_type(bus, "registry.Blob")
        assert binary.is_live

    assert (record.name, record.schema) == ("registry.Blob", {})


@asynccontextmanager
async def bus_without(denied: str, *, jetstream: bool = True) -> AsyncIterator[Bus]:
    """Open a bus as a user who may not publish on some subjects."""
    config = (
        f"accounts {{ A {{ {'jetstream: enabled,' * jetstream} users: [ {{ "
        'user: "u", password: "secret", '
        f"permissions: {{ publish: {{ deny: [{denied}] }} }} }} ] }} }}"
    )
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with Bus("bus", servers=url, storage="memory", timeout=30, grace=0) as bus:
            yield bus


@pytest.mark.parametrize(
    ("denied", "jetstream"),
    [('"x"', False), ('"$JS.>", "$KV.>"', True), ('"$JS.API.>"', True), ('"$KV.>"', True)],
    ids=["no jetstream", "nothing of it", "no asking", "no writing"],
)
async def test_all_else_works_where_it_may_not_be_used(denied: str, jetstream: bool):
    """Events and requests; that nobody can look up what runs is told once."""
    with capture_logs() as logs:
        async with bus_without(denied, jetstream=jetstream) as bus:
            async with bus.subscribe(Placed) as events:
                await bus.publish(Placed(number=1))
                assert await asyncio.wait_for(anext(events), 5) == Placed(number=1)
            async with serving(bus, users()):
                assert await bus.request(Fetch(id=7)) == User("Noel")
                await bus.registry.write()
                assert bus.is_live

    told = [entry for entry in logs if entry["event"].startswith("not registered")]
    assert [entry["log_level"] for entry in told] == ["info"]
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_without_declare_no_bucket_is_made(new_bus: BusFactory):
    """A bus that may not declare registers itself where there is one."""
    async with new_bus("strict", declare=False) as strict:
        await strict.publish(Placed(number=1))
        await strict.registry.write()
        assert await strict.jetstream.find_stream(strict.subjects.bucket_stream) is None

        async with new_bus("other") as other:
            await other.publish(Placed(number=1))
            await other.registry.write()
            await strict.registry.write()
            assert set(await running(other)) == {"other", "strict"}


# -- as it lies there ---------------------------------------------------------------------


@given(
    st.builds(
        RunningBus,
        name=st.text(),
        id=st.text(),
        host=st.text(),
        pid=st.integers(0, 2**31),
        started_at=st.datetimes(timezones=st.just(UTC)),
        services=st.lists(
            st.builds(RunningService, name=st.text(), version=st.text(), id=st.text())
        ),
        publishes=st.lists(st.text()),
    )
)
def test_instance_is_read_as_it_was_written(instance: RunningBus):
    """Whatever it is called and does."""
    assert decode_instance(msgspec.json.encode(instance)) == instance


@given(
    st.builds(
        TypeRecord,
        name=st.text(),
        kind=st.sampled_from(["event", "request"]),
        version=st.integers(1, 2**31),
        aliases=st.lists(st.text()).map(tuple),
    )
)
def test_type_is_read_as_it_was_written(record: TypeRecord):
    """Whatever it is called."""
    assert decode_type(msgspec.json.encode(record)) == record


def test_what_a_newer_version_adds_is_left_out():
    """And what it takes away has a default: programs of several versions share a registry."""
    instance = decode_instance(
        b'{"name": "shop", "id": "1", "host": "h", "pid": 1, "more": [7], '
        b'"started_at": "2030-01-01T00:00:00Z", "services": [{"name": "users", "version": "1.0.0", '
        b'"id": "2", "more": 7}]}'
    )
    record = decode_type(b'{"name": "shop.Placed", "kind": "event", "version": 1, "more": 7}')

    assert (instance.services[0].name, instance.durables) == ("users", [])
    assert (record.name, record.schema, record.reply) == ("shop.Placed", {}, None)
