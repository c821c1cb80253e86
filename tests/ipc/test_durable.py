"""Durable events: every durable gets every event, until its handler has returned."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from nats.aio.client import Client

from ipc import (
    Bus,
    Context,
    Domain,
    DurableConflictError,
    DurableMissingError,
    Event,
    EventStreamMissingError,
    HandlerDefinitionError,
    LocalServer,
    Retry,
    Service,
    UnconfirmedError,
)
from ipc._durable import Acked, Buried, TriedAgain, verdict_for
from tests.conftest import until

from .conftest import BusFactory

SOON = Retry(max_attempts=3, base_delay=0.02, jitter=False)


class Placed(Event, type="shop.Placed"):
    number: int


class Paid(Event, type="shop.Paid"):
    number: int


class Moved(Event, type="shop.Moved", key="account"):
    account: str
    number: int


class Shipped(Event, type="depot.Shipped"):
    number: int


def takes(bus: Bus, durable: str, *types: Any, **options: Any) -> list[int]:
    """Handle events of some types by noting their numbers."""
    seen: list[int] = []

    @bus.on(*(types or (Placed,)), durable=durable, **options)
    async def note(event: Any) -> None:
        seen.append(event.number)

    return seen


async def publish(bus: Bus, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await bus.publish(Placed(number=number), durable=True)


async def letters(bus: Bus, durable: str) -> list[Any]:
    return [letter async for letter in bus.dead_letters.list(durable)]


# -- who gets what ------------------------------------------------------------------------


async def test_every_durable_gets_every_event(bus: Bus):
    """Three durables, in the order of publishing each."""
    everything = [takes(bus, name, concurrency=1) for name in ("a", "b", "c")]
    await bus.ready()

    await publish(bus, 200)

    await until(lambda: all(len(seen) == 200 for seen in everything), "all should get all")
    assert all(seen == list(range(200)) for seen in everything)


async def test_processes_with_the_same_durable_share_the_events(new_bus: BusFactory):
    """Two buses with one durable are competing consumers: each event is handled once."""
    async with new_bus("one") as one, new_bus("two") as two:
        first, second = takes(one, "mailer", concurrency=1), takes(two, "mailer", concurrency=1)
        await one.ready()
        await two.ready()

        await publish(one, 300)

        await until(lambda: len(first) + len(second) == 300, "all should be handled")
    assert sorted(first + second) == list(range(300))
    assert first
    assert second


async def test_slow_durable_does_not_slow_the_others(bus: Bus):
    """One whose handler never returns leaves all events to the other."""
    stuck = asyncio.Event()

    @bus.on(Placed, durable="slow", concurrency=1)
    async def wait(event: Placed) -> None:
        stuck.set()
        await asyncio.Event().wait()

    fast = takes(bus, "fast")
    await bus.ready()
    await publish(bus, 500)

    await until(lambda: len(fast) == 500, "the fast one should have all")
    await stuck.wait()
    slow = next(one for one in await bus.durables.list() if one.durable == "slow")
    assert slow.pending + slow.unacknowledged == 500


async def test_events_wait_for_a_durable_that_is_away(new_bus: BusFactory):
    """What is published between two runs of a process is handled by the next."""
    async with new_bus() as bus:
        takes(bus, "mailer")
        await bus.ready()
    async with new_bus("other") as other:
        await publish(other, 3)
    async with new_bus() as bus:
        seen = takes(bus, "mailer")
        await until(lambda: len(seen) == 3, "the events should have waited")


async def test_event_is_dropped_where_nobody_listens(bus: Bus):
    """An interest stream keeps nothing that no durable takes, nor what all have acked."""
    seen = takes(bus, "payments", Paid)
    await bus.ready()

    await publish(bus, 5)
    await bus.publish(Paid(number=1), durable=True)

    await until(lambda: seen == [1], "the one that is taken should be handled")

    async def is_empty() -> bool:
        found = await bus.jetstream.find_stream(bus.subjects.stream("shop"))
        return found is not None and found.state.messages == 0

    await until(is_empty, "nothing should be kept")


async def test_one_durable_takes_types_of_several_domains(bus: Bus):
    """Each domain's stream has a consumer of that name."""
    seen = takes(bus, "audit", Placed, Shipped)
    await bus.ready()

    await bus.publish(Placed(number=1), durable=True)
    await bus.publish(Shipped(number=2), durable=True)

    await until(lambda: sorted(seen) == [1, 2], "both should be handled")
    assert {(one.domain, tuple(one.takes)) for one in await bus.durables.list()} == {
        ("shop", ("shop.Placed",)),
        ("depot", ("depot.Shipped",)),
    }


