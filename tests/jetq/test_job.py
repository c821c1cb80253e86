"""Knowing and steering one job by its id, wherever it is."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from jetq import (
    App,
    InvalidJobIdError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    JobNotRetryableError,
    ResultTimeoutError,
    Retry,
)
from tests.conftest import AppFactory, until, until_status, working


@pytest.fixture
def release():
    """Lets the jobs of `hold` end."""
    return asyncio.Event()


@pytest.fixture
def hold(app: App, release):
    """A task that runs until it is released."""

    @app.task(name="hold", retry=False)
    async def hold(what: int = 0) -> int:
        await release.wait()
        return what

    return hold


async def test_status_follows_a_job_on_its_way(app: App, hold, release):
    """scheduled, pending, processing, completed: each is told from where the job lies."""
    async with app:
        job = await hold.using(delay=0.2).enqueue(7)
        assert await job.status() == "scheduled"
        await until_status(job, "pending")

        async with working(app):
            await until_status(job, "processing")
            release.set()
            await until_status(job, "completed")


async def test_info_of_a_finished_job_tells_all(app: App, hold, release):
    """Task, queue, attempt, times, worker and result: from the id alone."""
    release.set()
    before = datetime.now(UTC)
    async with working(app, name="worker-1"):
        job = await hold.enqueue(7)
        await job.result(5)
        info = await app.job(job.id).info()

    assert (info.id, info.task, info.queue, info.status) == (job.id, "hold", "default", "completed")
    assert (info.attempt, info.result, info.error) == (1, 7, None)
    assert info.worker == "worker-1"
    assert info.enqueued_at is not None
    assert info.started_at is not None
    assert info.finished_at is not None
    assert before <= info.enqueued_at <= info.started_at <= info.finished_at
    assert info.finished_at - before < timedelta(minutes=1)


async def test_job_is_known_elsewhere_by_its_id(app: App, new_app: AppFactory, hold, release):
    """An app that has no such task can still wait for a job's result."""
    release.set()
    async with working(app), new_app() as other:
        job = await hold.enqueue(7)

        assert await other.job(job.id).result(5) == 7
        assert (await other.job(job.id).info()).task == "hold"


async def test_waiting_for_a_result_can_run_out_of_time(app: App, hold):
    """The job is not affected; the error asks whether a worker runs."""
    async with app:
        job = await hold.enqueue()

        with pytest.raises(ResultTimeoutError, match="is a worker running for its queue"):
            await job.result(timeout=0.05)
        assert await job.status() == "pending"


async def test_many_can_wait_for_one_result(app: App, hold, release):
    """Whoever waits gets it, whether they asked before or after the end."""
    async with working(app):
        job = await hold.enqueue(7)
        waiting = [asyncio.create_task(app.job(job.id).result(10)) for _ in range(10)]
        await until_status(job, "processing")
        release.set()

        assert await asyncio.gather(*waiting) == [7] * 10
        assert await job.result(5) == 7


async def test_unknown_job_is_an_error(app: App):
    """An id nobody enqueued, or whose outcome was forgotten, has no trace."""
    async with app:
        with pytest.raises(JobNotFoundError, match="no trace of job"):
            await app.job("default.-.nobody").info()
        with pytest.raises(JobNotFoundError):
            await app.job("default.-.nobody").cancel()


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.b.c.d"])
def test_what_is_not_an_id_is_told_apart(app: App, text):
    """The error shows what an id looks like."""
    with pytest.raises(InvalidJobIdError, match="an id looks like"):
        app.job(text)


@pytest.mark.parametrize("text", ["a.-.", "a.-.*", "a.>.c", "a b.-.c", "*.-.c", "a.~.c"])
def test_ids_cannot_smuggle_wildcards_into_subjects(app: App, text):
    """An id comes from outside: what could match other jobs is refused."""
    with pytest.raises(ValueError, match=r"invalid|not a job id"):
        app.job(text)


# -- cancel ------------------------------------------------------------------------------


async def test_waiting_job_can_be_cancelled(app: App, hold, client):
    """It is taken off its queue and never runs; whoever waits for it is told why."""
    async with app:
        job = await hold.enqueue()

        assert await job.cancel("not wanted any more")
        assert await job.status() == "cancelled"
        stream = await client.jetstream().stream_info(app.layout.queue_stream_name("default"))
        assert stream.state.messages == 0
        with pytest.raises(JobCancelledError, match="not wanted any more"):
            await job.result(1)


