"""Deliver: ask the server for just the jobs that this worker can start, urgent ones first.

A *lane* is one consumer: one queue at one priority. What is known of a lane:

    unknown    nothing was asked since it was last seen          → fetch
    fetching   asked for what is there; answered at once          → wait
    more       the last message said that more wait behind it     → fetch
    empty      the server said that nothing is there              → listen
    listening  one message asked for, whenever it may come        → nothing to do

Lanes are asked from the most urgent down, and a level only when every lane above it is
listening, which proves it empty: so no job starts before a more urgent one that waits.
A listening lane delivers a job the moment it is there. If that is one more than should
be held, the least urgent that has not started is given back at once, for a worker that
has a free slot.

What is asked for is what can be started: the free slots, and what the worker will finish
within the next tenth of a second by its own recent pace.

Lost answers do no harm: a lane whose request gives no sign of life becomes unknown again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import operator
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio
import msgspec
import structlog

from ipc import (
    Connection,
    ConnectionLostError,
    IpcError,
    JetStream,
    Pulled,
    PullEnded,
    PullInbox,
)

from ._buffer import Buffer
from ._delivery import Delivery, accept
from ._layout import PRIORITIES, Layout

__all__ = ["Ask", "Feed", "Lane", "plan"]

log = structlog.stdlib.get_logger("jetq")

LOOKAHEAD = 0.1
"""Seconds of work to hold beyond the free slots."""

# With many full queues, so many at a time are asked for a portion, and not each for one job.
FULL_AT_ONCE = 16

# How long a listening request stays open, and how often the server shows that it still
# knows of it. With many lanes both grow, so that an idle worker sends a message every two
# seconds and is sent ten signs of life a second, at most.
LISTEN = 30.0
HEARTBEAT = 10.0
LISTEN_A_LANE = 2.0
HEARTBEAT_A_LANE = 0.1
# A fetch is answered at once; this much silence means it was lost.
FETCH_SILENCE = 5.0
# After a consumer was found missing, so that a gap of its own making is not hammered.
BACK_OFF = 0.5
# A server that crashed has forgotten its last deliveries, and acknowledgements of them: it
# delivers those jobs as if for the first time. Other workers were about this far ahead.
OTHERS_AHEAD = 1000

# The epoch of a delivery whose job the server no longer has.
GONE = -1


class Lane:
    """One queue at one priority, and what is known of it."""

    __slots__ = (
        "backlog",
        "consumer",
        "doubtful_to",
        "empty",
        "listening",
        "newest",
        "not_before",
        "queue",
        "requests",
        "seen_at",
        "stream",
        "turn",
        "weight",
    )

    def __init__(self, queue: str, stream: str, consumer: str, weight: float) -> None:
        self.queue = queue
        self.stream = stream
        self.consumer = consumer
        self.weight = weight
        self.turn = 0.0
        """Grows with what it is asked for, the slower the greater its weight; lowest is next."""
        self.requests: deque[list[int]] = deque()
        """Open fetches, oldest first: request number and how many are still to come."""
        self.listening = 0
        """The number of the listening request; 0 if there is none."""
        self.empty = False
        self.backlog = 0
        self.seen_at = 0.0
        self.not_before = 0.0
        self.newest = 0
        """The highest sequence that was delivered."""
        self.doubtful_to = 0
        """Up to this sequence jobs may have run, whatever the server says."""

    @property
    def asked(self) -> int:
        """How many messages are still to come from open fetches."""
        return sum(request[1] for request in self.requests)

    def reset(self) -> None:
        """Forget everything: the lane is unknown."""
        self.requests.clear()
        self.listening = 0
        self.empty = False
        self.backlog = 0


TURN = operator.attrgetter("turn")


class Ask(msgspec.Struct, frozen=True):
    """A request to send."""

    lane: Any
    batch: int
    listen: bool = False


def plan(
    levels: Sequence[Sequence[Lane]],
    room: int,
    now: float,
    evictable: Sequence[int] = (),
    portion: int = 1,
) -> Iterator[Ask]:
    """Yield what to ask, most urgent first.

    Args:
        levels: The lanes of each priority, most urgent first.
        room: How many jobs can be taken beyond those that are held or asked for.
        evictable: For each priority, how many less urgent jobs wait here for a slot and
            would make room for it.
        portion: What a lane that is known to have as much is asked for at least.
    """
    proven = True
    for level, places in zip(levels, evictable or [0] * len(levels), strict=True):
        hungry = [lane for lane in level if not lane.listening and lane.not_before <= now]
        hungry.sort(key=TURN)
        weights = sum(lane.weight for lane in hungry if not lane.empty) or 1.0
        here = room + places
        for lane in hungry:
            if lane.empty:
                yield Ask(lane, 1, listen=True)
            elif proven and room + places > 0 and (not lane.requests or lane.backlog > lane.asked):
                share = math.ceil(here * lane.weight / weights)
                share = max(share, min(lane.backlog - lane.asked, portion))
                share = min(room + places, share)
                room -= share
                yield Ask(lane, share)
        # Whatever is not proven empty by now comes before the levels below.
        proven = proven and all(lane.empty or lane.listening for lane in level)


class Feed:
    """Keeps a worker's buffer filled, and no fuller than is good."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        layout: Layout,
        buffer: Buffer,
        weights: dict[str, float],
        concurrency: int,
        *,
        on_delivery: Callable[[Delivery], None],
        on_missing: Callable[[str], Awaitable[None]],
    ) -> None:
        """Set up; nothing is asked before `run`.

        Args:
            on_delivery: Called with each job that is kept; puts it into the buffer.
            on_missing: Called with a queue whose consumer the server does not know.
        """
        self._inbox = PullInbox(
            connection,
            on_pulled=self._on_pulled,
            on_ended=self._on_ended,
            on_heartbeat=self._on_heartbeat,
        )
        self._connection = connection
        self._jetstream = jetstream
        self._buffer = buffer
        self._concurrency = concurrency
        self._on_delivery = on_delivery
        self._on_missing = on_missing
        self._levels = [
            [
                Lane(queue, layout.queue_stream_name(queue), priority, weight)
                for queue, weight in weights.items()
            ]
            for priority in PRIORITIES
        ]
        self._lanes = {
            (lane.stream, lane.consumer): lane for level in self._levels for lane in level
        }
        self._turns: dict[str, float] = dict.fromkeys(PRIORITIES, 0.0)
        """Of each priority, the turn of the lane that was asked last."""
        self._by_request: dict[int, Lane] = {}
        self._wake = asyncio.Event()
        self._missing: set[str] = set()
        self._closed = False
        self._naks: set[asyncio.Task[None]] = set()
        self._listen = max(LISTEN, len(self._lanes) * LISTEN_A_LANE)
        self._heartbeat = max(HEARTBEAT, len(self._lanes) * HEARTBEAT_A_LANE)

        self.held: dict[tuple[str, int], Delivery] = {}
        """What was taken and is not settled yet, by subject and sequence."""
        self._asked = 0
        self._target = concurrency
        self._finished = 0
        self._pace = 0.0
        self._pace_since = time.monotonic()

    # -- the worker's side ----------------------------------------------------------

    async def run(self) -> None:
        """Ask for jobs, until cancelled."""
        await self._inbox.open()
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_silence)
            while True:
                self._measure_pace()
                self._return_surplus()
                room = self._target - len(self.held) - self._asked
                evictable = self._buffer.less_urgent()
                portion = self._target // FULL_AT_ONCE
                now = time.monotonic()
                for ask in list(plan(self._levels, room, now, evictable, portion)):
                    if not self._closed:
                        await self._send(ask)
                await self._wake.wait()
                self._wake.clear()

    def stop(self) -> None:
        """Keep nothing more: what comes from now on is given back."""
        self._closed = True

    async def close(self) -> None:
        """Ask no more. What the server had sent already is given back."""
        self.stop()
        await self._inbox.close()
        while self._naks:
            await asyncio.wait(self._naks)

    def finished(self, delivery: Delivery) -> None:
        """Say that a held job is settled."""
        del self.held[delivery.pulled.subject, delivery.pulled.stream_seq]
        self._finished += 1
        self._wake_if_room()

    def reset(self) -> None:
        """Forget what was asked: the connection, and with it every request, is a new one."""
        self._by_request.clear()
        for lane in self._lanes.values():
            lane.reset()
            lane.doubtful_to = lane.newest + OTHERS_AHEAD
        self._asked = 0
        self._wake.set()

    def ack_at_once(self, delivery: Delivery) -> bool:
        """Remove a job from its queue; return `False` if the connection was lost since it came.

        Then it has to be asked first whether it is still there: `ack` does.
        """
        if delivery.epoch != self._connection.epoch:
            return False
        try:
            self._inbox.ack(delivery.pulled.reply)
        except ConnectionLostError:
            # Just now, and nobody was told yet.
            return False
        return True

    async def ack(self, delivery: Delivery) -> None:
        """Remove a job from its queue, whatever happened to the connection.

        Raises:
            UnconfirmedError: The connection was lost, and it is not known yet whether the
                job is still there to be answered for; repeating it is safe.
        """
        if await self._may_answer(delivery):
            self._inbox.ack(delivery.pulled.reply)

    async def nak(self, delivery: Delivery) -> None:
        """Give a job back, for any worker to take at once.

        If the connection was lost, the end of its lease does the same, later.
        """
        if not self._connection.is_connected:
            return
        with contextlib.suppress(IpcError):
            if await self._may_answer(delivery):
                self._inbox.nak(delivery.pulled.reply)

    async def renew(self, delivery: Delivery) -> None:
        """Begin a job's lease anew. If the connection was lost, there is none to renew."""
        with contextlib.suppress(IpcError):
            if await self._may_answer(delivery):
                self._inbox.renew(delivery.pulled.reply)

    async def _may_answer(self, delivery: Delivery) -> bool:
        """Return whether an answer would still be for this job.

        The server knows what is answered by its number in the stream. A stream in memory
        that came back empty numbers from 1 again: the answer would hit another job.
        """
        if delivery.epoch == self._connection.epoch:
            return True
        if delivery.epoch != GONE:
            epoch, pulled = self._connection.epoch, delivery.pulled
            stored = await self._jetstream.find_last(pulled.stream, pulled.subject)
            there = stored is not None and stored.seq == pulled.stream_seq
            delivery.epoch = epoch if there else GONE
        return delivery.epoch != GONE

    # -- what the server says -------------------------------------------------------------

    def _on_pulled(self, pulled: Pulled) -> None:
        lane = self._lanes[pulled.stream, pulled.consumer]
        now = time.monotonic()
        lane.seen_at = now
        lane.backlog = pulled.num_pending
        lane.newest = max(lane.newest, pulled.stream_seq)
        unasked = not lane.requests
        if lane.requests:
            self._asked -= 1
            request = lane.requests[0]
            request[1] -= 1
            if request[1] == 0:
                lane.requests.popleft()
                del self._by_request[request[0]]
                lane.empty = not lane.requests and pulled.num_pending == 0
        elif lane.listening:
            self._by_request.pop(lane.listening, None)
            lane.listening = 0
            # A redelivery may have others behind it, which the server does not count.
            lane.empty = pulled.num_pending == 0 and pulled.num_delivered == 1
        # With the subject: a stream in memory counts from 1 again after a restart, and its
        # new jobs are not those that are held.
        message = pulled.subject, pulled.stream_seq
        if message in self.held:
            # The lease ran out, or the server crashed and forgot that it was handed over.
            self._wake.set()
            return
        delivery = accept(pulled, lane.queue, now, self._connection.epoch)
        delivery.doubtful = pulled.stream_seq <= lane.doubtful_to
        if self._closed:
            self._give_back(delivery)
            return
        self.held[message] = delivery
        self._on_delivery(delivery)
        if unasked and len(self.held) > self._target:
            self._return(1)
        if not lane.requests:
            self._wake.set()
        else:
            self._wake_if_room()

    def _on_ended(self, ended: PullEnded) -> None:
        lane = self._by_request.pop(ended.request, None)
        if lane is None:
            return
        lane.seen_at = time.monotonic()
        if lane.listening == ended.request:
            lane.listening = 0
        else:
            for request in tuple(lane.requests):
                if request[0] == ended.request:
                    lane.requests.remove(request)
                    self._asked -= request[1]
        if ended.status in ("404", "408"):
            # Nothing there to fetch; or a listening request came to its end, which says
            # nothing of what came in the moment after.
            lane.empty = ended.status == "404" and not lane.requests
            lane.backlog = 0
        else:
            # The consumer is gone (503), or moves to another node of the cluster (409).
            lane.empty = False
            lane.not_before = time.monotonic() + BACK_OFF
            if ended.status == "503" or "Deleted" in ended.description:
                self._missing.add(lane.queue)
        self._wake.set()

    def _return(self, num: int) -> None:
        """Give back the least urgent jobs that have not started, so many if there are."""
        surplus: list[Delivery] = []
        while len(surplus) < num and (delivery := self._buffer.evict()) is not None:
            del self.held[delivery.pulled.subject, delivery.pulled.stream_seq]
            surplus.append(delivery)
        # The last that came was the first to go; they are delivered again in this order.
        for delivery in reversed(surplus):
            self._give_back(delivery)

    def _return_surplus(self) -> None:
        """Give back what was taken at a pace that the jobs that came since do not keep."""
        # Not for every change of pace: what is given back is looked up before it is run. And
        # when all that was asked for is here, which lies behind it: so the order stays.
        if len(self.held) > 2 * self._target and self._asked == 0:
            self._return(len(self.held) - self._target)

    def _give_back(self, delivery: Delivery) -> None:
        """Give a job back that came too many: another worker may have a free slot."""
        self._lanes[delivery.pulled.stream, delivery.pulled.consumer].empty = False
        task = asyncio.get_running_loop().create_task(self.nak(delivery))
        self._naks.add(task)
        task.add_done_callback(self._naks.discard)

    def _on_heartbeat(self, request: int) -> None:
        lane = self._by_request.get(request)
        if lane is not None:
            lane.seen_at = time.monotonic()

    # -- asking -----------------------------------------------------------------------

    async def _send(self, ask: Ask) -> None:
        lane: Lane = ask.lane
        number = self._inbox.new_request()
        self._by_request[number] = lane
        lane.seen_at = time.monotonic()
        if ask.listen:
            lane.listening = number
        else:
            lane.requests.append([number, ask.batch])
            lane.empty = False
            # Time that a queue spent empty earns it no arrears.
            turn = self._turns[lane.consumer] = max(lane.turn, self._turns[lane.consumer])
            lane.turn = turn + ask.batch / lane.weight
            self._asked += ask.batch
        await self._inbox.ask(
            number,
            lane.stream,
            lane.consumer,
            ask.batch,
            wait=self._listen if ask.listen else 0,
            heartbeat=self._heartbeat if ask.listen else 0,
        )

    async def _watch_silence(self) -> None:
        """Make lanes unknown whose requests were lost, and mend missing consumers."""
        while True:
            await anyio.sleep(BACK_OFF)
            now = time.monotonic()
            for lane in self._lanes.values():
                limit = self._heartbeat * 2.5 if lane.listening else FETCH_SILENCE
                if (lane.listening or lane.requests) and now - lane.seen_at > limit:
                    log.debug("pull request lost, asking again", stream=lane.stream)
                    self._forget(lane)
            missing, self._missing = self._missing, set()
            for queue in missing:
                await self._on_missing(queue)
                # With a stream all its consumers go, and not every request is told so.
                for lane in self._lanes.values():
                    if lane.queue == queue:
                        self._forget(lane)
            self._wake.set()

    def _forget(self, lane: Lane) -> None:
        """Make a lane unknown; what still answers its requests is taken all the same."""
        self._asked -= lane.asked
        for number in (lane.listening, *(request[0] for request in lane.requests)):
            self._by_request.pop(number, None)
        lane.reset()

    def _wake_if_room(self) -> None:
        # A quarter of the target at a time: one request for many jobs, not one for each.
        # But no slot waits for that: with nothing in the buffer, a free one is filled now.
        room = self._target - len(self.held) - self._asked
        if room * 4 >= self._target or (room > 0 and not self._buffer):
            self._wake.set()

    def _measure_pace(self) -> None:
        now = time.monotonic()
        elapsed = now - self._pace_since
        if elapsed < 0.02:
            return
        self._pace = (self._pace + self._finished / elapsed) / 2
        self._finished, self._pace_since = 0, now
        self._target = self._concurrency + int(self._pace * LOOKAHEAD)
