"""Live events: who listens gets them, and nothing that arrives can stop it from listening."""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from ipc import (
    Bus,
    BusNotOpenError,
    Context,
    Event,
    Events,
    InvalidNameError,
    LocalServer,
    MessageTooLargeError,
    NoResponderError,
    PermissionDeniedError,
    Request,
    UnknownEvent,
    UnreadableError,
)
from tests.conftest import flushed, until

from .conftest import BusFactory


class Placed(Event, type="events.Placed", aliases=("events.Ordered", "before.Ordered")):
    number: int


class Paid(Event, type="events.Paid"):
    number: int


class Moved(Event, type="events.Moved", key="account"):
    account: str


class Packed(Event, type="events.depot.Packed"):
    number: int


class Elsewhere(Event, type="elsewhere.Happened"):
    number: int


class Large(Event, type="events.Large"):
    data: bytes


class Anything(Event, type="events.Anything"):
    value: Any


class Grown(Event, type="events.Grown", version=2):
    number: int


@Grown.upcast(1)
def number_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {"number": fields["count"]}


class Checked(Event, type="events.Checked"):
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ArithmeticError("below nothing")


class Fetch(Request[int], type="events.Fetch"):
    pass


async def taken(events: Events[Any], count: int) -> list[Any]:
    """Return the next so many events."""
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def all_that_came(bus: Bus, events: Events[Any]) -> list[Any]:
    """Return what was published up to now, by this bus or by clients that were flushed."""
    await bus.connection.confirm()
    events.stop()
    return [event async for event in events]


def takes(bus: Bus, *types: Any, **options: Any) -> list[Any]:
    """Handle events of some types by noting them."""
    seen: list[Any] = []

    @bus.on(*types, **options)
    async def note(event: Any) -> None:
        seen.append(event)

    return seen


# -- who gets what -------------------------------------------------------------------------


async def test_event_comes_to_all_who_listen(bus: Bus, new_bus: BusFactory):
    """Subscriptions and handlers, in the same process and in others, the publisher among them."""
    async with (
        new_bus("other") as other,
        bus.subscribe(Placed) as own,
        other.subscribe(Placed) as others,
    ):
        handled = takes(other, Placed)
        await other.ready()

        await bus.publish(Placed(number=1))

        assert await taken(own, 1) == await taken(others, 1) == [Placed(number=1)]
        await until(lambda: handled == [Placed(number=1)], "the handler should have it")


async def test_events_come_in_the_order_they_were_published(bus: Bus):
    """Those of one publisher, of all types together."""
    published = [kind(number=number) for number in range(100) for kind in (Placed, Paid)]

    async with bus.subscribe(Placed, Paid) as events:
        for event in published:
            await bus.publish(event)

        assert await taken(events, 200) == published


async def test_only_those_that_were_asked_for_come(bus: Bus):
    """Other types are not even sent."""
    async with bus.subscribe(Placed, Packed) as events:
        for kind in (Elsewhere, Paid, Packed, Placed):
            await bus.publish(kind(number=1))

        assert await all_that_came(bus, events) == [Packed(number=1), Placed(number=1)]


async def test_subscription_begins_when_it_is_opened(bus: Bus):
    """What was published before is gone: who needs it has a durable."""
    events = bus.subscribe(Placed)
    await bus.publish(Placed(number=1))
    assert await nobody_listens(bus)

    await events.open()
    await bus.publish(Placed(number=2))

    assert await taken(events, 1) == [Placed(number=2)]


async def test_events_with_a_key_come_like_all_others(bus: Bus):
    """Whatever part of the keys they lie in."""
    moved = [Moved(account=f"account-{number}") for number in range(50)]
    handled = takes(bus, Moved, concurrency=1)
    await bus.ready()

    async with bus.subscribe(Moved) as typed, bus.subscribe("events.*") as wild:
        for event in moved:
            await bus.publish(event)

        assert await all_that_came(bus, typed) == moved
        assert await all_that_came(bus, wild) == moved
    await until(lambda: handled == moved, "the handler should have them")