async def test_same_id_is_stored_once(bus: Bus):
    """Publishing again with the same id changes nothing."""
    seen = takes(bus, "mailer")
    await bus.ready()

    for _ in range(3):
        await bus.publish(Placed(number=1), durable=True, id="order-1")
    await bus.publish(Placed(number=2), durable=True)

    await until(lambda: 2 in seen, "the last should be handled")
    assert sorted(seen) == [1, 2]


async def test_what_is_published_live_reaches_durables_too(bus: Bus):
    """Whether the publisher waits for the server's ack is the publisher's choice."""
    seen = takes(bus, "mailer")
    await bus.ready()

    await bus.publish(Placed(number=1))

    await until(lambda: seen == [1], "the durable should have it")


async def test_any_client_can_publish_durably(bus: Bus, client: Client, namespace: str):
    """A JSON object on the event's subject is all it takes."""
    seen = takes(bus, "mailer")
    await bus.ready()

    await client.jetstream().publish(
        f"{namespace}.event.-.shop.Placed", b'{"$type": "shop.Placed", "number": 7}'
    )

    await until(lambda: seen == [7], "it should be handled")


# -- failing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "attempt", "retry", "verdict"),
    [
        (None, 1, SOON, Acked),
        (ValueError("no"), 1, SOON, TriedAgain),
        (ValueError("no"), 2, SOON, TriedAgain),
        (ValueError("no"), 3, SOON, Buried),
        (ValueError("no"), 1, Retry(give_up_on=(ValueError,)), Buried),
        (KeyError("no"), 1, Retry(retry_on=(ValueError,)), Buried),
    ],
)
def test_each_outcome_has_one_verdict(error: Any, attempt: int, retry: Retry, verdict: type):
    """An event is acked, tried again while attempts are left, or set aside."""
    assert type(verdict_for(error, attempt, retry)) is verdict


async def test_failed_event_is_handled_again(bus: Bus):
    """With its attempt counted, and others handled meanwhile."""
    attempts: list[tuple[int, int]] = []

    @bus.on(Placed, durable="mailer", concurrency=1, retry=SOON)
    async def fail_twice(event: Placed, ctx: Context) -> None:
        attempts.append((event.number, ctx.attempt))
        if event.number == 0 and ctx.attempt < 3:
            raise ValueError("not yet")

    await bus.ready()
    await publish(bus, 3)

    await until(lambda: len(attempts) == 5, "it should be tried three times")
    assert [attempt for number, attempt in attempts if number == 0] == [1, 2, 3]
    assert [number for number, _ in attempts][-1] == 0
    assert await letters(bus, "mailer") == []


async def test_event_that_fails_for_good_becomes_a_dead_letter(bus: Bus):
    """Of the durable that could not handle it; the others have it handled."""

    @bus.on(Placed, durable="mailer", retry=SOON)
    async def fail(event: Placed) -> None:
        raise ValueError("no such address")

    others = takes(bus, "stock")
    await bus.ready()
    await publish(bus, 1)

    async def is_dead() -> list[Any]:
        return await letters(bus, "mailer")

    (letter,) = await until(is_dead, "it should be dead")
    assert others == [0]
    assert (letter.durable, letter.type, letter.attempts) == ("mailer", "shop.Placed", 3)
    assert letter.reason == "failed 3 of 3 attempts: ValueError: no such address"
    assert "in fail" in letter.error
    assert b'"number":0' in letter.body


