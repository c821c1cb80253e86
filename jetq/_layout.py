"""How an app lies on NATS: the names of its streams, subjects and consumers.

    stream jetq-<app>-queue-<queue>   jetq.<app>.task.<queue>.<priority>.<key>.<token>
                                      jetq.<app>.later.<queue>.<priority>.<key>.<token>
    stream jetq-<app>-results         jetq.<app>.result.<queue>.<key>.<token>
    stream jetq-<app>-dead            jetq.<app>.dead.<queue>.<key>.<token>
    bucket jetq-<app>                 $KV.jetq-<app>.<name>

A job has one subject, so the server itself answers where it is. Its id is
`<queue>.<key>.<token>`: whoever has the id has the subjects, without a search.
`<key>` is `-` for a job without a unique key; `<token>` is random or the user's own.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from typing import NamedTuple

from ipc import MAX_NAME_LENGTH, ConsumerConfig, InvalidNameError, Storage, StreamConfig, check_name

from ._errors import InvalidJobIdError
from ._queue import Queue

NO_KEY = "-"

# Keys are people's own text (an address, a path); what fits into a subject stays readable.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_=][A-Za-z0-9_=-]{0,63}")


class Priority(enum.StrEnum):
    """What starts first among the jobs that wait in one queue."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


PRIORITIES = tuple(Priority)
"""Most urgent first."""

# Five times as fast as `Priority(name)`, and asked for every job.
BY_NAME = {priority.value: priority for priority in PRIORITIES}

_NAME = rf"[A-Za-z0-9_=-]{{1,{MAX_NAME_LENGTH}}}"
_JOB_SUBJECT = re.compile(
    rf"jetq\.{_NAME}\.(?:task|later)\.({_NAME})\.({'|'.join(BY_NAME)})\.(~?{_NAME})\.({_NAME})"
)


class JobId(NamedTuple):
    """The three parts of a job's id."""

    queue: str
    key: str
    token: str

    def __str__(self) -> str:
        return f"{self.queue}.{self.key}.{self.token}"

    @classmethod
    def parse(cls, text: str) -> JobId:
        """Return the parts of an id.

        Raises:
            InvalidJobIdError: It is not an id that jetq gave out.
        """
        parts = text.split(".")
        if len(parts) != 3:
            raise InvalidJobIdError(text)
        queue, key, token = parts
        try:
            check_name("queue", queue)
            check_name("key", key.removeprefix("~"))
            check_name("job id", token)
        except InvalidNameError as exc:
            raise InvalidJobIdError(text) from exc
        return cls(queue, key, token)


def new_token() -> str:
    """Return a token that no other job has: 96 random bits."""
    return secrets.token_urlsafe(12)