async def test_another_prefix_is_another_world(bus: Bus, new_bus: BusFactory, namespace: str):
    """Nothing goes from one to the other."""
    async with new_bus(prefix=f"{namespace}-other") as other, other.subscribe(">") as events:
        await bus.publish(Placed(number=1))
        await bus.connection.confirm()

        assert await all_that_came(other, events) == []


# -- wildcards -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["events.*"], [Paid, Placed]),
        (["events.depot.*"], [Packed]),
        (["events.>"], [Packed, Paid, Placed]),
        (["*.Placed"], [Placed]),
        (["*.*.Packed"], [Packed]),
        (["*.*"], [Elsewhere, Paid, Placed]),
        ([">"], [Elsewhere, Packed, Paid, Placed]),
        (["events.Paid"], [Paid]),
        (["events.Paid", "elsewhere.>"], [Elsewhere, Paid]),
        (["nothing.*"], []),
    ],
)
async def test_names_have_wildcards(bus: Bus, names: list[str], kinds: list[Any]):
    """`*` is one part of a name, `>` all that follow."""
    async with bus.subscribe(*names) as events:
        for kind in (Elsewhere, Packed, Paid, Placed):
            await bus.publish(kind(number=1))

        assert await all_that_came(bus, events) == [kind(number=1) for kind in kinds]


@pytest.mark.parametrize(
    "what",
    [
        [Placed, Placed],
        [Placed, "events.Placed"],
        [Placed, "events.*"],
        ["events.*", "events.>", "*.*"],
        [Placed, Moved, ">"],
    ],
    ids=repr,
)
async def test_event_comes_once_however_often_it_is_asked_for(bus: Bus, what: list[Any]):
    """A type and a namespace that it is in, two wildcards that overlap."""
    async with bus.subscribe(*what) as events:
        await bus.publish(Placed(number=1))

        assert await all_that_came(bus, events) == [Placed(number=1)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "events",
        "events.",
        ".Placed",
        "events..Placed",
        "events.>.Placed",
        "events*",
        "events.Pla*",
        "events Placed",
        "events.*\r\nPING",
        "events.9",
        "évents.Placed",
    ],
)
async def test_what_names_nothing_is_refused(bus: Bus, name: str):
    """Before the server sees it: that would cut the connection of all."""
    epoch = bus.connection.epoch

    with pytest.raises(ValueError, match="subscribe"):
        bus.subscribe(name)
    await bus.connection.confirm()
    assert bus.connection.epoch == epoch


@pytest.mark.parametrize("group", ["a b", "a\r\nPING", "*", ">"])
async def test_group_has_a_name(bus: Bus, group: str):
    """For the same reason."""
    with pytest.raises(InvalidNameError, match="group"):
        bus.subscribe(Placed, group=group)


async def test_something_has_to_be_asked_for(bus: Bus):
    """Events: a request is answered by one, not told to all."""
    with pytest.raises(ValueError, match="types of events, or names with wildcards"):
        bus.subscribe()
    request: Any = Fetch
    with pytest.raises(TypeError, match=r"events\.Fetch"):
        bus.subscribe(request)
    struct: Any = msgspec.Struct
    with pytest.raises(TypeError, match=r"not a subclass of ipc\.Event"):
        bus.subscribe(struct)


# -- old names, unknown types --------------------------------------------------------------


@pytest.mark.parametrize("name", ["events.Placed", "events.Ordered", "before.Ordered"])
async def test_events_under_old_names_are_received(bus: Bus, client: Client, name: str):
    """Who still has the old class publishes on the old subject, with the old `$type`."""
    handled = takes(bus, Placed)
    await bus.ready()

    async with bus.subscribe(Placed) as events:
        await client.publish(
            bus.subjects.event(name), json.dumps({"$type": name, "number": 1}).encode()
        )

        assert await taken(events, 1) == [Placed(number=1)]
    await until(lambda: handled == [Placed(number=1)], "the handler should have it")


@pytest.fixture
async def foreign(client: Client, namespace: str) -> Callable[[], Awaitable[None]]:
    """What publishes an event of a type that is not defined here, then one that is."""

    async def publish() -> None:
        subject = f"{namespace}.event.-.events.Unheard"
        await client.publish(subject, b'{"$type": "events.Unheard", "a": [1], "$id": "id-1"}')
        await client.publish(f"{namespace}.event.-.events.Placed", b'{"number": 1}')
        await flushed(client)

    return publish


