"""Enqueue: a call becomes a message on its queue's stream, acknowledged by the server.

What is published never depends on luck: a publish whose acknowledgement is lost is
repeated with the expectation that the job is not there yet, and marked, so that a
worker that gets a second copy first looks whether the first one ran.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ipc import (
    MAX_ATOMIC_BATCH,
    BatchBrokenError,
    Connection,
    IpcError,
    JetStream,
    MessageTooLargeError,
    NoResponderError,
    Outgoing,
    ServerUnavailableError,
    SubjectTakenError,
    UnconfirmedError,
    current_origin,
    encode,
    ingest,
    publish_atomically,
)

from ._errors import EnqueueError, EnqueueManyError, JetqError, JobExistsError, OptionsError
from ._layout import NO_KEY, JobId, Layout, key_token, new_token
from ._message import HEADROOM, NOT_DECODABLE, JobMessage, decode_job
from ._task import Call

__all__ = ["Draft", "Enqueuer", "draft", "schedule_headers"]

# How many acknowledgements are awaited at once for jobs that cannot go into a batch.
PIPELINE = 200
PAUSE = 0.1


class Draft(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job as it will be published."""

    job: JobId
    subject: str
    message: JobMessage
    headers: dict[str, str]
    absent: str | None
    """Publish only if nothing is stored on these subjects."""
    chosen_id: bool = False
    on_conflict: str = "return"

    def outgoing(self) -> Outgoing:
        """Return the message for the server."""
        headers = self.headers
        if self.absent is not None:
            headers = {**headers, **must_be_absent(self.absent)}
        return Outgoing(self.subject, encode(self.message), headers or None)

    def again(self, layout: Layout) -> Draft:
        """Return what to publish after an attempt of which nothing is known."""
        return msgspec.structs.replace(
            self,
            message=msgspec.structs.replace(self.message, resent=True),
            absent=self.absent or layout.anywhere(self.job),
        )


class Placed(msgspec.Struct, frozen=True, gc=False):
    """Which job a call became, and whether it is a new one."""

    job: JobId
    created: bool


def must_be_absent(subjects: str) -> dict[str, str]:
    """Return the headers by which a publish fails if something is stored on `subjects`."""
    return must_be_last(subjects, 0)


def must_be_last(subjects: str, seq: int) -> dict[str, str]:
    """Return the headers by which a publish fails if `seq` is not the last on `subjects`."""
    return {
        "Nats-Expected-Last-Subject-Sequence": str(seq),
        "Nats-Expected-Last-Subject-Sequence-Subject": subjects,
    }


def schedule_headers(due_at: datetime, target: str) -> dict[str, str]:
    """Return the headers by which the server publishes a message to `target` at a time.

    Source: NATS ADR-51.
    """
    stamp = due_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"Nats-Schedule": f"@at {stamp}", "Nats-Schedule-Target": target}


def draft(call: Call[Any], layout: Layout, now: datetime) -> Draft:
    """Return what to publish for a call."""
    task, options = call.task, call.options
    key = options.unique
    if options.debounce is not None:
        # Told apart from unique keys, and from other tasks that debounce with the same text.
        key = f"debounce {task.name} {options.debounce}"
    job = JobId(task.queue, NO_KEY if key is None else key_token(key), options.id or new_token())
    origin = current_origin.get()
    message = JobMessage(
        task=task.name,
        args=call.args,
        enqueued_at=now,
        expires_at=_moment(options.expires, now),
        timeout=options.timeout,
        headers=options.headers,
        correlation_id="" if origin is None else origin.correlation_id,
        causation_id="" if origin is None else origin.id,
        traceparent="" if origin is None else origin.traceparent or "",
    )
    priority = options.priority or task.priority
    due_at = options.eta or _moment(options.delay, now)
    target = layout.task(job, priority)
    headers = {} if due_at is None else schedule_headers(due_at, target)
    absent = None
    if options.unique is not None:
        absent = layout.with_key(job.queue, job.key)
    elif options.id is not None:
        absent = layout.anywhere(job)
        # Closes the gap between the check for an outcome and the publish, for as long as
        # the stream remembers ids (2 minutes); the expectation covers what still waits.
        headers["Nats-Msg-Id"] = str(job)
    return Draft(
        job=job,
        subject=target if due_at is None else layout.later(job, priority),
        message=message,
        headers=headers,
        absent=absent,
        chosen_id=options.id is not None,
        on_conflict=options.on_conflict,
    )