async def test_dead_letter_is_replayed_to_its_durable_only(bus: Bus):
    """It gets the event once more, with all attempts; the others had it."""
    broken = True
    seen: list[int] = []

    @bus.on(Placed, durable="mailer", retry=Retry(max_attempts=1))
    async def note(event: Placed, ctx: Context) -> None:
        if broken:
            raise ValueError("broken")
        seen.append(ctx.attempt)

    others = takes(bus, "stock")
    await bus.ready()
    await publish(bus, 1)

    async def is_dead() -> list[Any]:
        return await letters(bus, "mailer")

    (letter,) = await until(is_dead, "it should be dead")
    broken = False
    await bus.dead_letters.replay("mailer", letter.id)

    await until(lambda: seen == [1], "it should be handled")
    assert others == [0]
    assert await letters(bus, "mailer") == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "cannot be decoded"),
        (b'{"$type": "shop.Placed", "number": "seven"}', "cannot be decoded"),
        (b"\xc1\xff", "cannot be decoded"),
    ],
)
async def test_malformed_event_is_set_aside(
    bus: Bus, client: Client, namespace: str, body: bytes, reason: str
):
    """With its bytes as they came; the next event is handled."""
    seen = takes(bus, "mailer")
    await bus.ready()

    await client.jetstream().publish(f"{namespace}.event.-.shop.Placed", body)
    await publish(bus, 1)

    async def is_dead() -> list[Any]:
        return await letters(bus, "mailer")

    (letter,) = await until(is_dead, "it should be dead")
    assert reason in letter.reason
    assert letter.body == body
    await until(lambda: seen == [0], "the next should be handled")


@pytest.mark.parametrize("unknown", ["skip", "error"])
async def test_unknown_type_is_skipped_or_set_aside(
    bus: Bus, client: Client, namespace: str, unknown: Any
):
    """By choice of the handler; either way it is not delivered again."""
    seen = takes(bus, "mailer", unknown=unknown)
    await bus.ready()

    await client.jetstream().publish(
        f"{namespace}.event.-.shop.Placed", b'{"$type": "shop.Other", "number": 1}'
    )
    await publish(bus, 1)
    await until(lambda: seen == [0], "the next should be handled")

    async def all_acked() -> bool:
        (one,) = await bus.durables.list()
        return one.unacknowledged == 0

    await until(all_acked, "the unknown one should be settled")
    assert len(await letters(bus, "mailer")) == (unknown == "error")


# -- order ----------------------------------------------------------------------------------


async def test_order_is_kept_by_key(new_bus: BusFactory):
    """Over two processes, with failures and delays in between, each key's events are in order."""
    done: dict[str, list[int]] = {}
    active: set[str] = set()

    def moves(bus: Bus) -> None:
        @bus.on(Moved, durable="ledger", ordered=True, retry=SOON)
        async def book(event: Moved, ctx: Context) -> None:
            assert event.account not in active
            active.add(event.account)
            try:
                await asyncio.sleep(0)
                if event.number % 5 == 0 and ctx.attempt == 1:
                    raise ValueError("once")
                done.setdefault(event.account, []).append(event.number)
            finally:
                active.remove(event.account)

    async with new_bus("one") as one, new_bus("two") as two:
        moves(one)
        moves(two)
        await one.ready()
        await two.ready()
        accounts = [f"account-{number}" for number in range(8)]
        for number in range(20):
            for account in accounts:
                await one.publish(Moved(account=account, number=number), durable=True)

        await until(lambda: sum(map(len, done.values())) == 160, "all should be booked", 30)
    assert done == {account: list(range(20)) for account in accounts}


