"""Dead letters: jobs set aside for people, to be looked at, replayed or thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec

from ipc import JetStream, MessageTooLargeError, StoredMessage, SubjectTakenError, encode

from ._declare import Declarations
from ._enqueue import must_be_absent
from ._errors import JobNotRetryableError
from ._layout import PRIORITIES, JobId, Layout, Priority
from ._message import NOT_DECODABLE, DeadLetter, decode_job
from ._results import Outcomes

__all__ = ["DeadLetters"]

FORGOTTEN = {"attempt", "error", "expires_at", "resent"}

# Settling takes milliseconds; longer, and its worker is gone or has lost the server.
SETTLE_TIMEOUT = 2.0


class DeadLetters:
    """The dead letters of an app."""

    def __init__(
        self, jetstream: JetStream, layout: Layout, outcomes: Outcomes, declarations: Declarations
    ) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._outcomes = outcomes
        self._declarations = declarations

    async def bury(self, job: JobId, letter: DeadLetter) -> None:
        """Store a dead letter; the same job again replaces it."""
        subject = self._layout.dead(job)
        try:
            await self._jetstream.publish(subject, letter.body, headers=letter.headers())
        except MessageTooLargeError:
            # Another client's job may fill a message by itself. Its bytes are kept without
            # a word; the outcome says why it died.
            await self._jetstream.publish(subject, letter.body)

    async def find(self, job_id: str) -> DeadLetter | None:
        """Return the dead letter of a job, or `None`."""
        stored = await self._find(JobId.parse(job_id))
        return None if stored is None else self._read(stored)

    async def _find(self, job: JobId) -> StoredMessage | None:
        return await self._jetstream.find_last(self._layout.dead_stream, self._layout.dead(job))

    def _read(self, stored: StoredMessage) -> DeadLetter:
        """Return a stored dead letter; one that says nothing of itself, or nonsense, too."""
        try:
            letter = DeadLetter.read(stored.headers, stored.data)
            if letter.priority in PRIORITIES:
                return letter
        except (KeyError, *NOT_DECODABLE):
            pass
        job_id = stored.subject.removeprefix(self._layout.dead_letters().removesuffix(">"))
        return DeadLetter(
            job_id=job_id,
            queue=job_id.partition(".")[0],
            priority=Priority.NORMAL,
            reason="the dead letter does not say; the job's outcome may",
            attempts=0,
            died_at=stored.stored_at,
            subject=stored.subject,
            body=stored.data,
        )

    async def list(self, queue: str | None = None) -> AsyncIterator[DeadLetter]:
        """Yield dead letters, oldest first.

        Args:
            queue: Only those of this queue.
        """
        if await self._jetstream.find_stream(self._layout.dead_stream) is None:
            return
        subject = self._layout.dead_letters(queue)
        async for stored in self._jetstream.scan(self._layout.dead_stream, subject):
            yield self._read(stored)

    async def retry(self, job_id: str) -> None:
        """Put a dead job back on its queue, as it arrived, with all its attempts before it.

        The order keeps it somewhere at every moment: the old outcome goes, the job is
        queued again, and only then the dead letter is removed.

        Raises:
            JobNotRetryableError: There is no such dead letter, or the job that it was made
                of is not settled yet.
        """
        job = JobId.parse(job_id)
        stored = await self._find(job)
        if stored is None:
            raise JobNotRetryableError(job_id, "not among the dead letters")
        letter = self._read(stored)
        await self._declarations.ensure_queue(job.queue)
        await self._wait_until_settled(job, stored)
        await self._outcomes.forget(job)
        await self._jetstream.purge(self._layout.bucket_stream, self._layout.crashes(job))
        # If somebody else was faster, it is queued, which is what was asked for.
        with contextlib.suppress(SubjectTakenError):
            await self._jetstream.publish(
                self._layout.task(job, Priority(letter.priority)),
                revived(letter.body),
                headers=must_be_absent(self._layout.anywhere(job)),
            )
        # Only this one: the job may have died again by now, and left another.
        await self._jetstream.purge(
            self._layout.dead_stream, self._layout.dead(job), up_to_seq=stored.seq
        )

    async def _wait_until_settled(self, job: JobId, letter: StoredMessage) -> None:
        """Return once the job that a dead letter was made of is off its queue.

        A letter is stored first; until its job is recorded as failed and removed, the job
        stands in the way of its own replay, and its outcome would be that of the replay.
        """
        stream = self._layout.queue_stream_name(job.queue)
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while True:
            found = await self._jetstream.find_last(stream, self._layout.anywhere(job))
            # One that is younger than the letter is a replay.
            if found is None or found.stored_at > letter.stored_at:
                return
            if time.monotonic() > deadline:
                raise JobNotRetryableError(str(job), "not settled yet")
            await asyncio.sleep(0.05)

    async def purge(self, *, job_id: str | None = None, queue: str | None = None) -> int:
        """Throw dead letters away: one, a queue's, or all; return how many."""
        layout = self._layout
        subject = layout.dead(JobId.parse(job_id)) if job_id else layout.dead_letters(queue)
        return await self._jetstream.purge(layout.dead_stream, subject)


def revived(body: bytes) -> bytes:
    """Return a job's body with its attempts and its expiry forgotten.

    All else stays as it arrived, also what nobody here understands: a newer worker may.
    """
    try:
        decode_job(body)
    except NOT_DECODABLE:
        return body
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in fields.items() if name not in FORGOTTEN}
    return body if len(kept) == len(fields) else encode(kept)
