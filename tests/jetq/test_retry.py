"""When a failed job is run again: delays, jitter, which errors; and retries on a real server."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetq import App, JobFailedError, Retry, RetryAfter, Snooze, current_job
from tests.conftest import until, until_status, working


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(base_delay=1, multiplier=2, max_delay=60, jitter=False), [1, 2, 4, 8, 16, 32, 60]),
        (Retry(base_delay=5, multiplier=1, jitter=False), [5, 5, 5, 5]),
        (Retry(base_delay=0, jitter=False), [0, 0]),
        (Retry(base_delay=100, max_delay=10, jitter=False), [10]),
    ],
)
def test_delays_grow_up_to_the_longest(retry, delays):
    """Each delay is the one before times the multiplier, and never over max_delay."""
    assert [retry.delay_after(attempt) for attempt in range(1, len(delays) + 1)] == delays


@given(
    st.integers(1, 10_000),
    st.floats(0, 1e6),
    st.floats(1, 1e6),
    st.floats(0, 1e6),
)
def test_jitter_keeps_the_delay_between_half_and_all(attempt, base_delay, multiplier, max_delay):
    """Whatever the policy, jitter takes away half at most, and nothing overflows."""
    options = {"base_delay": base_delay, "multiplier": multiplier, "max_delay": max_delay}
    whole = Retry(jitter=False, **options).delay_after(attempt)

    delay = Retry(jitter=True, **options).delay_after(attempt)

    assert whole * 0.499 <= delay <= whole <= max_delay


@pytest.mark.parametrize(
    ("error", "covered"),
    [
        (ConnectionResetError(), True),
        (FileNotFoundError(), False),
        (ValueError(), False),
        (TimeoutError(), True),
    ],
)
def test_policy_covers_some_errors(error, covered):
    """retry_on says which are worth another attempt, give_up_on takes some of them away."""
    retry = Retry(retry_on=(OSError,), give_up_on=(FileNotFoundError,))

    assert retry.covers(error) is covered


QUICK = Retry(max_attempts=3, base_delay=0.01)


async def test_failed_job_is_run_again(app: App):
    """A job whose task raises is run again, with its attempts counted."""
    attempts = []

    @app.task(retry=QUICK)
    async def flaky() -> int:
        attempts.append(current_job().attempt)
        if len(attempts) < 3:
            raise ConnectionError("not yet")
        return 42

    async with working(app):
        job = await flaky.enqueue()

        assert await job.result(10) == 42
        assert attempts == [1, 2, 3]
        assert (await job.info()).attempt == 3


async def test_job_fails_when_its_attempts_are_used_up(app: App):
    """After the last attempt the job is failed, and its dead letter says why."""

    @app.task(retry=Retry(max_attempts=2, base_delay=0.01))
    async def broken():
        raise ValueError("no such customer")

    async with working(app):
        job = await broken.enqueue()

        with pytest.raises(JobFailedError, match="failed 2 of 2 attempts: no such") as caught:
            await job.result(10)
        assert caught.value.kind == "builtins.ValueError"
        assert 'raise ValueError("no such customer")' in caught.value.traceback
        letter = await app.dead_letters.find(job.id)
        assert letter is not None
        assert letter.attempts == 2


async def test_some_errors_are_not_retried(app: App):
    """What give_up_on names, or retry_on does not, ends the job at once."""
    runs = []

    @app.task(retry=Retry(base_delay=0.01, retry_on=(OSError,), give_up_on=(FileNotFoundError,)))
    async def fail(kind: str):
        runs.append(kind)
        raise {"other": ValueError, "given up": FileNotFoundError}[kind]("x")

    async with working(app):
        for kind in ("other", "given up"):
            with pytest.raises(JobFailedError, match="attempts, not to be retried"):
                await (await fail.enqueue(kind)).result(10)

        assert runs == ["other", "given up"]


async def test_retry_false_means_one_attempt(app: App):
    """A task may say that a second run would do harm."""

    @app.task(retry=False)
    async def charge():
        raise ConnectionError("lost")

    async with working(app):
        with pytest.raises(JobFailedError, match="failed 1 of 1 attempts"):
            await (await charge.enqueue()).result(10)


async def test_task_chooses_when_it_is_retried(app: App):
    """RetryAfter overrides the policy's delay, and counts as an attempt."""
    attempts = []

    @app.task(retry=Retry(max_attempts=2, base_delay=3600, retry_on=()))
    async def limited():
        attempts.append(current_job().attempt)
        raise RetryAfter(0.01, "the service asked to slow down")

    async with working(app):
        with pytest.raises(JobFailedError, match="failed 2 of 2 attempts: the service asked"):
            await (await limited.enqueue()).result(10)

        assert attempts == [1, 2]


async def test_snoozed_job_keeps_its_attempts(app: App):
    """Snooze puts a job off as often as it likes: the attempt is not counted."""
    attempts = []

    @app.task(retry=False)
    async def wait_for_file() -> str:
        attempts.append(current_job().attempt)
        if len(attempts) < 4:
            raise Snooze(0.01, "the file is not there yet")
        return "done"

    async with working(app):
        assert await (await wait_for_file.enqueue()).result(10) == "done"
        assert attempts == [1, 1, 1, 1]


async def test_retry_frees_its_slot(app: App):
    """While a job waits for its next attempt, others run in its place."""

    @app.task(retry=Retry(base_delay=3600))
    async def broken():
        raise ValueError("later")

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app, concurrency=1):
        failing = await broken.enqueue()
        await until_status(failing, "retrying")

        assert await (await fine.enqueue()).result(5) == "ran"
        info = await failing.info()
        assert info.status == "retrying"
        assert info.attempt == 2
        assert info.due_at is not None
        assert info.error is not None
        assert info.error.message == "later"


async def test_job_that_was_only_given_back_is_not_taken_for_a_killer(app: App, client):
    """Deliveries that no worker fell silent on are no reason to bury a job."""
    runs, workers = [], []

    @app.task
    async def patient() -> int:
        runs.append(current_job().attempt)
        if len(runs) < 6:
            workers[-1].stop()
            # So that this worker does not take the copy that it leaves.
            await asyncio.sleep(0.05)
            raise Snooze(0)
        return len(runs)

    async with working(app):
        pass
    async with app:
        job = await patient.enqueue()
        while await job.status() not in ("completed", "failed"):
            # Every attempt shall be a redelivery.
            await give_back_once(client, app)
            async with app.worker(grace=5) as worker:
                workers.append(worker)
                running = asyncio.create_task(worker.run())
                await until(lambda: sum_of(worker.stats) > 0, "it should be settled")
                worker.stop()
                await running

        assert await job.result(5) == 6


def sum_of(stats):
    """Return how many jobs a worker has settled, one way or the other."""
    return stats.completed + stats.retried + stats.dead


async def give_back_once(client, app: App):
    """Take the one job that waits and give it back, as a worker without a free slot does."""
    stream = app.layout.queue_stream_name("default")
    subscription = await client.jetstream().pull_subscribe_bind("normal", stream)
    (message,) = await subscription.fetch(1, timeout=5)
    await message.nak()
    await subscription.unsubscribe()
