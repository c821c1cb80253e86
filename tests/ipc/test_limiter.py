"""So many calls at once: the others wait in line, and no error costs a place."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ipc._limiter import Limiter
from tests.conftest import until


class Gate:
    """Work that can be watched, and that waits until it is let through."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.cancelled: list[int] = []
        self.let = asyncio.Semaphore(0)

    def work(self, number: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def one() -> None:
            self.begun.append(number)
            try:
                await self.let.acquire()
            except asyncio.CancelledError:
                self.cancelled.append(number)
                raise
            self.done.append(number)

        return one

    def open(self, count: int = 1) -> None:
        for _ in range(count):
            self.let.release()


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """Work that waits; nothing of it outlives the test."""
    gate = Gate()
    yield gate
    gate.open(1_000)


async def test_no_more_than_the_limit_run(gate: Gate):
    """As one ends the next begins, in the order they came."""
    calls = Limiter(3, max_waiting=100)
    for number in range(10):
        assert calls.submit(gate.work(number))

    await until(lambda: gate.begun, "the first should begin")
    assert gate.begun == [0, 1, 2]
    assert len(calls) == 10

    for count in range(1, 8):
        gate.open()
        await until(lambda count=count: len(gate.begun) == 3 + count, "the next should begin")
        assert gate.begun == list(range(3 + count))
        assert len(gate.done) == count
    gate.open(3)
    await calls.drain(5)
    assert gate.done == list(range(10))
    assert len(calls) == 0


@given(st.integers(1, 5), st.lists(st.integers(0, 3), max_size=20))
def test_order_and_limit_hold_whatever_the_work_takes(limit: int, steps: list[int]):
    """Work begins in the order it came, never too much at once, and all is done in the end."""
    begun: list[int] = []
    running: list[int] = []

    async def one(number: int) -> None:
        begun.append(number)
        running.append(number)
        assert len(running) <= limit
        for _ in range(steps[number]):
            await asyncio.sleep(0)
        running.remove(number)

    async def run() -> None:
        calls = Limiter(limit, max_waiting=100)
        for number in range(len(steps)):
            assert calls.submit(lambda number=number: one(number))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await calls.drain(5)
        assert len(calls) == 0

    asyncio.run(run())
    assert begun == list(range(len(steps)))
    assert running == []


async def test_too_much_is_refused(gate: Gate):
    """What runs and what may wait is taken; what comes above that is not, until there is room."""
    calls = Limiter(2, max_waiting=3)

    taken = [calls.submit(gate.work(number)) for number in range(7)]

    assert taken == [True] * 5 + [False] * 2
    gate.open()
    await until(lambda: gate.done, "one should be done")
    await until(lambda: len(gate.begun) == 3, "the next should begin")
    assert calls.submit(gate.work(7))
    gate.open(5)
    await calls.drain(5)
    assert gate.begun == [0, 1, 2, 3, 4, 7]


async def test_nothing_waits_where_nothing_may(gate: Gate):
    """With `max_waiting=0` there is room, or there is none."""
    calls = Limiter(1, max_waiting=0)

    assert [calls.submit(gate.work(number)) for number in range(2)] == [True, False]


async def test_error_gives_its_place_back(gate: Gate):
    """It is logged, and what waits behind it begins."""
    calls = Limiter(1, max_waiting=100)

    async def fail() -> None:
        raise RuntimeError("no such place")

    with capture_logs() as logs:
        for _ in range(3):
            calls.submit(fail)
        calls.submit(gate.work(0))
        gate.open()
        await calls.drain(5)

    assert gate.done == [0]
    assert [str(log["exc_info"]) for log in logs] == ["no such place"] * 3


async def test_cancelled_work_gives_its_place_back(gate: Gate):
    """Work may cancel itself, or be cancelled by who has its task; nothing is logged then."""
    calls = Limiter(1, max_waiting=100)

    async def cancel() -> None:
        raise asyncio.CancelledError

    with capture_logs() as logs:
        calls.submit(cancel)
        calls.submit(gate.work(0))
        gate.open()
        await calls.drain(5)

    assert gate.done == [0]
    assert logs == []


async def test_drain_waits_for_all_that_was_taken(gate: Gate):
    """What runs and what waits."""
    calls = Limiter(1, max_waiting=100)
    for number in range(3):
        calls.submit(gate.work(number))

    draining = asyncio.create_task(calls.drain(60))
    for count in range(1, 4):
        assert not draining.done()
        gate.open()
        await until(lambda count=count: len(gate.done) == count, "one more should be done")
    await asyncio.wait_for(draining, 5)

    assert gate.done == [0, 1, 2]
    assert gate.cancelled == []


async def test_drain_without_work_returns_at_once():
    """However long it would wait."""
    await asyncio.wait_for(Limiter(1, max_waiting=1).drain(60), 5)


async def test_drain_cancels_what_takes_too_long(gate: Gate):
    """What ran is cancelled and has ended when it returns; what waited has never begun."""
    calls = Limiter(2, max_waiting=100)
    for number in range(5):
        calls.submit(gate.work(number))
    await until(lambda: len(gate.begun) == 2, "two should begin")

    await calls.drain(0)

    assert sorted(gate.cancelled) == [0, 1]
    assert gate.begun == [0, 1]
    assert len(calls) == 0


async def test_work_that_is_cancelled_may_clean_up():
    """Drain waits a little for it."""
    calls = Limiter(1, max_waiting=1)
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.set()

    calls.submit(work)
    await begun.wait()
    await calls.drain(0)

    assert cleaned.is_set()


async def test_work_taken_while_draining_is_waited_for_too(gate: Gate):
    """Whoever drains stops its source first; what slips through is not lost."""
    calls = Limiter(1, max_waiting=100)
    calls.submit(gate.work(0))
    draining = asyncio.create_task(calls.drain(60))
    await asyncio.sleep(0)

    calls.submit(gate.work(1))
    gate.open(2)
    await asyncio.wait_for(draining, 5)

    assert gate.done == [0, 1]
