"""What an attempt came to, and what its job deserves for it.

Values and one pure function between them: no server, no clock, no user code.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from ipc import Retry

from ._message import ErrorInfo

__all__ = [
    "Bury",
    "Cancelled",
    "Completed",
    "Drop",
    "Expired",
    "Failed",
    "Finish",
    "GiveBack",
    "Outcome",
    "PutOff",
    "Rejected",
    "RetryAt",
    "Settlement",
    "Superseded",
    "settlement_for",
]


Encoded = msgspec.Raw | msgspec.UnsetType
"""A result as it is stored, or nothing where none is."""

# -- outcomes: what happened -------------------------------------------------------------


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The task returned."""

    result: Encoded = msgspec.UNSET


class Failed(msgspec.Struct, frozen=True):
    """The task raised, or ran out of time."""

    error: ErrorInfo
    retryable: bool = True
    delay: float | None = None
    """Seconds the task itself asked for, instead of the policy's."""


class PutOff(msgspec.Struct, frozen=True):
    """The task asked to be run later, without counting this run."""

    delay: float
    reason: str


class Rejected(msgspec.Struct, frozen=True):
    """The job cannot be run, or its task says it never can succeed."""

    reason: str
    error: ErrorInfo | None = None


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody cancelled the job; that is recorded already."""


class Expired(msgspec.Struct, frozen=True):
    """The job was not started in time."""


class Superseded(msgspec.Struct, frozen=True):
    """Another delivery of the job has settled it."""


Outcome = Completed | Failed | PutOff | Rejected | Cancelled | Expired | Superseded


# -- settlements: what becomes of the job ----------------------------------------------------


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Record the outcome and remove the job."""

    status: str
    result: Encoded = msgspec.UNSET


class RetryAt(msgspec.Struct, frozen=True):
    """Leave a scheduled copy and remove this one."""

    delay: float
    attempt: int
    error: ErrorInfo


class Bury(msgspec.Struct, frozen=True):
    """Keep a dead letter, record the failure, remove the job."""

    reason: str
    error: ErrorInfo | None = None


class Drop(msgspec.Struct, frozen=True):
    """Remove this copy; the truth lies elsewhere."""


class GiveBack(msgspec.Struct, frozen=True):
    """Let another worker have it, at once: this one has to stop."""


Settlement = Finish | RetryAt | Bury | Drop | GiveBack

COMPLETED = "completed"
EXPIRED = "expired"


def settlement_for(outcome: Outcome, attempt: int, retry: Retry) -> Settlement:
    """Return what becomes of a job; attempts count from 1."""
    match outcome:
        case Completed(result):
            return Finish(COMPLETED, result)
        case Failed(error, retryable, delay) if retryable and attempt < retry.max_attempts:
            wait = retry.delay_after(attempt) if delay is None else delay
            return RetryAt(wait, attempt + 1, error)
        case Failed(error, retryable):
            left = "" if retryable else ", not to be retried"
            count = f"{attempt} of {retry.max_attempts} attempts{left}"
            return Bury(f"failed {count}: {error.message}", error)
        case PutOff(delay, reason):
            return RetryAt(delay, attempt, ErrorInfo(reason))
        case Rejected(reason, error):
            return Bury(reason, error)
        case Expired():
            return Finish(EXPIRED)
        case Cancelled() | Superseded():
            return Drop()
        case _:
            assert_never(outcome)
