"""What a running task raises to say what shall become of its job."""

from __future__ import annotations

from ipc import MAX_DELAY

__all__ = ["Reject", "RetryAfter", "Snooze", "Steering"]


class Steering(Exception):
    """Base of the exceptions that steer a job instead of failing it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class RetryAfter(Steering):
    """This attempt failed; run the job again after `delay` seconds.

    Counts as an attempt: past the policy's `max_attempts` the job is dead. Overrides
    the policy's delay and its `retry_on` and `give_up_on`.
    """

    def __init__(self, delay: float, reason: str = "the task asked for a retry") -> None:
        super().__init__(reason)
        # What a process pool makes it anew from.
        self.args = delay, reason
        self.delay = checked(delay)


class Snooze(Steering):
    """Not yet: run the job again after `delay` seconds, as if it had not run.

    Does not count as an attempt, so a job may be snoozed for ever.
    """

    def __init__(self, delay: float, reason: str = "the task asked to be put off") -> None:
        super().__init__(reason)
        # What a process pool makes it anew from.
        self.args = delay, reason
        self.delay = checked(delay)


class Reject(Steering):
    """This job cannot succeed: make it a dead letter now, whatever attempts are left."""


def checked(delay: float) -> float:
    """Return a delay that can be kept; another one is an error of the task, at its line."""
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"a delay is from 0 to 100 years, in seconds, not {delay}")
    return delay