async def test_unknown_type_is_skipped(bus: Bus, foreign: Callable[[], Awaitable[None]]):
    """By default: others may have types that nobody here has heard of."""
    async with bus.subscribe("events.*") as events:
        await foreign()

        assert await all_that_came(bus, events) == [Placed(number=1)]


async def test_unknown_type_is_kept(bus: Bus, foreign: Callable[[], Awaitable[None]]):
    """By choice: with its name, and its fields as JSON has them."""
    async with bus.subscribe("events.*", unknown="keep") as events:
        await foreign()

        assert await all_that_came(bus, events) == [
            UnknownEvent("events.Unheard", {"a": [1]}),
            Placed(number=1),
        ]
        assert events.context.id == ""


async def test_unknown_type_is_an_error(bus: Bus, foreign: Callable[[], Awaitable[None]]):
    """By choice: it is raised in the event's place, and the next event comes all the same."""
    async with bus.subscribe("events.*", unknown="error") as events:
        await foreign()

        with pytest.raises(UnreadableError, match=r"its type 'events\.Unheard' is unknown"):
            await taken(events, 1)
        assert await taken(events, 1) == [Placed(number=1)]


async def test_choice_is_one_of_three(bus: Bus):
    """A typing error does not end up as one of them."""
    choice: Any = "raise"
    with pytest.raises(ValueError, match=r"unknown"):
        bus.subscribe(Placed, unknown=choice)


async def test_type_that_is_not_asked_for_is_unknown(bus: Bus, client: Client, namespace: str):
    """What has strayed onto another type's subject, say."""
    stray = b'{"$type": "events.Paid", "number": 1}'

    async with bus.subscribe(Placed) as skipping, bus.subscribe(Placed, unknown="keep") as keeping:
        await client.publish(f"{namespace}.event.-.events.Placed", stray)
        await flushed(client)

        assert await all_that_came(bus, skipping) == []
        assert await all_that_came(bus, keeping) == [UnknownEvent("events.Paid", {"number": 1})]


@pytest.mark.parametrize("unknown", ["skip", "error"])
async def test_handler_does_not_see_unknown_types(
    bus: Bus, client: Client, namespace: str, unknown: Any
):
    """They are left out, or logged as an error; the next event is handled."""
    handled = takes(bus, Placed, unknown=unknown, concurrency=1)
    await bus.ready()
    subject = f"{namespace}.event.-.events.Placed"

    with capture_logs() as logs:
        await client.publish(subject, b'{"$type": "events.Unheard"}')
        await client.publish(subject, b'{"number": 1}')

        await until(lambda: handled == [Placed(number=1)], "the next should be handled")
    assert len([log for log in logs if log["log_level"] == "error"]) == (unknown == "error")


# -- what is malformed ---------------------------------------------------------------------

MALFORMED = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"\xc1",
    b"[]",
    b"7",
    b"{}",
    b'{"number": "one"}',
    b'{"number": 1',
    b'{"$type": 7, "number": "one"}',
    b'{"$type": "events.Paid", "number": {}}',
    b'{"number": ' + b"[" * 10_000,
    b"\x81\xa6number\xdd\xff\xff\xff\xff",
    b"\x81\xa6number" + b"\x91" * 10_000,
]


async def test_malformed_event_is_skipped(bus: Bus, client: Client, namespace: str):
    """And logged with its subject; neither a subscription nor a handler is stopped by it."""
    handled = takes(bus, Placed, Paid, concurrency=1)
    await bus.ready()
    subject = f"{namespace}.event.-.events.Placed"

    with capture_logs() as logs:
        async with bus.subscribe(Placed, Paid, unknown="error") as events:
            for number, body in enumerate(MALFORMED):
                await client.publish(subject, body)
                await client.publish(subject, b'{"number": %d}' % number)
            expected = [Placed(number=number) for number in range(len(MALFORMED))]

            assert await taken(events, len(MALFORMED)) == expected
            await until(lambda: handled == expected, "the others should be handled")
    assert [(log["event"], log["subject"]) for log in logs] == [
        ("event skipped, it is malformed", subject)
    ] * (2 * len(MALFORMED))