def _has_run(body: bytes) -> bool:
    """Return whether a scheduled job is the copy that a retry or a snooze left."""
    try:
        return decode_job(body).error is not None
    except NOT_DECODABLE:
        return False


def _moment(value: float | timedelta | datetime | None, now: datetime) -> datetime | None:
    match value:
        case None | datetime():
            return value
        case timedelta():
            return now + value
        case _:
            return now + timedelta(seconds=value)


class Enqueuer:
    """Puts calls on their queues."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        layout: Layout,
        declare: Callable[[str, bool], Awaitable[None]],
        timeout: float,
    ) -> None:
        """Set up.

        Args:
            declare: Makes sure that a queue's stream exists; if told so, looks even if it
                has looked before.
            timeout: Seconds until an acknowledgement must be here.
        """
        self._connection = connection
        self._jetstream = jetstream
        self._layout = layout
        self._declare = declare
        self._timeout = timeout

    async def enqueue(self, call: Call[Any]) -> Placed:
        """Store one job; see `BoundTask.enqueue`."""
        one = draft(call, self._layout, datetime.now(UTC))
        return await self._enqueue(call, one, time.monotonic() + self._timeout)

    async def enqueue_many(self, calls: Sequence[Call[Any]]) -> list[Placed]:
        """Store jobs in the fastest way: one fast-ingest batch a queue, the rest pipelined.

        A batch cannot check anything, so jobs with a unique key or an id go by themselves,
        as does what a broken batch left unconfirmed.
        """
        deadline = time.monotonic() + self._timeout
        now = datetime.now(UTC)
        # Nothing else in a job is large: most need not be encoded to be sure of their size.
        large = self._connection.max_payload // 2
        for call in calls:
            if call.options.headers or len(call.args) > large:
                self._check_sizes([draft(call, self._layout, now).outgoing()])
        drafts: dict[int, Draft] = {}
        placed: list[Placed | None] = [None] * len(calls)
        batches: dict[str, list[int]] = {}
        singles: list[int] = []
        for index, call in enumerate(calls):
            options = call.options
            if options.unique is options.id is options.debounce is None:
                batches.setdefault(call.task.queue, []).append(index)
            else:
                singles.append(index)
                drafts[index] = draft(call, self._layout, now)

        def outgoing(indexes: Sequence[int]) -> Iterator[Outgoing]:
            for index in indexes:
                one = drafts[index] = draft(calls[index], self._layout, now)
                yield one.outgoing()

        for queue, indexes in batches.items():
            stored = await self._ingest(queue, outgoing(indexes), len(indexes), deadline)
            for index in indexes[:stored]:
                placed[index] = Placed(drafts[index].job, True)
            for index in indexes[stored:]:
                one = drafts.get(index) or draft(calls[index], self._layout, now)
                drafts[index] = one.again(self._layout)
                singles.append(index)

        failures: list[Exception] = []
        # Calls debounced by one key take turns, so that the last one is stored last.
        turns: defaultdict[JobId | str, asyncio.Lock] = defaultdict(asyncio.Lock)

        async def place(index: int) -> None:
            call, one = calls[index], drafts[index]
            turn = turns[f"{one.job.queue}.{one.job.key}" if call.options.debounce else one.job]
            try:
                async with turn:
                    placed[index] = await self._enqueue(call, one, deadline)
            except (JetqError, IpcError) as exc:
                failures.append(exc)

        for start in range(0, len(singles), PIPELINE):
            await asyncio.gather(*(place(index) for index in singles[start : start + PIPELINE]))
        done = [one for one in placed if one is not None]
        if failures:
            missing = [
                str(drafts[index].job) for index, found in enumerate(placed) if found is None
            ]
            if not done and isinstance(failures[0], ServerUnavailableError):
                raise failures[0]
            stored_ids = [str(one.job) for one in done]
            raise EnqueueManyError(stored_ids, missing, str(failures[0])) from failures[0]
        return done

    async def enqueue_all_or_none(self, calls: Sequence[Call[Any]]) -> list[Placed]:
        """Store every job or none, in one atomic batch.

        Raises:
            OptionsError: More than one queue, too many jobs, or a debounced one.
            JobExistsError: One of them exists already; none was stored.
            EnqueueError: Not acknowledged in time; either all are stored or none.
        """
        if not calls:
            return []
        deadline = time.monotonic() + self._timeout
        first = calls[0].task
        drafts = [draft(call, self._layout, datetime.now(UTC)) for call in calls]
        if len({one.job.queue for one in drafts}) > 1:
            raise OptionsError(first.name, "atomic jobs must be in one queue: it is one stream")
        if len(drafts) > MAX_ATOMIC_BATCH:
            raise OptionsError(first.name, f"at most {MAX_ATOMIC_BATCH} jobs are atomic")
        if any(call.options.debounce for call in calls):
            raise OptionsError(first.name, "a debounced job cannot be part of an atomic batch")
        wanted = [one.absent for one in drafts if one.absent is not None]
        if len(set(wanted)) < len(wanted):
            raise OptionsError(first.name, "two of the jobs have the same unique key or id")
        messages = [one.outgoing() for one in drafts]
        # Should the acknowledgement be lost, every job is to be absent for the next try:
        # if one is there, this very batch was stored before.
        again = [one.again(self._layout).outgoing() for one in drafts]
        self._check_sizes(again)
        placed = [Placed(one.job, True) for one in drafts]
        sent = anew = False
        while True:
            try:
                await self._connection.wait_connected(self._left(deadline))
                await self._declare(first.queue, anew)
                if messages is not again:
                    await self._check_not_ended(drafts)
                sent = True
                await publish_atomically(
                    self._jetstream, messages, timeout=self._time_for_one_try(deadline)
                )
                return placed
            except SubjectTakenError as exc:
                taken = await self._first_existing(drafts, others_only=messages is again)
                if taken is not None:
                    raise JobExistsError(first.name, str(taken)) from exc
                if messages is again:
                    # What has taken the places are these very jobs, sent before.
                    return placed
                await self._pause(deadline, first.name, drafts[0].job, None)
            except NoResponderError as exc:
                sent, anew = False, True
                await self._pause(deadline, first.name, drafts[0].job, exc)
            except UnconfirmedError as exc:
                messages = again if sent else messages
                await self._pause(deadline, first.name, drafts[0].job, exc)

    # -- one job --------------------------------------------------------------------

    async def _enqueue(self, call: Call[Any], one: Draft, deadline: float) -> Placed:
        """Store one job, trying again for as long as there is time."""
        store = self._debounce if call.options.debounce else self._place
        again, anew = one.again(self._layout), False
        cause: Exception | None = None
        while True:
            try:
                await self._connection.wait_connected(self._left(deadline))
                await self._declare(one.job.queue, anew)
                found = await store(call, one, deadline)
                if found is not None:
                    return found
            except NoResponderError as exc:
                # The stream is gone: a server with streams in memory was restarted.
                anew, cause = True, exc
            except UnconfirmedError as exc:
                one, cause = again, exc
            await self._pause(deadline, call.task.name, one.job, cause)

    async def _place(self, call: Call[Any], one: Draft, deadline: float) -> Placed | None:
        """Publish a draft, or find it there already; `None` says to try again."""
        repeated = one.message.resent
        if one.chosen_id and not repeated and await self._has_ended(one.job):
            return Placed(one.job, False)
        outgoing = one.outgoing()
        self._check_sizes([outgoing])
        try:
            ack = await self._jetstream.publish(
                outgoing.subject,
                outgoing.data,
                headers=outgoing.headers,
                timeout=self._time_for_one_try(deadline),
            )
            return Placed(one.job, not ack.duplicate or repeated)
        except SubjectTakenError:
            existing = await self._existing(one)
        if existing is None:
            # It ended between the refusal and the look: the place is free again.
            return None
        if existing == one.job:
            return Placed(existing, repeated and not one.chosen_id)
        if one.on_conflict == "raise":
            raise JobExistsError(call.task.name, str(existing))
        return Placed(existing, False)

    async def _debounce(self, call: Call[Any], one: Draft, deadline: float) -> Placed | None:
        """Replace the waiting job with the same key, or be the first; `None` says to try again.

        A schedule published again to its own subject replaces the message and its time.
        """
        layout = self._layout
        stream = layout.queue_stream_name(one.job.queue)
        scheduled = layout.with_key(one.job.queue, one.job.key, kind="later")
        waiting = await self._jetstream.find_last(stream, scheduled)
        known = layout.parse(waiting.subject) if waiting else None
        if waiting is None or known is None:
            job, subject = one.job, one.subject
            headers = {**one.headers, **must_be_absent(scheduled)}
        elif _has_run(waiting.data):
            # It is owed another attempt: this call is a job of its own, after it.
            job, subject = one.job, one.subject
            headers = {**one.headers, **must_be_last(scheduled, waiting.seq)}
        else:
            (job, priority), subject = known, waiting.subject
            headers = {
                "Nats-Schedule": one.headers["Nats-Schedule"],
                "Nats-Schedule-Target": layout.task(job, priority),
                "Nats-Expected-Last-Subject-Sequence": str(waiting.seq),
            }
        try:
            await self._jetstream.publish(
                subject,
                encode(one.message),
                headers=headers,
                timeout=self._time_for_one_try(deadline),
            )
        except SubjectTakenError:
            # Another call was faster, or the job became due meanwhile.
            return None
        return Placed(job, job == one.job)

    # -- what is there already ----------------------------------------------------------

    async def _has_ended(self, job: JobId) -> bool:
        layout = self._layout
        return (
            await self._jetstream.find_last(layout.results_stream, layout.result(job)) is not None
        )

    async def _check_not_ended(self, drafts: Sequence[Draft]) -> None:
        for one in drafts:
            if one.chosen_id and await self._has_ended(one.job):
                raise JobExistsError(one.message.task, str(one.job))

    async def _existing(self, one: Draft) -> JobId | None:
        stream = self._layout.queue_stream_name(one.job.queue)
        found = await self._jetstream.find_last(stream, one.absent or one.subject)
        known = self._layout.parse(found.subject) if found else None
        return known[0] if known else None

    async def _first_existing(self, drafts: Sequence[Draft], *, others_only: bool) -> JobId | None:
        """Return a job that stands where a draft wants to, if there is one."""
        for one in drafts:
            found = None if one.absent is None else await self._existing(one)
            if found is not None and not (others_only and found == one.job):
                return found
        return None

    # -- streams and time ------------------------------------------------------------------

    async def _ingest(
        self, queue: str, messages: Iterable[Outgoing], count: int, deadline: float
    ) -> int:
        """Store messages in one batch; return how many are stored for certain."""
        try:
            await self._connection.wait_connected(self._left(deadline))
            await self._declare(queue, False)
            timeout = min(self._timeout, self._jetstream.timeout)
            await ingest(self._connection, messages, count, timeout=timeout)
        except BatchBrokenError as exc:
            return exc.acknowledged
        except (NoResponderError, UnconfirmedError, ServerUnavailableError):
            return 0
        return count

    def _check_sizes(self, messages: Iterable[Outgoing]) -> None:
        """Refuse all before any is sent, if one is too large."""
        limit = self._connection.max_payload - HEADROOM
        for message in messages:
            if len(message.data) > limit:
                raise MessageTooLargeError(message.subject, len(message.data), limit)

    def _time_for_one_try(self, deadline: float) -> float:
        return min(self._jetstream.timeout, self._left(deadline))

    def _left(self, deadline: float) -> float:
        return max(deadline - time.monotonic(), 0.001)

    async def _pause(self, deadline: float, task: str, job: JobId, cause: Exception | None) -> None:
        """Wait a little before the next try, if there is time for one."""
        if time.monotonic() + PAUSE >= deadline:
            reason = str(cause) if cause else "its place was taken again and again"
            raise EnqueueError(task, str(job), self._timeout, reason) from cause
        await asyncio.sleep(PAUSE)