def key_token(key: str) -> str:
    """Return what stands for a unique key in subjects: itself if it fits, else a digest."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    return "~" + hashlib.sha256(key.encode()).hexdigest()[:40]


class Layout:
    """The names of one app."""

    def __init__(self, app: str) -> None:
        self.app = check_name("app", app)
        self.root = f"jetq.{app}"
        self.results_stream = f"jetq-{app}-results"
        self.dead_stream = f"jetq-{app}-dead"
        self.bucket_stream = f"KV_jetq-{app}"

    # -- subjects -------------------------------------------------------------------

    def task(self, job: JobId, priority: str) -> str:
        """Where a job waits to be delivered."""
        return f"{self.root}.task.{job.queue}.{priority}.{job.key}.{job.token}"

    def later(self, job: JobId, priority: str) -> str:
        """Where a job waits for its time."""
        return f"{self.root}.later.{job.queue}.{priority}.{job.key}.{job.token}"

    def anywhere(self, job: JobId) -> str:
        """Every subject on which a job may wait; wildcards only where few values occur."""
        return f"{self.root}.*.{job.queue}.*.{job.key}.{job.token}"

    def with_key(self, queue: str, key: str, *, kind: str = "*") -> str:
        """Every subject on which a job with a unique key may wait."""
        return f"{self.root}.{kind}.{queue}.*.{key}.*"

    def result(self, job: JobId) -> str:
        """Where a job's outcome is recorded."""
        return f"{self.root}.result.{job}"

    def settled(self, job: JobId) -> str:
        """Where a job's outcome is announced, once it is stored."""
        return f"{self.root}.settled.{job}"

    def dead(self, job: JobId) -> str:
        """Where a dead letter lies."""
        return f"{self.root}.dead.{job}"

    def dead_letters(self, queue: str | None = None) -> str:
        """All dead letters, or one queue's."""
        return f"{self.root}.dead.{queue}.>" if queue else f"{self.root}.dead.>"

    def control(self, command: str) -> str:
        """Where workers listen for commands."""
        return f"{self.root}.control.{command}"

    def crashes(self, job: JobId) -> str:
        """Where the starts of a job that never finished are counted."""
        return f"$KV.jetq-{self.app}.crash.{job}"

    @staticmethod
    def parse(subject: str) -> tuple[JobId, Priority] | None:
        """Return the job and priority of a `task` or `later` subject, if it is one.

        The server also stores messages on subjects that look like wildcards. Taken for a
        job's, they would stand for every other job in what is looked up and removed.
        """
        found = _JOB_SUBJECT.fullmatch(subject)
        if found is None:
            return None
        queue, priority, key, token = found.groups()
        return JobId(queue, key, token), BY_NAME[priority]

    # -- streams and consumers ------------------------------------------------------------

    def queue_stream_name(self, queue: str) -> str:
        """The stream of a queue."""
        return f"jetq-{self.app}-queue-{queue}"

    def queue_stream(self, queue: Queue, storage: Storage, replicas: int) -> StreamConfig:
        """What a queue's stream must be: never a source, never discarding what is new."""
        kinds = ("task", "later")
        return StreamConfig(
            name=self.queue_stream_name(queue.name),
            subjects=tuple(
                f"{self.root}.{kind}.{queue.name}.{priority}.*.*"
                for kind in kinds
                for priority in PRIORITIES
            ),
            retention="workqueue",
            storage=queue.storage or storage,
            num_replicas=queue.replicas or replicas,
            allow_rollup_hdrs=True,
            allow_direct=True,
            allow_atomic=True,
            allow_batched=True,
            allow_msg_ttl=True,
            allow_msg_schedules=True,
        )

    def results_stream_config(self, storage: Storage, replicas: int) -> StreamConfig:
        """What the results' stream must be.

        One message a subject, and a second is refused: the first outcome wins without
        any header. An outcome is announced only once it is stored.
        """
        return StreamConfig(
            name=self.results_stream,
            subjects=(f"{self.root}.result.>",),
            storage=storage,
            num_replicas=replicas,
            max_msgs_per_subject=1,
            discard="new",
            discard_new_per_subject=True,
            allow_rollup_hdrs=True,
            allow_direct=True,
            allow_batched=True,
            allow_msg_ttl=True,
            republish={"src": f"{self.root}.result.>", "dest": f"{self.root}.settled.>"},
        )

    def dead_stream_config(self, storage: Storage, replicas: int) -> StreamConfig:
        """What the dead letters' stream must be; nothing expires there."""
        return StreamConfig(
            name=self.dead_stream,
            subjects=(f"{self.root}.dead.>",),
            storage=storage,
            num_replicas=replicas,
            max_msgs_per_subject=1,
            allow_rollup_hdrs=True,
            allow_direct=True,
        )

    def bucket_config(self, storage: Storage, replicas: int) -> StreamConfig:
        """What the app's key-value bucket must be (NATS ADR-8)."""
        return StreamConfig(
            name=self.bucket_stream,
            subjects=(f"$KV.jetq-{self.app}.>",),
            storage=storage,
            num_replicas=replicas,
            max_msgs_per_subject=1,
            discard="new",
            allow_rollup_hdrs=True,
            allow_direct=True,
            allow_msg_ttl=True,
        )

    def consumer(self, queue: Queue, priority: Priority) -> ConsumerConfig:
        """What the consumer of one queue and priority must be; the worker counts deliveries."""
        return ConsumerConfig(
            durable_name=priority.value,
            filter_subject=f"{self.root}.task.{queue.name}.{priority}.*.*",
            ack_wait=int(queue.lease * 1_000_000_000),
            max_ack_pending=-1,
            max_waiting=16_384,
        )