@pytest.mark.parametrize(
    ("kind", "name", "malformed", "good"),
    [
        (Grown, "events.Grown", b'{"$version": 1, "none": 1}', b'{"$version": 1, "count": 1}'),
        (Checked, "events.Checked", b'{"number": -1}', b'{"number": 1}'),
    ],
)
async def test_event_that_a_types_own_code_refuses_is_skipped(
    bus: Bus, client: Client, namespace: str, kind: Any, name: str, malformed: bytes, good: bytes
):
    """Whatever an upcast or `__post_init__` raises: bad input does not stop a subscription."""
    handled = takes(bus, kind, concurrency=1)
    await bus.ready()

    async with bus.subscribe(kind) as events:
        await client.publish(f"{namespace}.event.-.{name}", malformed)
        await client.publish(f"{namespace}.event.-.{name}", good)

        assert await taken(events, 1) == [kind(number=1)]
        await until(lambda: handled == [kind(number=1)], "the handler should have it")


@pytest.mark.parametrize("tail", ["²", "x", "7.7", "0", "-1"])
async def test_event_on_a_subject_of_another_layout_stops_nobody(
    bus: Bus, client: Client, namespace: str, tail: str
):
    """Anybody may publish anywhere below a type's subject."""
    handled = takes(bus, Placed, concurrency=1)
    await bus.ready()

    async with bus.subscribe(Placed) as events:
        for subject in (f"events.Placed.{tail}", "events.Placed"):
            await client.publish(f"{namespace}.event.-.{subject}", b'{"$type": "events.Paid"}')
        await client.publish(f"{namespace}.event.-.events.Placed", b'{"number": 1}')

        assert await taken(events, 1) == [Placed(number=1)]
        await until(lambda: handled == [Placed(number=1)], "the handler should have it")


# -- groups --------------------------------------------------------------------------------


async def test_subscriptions_of_a_group_share_the_events(new_bus: BusFactory):
    """Each event comes to one of them, and to everybody who is in no group."""
    async with (
        new_bus("one") as one,
        new_bus("two") as two,
        one.subscribe(Placed, group="mailers") as first,
        two.subscribe(Placed, group="mailers") as second,
        two.subscribe(Placed) as alone,
    ):
        for number in range(100):
            await one.publish(Placed(number=number))
        await one.connection.confirm()

        shares = [await all_that_came(one, first), await all_that_came(two, second)]
        assert len(await all_that_came(two, alone)) == 100
    assert sorted(event.number for share in shares for event in share) == list(range(100))
    assert all(shares)


async def test_handlers_of_a_group_share_the_events(new_bus: BusFactory):
    """Processes that have the same group are one listener."""
    async with new_bus("one") as one, new_bus("two") as two:
        shares = [takes(one, Placed, group="mailers"), takes(two, Placed, group="mailers")]
        await one.ready()
        await two.ready()

        for number in range(100):
            await one.publish(Placed(number=number))

        await until(lambda: sum(map(len, shares)) == 100, "all should be handled")
    assert sorted(event.number for share in shares for event in share) == list(range(100))
    assert all(shares)


# -- on the wire ---------------------------------------------------------------------------


async def test_publishers_may_write_differently(new_bus: BusFactory):
    """JSON and MessagePack come to the same subscriber, each telling which it is."""
    async with (
        new_bus("json", codec="json") as plain,
        new_bus("msgpack", codec="msgpack") as packed,
        plain.subscribe(Placed) as by_json,
        packed.subscribe(Placed) as by_msgpack,
    ):
        await plain.publish(Placed(number=1))
        await plain.connection.confirm()
        await packed.publish(Placed(number=2))

        for events in (by_json, by_msgpack):
            assert await taken(events, 2) == [Placed(number=1), Placed(number=2)]
            assert events.context.source == "msgpack"


