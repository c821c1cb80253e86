"""Jobs waiting for a slot in a worker: strict in priority, fair by weight."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import Message, Pulled
from jetq import Priority
from jetq._buffer import Buffer
from jetq._delivery import Delivery
from jetq._layout import PRIORITIES, JobId


def delivery(queue="a", priority=Priority.NORMAL, number=0) -> Delivery:
    """Return a delivery as the feed would hand it over."""
    pulled = Pulled("", "", Message("", b""), "", 1, number, 0, 0)
    return Delivery(pulled, JobId(queue, "-", str(number)), priority, 0.0, 0)


queues = st.sampled_from(["a", "b", "c"])
priorities = st.sampled_from(PRIORITIES)


@given(st.lists(st.tuples(queues, priorities)))
def test_most_urgent_come_first_and_in_order(jobs):
    """Whatever is put in, it comes out by priority, and within a queue in its order."""
    buffer = Buffer({"a": 1, "b": 2, "c": 3})
    for number, (queue, priority) in enumerate(jobs):
        buffer.put(delivery(queue, priority, number))

    taken = buffer.drain()

    assert len(taken) == len(jobs)
    ranks = [PRIORITIES.index(one.priority) for one in taken]
    assert ranks == sorted(ranks)
    for queue in "abc":
        for priority in PRIORITIES:
            numbers = [
                one.pulled.stream_seq
                for one in taken
                if (one.job.queue, one.priority) == (queue, priority)
            ]
            assert numbers == sorted(numbers)
    assert len(buffer) == 0


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(10, 200))
def test_queues_get_their_shares(weights, count):
    """While all have jobs waiting, each queue is taken from in proportion to its weight."""
    names = [f"q{number}" for number in range(len(weights))]
    buffer = Buffer(dict(zip(names, weights, strict=True)))
    for name in names:
        for number in range(count):
            buffer.put(delivery(name, number=number))

    taken = Counter(one.job.queue for one in buffer.drain()[:count])

    for name, weight in zip(names, weights, strict=True):
        share = count * weight / sum(weights)
        # A queue is ahead or behind by no more than what the others get in one of its turns.
        assert abs(taken[name] - share) <= len(weights) + 1


async def test_job_goes_to_whoever_waits_longest():
    """Takers are served in the order they came; nobody gets what another got."""
    buffer = Buffer({"a": 1})
    first, second = asyncio.create_task(buffer.take()), asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    assert buffer.idle == 2

    buffer.put(delivery(number=1))
    buffer.put(delivery(number=2))

    assert (await first).pulled.stream_seq == 1
    assert (await second).pulled.stream_seq == 2
    assert buffer.idle == len(buffer) == 0


async def test_cancelled_taker_loses_no_job():
    """A job handed over in the moment of a cancellation is kept for the next taker."""
    buffer = Buffer({"a": 1})
    taker = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)

    buffer.put(delivery(number=1))
    taker.cancel()

    with pytest.raises(asyncio.CancelledError):
        await taker
    assert (await buffer.take()).pulled.stream_seq == 1
