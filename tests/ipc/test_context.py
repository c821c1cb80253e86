"""Contexts: what a handler knows of its message, and what it sends takes over from it."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client
from structlog.testing import capture_logs

from ipc import (
    Bus,
    Cause,
    Context,
    Event,
    Handler,
    Request,
    Retry,
    Service,
    current_context,
    current_origin,
    following,
)
from tests.conftest import flushed, until

from .conftest import BusFactory, serving

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"


class Placed(Event, type="context.Placed"):
    number: int = 0


class Paid(Event, type="context.Paid"):
    number: int = 0


class Shipped(Event, type="context.Shipped"):
    number: int = 0


class Price(Request[int], type="context.Price"):
    pass


def notes(bus: Bus, *types: Any, **options: Any) -> dict[str, Context]:
    """Handle events of some types by noting their contexts, by the type's last part."""
    seen: dict[str, Context] = {}

    @bus.on(*types, **options)
    async def note(event: Any, ctx: Context) -> None:
        seen[type(event).__name__] = ctx

    return seen


async def noted(seen: dict[str, Context], name: str) -> Context:
    """Return the context of an event as soon as there is one."""
    return await until(lambda: seen.get(name), f"{name} should be handled")


# -- what is known of a message ------------------------------------------------------------


async def test_context_tells_where_a_message_comes_from(new_bus: BusFactory, namespace: str):
    """Its type and id, when and by whom it was sent, and the subject it came on."""
    async with new_bus("shop") as shop, new_bus("mailer") as mailer:
        seen = notes(mailer, Placed)
        await mailer.ready()

        before = datetime.now(UTC)
        await shop.publish(Placed())

        ctx = await noted(seen, "Placed")
        assert ctx.time is not None
        assert before <= ctx.time <= datetime.now(UTC)
        assert ctx.type == "context.Placed"
        assert ctx.id.startswith(f"{shop.id}-")
        assert ctx.source == "shop"
        assert ctx.subject == f"{namespace}.event.-.context.Placed"
        assert ctx.bus is mailer
        assert ctx.attempt == 1
        assert ctx.headers == {}
        assert ctx.traceparent is None
        assert ctx.deadline is None
        assert ctx.time_left is None


async def test_every_message_has_an_id_of_its_own(bus: Bus, new_bus: BusFactory):
    """Also of two buses with one name."""
    ids: list[str] = []

    @bus.on(Placed)
    async def note(event: Placed, ctx: Context) -> None:
        ids.append(ctx.id)

    await bus.ready()
    async with new_bus() as other:
        for _ in range(50):
            await bus.publish(Placed())
            other.publish_nowait(Placed())

        await until(lambda: len(ids) == 100, "all should be handled")
    assert len(set(ids)) == 100


async def test_id_can_be_ones_own(bus: Bus):
    """The one by which the server knows a durable event."""
    seen = notes(bus, Placed, durable="mailer")
    await bus.ready()

    await bus.publish(Placed(), durable=True, id="order 1")

    assert (await noted(seen, "Placed")).id == "order 1"