@pytest.mark.parametrize(
    ("codec", "decode"), [("json", json.loads), ("msgpack", msgspec.msgpack.decode)]
)
async def test_any_client_can_read_an_event(
    new_bus: BusFactory, client: Client, namespace: str, codec: str, decode: Any
):
    """It is one object on a subject that says its type."""
    subscription = await client.subscribe(f"{namespace}.event.>")
    await flushed(client)

    async with new_bus("shop", codec=codec) as bus:
        await bus.publish(Placed(number=1))

    message = await subscription.next_msg(5)
    fields = decode(message.data)
    assert message.subject == f"{namespace}.event.-.events.Placed"
    assert message.headers is None
    assert fields.pop("$id")
    assert fields.pop("$time")
    assert fields == {"$type": "events.Placed", "number": 1, "$source": "shop"}


async def test_any_client_can_publish_an_event(bus: Bus, client: Client, namespace: str):
    """The fields on the type's subject are enough."""
    async with bus.subscribe(Placed) as events:
        await client.publish(f"{namespace}.event.-.events.Placed", b'{"number": 1}')

        assert await taken(events, 1) == [Placed(number=1)]


# -- publishing ----------------------------------------------------------------------------


async def test_publishing_can_do_without_waiting(bus: Bus):
    """For code that is not async; order is kept with what is awaited."""
    async with bus.subscribe(Placed) as events:
        bus.publish_nowait(Placed(number=1))
        await bus.publish(Placed(number=2))
        bus.publish_nowait(Placed(number=3))

        assert [event.number for event in await taken(events, 3)] == [1, 2, 3]


async def test_event_over_the_servers_limit_is_an_error(bus: Bus):
    """Nothing is sent, and the connection is as good as before."""
    large = Large(data=bytes(2_000_000))

    async with bus.subscribe(Placed, Large) as events:
        with pytest.raises(MessageTooLargeError, match=r"events\.Large"):
            await bus.publish(large)
        with pytest.raises(MessageTooLargeError):
            bus.publish_nowait(large)
        with pytest.raises(MessageTooLargeError):
            await bus.publish(large, durable=True)

        await bus.publish(Placed(number=1))
        assert await taken(events, 1) == [Placed(number=1)]


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("json", object()),
        ("json", {(): 1}),
        ("json", "\ud800"),
        ("msgpack", object()),
        ("msgpack", "\ud800"),
        ("msgpack", 2**64),
    ],
)
async def test_field_that_cannot_be_encoded_is_a_type_error(
    new_bus: BusFactory, codec: str, value: Any
):
    """Nothing is sent."""
    async with new_bus(codec=codec) as bus, bus.subscribe(Placed, Anything) as events:
        with pytest.raises(TypeError):
            await bus.publish(Anything(value=value))
        with pytest.raises(TypeError):
            bus.publish_nowait(Anything(value=value))

        await bus.publish(Placed(number=1))
        assert await taken(events, 1) == [Placed(number=1)]


@pytest.mark.parametrize("once_opened", [False, True])
async def test_bus_has_to_be_open(new_bus: BusFactory, once_opened: bool):
    """Before it is opened and after it was closed nothing can be sent or heard."""
    bus = new_bus()
    if once_opened:
        async with bus:
            pass

    with pytest.raises(BusNotOpenError, match="'test'"):
        await bus.publish(Placed(number=1))
    with pytest.raises(BusNotOpenError):
        await bus.publish(Placed(number=1), durable=True, id="order-1")
    with pytest.raises(BusNotOpenError):
        bus.publish_nowait(Placed(number=1))
    with pytest.raises(BusNotOpenError):
        await anext(bus.subscribe(Placed))
    with pytest.raises(BusNotOpenError):
        await bus.request(Fetch())
    with pytest.raises(BusNotOpenError):
        await bus.gather(Fetch())
    with pytest.raises(BusNotOpenError):
        await anext(bus.stream(Fetch()))
    with pytest.raises(BusNotOpenError):
        await bus.ready()


# -- handlers ------------------------------------------------------------------------------


async def test_handler_that_raises_does_not_stop_the_next(bus: Bus):
    """It is logged with the handler's name; nobody sends the event again."""
    handled: list[int] = []

    @bus.on(Placed, concurrency=1)
    async def sometimes(event: Placed) -> None:
        handled.append(event.number)
        if event.number == 0:
            raise ValueError("not this one")

    await bus.ready()
    with capture_logs() as logs:
        for number in range(3):
            await bus.publish(Placed(number=number))

        await until(lambda: len(handled) == 3, "the others should be handled")
    assert handled == [0, 1, 2]
    assert [log["event"] for log in logs] == ["event handler failed"]
    assert "sometimes" in logs[0]["handler"]


