"""Recorded outcomes: stored once a job, awaited without asking again and again."""

from __future__ import annotations

import asyncio
import contextlib
from functools import lru_cache

from ipc import (
    Connection,
    JetStream,
    Message,
    NoResponderError,
    Outgoing,
    ServerUnavailableError,
    SubjectTakenError,
    UnconfirmedError,
    encode,
)

from ._errors import ResultTimeoutError
from ._layout import JobId, Layout
from ._message import OutcomeRecord, decode_outcome

__all__ = ["Outcomes"]

# The announcement of an outcome can be missed (a reconnect), and a replica may not have it
# yet when it is asked first: look again after these many seconds, then twice that…
FIRST_LOOK, LAST_LOOK = 0.5, 8.0


@lru_cache
def ttl_header(ttl: float) -> dict[str, str]:
    """Return the header by which the server forgets a message after `ttl` seconds."""
    return {"Nats-TTL": str(max(1, round(ttl)))}


class Outcomes:
    """The outcomes of an app's jobs."""

    def __init__(self, connection: Connection, jetstream: JetStream, layout: Layout) -> None:
        self._connection = connection
        self._jetstream = jetstream
        self._layout = layout

    async def record(self, job: JobId, outcome: OutcomeRecord, ttl: float) -> bool:
        """Store how a job ended; return `False` if an outcome was there before.

        Args:
            ttl: Seconds until the server forgets it; at least 1.

        Raises:
            UnconfirmedError: Whether it was stored is unknown; repeating it is safe.
            MessageTooLargeError: The result is over the server's limit.
        """
        message = self.outgoing(job, outcome, ttl)
        try:
            await self._jetstream.publish(message.subject, message.data, headers=message.headers)
        except SubjectTakenError:
            return False
        return True

    def outgoing(self, job: JobId, outcome: OutcomeRecord, ttl: float) -> Outgoing:
        """Return an outcome as the message to be stored; it is refused if there is one before."""
        return Outgoing(self._layout.result(job), encode(outcome), ttl_header(ttl))

    async def find(self, job: JobId) -> OutcomeRecord | None:
        """Return a job's outcome, or `None`."""
        stored = await self._jetstream.find_last(
            self._layout.results_stream, self._layout.result(job)
        )
        return None if stored is None else decode_outcome(stored.data)

    async def forget(self, job: JobId) -> None:
        """Remove a job's outcome, so that it can have another."""
        await self._jetstream.purge(self._layout.results_stream, self._layout.result(job))

    async def wait(self, job: JobId, timeout: float | None) -> OutcomeRecord:
        """Return a job's outcome as soon as it has one.

        Raises:
            ResultTimeoutError: It has none within `timeout` seconds.
        """
        announced: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def receive(message: Message) -> None:
            if not announced.done():
                announced.set_result(message)

        subject = self._layout.result(job)
        subscription = await self._connection.subscribe(self._layout.settled(job), receive)
        try:
            async with asyncio.timeout(timeout):
                pause = FIRST_LOOK
                while True:
                    # While the server is away, or the stream not there yet, the wait goes on.
                    with contextlib.suppress(
                        UnconfirmedError, ServerUnavailableError, NoResponderError
                    ):
                        stored = await self._jetstream.peek_last(
                            self._layout.results_stream, subject
                        )
                        if stored is not None:
                            return decode_outcome(stored.data)
                    done, _ = await asyncio.wait({announced}, timeout=pause)
                    if done:
                        return decode_outcome(announced.result().data)
                    pause = min(pause * 2, LAST_LOOK)
        except TimeoutError:
            raise ResultTimeoutError(str(job), timeout or 0) from None
        finally:
            await subscription.close()
