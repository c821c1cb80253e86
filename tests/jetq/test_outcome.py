"""What an attempt came to decides what becomes of its job."""

import pytest

from jetq import ErrorInfo, Retry
from jetq._outcome import (
    Bury,
    Cancelled,
    Completed,
    Drop,
    Expired,
    Failed,
    Finish,
    PutOff,
    Rejected,
    RetryAt,
    Superseded,
    settlement_for,
)

ERROR = ErrorInfo("timeout", "builtins.TimeoutError")


@pytest.mark.parametrize(
    ("outcome", "attempt", "settlement"),
    [
        (Completed(), 1, Finish("completed")),
        (Failed(ERROR), 1, RetryAt(2, 2, ERROR)),
        (Failed(ERROR), 2, RetryAt(4, 3, ERROR)),
        (Failed(ERROR), 3, Bury("failed 3 of 3 attempts: timeout", ERROR)),
        (Failed(ERROR), 7, Bury("failed 7 of 3 attempts: timeout", ERROR)),
        (Failed(ERROR, delay=9), 1, RetryAt(9, 2, ERROR)),
        (Failed(ERROR, delay=0), 1, RetryAt(0, 2, ERROR)),
        (Failed(ERROR, delay=9), 3, Bury("failed 3 of 3 attempts: timeout", ERROR)),
        (
            Failed(ERROR, retryable=False),
            1,
            Bury("failed 1 of 3 attempts, not to be retried: timeout", ERROR),
        ),
        (PutOff(5, "not yet"), 3, RetryAt(5, 3, ErrorInfo("not yet"))),
        (Rejected("unknown task 'x'"), 1, Bury("unknown task 'x'")),
        (Rejected("no", ERROR), 1, Bury("no", ERROR)),
        (Expired(), 1, Finish("expired")),
        (Cancelled(), 1, Drop()),
        (Superseded(), 1, Drop()),
    ],
)
def test_every_outcome_has_one_settlement(outcome, attempt, settlement):
    """A job is finished, retried after a growing delay, dropped, or kept as a dead letter."""
    retry = Retry(max_attempts=3, base_delay=2, jitter=False)

    assert settlement_for(outcome, attempt, retry) == settlement