async def test_order_is_kept_when_a_process_goes_away(new_bus: BusFactory):
    """What it had not finished comes to the other one, before what came after."""
    done: list[int] = []
    begun = asyncio.Event()

    async with new_bus("two") as two:
        async with new_bus("one", grace=0.0) as one:

            @one.on(Moved, durable="ledger", ordered=True)
            async def stuck(event: Moved) -> None:
                begun.set()
                await asyncio.Event().wait()

            await one.ready()
            for number in range(5):
                await one.publish(Moved(account="a", number=number), durable=True)
            await begun.wait()

            @two.on(Moved, durable="ledger", ordered=True)
            async def book(event: Moved) -> None:
                done.append(event.number)

            await two.ready()
        await until(lambda: len(done) == 5, "the other one should go on")

    assert done == [0, 1, 2, 3, 4]


async def test_keys_do_not_wait_for_each_other(bus: Bus):
    """Events with other keys are handled while one waits."""
    release = asyncio.Event()
    done: list[str] = []

    @bus.on(Moved, durable="ledger", ordered=True)
    async def book(event: Moved) -> None:
        if event.account == "slow":
            await release.wait()
        done.append(event.account)

    await bus.ready()
    await bus.publish(Moved(account="slow", number=0), durable=True)
    for number in range(4):
        await bus.publish(Moved(account=f"quick-{number}", number=0), durable=True)

    await until(lambda: len(done) == 4, "the others should not wait")
    release.set()
    await until(lambda: len(done) == 5, "the slow one should come to its end")


async def test_order_needs_a_key(bus: Bus):
    """A type that says no key cannot be ordered by it."""
    with pytest.raises(HandlerDefinitionError, match=r"class Placed\(Event, key=…\)"):
        takes(bus, "ledger", ordered=True)


# -- where it begins -----------------------------------------------------------------------


@pytest.fixture
async def keeping(new_bus: BusFactory) -> AsyncIterator[Bus]:
    """A bus whose domain keeps what it has handled."""
    async with new_bus(domains=[Domain("shop", history=3600)]) as bus:
        yield bus


async def test_new_durable_begins_now(keeping: Bus):
    """By default it gets what is published after it was made."""
    await publish(keeping, 3)
    seen = takes(keeping, "late")
    await keeping.ready()

    await publish(keeping, 1, first=10)

    await until(lambda: seen, "the new one should come")
    assert seen == [10]


async def test_new_durable_begins_at_the_beginning(keeping: Bus):
    """With `start="all"` it gets all that the stream has."""
    await publish(keeping, 3)
    seen = takes(keeping, "late", start="all", concurrency=1)

    await until(lambda: len(seen) == 3, "the old ones should come")
    assert seen == [0, 1, 2]


async def test_new_durable_begins_at_a_time(keeping: Bus):
    """What was stored before is left out."""
    await publish(keeping, 3)
    since = datetime.now(UTC)
    await publish(keeping, 2, first=10)
    seen = takes(keeping, "late", start=since, concurrency=1)

    await until(lambda: len(seen) == 2, "those since then should come")
    assert seen == [10, 11]


async def test_durable_goes_on_where_it_was(new_bus: BusFactory):
    """Whatever `start` says, one that is there keeps its place, and may take other types."""
    domains = [Domain("shop", history=3600)]
    async with new_bus(domains=domains) as bus:
        seen = takes(bus, "late", start="all")
        await publish(bus, 3)
        await until(lambda: len(seen) == 3, "all should be handled")
    async with new_bus(domains=domains) as bus:
        more = takes(bus, "late", Placed, Paid, start="all")
        await bus.ready()
        await bus.publish(Paid(number=7), durable=True)
        await until(lambda: more == [7], "only the new one should come")


# -- stopping, going away -------------------------------------------------------------------