async def test_handlers_run_so_many_at_once(bus: Bus):
    """The others wait, and none is lost."""
    running, most, done = 0, 0, 0
    release = asyncio.Event()

    @bus.on(Placed, concurrency=3)
    async def work(event: Placed) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        done += 1

    await bus.ready()
    for number in range(10):
        await bus.publish(Placed(number=number))
    await until(lambda: running == 3, "three should run")
    await bus.connection.confirm()
    assert running == 3

    release.set()
    await until(lambda: done == 10, "all should be handled")
    assert most == 3


async def test_handler_can_be_added_while_the_bus_is_open(bus: Bus):
    """Once `ready` has returned it gets what is published."""
    for count in range(1, 4):
        handled = takes(bus, Placed)
        await bus.ready()

        await bus.publish(Placed(number=count))

        await until(lambda handled=handled: handled, "the new one should have it")
        assert handled == [Placed(number=count)]


async def test_many_may_wait_until_handlers_listen(bus: Bus):
    """Whoever waits is told when all do."""
    handled = [takes(bus, Placed) for _ in range(3)]

    await asyncio.gather(bus.ready(), bus.ready(), bus.ready())
    await bus.publish(Placed(number=1))

    await until(lambda: all(handled), "all should have it")


async def test_handlers_begin_with_the_bus(new_bus: BusFactory):
    """What was registered before listens when it is open, each time that it is."""
    bus = new_bus()
    handled = takes(bus, Placed)
    for count in range(1, 3):
        async with bus:
            await bus.publish(Placed(number=count))
            await until(lambda count=count: len(handled) == count, "it should be handled")


# -- too slow ------------------------------------------------------------------------------


