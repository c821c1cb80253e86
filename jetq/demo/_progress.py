"""What is known while the show goes on; the play writes it, the display reads it.

Counts of ended jobs come from the server: it announces every outcome that it has stored.
An announcement may be missed, so what counts in the end is what `_account` reads.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from ipc import Message
from jetq import App

from ._account import Enqueued
from ._workers import Crew

__all__ = ["Event", "Progress", "label"]

RATES_KEPT = 60


def label(task: str) -> str:
    """Return what is shown of a task's name: the function, without its module."""
    return task.rpartition(".")[2]


class Announced(msgspec.Struct, frozen=True):
    """What is needed of an outcome."""

    status: str = msgspec.field(name="$type")
    task: str
    attempt: int = 0


decode_announced = msgspec.json.Decoder(Announced).decode


class Event(msgspec.Struct, frozen=True):
    """Something worth a line."""

    at: float
    """Seconds since the start."""
    text: str


class Progress:
    """Counts, queue lengths, workers and events, from one moment to the next."""

    def __init__(self, app: App, crew: Crew, planned: Mapping[str, int]) -> None:
        self.app = app
        self.crew = crew
        self.planned = planned
        """About how many jobs there will be, by task."""
        self.jobs: dict[str, Enqueued] = {}
        """Every job that the server acknowledged."""
        self.enqueued: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.retries = 0
        self.waiting: dict[str, int] = {}
        """Messages in each queue: waiting, scheduled or running."""
        self.rates: deque[float] = deque(maxlen=RATES_KEPT)
        """Jobs ended per second, look by look, the last one last."""
        self.events: list[Event] = []
        self._ended_jobs: set[str] = set()
        self._started = self._looked = time.monotonic()
        self._counted = 0

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Jobs ended per second, over the last second or so."""
        last = list(self.rates)[-4:]
        return sum(last) / len(last) if last else 0.0

    def known(self, task: str) -> int:
        """Return how many jobs of a task there are; one may end before its acknowledgement."""
        return max(self.enqueued[task], self.ended[task])

    def say(self, text: str) -> None:
        """Tell what just happened."""
        self.events.append(Event(self.seconds, text))

    def add(self, id: str, job: Enqueued) -> None:
        """Count a job that was acknowledged; twice the same id is one job."""
        if id not in self.jobs:
            self.jobs[id] = job
            self.enqueued[job.task] += 1

    def on_settled(self, message: Message) -> None:
        """Count an outcome that the server announces."""
        outcome = decode_announced(message.data)
        # A replayed job ends twice, but is one job.
        if message.subject not in self._ended_jobs:
            self._ended_jobs.add(message.subject)
            self.ended[label(outcome.task)] += 1
            self.retries += max(outcome.attempt - 1, 0)

    async def look(self) -> None:
        """Ask the server for the queues, and see who works."""
        app = self.app
        for queue in app.queue_names:
            stream = await app.jetstream.find_stream(app.layout.queue_stream_name(queue))
            self.waiting[queue] = stream.state.messages if stream else 0
        now, ended = time.monotonic(), self.ended.total()
        self.rates.append((ended - self._counted) / (now - self._looked))
        self._counted, self._looked = ended, now
        for worker in self.crew.look():
            self.say(f"worker {worker.number} ended by itself: {worker.log[-200:]!r}")