async def test_drain_finishes_what_runs_and_gives_back_the_rest(new_bus: BusFactory):
    """Nothing is lost and nothing handled twice when a process stops in order."""
    begun, release = asyncio.Event(), asyncio.Event()
    first: list[int] = []
    async with new_bus("one", grace=5.0) as one:

        @one.on(Placed, durable="mailer", concurrency=1)
        async def wait(event: Placed) -> None:
            begun.set()
            await release.wait()
            first.append(event.number)

        await one.ready()
        await publish(one, 10)
        await begun.wait()
        draining = asyncio.create_task(one.drain())
        async with new_bus("two") as two:
            second = takes(two, "mailer")
            await until(lambda: len(second) == 9, "what had not begun should be given back")
            release.set()
            await draining

    assert first == [0]
    assert sorted(second) == list(range(1, 10))


async def test_handler_that_does_not_finish_gives_its_event_back(new_bus: BusFactory):
    """After the grace period it is cancelled, and another process gets the event at once."""
    begun = asyncio.Event()
    async with new_bus("one", grace=0.0) as one:

        @one.on(Placed, durable="mailer")
        async def wait(event: Placed) -> None:
            begun.set()
            await asyncio.Event().wait()

        await one.ready()
        await publish(one, 1)
        await begun.wait()
    async with new_bus("two") as two:
        seen = takes(two, "mailer")
        await until(lambda: seen == [0], "it should come again at once", 5)


async def test_lease_is_renewed_while_a_handler_runs(new_bus: BusFactory):
    """A handler that takes longer than the lease is not given a second copy."""
    async with new_bus() as bus:
        runs: list[int] = []
        done = asyncio.Event()

        @bus.on(Placed, durable="mailer", lease=1.0)
        async def work(event: Placed) -> None:
            runs.append(event.number)
            await asyncio.sleep(2.5)
            done.set()

        await bus.ready()
        await publish(bus, 1)
        await asyncio.wait_for(done.wait(), 10)

        async def is_acked() -> bool:
            (one,) = await bus.durables.list()
            return one.unacknowledged == 0

        await until(is_acked, "it should be acked")
    assert runs == [0]