async def test_scheduled_job_can_be_cancelled(app: App, hold):
    """A job that waits for its time goes with its schedule."""
    async with working(app) as worker:
        job = await hold.using(delay=0.3).enqueue()

        assert await job.cancel()
        assert await job.status() == "cancelled"
        later = await hold.using(delay=0.4).enqueue()
        await until_status(later, "processing")
        assert worker.running == 1


async def test_running_job_is_interrupted(app: App):
    """An async task is cancelled where it awaits, and its slot is free again."""
    ended = asyncio.Event()

    @app.task
    async def endless():
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with working(app, concurrency=1) as worker:
        job = await endless.enqueue()
        await until_status(job, "processing")
        await until(lambda: worker.running == 1, "it should run")

        assert await job.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        with pytest.raises(JobCancelledError):
            await job.result(5)
        await until(lambda: worker.running == 0, "the slot should be free")
        assert await job.status() == "cancelled"


async def test_what_a_cancelled_thread_returns_is_ignored(app: App):
    """A thread cannot be interrupted; the outcome stays `cancelled`."""
    release = threading.Event()

    @app.task
    def stubborn() -> int:
        release.wait(10)
        return 1

    async with working(app) as worker:
        job = await stubborn.enqueue()
        await until(lambda: worker.running == 1, "it should run")

        assert await job.cancel()
        release.set()
        await until(lambda: worker.running == 0, "it should end")
        assert await job.status() == "cancelled"


async def test_job_that_a_worker_holds_unstarted_can_be_cancelled(app: App, hold, release):
    """Handed to a worker but not begun: it never begins."""
    started = []

    @app.task(name="second")
    async def second():
        started.append(1)

    async with working(app, concurrency=1) as worker:
        await hold.enqueue()
        await until(lambda: worker.running == 1, "the slot should be taken")
        job = await second.enqueue()

        assert await job.cancel()
        release.set()
        await until(lambda: worker.running == 0, "the slot should be free")
        third = await second.enqueue()
        await third.result(5)
        assert started == [1]
        assert await job.status() == "cancelled"


async def test_job_that_has_ended_cannot_be_cancelled(app: App, hold, release):
    """Too late: the outcome stands, and cancel says so."""
    release.set()
    async with working(app):
        job = await hold.enqueue(7)
        await job.result(5)

        assert not await job.cancel()
        assert await job.result(1) == 7


async def test_job_between_attempts_can_be_cancelled(app: App):
    """A job that waits for its retry is not run again."""

    @app.task(retry=Retry(base_delay=3600))
    async def broken():
        raise ValueError

    async with working(app):
        job = await broken.enqueue()
        await until_status(job, "retrying")

        assert await job.cancel()
        assert await job.status() == "cancelled"


# -- retry --------------------------------------------------------------------------------


async def test_failed_job_can_be_retried(app: App):
    """`job.retry()` runs it again, with the same id and all its attempts before it."""
    broken = True

    @app.task(retry=Retry(max_attempts=2, base_delay=0))
    async def flaky(what: int) -> int:
        if broken:
            raise ConnectionError("down")
        return what

    async with working(app):
        job = await flaky.enqueue(7)
        with pytest.raises(JobFailedError):
            await job.result(5)

        broken = False
        await job.retry()

        assert await job.result(5) == 7
        info = await job.info()
        assert (info.status, info.attempt) == ("completed", 1)
        assert await app.dead_letters.find(job.id) is None


async def test_only_failed_jobs_can_be_retried(app: App, hold, release):
    """Waiting, completed and unknown jobs are refused, saying what they are."""
    async with app:
        job = await hold.enqueue()
        with pytest.raises(JobNotRetryableError):
            await job.retry()
        async with working(app):
            release.set()
            await job.result(5)
            with pytest.raises(JobNotRetryableError):
                await job.retry()
            assert await job.status() == "completed"
        with pytest.raises((JobNotRetryableError, JobNotFoundError)):
            await app.job("default.-.nobody").retry()
