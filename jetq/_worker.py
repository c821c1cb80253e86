"""The worker: deliver, execute, settle, for as long as it is told to."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import copy_context
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.lowlevel
import msgspec
import structlog

from ipc import Bus, IpcError, Message

from ._buffer import Buffer
from ._context import JobContext, is_as_before
from ._crashes import Crashes
from ._delivery import Attempt, Delivery, Unreadable, read
from ._errors import InvalidJobIdError, QueueMissingError
from ._execute import Executor, Slot
from ._feed import Feed
from ._layout import JobId
from ._outcome import (
    Bury,
    Cancelled,
    Drop,
    Expired,
    Finish,
    GiveBack,
    Outcome,
    Rejected,
    RetryAt,
    Settlement,
    Superseded,
    settlement_for,
)
from ._settle import Ended, Settler
from ._watchdog import Watchdog

if TYPE_CHECKING:
    from ._app import App

__all__ = ["Worker", "WorkerStats"]

log = structlog.stdlib.get_logger("jetq")

# For what has to be said to the server while everything else is being cancelled.
LAST_WORDS = 2.0

# Cancelled jobs that are still in the buffer are remembered for this long.
REMEMBER = 120.0


class WorkerStats(msgspec.Struct):
    """What a worker did since it started."""

    completed: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    """Deliveries that were settled elsewhere, or cancelled."""
    given_back: int = 0


class Worker:
    """Runs jobs of some queues. Made by `app.worker(…)`."""

    def __init__(
        self,
        app: App,
        *,
        queues: Sequence[str] | Mapping[str, float] | None,
        concurrency: int,
        grace: float,
        name: str | None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        wanted = app.queue_names if queues is None else queues
        weights = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, 1.0)
        if not weights:
            raise ValueError(f"nothing to work on: app {app.name!r} has no tasks and no queues")
        if any(weight <= 0 for weight in weights.values()):
            raise ValueError("a queue's weight is a positive number")
        self.app = app
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.queues = tuple(weights)
        self.concurrency = concurrency
        self.grace = grace
        self.stats = WorkerStats()
        self._weights = weights
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._ready = False
        self._state: Any = None
        self._stack = AsyncExitStack()
        self._buffer = Buffer(weights)
        self._running: dict[JobId, Slot] = {}
        self._slots: dict[asyncio.Task[Any], Slot] = {}
        self._num_slots = 0
        self._open = deque[Ended]()
        self._any_open = asyncio.Event()
        self._cancelled: dict[JobId, float] = {}
        self._watchdog = Watchdog(self._name_of)
        self._reacting: Bus | None = None
        """What enqueues jobs of events, if the app has any of that."""

    # -- the public side ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, make sure that the queues exist, and enter the app's lifespan."""
        app = await self._stack.enter_async_context(self.app)
        try:
            await app.declarations.ensure_workable(self._weights, app.timeout)
            if app.lifespan is not None:
                self._state = await self._stack.enter_async_context(app.lifespan())
            self._feed = Feed(
                app.connection,
                app.jetstream,
                app.layout,
                self._buffer,
                self._weights,
                self.concurrency,
                on_delivery=self._hold,
                on_missing=self._declare_again,
            )
            self._settler = Settler(
                self._feed,
                app.jetstream,
                app.layout,
                app.outcomes,
                app.dead_letters,
                app.declarations,
                worker=self.name,
                result_ttl=app.result_ttl,
                on_settled=self._on_settled,
                on_open=self._on_open,
            )
            self._lifecycle = app.lifecycle
            self._crashes = Crashes(app.jetstream, app.layout)
            self._executor = Executor(self.concurrency, app.middleware)
            if app.reactions:
                self._reacting = await self._stack.enter_async_context(app.reacting_bus())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the lifespan and disconnect."""
        await self._stack.aclose()

    async def run(self) -> None:
        """Work until `stop` is called, or until cancelled.

        After `stop`: what has not started is given back at once, what runs has `grace`
        seconds to finish, then it is cancelled and given back too. Cancelling skips the
        grace period.
        """
        app = self.app
        forget_asked = app.connection.on_lost(self._feed.reset)
        unsubscribe = app.connection.on_reconnect(self._on_reconnect)
        await self._settler.open()
        commands = await app.connection.subscribe(app.layout.control("cancel"), self._on_cancel)
        log.info(
            "worker started",
            worker=self.name,
            queues=", ".join(self.queues),
            slots=self.concurrency,
        )
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._context = copy_context()
                group.start_soon(self._feed.run)
                group.start_soon(self._settle_open)
                group.start_soon(self._renew_leases)
                group.start_soon(self._watchdog.run)
                self._ready = True
                try:
                    await self._stopping.wait()
                    self._ready = False
                    await self._drain()
                finally:
                    # A slot started in a group that is being cancelled may miss that, and
                    # wait for ever.
                    self._feed.stop()
                group.cancel_scope.cancel()
        finally:
            self._ready = False
            unsubscribe()
            forget_asked()
            with anyio.move_on_after(LAST_WORDS, shield=True):
                await self._feed.close()
                await self._give_back_waiting()
                await self._give_back_unsettled()
                await commands.close()
            if not app.connection.is_connected:
                log.warning(
                    "stopped without the server: what is not settled is delivered again "
                    "when its lease runs out",
                    worker=self.name,
                )
            log.info("worker stopped", worker=self.name, **msgspec.to_builtins(self.stats))

    def stop(self) -> None:
        """Tell the worker to take no more jobs and to finish those it has."""
        self._stopping.set()

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs now: running, connected, not told to stop."""
        reacts = self._reacting is None or self._reacting.is_ready
        return self._ready and reacts and self.app.is_open and self.app.connection.is_connected

    @property
    def is_live(self) -> bool:
        """Whether its event loop moves, and what enqueues jobs of events can go on."""
        # Only while it is ready is the watchdog sure to run.
        moves = not self._ready or self._watchdog.delay < 10
        return moves and (self._reacting is None or self._reacting.is_live)

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return len(self._running)

    def health(self) -> dict[str, Any]:
        """Return what a health check is told beside `is_live` and `is_ready`."""
        app = self.app
        return {
            "connected": app.is_open and app.connection.is_connected,
            "running": self.running,
            "stats": self.stats,
        }

    # -- the way of a job -----------------------------------------------------------------

    async def handle(self, delivery: Delivery, slot: Slot) -> None:
        """Run one delivered job and tell the server what became of it."""
        attempt = read(delivery, self.app.tasks)
        started_at = datetime.now(UTC)
        try:
            outcome = await self._execute(delivery, attempt, started_at, slot)
            settlement = settlement_for(outcome, attempt.number, attempt.retry)
            if not self._settler.settle_soon(delivery, attempt, settlement, started_at):
                await self._settler.settle(delivery, attempt, settlement, started_at)
                self._on_settled(delivery, settlement)
        except anyio.get_cancelled_exc_class():
            # Shutting down: give the job back now, not when its lease runs out.
            with anyio.move_on_after(LAST_WORDS, shield=True):
                await self._settler.settle(delivery, attempt, GiveBack(), started_at)
                if not delivery.is_first:
                    # Taken away from it, so it did not take this worker down.
                    await self._crashes.forget(delivery.job)
            self._on_settled(delivery, GiveBack())
            raise
        except Exception:
            self._not_settled(delivery)

    def _on_settled(self, delivery: Delivery, settlement: Settlement) -> None:
        self._count(settlement)
        if self._lifecycle.wanted:
            self._lifecycle.settled(delivery, settlement, self.name)
        self._release(delivery)

    def _on_open(self, ended: Ended) -> None:
        self._open.append(ended)
        self._any_open.set()

    async def _settle_open(self) -> None:
        """Settle one by one what could not be settled on the way."""
        while True:
            await self._any_open.wait()
            while self._open:
                delivery, settlement = self._open[0].delivery, self._open[0].settlement
                try:
                    await self._settler.settle(
                        delivery, self._open[0].attempt, settlement, self._open[0].started_at
                    )
                    self._on_settled(delivery, settlement)
                except Exception:
                    self._not_settled(delivery)
                self._open.popleft()
            self._any_open.clear()

    def _not_settled(self, delivery: Delivery) -> None:
        # The job is still the server's: it comes again when its lease runs out.
        log.exception("job could not be settled", job_id=str(delivery.job))
        self._release(delivery)

    async def _execute(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        started_at: datetime,
        slot: Slot,
    ) -> Outcome:
        if isinstance(attempt, Unreadable):
            return Rejected(attempt.reason)
        job, message = delivery.job, attempt.message
        if not delivery.is_first or message.resent:
            trouble = await self._recheck(delivery, attempt)
            if trouble is not None:
                return trouble
        if message.expires_at is not None and started_at > message.expires_at:
            return Expired()
        # The word that came is not enough: by now it may be another job, with the same id.
        if job in self._cancelled and await self._has_ended(delivery):
            return Cancelled()
        context = JobContext(self.app, job, attempt, self._state)
        if self._lifecycle.wanted:
            self._lifecycle.started(context, self.name)
        slot.enter(job, attempt.task.name)
        self._running[job] = slot
        try:
            return await self._executor.run(attempt, context, slot)
        finally:
            slot.leave()
            if self._running.get(job) is slot:
                del self._running[job]

    async def _has_ended(self, delivery: Delivery) -> bool:
        """Look for a job's outcome."""
        job, insist = delivery.job, self.app.declarations.insist
        return await insist(job.queue, lambda: self.app.outcomes.find(job)) is not None

    async def _recheck(self, delivery: Delivery, attempt: Attempt) -> Outcome | None:
        """Look whether a job that may have run before still has to run.

        Asked only for what came more than once, so a first delivery pays nothing.
        """
        app, job, insist = self.app, delivery.job, self.app.declarations.insist
        if await self._has_ended(delivery):
            return Superseded()
        stream, copies = app.layout.queue_stream_name(job.queue), app.layout.anywhere(job)
        newest = await insist(job.queue, lambda: app.jetstream.find_last(stream, copies))
        seq = delivery.pulled.stream_seq
        if newest is None or newest.seq != seq:
            return Superseded()
        if delivery.pulled.num_delivered == 1:
            return None
        crashes = await insist(job.queue, lambda: self._crashes.find(job, seq))
        if crashes >= attempt.retry.max_crashes:
            return Rejected(
                f"its worker fell silent {crashes + 1} times while running it "
                "(killed, out of memory, or blocked past the lease)"
            )
        await insist(job.queue, lambda: self._crashes.record(job, seq, crashes + 1))
        return None

    # -- slots ------------------------------------------------------------------------

    def _hold(self, delivery: Delivery) -> None:
        """Take a delivered job in; there are only as many slots as were ever needed."""
        if self._buffer.idle == 0 and self._num_slots < self.concurrency:
            self._num_slots += 1
            self._start_slot()
        self._buffer.put(delivery)

    def _start_slot(self) -> None:
        self._context.run(self._group.start_soon, self._slot)

    async def _slot(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        slot = self._slots[task] = Slot(task)
        try:
            # One job after the other, as long as none leaves something to the next.
            while is_as_before(self._context):
                await self.handle(await self._buffer.take(), slot)
        finally:
            del self._slots[task]
        # A job has set context variables; the next one must not see them. Not while the
        # worker is being cancelled, though: then this ends here.
        await anyio.lowlevel.checkpoint()
        self._start_slot()

    def _release(self, delivery: Delivery) -> None:
        self._feed.finished(delivery)
        if not self._feed.held:
            self._idle.set()

    def _count(self, settlement: Settlement) -> None:
        stats = self.stats
        match settlement:
            case Finish(status="expired"):
                stats.expired += 1
            case Finish():
                stats.completed += 1
            case RetryAt():
                stats.retried += 1
            case Bury():
                stats.dead += 1
            case Drop():
                stats.dropped += 1
            case GiveBack():
                stats.given_back += 1

    # -- leases and commands -----------------------------------------------------------------

    async def _renew_leases(self) -> None:
        """Renew what is held well before the server would give it to another worker."""
        shortest = min(self.app.declarations.queue(queue).lease for queue in self._weights)
        # A third of the lease: two renewals in a row may be lost before it runs out.
        pause = shortest / 3
        while True:
            await anyio.sleep(pause / 2)
            now = time.monotonic()
            for delivery in tuple(self._feed.held.values()):
                if now - delivery.renewed_at >= pause / 2:
                    delivery.renewed_at = now
                    await self._feed.renew(delivery)

    def _on_cancel(self, message: Message) -> None:
        try:
            job = JobId.parse(msgspec.json.decode(message.data, type=str))
        except (msgspec.DecodeError, InvalidJobIdError):
            log.warning("command not understood", subject=message.subject)
            return
        slot = self._running.get(job)
        if slot is not None:
            slot.cancel()
            return
        now = time.monotonic()
        # In the order they came, so the oldest are first.
        while self._cancelled and now - next(iter(self._cancelled.values())) >= REMEMBER:
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled.pop(job, None)
        self._cancelled[job] = now

    def _name_of(self, task: asyncio.Task[Any]) -> tuple[str, str] | None:
        slot = self._slots.get(task)
        return (str(slot.job), slot.name) if slot is not None and slot.job is not None else None

    # -- the server -----------------------------------------------------------------------

    async def _declare_again(self, queue: str) -> None:
        """Bring a queue back whose stream or consumers are gone, if that is possible now."""
        try:
            await self.app.declarations.ensure_queue(queue, anew=True)
            await self.app.declarations.ensure_consumers(queue)
        except (IpcError, QueueMissingError) as exc:
            log.warning("queue cannot be worked on now", queue=queue, reason=str(exc))

    async def _on_reconnect(self) -> None:
        self._feed.reset()

    # -- stopping -----------------------------------------------------------------------

    async def _drain(self) -> None:
        """Give back what has not started, and wait for what has."""
        await self._feed.close()
        await self._give_back_waiting()
        self._idle.clear()
        if self._feed.held:
            log.info("waiting for running jobs", jobs=len(self._feed.held), grace=self.grace)
            with anyio.move_on_after(self.grace):
                await self._idle.wait()

    async def _give_back_waiting(self) -> None:
        for delivery in self._buffer.drain():
            await self._feed.nak(delivery)
            self._count(GiveBack())
            self._release(delivery)

    async def _give_back_unsettled(self) -> None:
        """Give back what ran and may not be settled; who gets it looks for an outcome first."""
        for ended in (*self._open, *await self._settler.close()):
            await self._feed.nak(ended.delivery)
            self._on_settled(ended.delivery, GiveBack())
