"""When and how often what failed is tried again: a job, a durable event."""

from __future__ import annotations

import math
import random
import sys

import msgspec

__all__ = ["DEFAULT_RETRY", "MAX_DELAY", "NO_RETRY", "Retry"]

MAX_DELAY = 100 * 365.25 * 86_400
"""Seconds, a hundred years: so that every delay leads to a time that can be written."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A retry policy: how many attempts, how far apart, after which errors.

    The delay after attempt *n* is `base_delay * multiplier ** (n - 1)`, at most
    `max_delay`; with jitter it is a random time between half of that and all of it,
    so that what failed together does not come back together.
    """

    max_attempts: int = 3
    """Runs in total, the first included; 1 means no retry."""
    base_delay: float = 1.0
    """Seconds before the second attempt."""
    multiplier: float = 2.0
    max_delay: float = 3600.0
    """Seconds."""
    jitter: bool = True
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """Only these are retried, and what derives from them."""
    give_up_on: tuple[type[BaseException], ...] = ()
    """These are not, even if `retry_on` names them."""

    max_crashes: int = 3
    """How often a job or event is delivered again after its worker fell silent while running
    it (killed, out of memory, stalled past the lease); the next time it is a dead letter."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.max_crashes < 1:
            raise ValueError("Retry: max_attempts and max_crashes are at least 1")
        if not (0 <= self.base_delay <= MAX_DELAY and 0 <= self.max_delay <= MAX_DELAY):
            raise ValueError("Retry: delays are not negative, and at most 100 years")
        if not 1 <= self.multiplier < math.inf:
            raise ValueError("Retry: multiplier is a number of at least 1")

    def covers(self, error: BaseException) -> bool:
        """Return whether what raised `error` may be run again."""
        return isinstance(error, self.retry_on) and not isinstance(error, self.give_up_on)

    def delay_after(self, attempt: int, *, chance: float | None = None) -> float:
        """Return the seconds to wait after failed attempt `attempt`, which counts from 1.

        Args:
            chance: From 0 to 1, what jitter makes of the delay; random if not given.
        """
        try:
            growth = float(self.multiplier) ** (attempt - 1)
        except OverflowError:
            # Where the power overflows, max_delay has long been reached.
            growth = sys.float_info.max
        delay = min(self.base_delay * growth, self.max_delay)
        if not self.jitter:
            return delay
        return delay * (0.5 + 0.5 * (random.random() if chance is None else chance))


DEFAULT_RETRY = Retry()
NO_RETRY = Retry(max_attempts=1)