async def test_attempts_of_a_durable_event_are_counted(bus: Bus):
    """The others have one."""
    attempts: list[int] = []

    @bus.on(Placed, durable="mailer", retry=Retry(base_delay=0.01, jitter=False))
    async def fail_twice(event: Placed, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError("not yet")

    await bus.ready()
    await bus.publish(Placed(), durable=True)

    await until(lambda: len(attempts) == 3, "it should be tried three times")
    assert attempts == [1, 2, 3]


async def test_plain_message_has_a_context_too(bus: Bus, client: Client, namespace: str):
    """What its sender has not said is empty; what follows from it begins anew."""
    seen = notes(bus, Placed, Paid)

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        await bus.publish(Paid())

    await bus.ready()
    await client.publish(f"{namespace}.event.-.context.Placed", b'{"number": 1}')

    ctx, paid = await noted(seen, "Placed"), await noted(seen, "Paid")
    assert (ctx.type, ctx.id, ctx.time, ctx.source) == ("", "", None, "")
    assert (ctx.correlation_id, ctx.causation_id) == ("", "")
    assert ctx.subject == f"{namespace}.event.-.context.Placed"
    assert ctx.attempt == 1
    assert paid.correlation_id == paid.id
    assert paid.causation_id == ""


async def test_context_of_another_language_is_read(bus: Bus, client: Client, namespace: str):
    """The fields that begin with `$`; each may be left out."""
    seen = notes(bus, Placed)
    await bus.ready()

    await client.publish(
        f"{namespace}.event.-.context.Placed",
        b'{"$id": "id-2", "$time": "2030-01-02T03:04:05Z", "$source": "node",'
        b' "$correlation": "id-0", "$causation": "id-1"}',
        headers={"X-Customer": "ada"},
    )

    ctx = await noted(seen, "Placed")
    assert ctx.id == "id-2"
    assert ctx.time == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert ctx.source == "node"
    assert (ctx.correlation_id, ctx.causation_id) == ("id-0", "id-1")
    assert ctx.headers == {"X-Customer": "ada"}


async def test_log_names_the_message(bus: Bus):
    """`ctx.log` binds what one looks for."""

    @bus.on(Placed)
    async def tell(event: Placed, ctx: Context) -> None:
        ctx.log.info("packed", number=event.number)

    await bus.ready()
    with capture_logs() as logs:
        await bus.publish(Placed(number=7))

        await until(lambda: logs, "it should be logged")
    (log,) = logs
    assert (log["event"], log["type"], log["number"]) == ("packed", "context.Placed", 7)
    assert log["message_id"] == log["correlation_id"] != ""


# -- what follows from what ----------------------------------------------------------------


async def test_beginning_is_caused_by_nothing(bus: Bus):
    """What is sent outside of any handler begins a story of its own."""
    seen = notes(bus, Placed)
    await bus.ready()

    await bus.publish(Placed())

    ctx = await noted(seen, "Placed")
    assert ctx.correlation_id == ctx.id
    assert ctx.causation_id == ""


async def test_story_is_carried_from_event_to_event(new_bus: BusFactory):
    """Over processes: each names its cause, all name the first."""
    async with new_bus("one") as one, new_bus("two") as two:
        seen = notes(one, Placed, Paid, Shipped)

        @one.on(Placed)
        async def pay(event: Placed) -> None:
            await one.publish(Paid())

        @two.on(Paid)
        async def ship(event: Paid) -> None:
            two.publish_nowait(Shipped())

        await one.ready()
        await two.ready()
        await one.publish(Placed())

        shipped = await noted(seen, "Shipped")
        placed, paid = seen["Placed"], seen["Paid"]
        assert paid.correlation_id == shipped.correlation_id == placed.id
        assert paid.causation_id == placed.id
        assert shipped.causation_id == paid.id


async def test_story_is_carried_through_durables(bus: Bus):
    """What is stored and handled later is of the same story."""
    seen = notes(bus, Placed, Paid)

    @bus.on(Placed, durable="cashier")
    async def pay(event: Placed) -> None:
        await bus.publish(Paid(), durable=True)

    await bus.ready()
    await bus.publish(Placed(), durable=True)

    paid = await noted(seen, "Paid")
    assert paid.correlation_id == paid.causation_id == seen["Placed"].id


async def test_story_is_carried_through_requests(bus: Bus):
    """From an event to the request that its handler makes, and to what the service tells."""
    prices: list[Context] = []
    seen = notes(bus, Placed, Paid)
    service = Service("prices")

    @service.handle
    async def price(request: Price, ctx: Context) -> int:
        prices.append(ctx)
        await bus.publish(Paid())
        return 7

    @bus.on(Placed)
    async def ask(event: Placed) -> None:
        assert await bus.request(Price()) == 7
        await bus.gather(Price())

    async with serving(bus, service):
        await bus.publish(Placed())
        await until(lambda: len(prices) == 2, "it should be asked twice")

        paid = await noted(seen, "Paid")
    placed = seen["Placed"]
    assert {one.causation_id for one in prices} == {placed.id}
    assert {one.correlation_id for one in (*prices, paid)} == {placed.id}
    assert paid.causation_id in {one.id for one in prices}


async def test_stories_do_not_mix(bus: Bus):
    """Handlers that run at the same time each have their own."""
    causes: dict[int, str] = {}
    effects: dict[int, str] = {}
    all_there = asyncio.Event()

    @bus.on(Placed)
    async def pay(event: Placed, ctx: Context) -> None:
        causes[event.number] = ctx.id
        if len(causes) == 10:
            all_there.set()
        await all_there.wait()
        await asyncio.gather(bus.publish(Paid(number=event.number)))

    @bus.on(Paid)
    async def note(event: Paid, ctx: Context) -> None:
        effects[event.number] = ctx.causation_id

    await bus.ready()
    for number in range(10):
        await bus.publish(Placed(number=number))

    await until(lambda: len(effects) == 10, "all should be paid")
    assert effects == causes


async def test_loop_may_let_what_it_sends_follow(bus: Bus):
    """Inside `with following(events.context)`, and not outside of it."""
    seen = notes(bus, Paid, Shipped)
    await bus.ready()

    async with bus.subscribe(Placed) as events, asyncio.timeout(10):
        await bus.publish(Placed())
        await anext(events)
        with following(events.context):
            await bus.publish(Paid())
        await bus.publish(Shipped())
        placed = events.context

    paid, shipped = await noted(seen, "Paid"), await noted(seen, "Shipped")
    assert paid.causation_id == paid.correlation_id == placed.id
    assert (shipped.causation_id, shipped.correlation_id) == ("", shipped.id)


async def test_handler_may_begin_anew(bus: Bus):
    """Inside `with following(None)`: what it sends is caused by nothing."""
    seen = notes(bus, Paid, Shipped)

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        with following(None):
            await bus.publish(Paid())
        await bus.publish(Shipped())

    await bus.ready()
    await bus.publish(Placed())

    paid, shipped = await noted(seen, "Paid"), await noted(seen, "Shipped")
    assert paid.causation_id == ""
    assert shipped.causation_id == shipped.correlation_id != ""


async def test_following_ends_with_its_block():
    """Also when that is left by an error."""
    outer: Any = object()
    inner: Any = object()

    def fail() -> None:
        with following(inner):
            assert current_origin.get() is inner
            raise ValueError("out")

    with following(outer):
        with pytest.raises(ValueError, match="out"):
            fail()
        assert current_origin.get() is outer
    assert current_origin.get() is None


# -- the message that is handled here ------------------------------------------------------


async def test_current_context_is_of_the_message_that_is_handled(bus: Bus):
    """In the handler, in what it calls, and in the tasks that it starts."""
    found: list[Context] = []

    async def deep_inside() -> None:
        found.append(current_context())

    @bus.on(Placed)
    async def handle(event: Placed, ctx: Context) -> None:
        found.append(ctx)
        await deep_inside()
        await asyncio.create_task(deep_inside())

    await bus.ready()
    await bus.publish(Placed())

    await until(lambda: len(found) == 3, "it should be found")
    assert found[0] is found[1] is found[2]


async def test_there_is_no_current_context_elsewhere(bus: Bus):
    """Asking for one outside of a handler is a mistake."""
    with pytest.raises(LookupError, match="for code that handles a message"):
        current_context()


# -- traces --------------------------------------------------------------------------------


async def test_trace_is_passed_on(bus: Bus, client: Client, namespace: str):
    """The header comes with an event and goes with all that follows: events, durable or not, and
    requests."""
    seen = notes(bus, Placed, Paid, Shipped)
    prices: list[Context] = []
    service = Service("prices")

    @service.handle
    async def price(request: Price, ctx: Context) -> int:
        prices.append(ctx)
        return 7

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        await bus.request(Price())
        await bus.publish(Paid(), durable=True)
        bus.publish_nowait(Shipped())

    async with serving(bus, service):
        await client.publish(
            f"{namespace}.event.-.context.Placed", b"{}", headers={"traceparent": TRACE}
        )
        await noted(seen, "Shipped")

    assert {one.traceparent for one in (*seen.values(), *prices)} == {TRACE}
    assert set(seen) == {"Placed", "Paid", "Shipped"}
    assert len(prices) == 1


async def test_middleware_may_set_the_trace(bus: Bus):
    """One that starts a span lets what follows belong to it."""
    seen = notes(bus, Paid)

    async def span(ctx: Context, call_next: Handler) -> Any:
        if ctx.type == "context.Placed":
            assert ctx.traceparent is None
            ctx.traceparent = OTHER_TRACE
        return await call_next()

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        await bus.publish(Paid())

    bus.middleware.append(span)
    await bus.ready()
    await bus.publish(Placed())

    assert (await noted(seen, "Paid")).headers == {"traceparent": OTHER_TRACE}


async def test_without_a_trace_there_is_no_header(bus: Bus, client: Client, namespace: str):
    """A message with a header costs more."""
    subscription = await client.subscribe(f"{namespace}.event.-.context.Paid")
    await flushed(client)

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        await bus.publish(Paid())

    await bus.ready()
    await bus.publish(Placed())

    assert (await subscription.next_msg(5)).headers is None


async def test_trace_that_cannot_be_passed_on_stops_nobody(server_url: str, bus: Bus):
    """A header that anybody has sent with a line break in it: what follows goes without it."""
    seen = notes(bus, Paid)

    @bus.on(Placed)
    async def pay(event: Placed) -> None:
        await bus.publish(Paid())

    await bus.ready()
    headers = b"NATS/1.0\r\ntraceparent: 00-1\n-2-01\r\n\r\n"
    await publish_raw(server_url, bus.subjects.event("context.Placed"), headers, b"{}")

    paid = await noted(seen, "Paid")
    assert paid.causation_id == ""
    assert paid.traceparent is None


async def publish_raw(server_url: str, subject: str, headers: bytes, body: bytes) -> None:
    """Publish what no client library would send."""
    host, _, port = server_url.removeprefix("nats://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    sizes = f"{len(headers)} {len(headers) + len(body)}"
    writer.write(b'CONNECT {"verbose": false, "headers": true}\r\n')
    writer.write(f"HPUB {subject} {sizes}\r\n".encode() + headers + body + b"\r\nPING\r\n")
    assert await reader.readline() == b"PONG\r\n"
    writer.close()


# -- state ---------------------------------------------------------------------------------


async def test_state_is_what_the_lifespan_yields(new_bus: BusFactory):
    """For every handler of the bus, durable or not, and its middleware."""

    @asynccontextmanager
    async def lifespan():
        yield {"pool": 1}

    states: list[Any] = []

    async def look(ctx: Context, call_next: Handler) -> Any:
        states.append(ctx.state)
        return await call_next()

    bus = new_bus(lifespan=lifespan)
    bus.middleware.append(look)
    live, durable = notes(bus, Placed), notes(bus, Placed, durable="mailer")
    async with bus:
        await bus.publish(Placed(), durable=True)
        contexts = [await noted(live, "Placed"), await noted(durable, "Placed")]

        assert bus.state == {"pool": 1}
        assert [one.state for one in contexts] == states == [{"pool": 1}] * 2
        assert contexts[0].state is contexts[1].state is bus.state


async def test_without_a_lifespan_there_is_no_state(bus: Bus):
    """It is `None` then."""
    seen = notes(bus, Placed)
    await bus.ready()

    await bus.publish(Placed())

    assert (await noted(seen, "Placed")).state is None


# -- what is no message --------------------------------------------------------------------


async def test_what_is_sent_may_follow_from_what_is_no_message(bus: Bus):
    """A web request, for one: its id is the cause, and what all of it can be found by."""
    seen = notes(bus, Placed, Paid, Shipped)
    await bus.ready()

    with following(Cause("request-1", traceparent=TRACE)):
        await bus.publish(Placed())
    with following(Cause("request-2", correlation_id="visit-7")):
        await bus.publish(Paid())
    await bus.publish(Shipped())

    placed, paid = await noted(seen, "Placed"), await noted(seen, "Paid")
    shipped = await noted(seen, "Shipped")
    assert (placed.causation_id, placed.correlation_id) == ("request-1", "request-1")
    assert placed.traceparent == TRACE
    assert (paid.causation_id, paid.correlation_id) == ("request-2", "visit-7")
    assert paid.traceparent is None
    assert (shipped.causation_id, shipped.correlation_id) == ("", shipped.id)
