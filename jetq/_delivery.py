"""Deliver: what the server hands over, read and checked, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ipc import NO_RETRY, Pulled, Retry

from ._errors import TaskArgumentError, UnknownTaskError
from ._layout import NO_KEY, JobId, Layout, Priority
from ._message import NOT_DECODABLE, JobMessage, decode_job, shortened
from ._task import Task

__all__ = ["Attempt", "Delivery", "Unreadable", "read"]


class Delivery(msgspec.Struct, eq=False):
    """One handing-over of a job, held by this worker until it is settled."""

    pulled: Pulled
    job: JobId
    priority: Priority
    renewed_at: float
    """When the lease last began, by the monotonic clock."""
    epoch: int
    """Of the connection that it came by."""
    doubtful: bool = False
    """Whether the server may have forgotten that it was handed over before."""
    misplaced: bool = False
    """Whether its subject is not that of a job."""

    @property
    def is_first(self) -> bool:
        """Whether the server never handed this message to anybody before."""
        return self.pulled.num_delivered == 1 and not self.doubtful


class Attempt(msgspec.Struct, frozen=True):
    """A job that can be run."""

    task: Task[..., Any]
    message: JobMessage
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def number(self) -> int:
        """Counts from 1."""
        return self.message.attempt

    @property
    def retry(self) -> Retry:
        """The policy that applies."""
        return self.task.retry


class Unreadable(msgspec.Struct, frozen=True):
    """A job that nobody here can run, and why."""

    reason: str
    task: str = ""
    number: int = 1
    retry: Retry = NO_RETRY


def accept(pulled: Pulled, queue: str, now: float, epoch: int) -> Delivery:
    """Return what was handed over; its subject says which job it is.

    A subject that no jetq wrote still gets a job id, so that it can be dead-lettered.
    """
    known = Layout.parse(pulled.subject)
    if known is not None:
        return Delivery(pulled, *known, now, epoch)
    job = JobId(queue, NO_KEY, f"seq-{pulled.stream_seq}-{pulled.stored_at_ns}")
    delivery = Delivery(pulled, job, Priority(pulled.consumer), now, epoch)
    delivery.misplaced = True
    return delivery


def read(delivery: Delivery, tasks: Mapping[str, Task[..., Any]]) -> Attempt | Unreadable:
    """Return the attempt that a delivery asks for. Nothing from the wire is trusted:
    names are looked up among the known tasks, arguments are checked against their types.
    """
    if delivery.misplaced:
        # Not run under the id it was given instead, which nobody can find it by.
        return Unreadable(f"{shortened(delivery.pulled.subject)!r} is not the subject of a job")
    try:
        message = decode_job(delivery.pulled.data)
    except NOT_DECODABLE as exc:
        return Unreadable(shortened(f"the body is not a job: {exc}"))
    task = tasks.get(message.task)
    if task is None:
        name = shortened(message.task)
        return Unreadable(str(UnknownTaskError(name, tuple(tasks))), name, message.attempt)
    try:
        args, kwargs = task.signature.decode(message.args)
    except TaskArgumentError as exc:
        return Unreadable(shortened(str(exc)), task.name, message.attempt)
    return Attempt(task, message, args, kwargs)