async def test_what_comes_too_fast_is_dropped_and_counted(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    """A subscriber that does not take its events costs no endless memory; those it has stay."""
    monkeypatch.setattr("ipc._events.MAX_WAITING", 3)

    with capture_logs() as logs:
        async with bus.subscribe(Placed) as events:
            for number in range(10):
                await bus.publish(Placed(number=number))
            await bus.connection.confirm()

            assert events.dropped == 7
            assert [event.number for event in await taken(events, 3)] == [0, 1, 2]
            await bus.publish(Placed(number=10))
            assert await taken(events, 1) == [Placed(number=10)]
    assert [log["event"] for log in logs] == ["events are dropped: the handler is too slow"]


async def test_slow_handler_drops_what_is_too_much(bus: Bus, monkeypatch: pytest.MonkeyPatch):
    """It goes on with those that wait, and those that come when there is room again."""
    monkeypatch.setattr("ipc._events.MAX_WAITING", 2)
    release = asyncio.Event()
    handled: list[int] = []

    @bus.on(Placed, concurrency=1)
    async def slow(event: Placed) -> None:
        await release.wait()
        handled.append(event.number)

    await bus.ready()
    with capture_logs() as logs:
        for number in range(10):
            await bus.publish(Placed(number=number))
        await bus.connection.confirm()
    release.set()
    await until(lambda: len(handled) == 3, "those that waited should be handled")
    await bus.publish(Placed(number=10))

    await until(lambda: 10 in handled, "the new one should be handled")
    assert handled == [0, 1, 2, 10]
    assert [log["event"] for log in logs] == ["events are dropped: the handler is too slow"]


# -- the end -------------------------------------------------------------------------------


async def nobody_listens(bus: Bus) -> bool:
    """Return whether the server knows nobody who wants `Placed`."""
    try:
        await bus.connection.request(bus.subjects.event("events.Placed"), b"{}", timeout=1)
    except NoResponderError:
        return True
    return False


async def test_leaving_the_block_ends_the_subscription(bus: Bus):
    """The server is told, and what had come and was not taken is still there."""
    async with bus.subscribe(Placed) as events:
        await bus.publish(Placed(number=1))
        await bus.connection.confirm()

    assert await nobody_listens(bus)
    assert [event async for event in events] == [Placed(number=1)]


async def test_closing_ends_a_loop_that_waits(bus: Bus):
    """It ends as a loop does, without an error."""
    events = bus.subscribe(Placed)
    seen: list[Placed] = []

    async def loop() -> None:
        async for event in events:
            seen.append(event)

    looping = asyncio.create_task(loop())
    await events.open()
    await bus.publish(Placed(number=1))
    await until(lambda: seen, "it should come")
    await events.close()

    await asyncio.wait_for(looping, 5)
    assert await nobody_listens(bus)


async def test_closed_subscription_is_forgotten(bus: Bus):
    """A process that subscribes for each of its visitors does not grow with them."""
    async with bus.subscribe(Placed) as events:
        await bus.publish(Placed(number=1))
        await taken(events, 1)
    gone = weakref.ref(events)
    del events
    gc.collect()

    assert gone() is None


async def test_subscription_that_is_closed_twice_stays_closed(bus: Bus):
    """Nor does asking for an event open it again."""
    async with bus.subscribe(Placed) as events:
        await events.close()

    with pytest.raises(StopAsyncIteration):
        await anext(events)
    assert await nobody_listens(bus)


async def test_closing_the_bus_ends_its_subscriptions(new_bus: BusFactory):
    """A loop over events that waits when the bus is closed ends, without an error."""
    async with new_bus() as bus:
        events = bus.subscribe(Placed)
        await events.open()

        async def loop() -> list[Placed]:
            return [event async for event in events]

        looping = asyncio.create_task(loop())
        await asyncio.sleep(0)

    assert await asyncio.wait_for(looping, 5) == []


async def test_events_that_had_come_can_be_taken_when_the_bus_is_closed(new_bus: BusFactory):
    """They are here; what is known of them too."""
    async with new_bus("shop") as bus:
        events = bus.subscribe(Placed)
        await events.open()
        for number in range(3):
            await bus.publish(Placed(number=number))
        await bus.connection.confirm()

    assert [event.number async for event in events] == [0, 1, 2]
    assert events.context.source == "shop"


async def test_bus_that_closes_handles_what_had_come(new_bus: BusFactory):
    """What it was sent before is handled before the connection is closed."""
    async with new_bus(grace=10.0) as bus:
        handled = takes(bus, Placed, concurrency=1)
        await bus.ready()
        for number in range(100):
            await bus.publish(Placed(number=number))

    assert [event.number for event in handled] == list(range(100))


async def test_handlers_do_not_listen_once_they_are_drained(new_bus: BusFactory):
    """The bus can still publish, to others."""
    async with new_bus() as bus, bus.subscribe(Placed) as events:
        handled = takes(bus, Placed)
        await bus.ready()

        await bus.drain()
        await bus.publish(Placed(number=1))

        assert await taken(events, 1) == [Placed(number=1)]
        await bus.connection.confirm()
        assert handled == []


# -- the server ----------------------------------------------------------------------------


async def test_subscriptions_outlive_the_server():
    """After a restart of the server subscriptions and handlers go on; nobody does anything."""
    async with (
        LocalServer() as server,
        Bus("test", servers=server.url, grace=1.0) as bus,
        bus.subscribe(">") as events,
    ):
        handled = takes(bus, Placed)
        await bus.ready()
        await bus.publish(Placed(number=1))
        assert await taken(events, 1) == [Placed(number=1)]

        await server.restart()
        await until(lambda: bus.connection.epoch == 1 and bus.is_ready, "it should reconnect")
        await bus.publish(Placed(number=2))

        assert await taken(events, 1) == [Placed(number=2)]
        await until(lambda: len(handled) == 2, "the handler should have both")


async def test_what_is_published_while_the_server_is_away_arrives_later():
    """A little is kept until it is back, in order."""
    async with (
        LocalServer() as server,
        Bus("test", servers=server.url, grace=1.0) as bus,
        bus.subscribe(Placed) as events,
    ):
        server.kill()
        await until(lambda: not bus.is_ready, "the loss should be noticed")
        bus.publish_nowait(Placed(number=1))
        await bus.publish(Placed(number=2))
        await server.start()

        assert [event.number for event in await taken(events, 2)] == [1, 2]


# -- what is known of an event -------------------------------------------------------------


async def test_loop_over_events_knows_the_last_one(bus: Bus):
    """`events.context` is of the event that came last."""
    async with bus.subscribe(Placed, Paid) as events:
        with pytest.raises(LookupError, match="no event has come yet"):
            _ = events.context
        for kind in (Placed, Paid):
            await bus.publish(kind(number=1))
            await taken(events, 1)
            assert isinstance(events.context, Context)
            assert events.context.type == f"events.{kind.__name__}"


# -- overlapping names in a group ----------------------------------------------------------


@pytest.mark.parametrize("what", [[Placed, "events.>"], ["events.*", "*.*", ">"]], ids=repr)
async def test_group_loses_nothing_however_often_it_asks(new_bus: BusFactory, what: list[Any]):
    """Its members have an event once, under whichever of the names the server chooses."""
    async with (
        new_bus("one") as one,
        new_bus("two") as two,
        one.subscribe(*what, group="mailers") as first,
        two.subscribe(*what, group="mailers") as second,
    ):
        for number in range(100):
            await one.publish(Placed(number=number))
        await one.connection.confirm()

        shares = [await all_that_came(one, first), await all_that_came(two, second)]
    assert sorted(event.number for share in shares for event in share) == list(range(100))


# -- what nobody needs any more ------------------------------------------------------------


async def test_loop_that_is_left_ends_its_subscription(bus: Bus):
    """Nobody can ask for its next event any more, so the server need not send one."""
    before = len(bus.connection._subscriptions)

    async def first() -> Placed | None:
        async for event in bus.subscribe(Placed):
            return event
        return None

    looping = asyncio.create_task(first())

    async def has_ended() -> bool:
        await bus.publish(Placed(number=1))
        return looping.done()

    await until(has_ended, "the loop should take an event")
    assert looping.result() == Placed(number=1)

    await until(lambda: nobody_listens(bus), "the server should be told")
    assert len(bus.connection._subscriptions) == before
    assert not bus.listening


# -- what the server does not allow --------------------------------------------------------


@asynccontextmanager
async def deaf_bus(**options: Any) -> AsyncIterator[Bus]:
    """Open a bus that may not listen to `Placed`."""
    config = (
        'accounts { A { jetstream: enabled, users: [ { user: "u", password: "secret", '
        'permissions: { subscribe: { deny: ["*.event.*.events.Placed"] } } } ] } }'
    )
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with Bus("deaf", servers=url, grace=0, **options) as bus:
            yield bus


async def test_subscription_that_is_not_allowed_is_an_error():
    """At its beginning: it would wait for ever. Others are not affected."""
    async with deaf_bus() as bus:
        with pytest.raises(PermissionDeniedError, match=r"events\.Placed"):
            async with bus.subscribe(Paid, Placed):
                pass
        with pytest.raises(PermissionDeniedError, match=r"events\.Placed"):
            await asyncio.wait_for(anext(bus.subscribe(Placed, group="mailers")), 5)

        async with bus.subscribe(Paid) as events:
            await bus.publish(Paid(number=1))
            assert await taken(events, 1) == [Paid(number=1)]


async def test_handler_that_may_not_listen_cannot_begin():
    """Whoever waits until it listens is told."""
    async with deaf_bus() as bus:
        takes(bus, Paid, Placed)

        with pytest.raises(PermissionDeniedError, match=r"events\.Placed"):
            await bus.ready()
        assert not bus.is_ready


# -- handlers that are cancelled -----------------------------------------------------------


async def test_handler_whose_own_work_was_cancelled_has_failed(bus: Bus):
    """It is told in the log as any other failure is, and the next event is handled."""
    seen: list[int] = []

    @bus.on(Placed, concurrency=1)
    async def wait(event: Placed) -> None:
        seen.append(event.number)
        work = asyncio.create_task(asyncio.sleep(60))
        work.cancel()
        await work

    await bus.ready()
    with capture_logs() as logs:
        await bus.publish(Placed(number=1))
        await bus.publish(Placed(number=2))
        await until(lambda: bus.running == 0 and len(seen) == 2, "both should be handled")

    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "event handler was cancelled"
    ] * 2
