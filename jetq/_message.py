"""What is on the wire: the job, its outcome, the dead letter (wire format 1).

JSON objects that any NATS client can write and read; `docs/protocol.md` specifies
them. A job's id is not in its body: the subject is the id.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from ipc import decoder

__all__ = ["DeadLetter", "ErrorInfo", "JobMessage", "OutcomeRecord", "Status"]

Status = Literal[
    "pending",
    "scheduled",
    "processing",
    "retrying",
    "completed",
    "failed",
    "cancelled",
    "expired",
]
"""Where a job is. The last four are final and recorded; the others follow from where it lies."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception, told to whoever asks later."""

    message: str
    kind: str = ""
    """`module.Class` of the exception; "" where there was none."""
    traceback: str = ""


class JobMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job as stored on the stream."""

    task: str = msgspec.field(name="$type")
    """The task's name, looked up among those the worker knows."""
    args: msgspec.Raw = msgspec.Raw(b"{}")
    """An object: parameter name to argument, defaults left out."""
    enqueued_at: datetime | None = None
    """UTC, from the enqueuer's clock; may run ahead of the worker's."""
    attempt: int = 1
    expires_at: datetime | None = None
    """Dropped as `expired` if not started by then."""
    timeout: float | None = None
    """Seconds a run may take, instead of the task's own."""
    headers: dict[str, str] = {}
    """The caller's own, for the task to read."""
    resent: bool = False
    """The first publish was not acknowledged: the job may have run already."""
    error: ErrorInfo | None = None
    """Why the attempt before this one failed, or why it was put off."""


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a job ended: one a job, for ever the first."""

    status: Literal["completed", "failed", "cancelled", "expired"] = msgspec.field(name="$type")
    task: str
    attempt: int = 0
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime
    worker: str = ""
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """What the task returned, encoded; only if `completed`."""
    error: ErrorInfo | None = None
    """Why not, otherwise."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job set aside for people, never delivered again unless they replay it."""

    type: str = msgspec.field(name="$type", default="dead")
    job_id: str
    queue: str
    priority: str
    task: str = ""
    """"" where the body did not say."""
    reason: str
    attempts: int
    died_at: datetime
    error: ErrorInfo | None = None
    subject: str
    body: bytes
    """As it arrived, byte for byte (base64 in JSON)."""


decode_job = decoder(JobMessage)
decode_outcome = decoder(OutcomeRecord)
decode_dead_letter = decoder(DeadLetter)
