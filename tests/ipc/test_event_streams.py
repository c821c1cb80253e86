"""What lies on the server for durables: listed, removed, told when it is in the way."""

from typing import Any

import structlog
from structlog.testing import capture_logs

from ipc import Bus, Domain, Event
from tests.conftest import until

from .conftest import BusFactory


class Placed(Event, type="store.Placed"):
    number: int


class Paid(Event, type="store.Paid"):
    number: int


def takes(bus: Bus, durable: str, *types: Any) -> list[int]:
    seen: list[int] = []

    @bus.on(*(types or (Placed,)), durable=durable)
    async def note(event: Any) -> None:
        seen.append(event.number)

    return seen


async def leave_behind(new_bus: BusFactory, durable: str, events: int) -> None:
    """Leave a durable on which nobody works, with events that wait for it."""
    async with new_bus() as bus:
        takes(bus, durable)
        await bus.ready()
    async with new_bus() as bus:
        for number in range(events):
            await bus.publish(Placed(number=number), durable=True)


async def test_durable_without_a_worker_is_shown_to_hold_events_back(new_bus: BusFactory, bus: Bus):
    """The list says how much waits, and that nobody asks for it."""
    await leave_behind(new_bus, "gone", 3)
    seen = takes(bus, "here")
    await bus.ready()
    await bus.publish(Placed(number=9), durable=True)
    await until(lambda: seen == [9], "the other one should have worked")

    async def found() -> Any:
        durables = {one.durable: one for one in await bus.durables.list(domain="store")}
        return durables if durables["here"].unacknowledged == 0 else None

    durables = await until(found, "it should be acked")
    assert (durables["gone"].pending, durables["gone"].holds_back) == (4, True)
    assert (durables["here"].pending, durables["here"].holds_back) == (0, False)
    assert durables["here"].waiting > 0
    assert durables["here"].last_active is not None


async def test_removing_a_durable_frees_what_was_kept_for_it(new_bus: BusFactory, bus: Bus):
    """What no other durable needs is gone from the stream."""
    await leave_behind(new_bus, "gone", 3)

    assert await bus.durables.remove("gone") == ["store"]

    async def is_empty() -> bool:
        found = await bus.jetstream.find_stream(bus.subjects.stream("store"))
        return found is not None and found.state.messages == 0

    await until(is_empty, "the stream should be empty")
    assert await bus.durables.list() == []
    assert await bus.durables.remove("gone") == []


async def test_who_starts_is_warned_of_durables_that_hold_back(new_bus: BusFactory):
    """Once, by name."""
    await leave_behind(new_bus, "gone", 3)
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with new_bus() as bus:
            takes(bus, "here")
            takes(bus, "there")
            await bus.ready()

    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [(log["durable"], log["pending"]) for log in warnings] == [("gone", 3)]


async def test_stream_that_differs_is_left_as_it_is(new_bus: BusFactory):
    """Other people's settings stand; the difference is said."""
    async with new_bus() as bus:
        await bus.publish(Placed(number=1), durable=True)
    with capture_logs() as logs:
        async with new_bus(domains=[Domain("store", history=60)]) as bus:
            await bus.publish(Placed(number=2), durable=True)
            found = await bus.jetstream.find_stream(bus.subjects.stream("store"))

    assert found is not None
    assert found.config["retention"] == "interest"
    warnings = [log for log in logs if "differs" in log["event"]]
    assert [set(log["differences"]) for log in warnings] == [{"max_age"}]


async def num_stored(bus: Bus) -> int | None:
    found = await bus.jetstream.find_stream(bus.subjects.stream("store"))
    return None if found is None else found.state.messages


async def test_durable_is_told_to_forget_a_type(new_bus: BusFactory, bus: Bus):
    """What waited in it of that type goes, all else stays."""
    async with new_bus() as other:
        takes(other, "mailer", Placed, Paid)
        await other.ready()
    await bus.publish(Placed(number=1), durable=True)
    await bus.publish(Paid(number=2), durable=True)

    assert await bus.durables.forget("mailer", "store.Paid")

    async def has_one_left() -> bool:
        return await num_stored(bus) == 1

    await until(has_one_left, "the other one should be gone")
    (durable,) = await bus.durables.list()
    assert (durable.takes, durable.pending) == (["store.Placed"], 1)
    assert not await bus.durables.forget("mailer", "store.Paid")
    assert not await bus.durables.forget("stranger", "store.Placed")


async def test_durable_that_forgets_its_last_type_is_gone(new_bus: BusFactory, bus: Bus):
    """A consumer without a type would take all that its stream has."""
    await leave_behind(new_bus, "mailer", 3)

    assert await bus.durables.forget("mailer", "store.Placed")

    async def is_empty() -> bool:
        return await num_stored(bus) == 0

    await until(is_empty, "nothing should be kept for it")
    assert await bus.durables.list() == []


async def test_durable_holds_nothing_back_where_all_is_kept(new_bus: BusFactory):
    """A stream with a history keeps its events for its time, whoever needs them."""
    domains = [Domain("store", history=3600)]
    async with new_bus(domains=domains) as bus:
        takes(bus, "gone")
        await bus.ready()
    async with new_bus(domains=domains) as bus:
        await bus.publish(Placed(number=1), durable=True)
        (durable,) = await bus.durables.list()
        with capture_logs() as logs:
            takes(bus, "here")
            await bus.ready()

    assert (durable.pending, durable.waiting, durable.has_history) == (1, 0, True)
    assert not durable.holds_back
    assert [log for log in logs if log["log_level"] == "warning"] == []
