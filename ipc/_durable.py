"""A durable at work: takes what the server keeps for it, has it handled, and acks it.

What an event comes to is decided by `verdict_for`; nothing is acked before that is carried out.
An event is in the stream until it is acked, so a process that is killed loses none: the server
gives it to somebody else when its lease runs out.

Where the order is kept there is one consumer for each part of the keys, and each of them has
one event unacknowledged at most. So what comes after waits for what came before, whichever
process has it, whether it fails, waits to be tried again, or is given to somebody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import structlog

from ._context import Context, Scope
from ._domain import Start
from ._envelope import NOT_DECODABLE, UnknownTypeError, read_any
from ._errors import (
    ConnectionLostError,
    IpcError,
    JetStreamError,
    NoResponderError,
    ServerUnavailableError,
    UnconfirmedError,
)
from ._event_dead import DeadEvent, EventDeadLetters, describe
from ._event_streams import PARTS_OF_DURABLE, consumer_config
from ._handler import EventHandler
from ._jetstream import NANOSECONDS, NOT_FOUND
from ._limiter import LAST_WORDS, Limiter
from ._pull import Pulled, PullEnded, PullInbox
from ._retry import Retry
from ._subjects import NO_PART, PARTS, Subjects
from ._tries import NO_TRIES, Tries, TryCounter

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["DurableConsumer"]

log = structlog.stdlib.get_logger("ipc")

# Seconds that a request for events stays open, and between the server's signs of life on it.
PULL_WAIT, HEARTBEAT = 30.0, 5.0

# Seconds for which events are held ahead of what can be started at once.
AHEAD = 0.1
MAX_AHEAD = 2_000

# Seconds between two looks at leases, and at silence.
TICK = 0.5

PAUSE, LAST_PAUSE = 0.1, 2.0

# Seconds, times how often it was delivered, after which another process may take an event; a
# deployment is over when all processes know all types.
LEAVE_TO_OTHERS, LEAVE_AT_MOST = 0.5, 30.0


class Acked(msgspec.Struct, frozen=True):
    """Handled, or of no interest."""


class TriedAgain(msgspec.Struct, frozen=True):
    """Failed; delivered again after a delay, in seconds."""

    delay: float


class LeftToOthers(msgspec.Struct, frozen=True):
    """Of a type that the durable takes, but not this process; delivered again after a delay."""

    delay: float


class Buried(msgspec.Struct, frozen=True):
    """Set aside as a dead letter."""

    reason: str
    error: str = ""


Verdict = Acked | TriedAgain | LeftToOthers | Buried


def verdict_for(error: Exception | None, attempt: int, retry: Retry) -> Verdict:
    """Return what becomes of an event; attempts count from 1."""
    if error is None:
        return Acked()
    if attempt < retry.max_attempts and retry.covers(error):
        return TriedAgain(retry.delay_after(attempt))
    left = "" if retry.covers(error) else ", not to be tried again"
    what = f"{type(error).__name__}: {error}"
    count = f"{attempt} of {retry.max_attempts} attempts{left}"
    return Buried(f"failed {count}: {what}", describe(error))


class Held(msgspec.Struct, eq=False):
    """An event that was delivered and not answered yet."""

    pulled: Pulled
    lane: Lane
    epoch: int
    """Of the connection that it came by, or by which it was found to be there still."""
    renewed_at: float
    started: bool = False
    given_back: bool = False

    @property
    def id(self) -> str:
        """Of the event on its stream."""
        return f"{self.pulled.stream_seq}-{self.pulled.stored_at_ns}"


class Found(msgspec.Struct, frozen=True):
    """A stream as it was found on the server."""

    epoch: int
    created_ns: int


class Lane(msgspec.Struct, eq=False):
    """One consumer, and what is asked of it."""

    domain: str
    stream: str
    consumer: str
    filters: frozenset[str]
    created_ns: int = 0
    """When the stream was."""
    asked: dict[int, int] = {}
    """Events still to come, by the number of the request."""
    held: int = 0
    heard_at: float = 0.0
    """When the server last said anything."""
    gone: bool = False


Name = tuple[str, str, int, int]
"""Of an event that was delivered: stream, consumer, number, and when it was stored, as a stream
in memory numbers from 1 again."""


class DurableConsumer:
    """One durable of this process."""

    def __init__(self, bus: Bus, handler: EventHandler, scope: Scope) -> None:
        options = handler.options
        assert options.durable is not None
        self._bus = bus
        self.handler = handler
        self._kinds = handler.by_name
        self._options = options
        self._scope = scope
        self.name = options.durable
        self._tries = TryCounter(bus, options.durable)
        self._dead_letters = EventDeadLetters(bus)
        self._lanes = lanes_of(bus, handler)
        self._domains = tuple(dict.fromkeys(lane.domain for lane in self._lanes))
        self._by_consumer = {(lane.stream, lane.consumer): lane for lane in self._lanes}
        self._by_request: dict[int, Lane] = {}
        self._held: dict[Name, Held] = {}
        self._strange: set[str] = set()
        """Types that the durable takes and nothing here handles."""
        self._found: dict[str, Found] = {}
        self._looking = asyncio.Lock()
        self._calls = Limiter(options.concurrency, max_waiting=1_000_000)
        self._inbox = PullInbox(
            bus.connection,
            on_pulled=self._on_pulled,
            on_ended=self._on_ended,
            on_heartbeat=self._on_heartbeat,
        )
        self._wake = asyncio.Event()
        self._stopping = False
        self._finished = 0
        self._pace = 0.0
        """Events finished in a second, of late."""
        self._measured_at = time.monotonic()
        self._target = self._new_target()
        """How many events to hold or have asked for, of each consumer."""
        self._forget: list[Any] = []

    def __len__(self) -> int:
        """Return how many events it holds."""
        return len(self._held)

    async def declare(self) -> list[str]:
        """Create what is missing on the server; return the names of streams and consumers.

        Raises:
            EventStreamMissingError: The events are not stored, and nothing may be created.
            DurableMissingError: It is not there, and nothing may be created.
            DurableConflictError: It is there, and something else.
        """
        streams, domains = self._bus.streams, self._domains
        for domain in domains:
            await streams.ensure(domain)
            await streams.check_order(domain, self.name, ordered=self._options.ordered)
        # All are looked at before the first is created: a refusal leaves nothing behind.
        await asyncio.gather(
            *(streams.check_owner(lane.domain, self.name, lane.consumer) for lane in self._lanes)
        )
        await asyncio.gather(*(self._ensure(lane, self._options.start) for lane in self._lanes))
        # What a failure needs is there before there is one.
        await streams.ensure_bucket()
        for domain in domains:
            await streams.ensure_dead(domain)
        subjects = self._bus.subjects
        kept = [subjects.stream(domain) for domain in domains]
        dead = [subjects.dead_stream(domain) for domain in domains]
        return [*kept, *dead, *(lane.consumer for lane in self._lanes)]

    async def open(self) -> None:
        """Declare what is needed, and begin to ask; see `declare` for what can go wrong."""
        await self.declare()
        for domain in self._domains:
            await self._bus.streams.warn_of_idle(domain, self.name)
        await self._inbox.open()
        connection = self._bus.connection
        self._forget = [
            connection.on_lost(self._forget_asked),
            connection.on_reconnect(self._on_reconnect),
        ]
        for lane in self._lanes:
            await self._ask(lane)
        log.info("durable started", durable=self.name, domains=sorted(self._domains))

    async def run(self) -> None:
        """Ask for events and keep their leases, until drained or cancelled."""
        # Beside the asking: that may wait for the server, while leases run on.
        renewing = asyncio.create_task(self._renew_until_cancelled())
        try:
            await self._keep_asking()
        finally:
            renewing.cancel()

    async def _keep_asking(self) -> None:
        looked_at = time.monotonic()
        while not self._stopping:
            try:
                async with asyncio.timeout(TICK):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            now = time.monotonic()
            self._measure(now)
            if now - looked_at >= TICK:
                self._look_for_silence(now)
                looked_at = now
            for lane in self._lanes:
                if lane.gone:
                    await self._bring_back(lane)
                await self._ask(lane)

    async def drain(self, grace: float) -> None:
        """Ask for no more, give back what has not begun, and let what has begun finish."""
        self._stopping = True
        self._wake.set()
        for forget in self._forget:
            forget()
        self._forget.clear()
        await self._inbox.close()
        for held in tuple(self._held.values()):
            if not held.started:
                held.given_back = True
                self._give_back(held)
        renewing = asyncio.create_task(self._renew_until_cancelled())
        try:
            await self._calls.drain(grace)
        finally:
            renewing.cancel()

    # -- asking --------------------------------------------------------------------------------

    async def _ask(self, lane: Lane) -> None:
        """Ask for what can be started soon, if that is worth a request."""
        if self._stopping or lane.gone or not self._bus.connection.is_connected:
            return
        target = self._target
        wanted = target - lane.held - sum(lane.asked.values())
        if wanted * 2 < target:
            return
        number = self._inbox.new_request()
        lane.asked[number] = wanted
        lane.heard_at = time.monotonic()
        self._by_request[number] = lane
        try:
            await self._inbox.ask(
                number, lane.stream, lane.consumer, wanted, wait=PULL_WAIT, heartbeat=HEARTBEAT
            )
        except ConnectionLostError:
            self._forget_request(number)

    def _new_target(self) -> int:
        if self._options.ordered:
            # The server gives one at a time, whatever is asked for.
            return 100
        ahead = min(int(self._pace * AHEAD), MAX_AHEAD)
        return max(1, (self._options.concurrency + ahead) // len(self._lanes))

    def _measure(self, now: float) -> None:
        """Find the pace anew, once there is enough to tell it by."""
        seconds = now - self._measured_at
        if seconds < AHEAD:
            return
        self._pace = (self._pace + self._finished / seconds) / 2
        self._finished, self._measured_at = 0, now
        self._target = self._new_target()

    def _look_for_silence(self, now: float) -> None:
        """Ask again where the server has fallen silent: it has forgotten what was asked."""
        for lane in self._lanes:
            if lane.asked and now - lane.heard_at > 2 * HEARTBEAT:
                log.warning("asking again, the server is silent", durable=self.name)
                for number in tuple(lane.asked):
                    self._forget_request(number)

    def _forget_request(self, number: int) -> None:
        lane = self._by_request.pop(number, None)
        if lane is not None:
            lane.asked.pop(number, None)

    def _forget_asked(self) -> None:
        for number in tuple(self._by_request):
            self._forget_request(number)

    async def _on_reconnect(self) -> None:
        self._forget_asked()
        self._wake.set()

    def _on_heartbeat(self, number: int) -> None:
        lane = self._by_request.get(number)
        if lane is not None:
            lane.heard_at = time.monotonic()

    def _on_ended(self, ended: PullEnded) -> None:
        lane = self._by_request.get(ended.request)
        self._forget_request(ended.request)
        if lane is None:
            return
        lane.heard_at = time.monotonic()
        # "Leadership Change", "Server Shutdown": asking again is enough.
        if ended.status == "503" or "Deleted" in ended.description:
            lane.gone = True
        self._wake.set()

    # -- what is gone ----------------------------------------------------------------------------

    async def _ensure(self, lane: Lane, start: Start) -> None:
        options = self._options
        found = await self._find(lane.stream)
        if found is not None and found.created_ns != lane.created_ns:
            if lane.created_ns:
                # All that such a stream holds has come since the one before went.
                start = "all"
            lane.created_ns = found.created_ns
        wanted = consumer_config(
            self.name,
            lane.consumer,
            lane.filters,
            start=start,
            lease=options.lease,
            one_at_a_time=options.ordered,
        )
        await self._bus.streams.ensure_consumer(lane.domain, self.name, wanted)

    async def _bring_back(self, lane: Lane) -> None:
        """Declare a consumer again that is gone: removed, or in memory when its server ended."""
        log.warning("durable is gone from the server", durable=self.name, domain=lane.domain)
        # With it went what was asked of it, and not every request is told so.
        for number in tuple(lane.asked):
            self._forget_request(number)
        pause = PAUSE
        while not self._stopping:
            try:
                await self._bus.streams.ensure(lane.domain, anew=True)
                self._found.pop(lane.stream, None)
                await self._ensure(lane, self._options.start)
                lane.gone = False
                return
            except (UnconfirmedError, ServerUnavailableError, NoResponderError):
                pass
            except JetStreamError as exc:
                # The stream is gone again.
                if exc.err_code not in NOT_FOUND:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    # -- leases ----------------------------------------------------------------------------------

    async def _renew(self, now: float) -> None:
        """Renew what is held well before the server would give it to somebody else."""
        for held in tuple(self._held.values()):
            # A third of the lease: two renewals in a row may be lost before it runs out.
            if now - held.renewed_at < self._options.lease / 3:
                continue
            if not held.started and self._is_overdue(held, now):
                continue
            held.renewed_at = now
            try:
                if self._bus.connection.is_connected and await self._is_there(held):
                    self._inbox.renew(held.pulled.reply)
            except IpcError as exc:
                # It is delivered again, which a durable has to expect at any time.
                log.debug("lease not renewed", durable=self.name, id=held.id, reason=str(exc))

    def _is_overdue(self, held: Held, now: float) -> bool:
        """Return whether somebody else may have an event by now: this process stood still."""
        return now - held.renewed_at > self._options.lease

    async def _renew_until_cancelled(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            await self._renew(time.monotonic())

    # -- answering -------------------------------------------------------------------------------

    async def _is_there(self, held: Held) -> bool:
        """Return whether an answer would still be for this event.

        The server knows what is answered by its number in the stream. A stream in memory that
        came back empty numbers from 1 again: the answer would hit another event.
        """
        connection = self._bus.connection
        if held.epoch == connection.epoch:
            return True
        await connection.wait_connected(self._options.lease)
        found = await self._find(held.lane.stream)
        if found is None or held.pulled.stored_at_ns < found.created_ns:
            return False
        held.epoch = found.epoch
        return True

    async def _find(self, stream: str) -> Found | None:
        """Return how old a stream is; asked anew after each loss of the connection."""
        async with self._looking:
            epoch, found = self._bus.connection.epoch, self._found.get(stream)
            if found is None or found.epoch != epoch:
                info = await self._bus.jetstream.find_stream(stream)
                if info is None:
                    return None
                found = Found(epoch, int(info.created.timestamp() * NANOSECONDS))
                self._found[stream] = found
            return found

    def _give_back(self, held: Held) -> None:
        """Have an event delivered again now, not when its lease runs out."""
        if held.epoch == self._bus.connection.epoch:
            try:
                self._inbox.nak(held.pulled.reply)
            except ConnectionLostError as exc:
                log.debug("event not given back", durable=self.name, reason=str(exc))

    # -- the way of an event -----------------------------------------------------------------------

    def _on_pulled(self, pulled: Pulled) -> None:
        lane = self._by_consumer[pulled.stream, pulled.consumer]
        now = time.monotonic()
        lane.heard_at = now
        for number in lane.asked:
            lane.asked[number] -= 1
            if lane.asked[number] == 0:
                self._forget_request(number)
            break
        name = (pulled.stream, pulled.consumer, pulled.stream_seq, pulled.stored_at_ns)
        epoch, held = self._bus.connection.epoch, self._held.get(name)
        if held is not None:
            # Its lease ran out, or the server crashed and forgot that it was handed over.
            held.pulled, held.epoch, held.renewed_at = pulled, epoch, now
            self._wake.set()
            return
        lane.held += 1
        held = self._held[name] = Held(pulled, lane, epoch, now)
        self._calls.submit(partial(self._handle, name, held))

    async def _handle(self, name: Name, held: Held) -> None:
        """Have an event handled, and tell the server what became of it."""
        try:
            if not held.given_back and not self._is_overdue(held, time.monotonic()):
                held.started = True
                verdict = await self._settle(held)
                epoch = self._bus.connection.epoch
                # The usual case is decided here: no coroutine for it.
                if held.epoch == epoch or await self._is_there(held):
                    # Before the answer: what is delivered because of it is to be handled.
                    self._release(name, held)
                    await self._tell(held, verdict)
        except asyncio.CancelledError:
            # Shutting down.
            self._release(name, held)
            self._give_back(held)
            if held.pulled.num_delivered > 1:
                with anyio.move_on_after(LAST_WORDS, shield=True):
                    await self._tries.taken_back(held.lane.domain, held.id)
            raise
        except IpcError as exc:
            # What was to be recorded could not be: it comes again when its lease runs out.
            log.error("event not settled", durable=self.name, id=held.id, error=str(exc))
        finally:
            self._release(name, held)

    def _release(self, name: Name, held: Held) -> None:
        """Make room for another event."""
        if self._held.pop(name, None) is not None:
            held.lane.held -= 1
            self._finished += 1
            if held.lane.held * 2 <= self._target:
                self._wake.set()

    async def _settle(self, held: Held) -> Verdict:
        """Have an event handled, and record what became of it; the server is told afterwards."""
        pulled, domain = held.pulled, held.lane.domain
        if self._bus.subjects.event_name(pulled.subject) not in self._kinds:
            return self._leave_to_others(pulled)
        tries = NO_TRIES
        if pulled.num_delivered > 1:
            tries = await self._tries.find(domain, held.id)
            if tries.silent >= self._options.retry.max_crashes:
                reason = (
                    f"whoever handled it fell silent {tries.silent + 1} times "
                    "(killed, out of memory, or stalled past the lease)"
                )
                await self._bury(held, Buried(reason), tries)
                return Buried(reason)
            begun = Tries(tries.failed, tries.silent + 1)
            await self._tries.record(domain, held.id, begun)
        verdict = await self._attempt(held, tries.failed + 1)
        if isinstance(verdict, Acked):
            return verdict
        failed = Tries(tries.failed + 1, tries.silent)
        if isinstance(verdict, TriedAgain):
            # Counted first: what is not counted would be tried for ever.
            await self._tries.record(domain, held.id, failed, until=verdict.delay)
        elif isinstance(verdict, Buried):
            await self._bury(held, verdict, failed)
        return verdict

    async def _tell(self, held: Held, verdict: Verdict) -> None:
        """Answer the server: done with, or once more."""
        pulled = held.pulled
        match verdict:
            case Acked() | Buried():
                self._inbox.ack(pulled.reply)
                if pulled.num_delivered > 1:
                    await self._tries.forget(held.lane.domain, held.id)
            case TriedAgain(delay) | LeftToOthers(delay):
                self._inbox.nak(pulled.reply, delay=delay)

    def _leave_to_others(self, pulled: Pulled) -> LeftToOthers:
        name = self._bus.subjects.event_name(pulled.subject)
        if name not in self._strange:
            self._strange.add(name)
            log.warning(
                "the durable takes events that nothing here handles; they are left to other "
                "processes. If there are none any more: `ipc durables forget`",
                durable=self.name,
                type=name,
            )
        return LeftToOthers(min(LEAVE_TO_OTHERS * pulled.num_delivered, LEAVE_AT_MOST))

    async def _attempt(self, held: Held, attempt: int) -> Verdict:
        """Call the handler and return what the event deserves."""
        pulled, called = held.pulled, self.handler.called
        hint = self._bus.subjects.event_name(pulled.subject)
        try:
            event = read_any(self._kinds, hint, pulled.data)
        except UnknownTypeError as exc:
            if self._options.unknown == "skip":
                return Acked()
            return Buried(f"its type {exc.name!r} is none that the handler takes")
        except NOT_DECODABLE as exc:
            return Buried(f"it cannot be decoded: {exc}")
        context = Context(self._bus, pulled.message, self._scope, attempt=attempt)
        error: Exception | None = None
        try:
            await self._bus.invoke(called.call, event, context)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = RuntimeError("what the handler waited for was cancelled")
        except Exception as exc:
            error = exc
        verdict = verdict_for(error, attempt, self._options.retry)
        if isinstance(verdict, TriedAgain):
            log.info(
                "event will be handled again",
                durable=self.name,
                type=hint,
                attempt=attempt + 1,
                delay=round(verdict.delay, 3),
                error=repr(error),
            )
        return verdict

    async def _bury(self, held: Held, buried: Buried, tries: Tries) -> None:
        pulled = held.pulled
        letter = DeadEvent(
            id=held.id,
            domain=held.lane.domain,
            durable=self.name,
            type=self._bus.subjects.event_name(pulled.subject),
            subject=pulled.subject,
            reason=buried.reason,
            error=buried.error,
            attempts=tries.failed,
            died_at=datetime.now(UTC),
            body=pulled.data,
        )
        # First it is stored, then it goes from the stream.
        await self._dead_letters.bury(letter)
        log.warning(
            "event is dead",
            durable=self.name,
            type=letter.type,
            id=letter.id,
            reason=letter.reason,
        )


def lanes_of(bus: Bus, handler: EventHandler) -> list[Lane]:
    """Return the consumers of a durable: one a domain, or one a part of the keys."""
    options, subjects = handler.options, bus.subjects
    assert options.durable is not None
    by_domain: dict[str, list[str]] = {}
    for name in handler.by_name:
        by_domain.setdefault(name.partition(".")[0], []).append(name)
    lanes: list[Lane] = []
    for domain, names in by_domain.items():
        stream = subjects.stream(domain)
        if not options.ordered:
            filters = filters_for(subjects, options.durable, names, "*")
            lanes.append(Lane(domain, stream, options.durable, filters))
            continue
        for part in range(PARTS):
            filters = filters_for(subjects, options.durable, names, str(part))
            if part == 0:
                # Also what somebody has published without a part.
                filters |= filters_for(subjects, options.durable, names, NO_PART)
            consumer = PARTS_OF_DURABLE.format(durable=options.durable, part=part)
            lanes.append(Lane(domain, stream, consumer, filters))
    return lanes


def filters_for(
    subjects: Subjects, durable: str, names: Collection[str], part: str
) -> frozenset[str]:
    """Return what a consumer takes of one part of the keys, or of all."""
    return frozenset(
        subject
        for name in names
        for subject in (subjects.event(name, part), subjects.again(durable, name, part))
    )
