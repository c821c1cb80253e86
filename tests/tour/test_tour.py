"""Each feature once, in the order a newcomer meets it. Read from top to bottom."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from jetq import (
    App,
    JobCancelledError,
    JobFailedError,
    Priority,
    Reject,
    Retry,
    RetryAfter,
    Snooze,
    TaskArgumentError,
    current_job,
)
from tests.conftest import until_status, working


class Email(msgspec.Struct):
    """What to send."""

    to: str
    subject: str


class Sent(msgspec.Struct):
    """What came of it."""

    message_id: str


async def test_01_a_task_is_a_function(app: App):
    """Decorated, a function is still called as before."""

    @app.task
    async def send_email(email: Email) -> Sent:
        return Sent(f"to {email.to}")

    assert await send_email(Email("ada", "hi")) == Sent("to ada")


async def test_02_enqueue_then_work_then_result(app: App):
    """A call is enqueued, a worker runs it, its result has the task's type."""

    @app.task
    async def send_email(email: Email, *, dry_run: bool = False) -> Sent:
        return Sent(f"to {email.to}, {dry_run=}")

    async with app:
        job = await send_email.enqueue(Email("ada", "hi"), dry_run=True)

        async with working(app):
            assert await job.result(timeout=5) == Sent("to ada, dry_run=True")


async def test_03_plain_functions_run_in_threads(app: App):
    """A task need not be async."""

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    async with working(app):
        assert await (await add.enqueue(1, b=2)).result(5) == 3


async def test_04_wrong_arguments_are_errors_at_the_call(app: App):
    """Types are checked before anything is sent."""

    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    async with app:
        with pytest.raises(TaskArgumentError, match="argument 'b' of task 'add'"):
            await add.enqueue(1, "two")  # pyright: ignore[reportArgumentType]


async def test_05_failed_jobs_are_retried(app: App):
    """After an error a job is run again, by the task's policy."""

    @app.task(retry=Retry(max_attempts=3, base_delay=0.01))
    async def fetch() -> int:
        if current_job().attempt < 3:
            raise ConnectionError("no answer")
        return current_job().attempt

    async with working(app):
        assert await (await fetch.enqueue()).result(10) == 3


async def test_06_a_task_can_steer_its_job(app: App):
    """It may ask for another time, not counting this one, or give up at once."""
    runs = []

    @app.task
    async def fetch():
        runs.append(current_job().attempt)
        match len(runs):
            case 1:
                raise Snooze(0.01, "the service is closed")
            case 2:
                raise RetryAfter(0.01, "the service asked to slow down")
            case _:
                raise Reject("there is no such page")

    async with working(app):
        with pytest.raises(JobFailedError, match="no such page"):
            await (await fetch.enqueue()).result(10)
        assert runs == [1, 1, 2]


async def test_07_later_and_in_order_of_urgency(app: App):
    """A job can wait for a time, and urgent ones come first."""
    ran = []

    @app.task
    async def work(what: str):
        ran.append(what)

    async with app:
        await work.using(priority=Priority.LOW).enqueue("low")
        await work.enqueue("normal")
        await work.using(priority=Priority.CRITICAL).enqueue("critical")
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        later = await work.using(eta=soon).enqueue("later")
        async with working(app, concurrency=1):
            await later.result(10)

    assert ran == ["critical", "normal", "low", "later"]


async def test_08_one_job_and_not_two(app: App):
    """An own id, a unique key, or debounced calls."""

    @app.task
    async def welcome(name: str) -> str:
        return name

    async with app:
        first = await welcome.using(id="order-1").enqueue("ada")
        assert await welcome.using(id="order-1").enqueue("ada") == first

        unique = await welcome.using(unique="ada@example.com").enqueue("ada")
        assert await welcome.using(unique="ada@example.com").enqueue("ada") == unique

        await welcome.using(debounce="cart 7", delay=0.3).enqueue("early")
        last = await welcome.using(debounce="cart 7", delay=0.3).enqueue("late")
        async with working(app):
            assert await last.result(10) == "late"


async def test_09_many_at_once(app: App):
    """Thousands in one call; or up to a thousand, all or none."""

    @app.task
    async def square(number: int) -> int:
        return number * number

    async with working(app):
        jobs = await app.enqueue_many([square.call(number) for number in range(1000)])
        assert await jobs[-1].result(10) == 998_001

        jobs = await app.enqueue_many([square.call(number) for number in range(10)], atomic=True)
        assert [await job.result(10) for job in jobs] == [n * n for n in range(10)]


async def test_10_a_job_can_be_found_and_cancelled(app: App):
    """By its id, from anywhere."""

    @app.task
    async def endless():
        await asyncio.sleep(3600)

    async with working(app):
        job = app.job((await endless.enqueue()).id)
        await until_status(job, "processing")

        assert await job.cancel("not needed any more")
        with pytest.raises(JobCancelledError, match="not needed any more"):
            await job.result(5)


async def test_11_dead_letters_are_kept_and_replayed(app: App):
    """What failed for good waits for people, with the reason."""
    fixed = False

    @app.task(retry=False)
    async def charge(amount: int) -> int:
        if not fixed:
            raise ConnectionError("the bank is closed")
        return amount

    async with working(app):
        job = await charge.enqueue(5)
        await until_status(job, "failed")
        (letter,) = [letter async for letter in app.dead_letters.list()]
        assert "the bank is closed" in letter.reason

        fixed = True
        await job.retry()
        assert await job.result(10) == 5
