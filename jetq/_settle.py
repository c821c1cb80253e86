"""Settle: record what became of a job, then answer the server, in this order always.

Whatever is published is repeated until the server acknowledges it: giving up would lose
nothing, as the job is still in its queue, but would run it again. So a worker whose
server is away waits here, holding its jobs, until the server is back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar, assert_never

import msgspec
import structlog

from ipc import (
    BatchWriter,
    JetStream,
    MessageTooLargeError,
    SubjectTakenError,
    encode,
)

from ._dead_letter import DeadLetters
from ._declare import Declarations
from ._delivery import Attempt, Delivery, Unreadable
from ._enqueue import must_be_last, schedule_headers
from ._feed import Feed
from ._layout import Layout
from ._message import HEADROOM, DeadLetter, ErrorInfo, OutcomeRecord
from ._outcome import COMPLETED, Bury, Drop, Finish, GiveBack, RetryAt, Settlement
from ._results import Outcomes

__all__ = ["Ended", "Settler"]

log = structlog.stdlib.get_logger("jetq")

T = TypeVar("T")


class Ended(msgspec.Struct, frozen=True):
    """A job that ran, and what is to become of it."""

    delivery: Delivery
    attempt: Attempt | Unreadable
    settlement: Settlement
    started_at: datetime


class Settler:
    """Carries settlements out."""

    def __init__(
        self,
        feed: Feed,
        jetstream: JetStream,
        layout: Layout,
        outcomes: Outcomes,
        dead_letters: DeadLetters,
        declarations: Declarations,
        *,
        worker: str,
        result_ttl: float,
        on_settled: Callable[[Delivery, Settlement], None],
        on_open: Callable[[Ended], None],
    ) -> None:
        self._feed = feed
        self._jetstream = jetstream
        self._layout = layout
        self._outcomes = outcomes
        self._dead_letters = dead_letters
        self._declarations = declarations
        self._worker = worker
        self._result_ttl = result_ttl
        self._on_settled = on_settled
        self._on_open = on_open
        self._writer = BatchWriter[Ended](
            jetstream.connection, on_stored=self._on_stored, on_open=on_open
        )

    async def open(self) -> None:
        """Get ready for `settle_soon`."""
        await self._writer.open()
        self._largest_result = self._jetstream.connection.max_payload - HEADROOM

    async def close(self) -> list[Ended]:
        """Return what is not known to be settled, to be given back."""
        return await self._writer.close()

    def settle_soon(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        settlement: Settlement,
        started_at: datetime,
    ) -> bool:
        """Settle a job that ended well the first time it was delivered, waiting for nothing.

        `on_settled` is called when it is done; `on_open` if it could not be, and `settle`
        has to. Returns `False` for any other job: `settle` it.
        """
        if not isinstance(settlement, Finish) or not delivery.is_first:
            return False
        if not _is_stored(attempt, settlement):
            if not self._feed.ack_at_once(delivery):
                return False
            self._on_settled(delivery, settlement)
            return True
        record = self._record(attempt, settlement.status, started_at, None, settlement.result)
        message = self._outcomes.outgoing(delivery.job, record, self._ttl(attempt))
        if settlement.status != COMPLETED or len(message.data) > self._largest_result:
            return False
        self._writer.add(message, Ended(delivery, attempt, settlement, started_at))
        return True

    def _on_stored(self, ended: Ended) -> None:
        if self._feed.ack_at_once(ended.delivery):
            self._on_settled(ended.delivery, ended.settlement)
        else:
            self._on_open(ended)

    async def settle(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        settlement: Settlement,
        started_at: datetime | None,
    ) -> None:
        """Record a settlement, then take the job off its queue or give it back."""
        match settlement:
            case Finish():
                await self._finish(delivery, attempt, settlement, started_at)
            case RetryAt():
                await self._leave_copy(delivery, attempt, settlement, started_at)
            case Bury():
                await self._bury(delivery, attempt, settlement, started_at)
            case Drop():
                await self._ack(delivery)
            case GiveBack():
                await self._feed.nak(delivery)
            case _:
                assert_never(settlement)

    async def _finish(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        settlement: Finish,
        started_at: datetime | None,
    ) -> None:
        if _is_stored(attempt, settlement):
            error = (
                ErrorInfo("it was not started before it expired")
                if settlement.status == "expired"
                else None
            )
            record = self._record(attempt, settlement.status, started_at, error, settlement.result)
            try:
                await self._record_outcome(delivery, attempt, record)
            except MessageTooLargeError as exc:
                reason = f"the result cannot be stored: {exc}"
                await self._bury(delivery, attempt, Bury(reason), started_at)
                return
        await self._remove(delivery)

    async def _leave_copy(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        settlement: RetryAt,
        started_at: datetime | None,
    ) -> None:
        """Publish the job again for its next attempt, then remove this one.

        Not a delayed nak, which would keep counting against the consumer's limits.
        """
        assert isinstance(attempt, Attempt), "what cannot be read is never run again"
        target = self._layout.task(delivery.job, delivery.priority)
        subject, headers = target, dict[str, str]()
        if settlement.delay > 0:
            due_at = datetime.now(UTC) + timedelta(seconds=settlement.delay)
            subject = self._layout.later(delivery.job, delivery.priority)
            headers = schedule_headers(due_at, target)
        copy = msgspec.structs.replace(
            attempt.message,
            attempt=settlement.attempt,
            error=settlement.error,
            expires_at=None,
            resent=False,
        )
        if len(encode(copy)) > self._jetstream.connection.max_payload - HEADROOM // 2:
            # The reason for the retry must not keep the job from being retried.
            copy = msgspec.structs.replace(copy, error=ErrorInfo(settlement.error.message[:500]))
        # The copy takes the place of this very message, or none: if another delivery of the
        # job has settled it meanwhile, or this copy was stored by a try before, all is done.
        ours = must_be_last(self._layout.anywhere(delivery.job), delivery.pulled.stream_seq)
        try:
            await self._surely(
                delivery,
                lambda: self._jetstream.publish(subject, encode(copy), headers={**headers, **ours}),
            )
        except SubjectTakenError:
            pass
        except MessageTooLargeError as exc:
            reason = f"failed, and the job cannot be stored for another attempt: {exc}"
            await self._bury(delivery, attempt, Bury(reason, settlement.error), started_at)
            return
        await self._ack(delivery)
        log.info(
            "job will run again",
            job_id=str(delivery.job),
            task=attempt.task.name,
            attempt=settlement.attempt,
            delay=round(settlement.delay, 3),
            error=settlement.error.kind,
            reason=settlement.error.message,
        )

    async def _bury(
        self,
        delivery: Delivery,
        attempt: Attempt | Unreadable,
        settlement: Bury,
        started_at: datetime | None,
    ) -> None:
        job, pulled = delivery.job, delivery.pulled
        task = attempt.task.name if isinstance(attempt, Attempt) else attempt.task
        error = settlement.error
        letter = DeadLetter(
            job_id=str(job),
            queue=job.queue,
            priority=delivery.priority,
            task=task,
            reason=settlement.reason,
            attempts=attempt.number,
            died_at=datetime.now(UTC),
            error=error,
            subject=pulled.subject,
            body=pulled.data,
        )
        await self._surely(delivery, lambda: self._dead_letters.bury(job, letter))
        recorded = msgspec.structs.replace(error, message=settlement.reason) if error else None
        record = self._record(
            attempt, "failed", started_at, recorded or ErrorInfo(settlement.reason)
        )
        if not await self._record_outcome(delivery, attempt, record):
            await self._withdraw(delivery)
        await self._remove(delivery)
        log.warning(
            "job is dead",
            job_id=str(job),
            task=task,
            reason=settlement.reason,
            **({"error": error.kind, "exception": error.traceback} if error else {}),
        )

    async def _withdraw(self, delivery: Delivery) -> None:
        """Take a dead letter back if the job has ended well by another delivery."""
        outcome = await self._surely(delivery, lambda: self._outcomes.find(delivery.job))
        if outcome is not None and outcome.status != "failed":
            job_id = str(delivery.job)
            await self._surely(delivery, lambda: self._dead_letters.purge(job_id=job_id))

    async def _record_outcome(
        self, delivery: Delivery, attempt: Attempt | Unreadable, record: OutcomeRecord
    ) -> bool:
        """Record how a job ended; return `False` if it had ended before."""
        ttl = self._ttl(attempt)
        first = await self._surely(
            delivery, lambda: self._outcomes.record(delivery.job, record, ttl)
        )
        if not first:
            log.info("second outcome discarded", job_id=str(delivery.job), outcome=record.status)
        return first

    async def _remove(self, delivery: Delivery) -> None:
        """Take a job off its queue, and any copy that another delivery of it has left."""
        if not delivery.is_first:
            # First, while this one still stands in the way of a replay: what is put on the
            # queue once it is gone is a new job.
            stream = self._layout.queue_stream_name(delivery.job.queue)
            copies = self._layout.anywhere(delivery.job)
            await self._surely(delivery, lambda: self._jetstream.purge(stream, copies))
        await self._ack(delivery)

    async def _ack(self, delivery: Delivery) -> None:
        # Nearly always the connection is still the one that the job came by.
        if not self._feed.ack_at_once(delivery):
            await self._surely(delivery, lambda: self._feed.ack(delivery))

    def _ttl(self, attempt: Attempt | Unreadable) -> float:
        return attempt.task.result_ttl if isinstance(attempt, Attempt) else self._result_ttl

    def _record(
        self,
        attempt: Attempt | Unreadable,
        status: str,
        started_at: datetime | None,
        error: ErrorInfo | None,
        result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET,
    ) -> OutcomeRecord:
        readable = isinstance(attempt, Attempt)
        return OutcomeRecord(
            status=status,  # pyright: ignore[reportArgumentType]
            task=attempt.task.name if readable else attempt.task,
            attempt=attempt.number,
            enqueued_at=attempt.message.enqueued_at if readable else None,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            worker=self._worker,
            result=result,
            error=error,
        )

    def _surely(self, delivery: Delivery, publish: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        return self._declarations.insist(delivery.job.queue, publish)


def _is_stored(attempt: Attempt | Unreadable, settlement: Finish) -> bool:
    """Return whether the outcome is recorded: not that of a task without results that ran."""
    wanted = not isinstance(attempt, Attempt) or attempt.task.store_result
    return wanted or settlement.status != COMPLETED