async def test_lease_is_renewed_while_another_domain_is_gone(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    """A durable that waits for one stream to come back keeps what it has of others."""
    runs: list[int] = []
    ensure, waits = bus.streams.ensure, asyncio.Event()

    @bus.on(Placed, Shipped, durable="mailer", lease=1)
    async def work(event: Placed | Shipped) -> None:
        runs.append(event.number)
        await waits.wait()
        # Longer than the lease.
        await asyncio.sleep(1.6)

    await bus.ready()
    await publish(bus, 1)
    await until(lambda: runs == [0], "the event should be handled")

    async def never_back(domain: str, *, anew: bool = False) -> None:
        if domain == "depot" and anew:
            waits.set()
            await asyncio.Event().wait()
        await ensure(domain, anew=anew)

    monkeypatch.setattr(bus.streams, "ensure", never_back)
    await bus.jetstream.delete_stream(bus.subjects.stream("depot"))
    await until(lambda: bus.running == 0, "it should be done")
    consumer = await bus.jetstream.find_consumer(bus.subjects.stream("shop"), "mailer")

    assert runs == [0]
    assert consumer is not None
    # Not delivered again meanwhile.
    assert consumer.delivered.consumer_seq == 1


async def test_durable_that_was_removed_comes_back(bus: Bus):
    """Somebody works on it, so it is needed: it is made again."""
    seen = takes(bus, "mailer")
    await bus.ready()
    assert await bus.durables.remove("mailer") == ["shop"]

    async def is_back() -> bool:
        return any(one.waiting for one in await bus.durables.list())

    await until(is_back, "the durable should be made again")
    await publish(bus, 1)
    await until(lambda: seen == [0], "it should work again")


async def test_late_ack_does_not_hit_another_event():
    """A stream in memory numbers from 1 again: what is acked is the event, not its number."""
    go_on, seen = asyncio.Event(), list[int]()
    async with LocalServer() as server, AsyncExitStack() as stack:
        one = await stack.enter_async_context(
            Bus("one", servers=server.url, storage="memory", grace=0.1)
        )

        @one.on(Placed, durable="mailer", concurrency=1)
        async def hold(event: Placed) -> None:
            seen.append(event.number)
            if event.number == 0:
                await go_on.wait()
            else:
                await asyncio.Event().wait()

        await one.ready()
        await publish(one, 1)
        await until(lambda: seen == [0], "the first event should be handled")
        await server.restart()

        other = await stack.enter_async_context(
            Bus("other", servers=server.url, storage="memory", grace=0.1)
        )
        other.on(Placed, durable="mailer", concurrency=1)(hold)
        await other.ready()
        await publish(other, 1, first=1)
        await until(lambda: seen == [0, 1], "another event should be handled")
        go_on.set()
        await until(lambda: one.running == 0, "the first one should be done")
        await one.connection.confirm()
        (durable,) = await other.durables.list()

    assert durable.unacknowledged == 1


# -- errors ---------------------------------------------------------------------------------


async def test_without_declare_nothing_is_created(new_bus: BusFactory):
    """A bus that may not declare says what is missing."""
    async with new_bus(declare=False) as bus:
        with pytest.raises(EventStreamMissingError, match="shop"):
            await bus.publish(Placed(number=1), durable=True)
        takes(bus, "mailer")
        with pytest.raises(EventStreamMissingError, match="shop"):
            await bus.ready()
    async with new_bus() as bus:
        await publish(bus, 1)
    async with new_bus(declare=False) as bus:
        takes(bus, "mailer")
        with pytest.raises(DurableMissingError, match="mailer"):
            await bus.ready()


async def test_one_bus_has_a_durable_once(bus: Bus):
    """Two handlers under one name would share the events between them."""
    takes(bus, "mailer")
    with pytest.raises(HandlerDefinitionError, match="mailer"):
        takes(bus, "mailer", Paid)


async def test_unacknowledged_publish_is_an_error(new_bus: BusFactory):
    """If the server cannot say that it has stored an event, the publisher is told."""
    async with new_bus(timeout=0.5) as bus, new_bus("listener") as other:
        await publish(bus, 1)
        await bus.jetstream.delete_stream(bus.subjects.stream("shop"))
        # Somebody listens there who is no stream: no ack comes, and nobody says so.
        async with other.subscribe("shop.*"):
            with pytest.raises(UnconfirmedError):
                await bus.publish(Placed(number=2), durable=True)


@pytest.mark.parametrize("missing", ["bucket", "dead letters"])
async def test_without_declare_a_durable_needs_what_failures_need(
    new_bus: BusFactory, missing: str
):
    """Found out at the start, and not when the first event fails."""
    async with new_bus() as bus:
        takes(bus, "mailer")
        await bus.ready()
    async with new_bus("admin") as admin:
        subjects = admin.subjects
        stream = subjects.bucket_stream if missing == "bucket" else subjects.dead_stream("shop")
        await admin.jetstream.delete_stream(stream)
    async with new_bus(declare=False) as bus:
        takes(bus, "mailer")
        with pytest.raises(EventStreamMissingError, match=stream):
            await bus.ready()


async def test_services_of_one_bus_have_a_durable_once(bus: Bus):
    """As its handlers: whichever came second would take events from the first."""
    one, other = Service("one"), Service("other")
    for service in (one, other):

        @service.on(Placed, durable="mailer")
        async def handle(event: Placed) -> None: ...

    with pytest.raises(HandlerDefinitionError, match="durable 'mailer'"):
        await asyncio.wait_for(bus.serve(one, other), 5)
    assert not bus.serving

    takes(bus, "mailer")
    await bus.ready()
    with pytest.raises(HandlerDefinitionError, match="durable 'mailer'"):
        await asyncio.wait_for(bus.serve(one), 5)


async def test_handler_whose_own_work_was_cancelled_has_failed(bus: Bus):
    """Nobody stops: its attempts are counted, and then it is a dead letter."""
    attempts: list[int] = []

    @bus.on(Placed, durable="mailer", retry=SOON)
    async def wait(event: Placed, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        work = asyncio.create_task(asyncio.sleep(60))
        work.cancel()
        await work

    await bus.ready()
    await publish(bus, 1)

    async def is_dead() -> list[Any]:
        return await letters(bus, "mailer")

    (letter,) = await until(is_dead, "it should be dead")
    assert attempts == [1, 2, 3]
    assert letter.attempts == 3
    assert "was cancelled" in letter.reason


async def test_event_that_comes_again_at_once_is_handled(bus: Bus):
    """However soon after it failed: nothing waits until a lease runs out."""
    attempts: list[int] = []
    retry = Retry(max_attempts=20, base_delay=0.001, max_delay=0.001, jitter=False)

    @bus.on(Placed, durable="mailer", retry=retry)
    async def fail(event: Placed, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < retry.max_attempts:
            raise ValueError("not yet")

    await bus.ready()
    await publish(bus, 1)

    await until(lambda: len(attempts) == 20, "it should be tried again and again")
    assert attempts == list(range(1, 21))


async def test_same_id_is_of_one_type(bus: Bus):
    """An order may be placed and moved, and both events have the order's id."""
    seen: list[str] = []

    @bus.on(Placed, Paid, durable="mailer", concurrency=1)
    async def note(event: Placed | Paid) -> None:
        seen.append(type(event).__name__)

    await bus.ready()
    for _ in range(2):
        await bus.publish(Placed(number=7), durable=True, id="order-7")
        await bus.publish(Paid(number=7), durable=True, id="order-7")
    await bus.publish(Placed(number=8), durable=True)

    await until(lambda: len(seen) >= 3, "all should be handled")
    assert seen == ["Placed", "Paid", "Placed"]


# -- dead letters that nobody would take ----------------------------------------------------


@pytest.mark.parametrize("gone", ["durable", "type"])
async def test_dead_letter_stays_if_its_durable_does_not_take_it(new_bus: BusFactory, gone: str):
    """The server would drop at once what nobody takes."""
    async with new_bus() as bus:

        @bus.on(Placed, Paid, durable="mailer", retry=Retry(max_attempts=1))
        async def fail(event: Placed | Paid) -> None:
            raise ValueError("no such address")

        await bus.ready()
        await publish(bus, 1)

        async def is_dead() -> list[Any]:
            return await letters(bus, "mailer")

        (letter,) = await until(is_dead, "it should be dead")
    async with new_bus("admin") as admin:
        if gone == "durable":
            await admin.durables.remove("mailer")
        else:
            await admin.durables.forget("mailer", "shop.Placed")

        with pytest.raises(DurableMissingError, match=r"does not take shop\.Placed any more"):
            await admin.dead_letters.replay("mailer", letter.id)
        assert await letters(admin, "mailer") == [letter]


# -- processes of several versions -----------------------------------------------------------


async def test_event_of_a_type_that_a_process_does_not_know_is_left_to_others(new_bus: BusFactory):
    """Amid a deployment: an older process neither acks it nor sets it aside."""
    async with new_bus("new") as new:
        takes(new, "mailer", Placed, Paid)
        await new.ready()
    async with new_bus("old") as old:
        known = takes(old, "mailer", concurrency=1)
        await old.ready()
        await old.publish(Paid(number=7), durable=True)
        await publish(old, 1)
        await until(lambda: known == [0], "the one behind it should be handled")
    async with new_bus("new") as new:
        seen = takes(new, "mailer", Placed, Paid)

        await until(lambda: seen == [7], "the newer process should handle it")
        assert await letters(new, "mailer") == []


async def test_older_process_takes_no_type_away_from_a_newer_one(new_bus: BusFactory):
    """When it starts again: what a durable takes is what any of its processes handles."""
    async with new_bus("new") as new:
        seen = takes(new, "mailer", Placed, Paid)
        await new.ready()
        async with new_bus("old") as old:
            takes(old, "mailer")
            await old.ready()

        await new.publish(Paid(number=7), durable=True)

        await until(lambda: seen == [7], "the newer process should have it")
        (durable,) = await new.durables.list()
        assert durable.takes == ["shop.Paid", "shop.Placed"]


async def test_processes_that_start_at_once_take_no_type_from_each_other(
    new_bus: BusFactory, monkeypatch: pytest.MonkeyPatch
):
    """Both find no durable, and the older one is the last to declare it."""
    async with new_bus("new") as new, new_bus("old") as old:
        find = old.jetstream.find_consumer

        async def find_and_be_late(stream: str, name: str) -> Any:
            found = await find(stream, name)
            if found is None and name == "mailer":
                takes(new, "mailer", Placed, Paid)
                await new.ready()
            return found

        monkeypatch.setattr(old.jetstream, "find_consumer", find_and_be_late)
        takes(old, "mailer")
        await old.ready()

        (durable,) = await new.durables.list()
    assert durable.takes == ["shop.Paid", "shop.Placed"]


# -- names of durables -----------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_durable_neither_begins_nor_ceases_to_keep_the_order(
    new_bus: BusFactory, ordered: bool
):
    """Events wait where nobody would look for them then; once it is removed it may be either."""
    async with new_bus() as bus:
        takes(bus, "ledger", Moved, ordered=ordered)
        await bus.ready()
    async with new_bus() as bus:
        takes(bus, "ledger", Moved, ordered=not ordered)
        with pytest.raises(DurableConflictError, match="ipc durables remove ledger"):
            await bus.ready()
        await bus.durables.remove("ledger")
    async with new_bus() as bus:
        seen = takes(bus, "ledger", Moved, ordered=not ordered)
        await bus.ready()
        await bus.publish(Moved(account="a", number=1), durable=True)
        await until(lambda: seen == [1], "it should be handled")


@pytest.mark.parametrize("first", ["ledger", "ledger-00"])
async def test_name_of_a_part_is_no_other_durable_s(new_bus: BusFactory, first: str):
    """One that keeps the order has consumers `ledger-00` and so on: each is of one durable."""
    names = ["ledger", "ledger-00"]
    second = names[first == "ledger"]
    async with new_bus() as bus:
        takes(bus, first, Moved, ordered=first == "ledger")
        await bus.ready()
        takes(bus, second, Moved, ordered=second == "ledger")

        with pytest.raises(DurableConflictError, match=f"part of '{first}'"):
            await bus.ready()


async def test_durable_that_cannot_be_declared_leaves_nothing_behind(new_bus: BusFactory):
    """What was made of it before would hold events back, and nobody would take them."""
    async with new_bus() as bus:
        takes(bus, "ledger-05", Moved)
        await bus.ready()
        takes(bus, "ledger", Moved, ordered=True)
        with pytest.raises(DurableConflictError, match="part of 'ledger-05'"):
            await bus.ready()

        assert [one.durable for one in await bus.durables.list()] == ["ledger-05"]


# -- a server that has lost everything -------------------------------------------------------


async def test_failures_are_counted_after_everything_was_lost():
    """A server with all in memory was restarted: what fails is tried again, and set aside."""
    attempts: list[tuple[int, int]] = []
    async with (
        LocalServer() as server,
        Bus("mailer", servers=server.url, storage="memory", grace=0.1) as bus,
    ):

        @bus.on(Placed, durable="mailer", retry=SOON)
        async def fail(event: Placed, ctx: Context) -> None:
            attempts.append((event.number, ctx.attempt))
            raise ValueError("no such address")

        async def is_dead() -> list[Any]:
            return await letters(bus, "mailer")

        async def is_back() -> bool:
            return any(one.waiting for one in await bus.durables.list())

        await bus.ready()
        await publish(bus, 1)
        await until(is_dead, "it should be dead")
        await server.restart()
        await until(lambda: bus.is_ready, "the connection should be back")
        await until(is_back, "the durable should be made again")
        await publish(bus, 1, first=1)

        (letter,) = await until(is_dead, "it should be dead")
    assert attempts == [(number, attempt) for number in (0, 1) for attempt in (1, 2, 3)]
    assert letter.attempts == 3
