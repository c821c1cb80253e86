"""What is on the wire: the job, its outcome, the dead letter (wire format 1).

JSON objects that any NATS client can write and read; `docs/protocol.md` specifies
them. A job's id is not in its body: the subject is the id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from ipc import decoder

__all__ = ["DeadLetter", "ErrorInfo", "JobMessage", "OutcomeRecord", "Status"]

HEADROOM = 32 * 1024
"""Bytes that a new job leaves free under the server's limit, for what it gathers on its way:
errors, the headers of a schedule, those of a dead letter."""

DEAD_LETTER_HEADER = "Jetq-Dead-Letter"

MAX_TEXT = 8_192
"""Characters of what is said of an error: it goes where the job goes, which has a limit."""

NOT_DECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bytes that are not what they should be."""

# Compared with the clock; a time without a zone would be somebody's guess.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

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
"""Where a job is. `processing` is delivered and not settled, also if it was given back since
and not taken again. The last four are final and recorded; the others follow from where it lies."""


def shortened(text: str) -> str:
    """Return a text that can be stored: of bounded length, and made of characters only.

    Names of files and what programs print may have bytes that are none (`os.fsdecode`).
    """
    return text[:MAX_TEXT].encode(errors="backslashreplace").decode()


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception, told to whoever asks later."""

    message: str
    kind: str = ""
    """`module.Class` of the exception; "" where there was none."""
    traceback: str = ""

    def __post_init__(self) -> None:
        # Here, because whatever an error says must not keep its job from being settled.
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, shortened(getattr(self, name)))


class JobMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job as stored on the stream."""

    task: str = msgspec.field(name="$type")
    """The task's name, looked up among those the worker knows."""
    args: msgspec.Raw = msgspec.Raw(b"{}")
    """An object: parameter name to argument, defaults left out."""
    enqueued_at: Moment | None = None
    """UTC, from the enqueuer's clock; may run ahead of the worker's."""
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = 1
    expires_at: Moment | None = None
    """Dropped as `expired` if not started by then."""
    timeout: float | None = None
    """Seconds a run may take, instead of the task's own."""
    headers: dict[str, str] = {}
    """The caller's own, for the task to read."""
    correlation_id: str = ""
    """Id of the message that began it all; "" if that is this job."""
    causation_id: str = ""
    """Id of the message or job whose handler enqueued this one."""
    traceparent: str = ""
    """The trace that it belongs to (W3C Trace Context)."""
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
    """A job set aside for people, never delivered again unless they replay it.

    Stored as the job's own bytes, with all that is said of them in a header: so whatever
    the server took as a job it takes as a dead letter, and nothing has to be unpacked.
    """

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
    body: bytes = b""
    """As it arrived, byte for byte."""

    def headers(self) -> dict[str, str]:
        """Return the header that goes with the body: JSON in ASCII."""
        shown = msgspec.structs.replace(self, body=b"", reason=shortened(self.reason))
        said = json.dumps(msgspec.to_builtins(shown))
        if len(said) > HEADROOM // 2:
            # A traceback in a script that ASCII spells out; the end says most.
            brief = ErrorInfo(shown.reason[:500], self.error.kind[:500] if self.error else "")
            shown = msgspec.structs.replace(
                shown, task=self.task[:500], reason=brief.message, error=brief
            )
            said = json.dumps(msgspec.to_builtins(shown))
        return {DEAD_LETTER_HEADER: said}

    @classmethod
    def read(cls, headers: Mapping[str, str] | None, body: bytes) -> DeadLetter:
        """Return the dead letter that is stored as these headers and this body."""
        said = (headers or {})[DEAD_LETTER_HEADER]
        return msgspec.structs.replace(decode_dead_letter(said.encode()), body=body)


decode_job = decoder(JobMessage)
decode_outcome = decoder(OutcomeRecord)
decode_dead_letter = decoder(DeadLetter)
