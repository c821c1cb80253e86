"""What happens to jobs is published as events, where an app asks for it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc import Bus, Cause, Context, Event, Events, following
from jetq import (
    App,
    JobCancelled,
    JobCompleted,
    JobEnqueued,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRetried,
    JobStarted,
    Reject,
    Retry,
)
from tests.conftest import AppFactory, until, until_status, working


@asynccontextmanager
async def watching(server_url: str, namespace: str) -> AsyncIterator[list[Any]]:
    """Collect the events of jobs."""
    found: list[Any] = []

    async def collect(events: Events[Event]) -> None:
        async for event in events:
            found.append(event)

    async with (
        Bus("watcher", servers=server_url, prefix=namespace) as bus,
        bus.subscribe("jetq.>") as events,
    ):
        task = asyncio.create_task(collect(events))
        yield found
        task.cancel()


def told(events: Iterable[JobEvent], job_id: str) -> list[type[JobEvent]]:
    return [type(event) for event in events if event.job_id == job_id]


@pytest.fixture
def app(new_app: AppFactory, namespace: str) -> App:
    """An app that tells all."""
    return new_app(bus_prefix=namespace, events=True)


async def test_each_ending_has_its_event(app: App, server_url: str, namespace: str):
    """A job that completes, fails, is retried, expires or is cancelled is told as such."""

    @app.task(queue="mail", retry=Retry(max_attempts=2, base_delay=0.01, jitter=False))
    async def work(kind: str) -> None:
        if kind == "fail":
            raise ValueError("broken")
        if kind == "reject":
            raise Reject("never")

    async with watching(server_url, namespace) as events, app:
        late = await work.using(expires=0).enqueue("late")
        unwanted = await work.using(delay=60).enqueue("unwanted")
        await unwanted.cancel("nobody wants it")
        async with working(app, name="w1"):
            good = await work.enqueue("good")
            fails = await work.enqueue("fail")
            rejected = await work.enqueue("reject")
            for job in (fails, rejected):
                await until_status(job, "failed")
            await until_status(good, "completed")
            await until_status(late, "expired")
        await until(lambda: JobFailed in told(events, fails.id), "all should have been told")

    assert told(events, good.id) == [JobEnqueued, JobStarted, JobCompleted]
    assert told(events, fails.id) == [JobEnqueued, JobStarted, JobRetried, JobStarted, JobFailed]
    assert told(events, rejected.id) == [JobEnqueued, JobStarted, JobFailed]
    assert told(events, late.id) == [JobEnqueued, JobExpired]
    assert told(events, unwanted.id) == [JobEnqueued, JobCancelled]
    done = next(event for event in events if isinstance(event, JobCompleted))
    assert (done.app, done.task, done.queue, done.attempt, done.worker) == (
        app.name,
        work.name,
        "mail",
        1,
        "w1",
    )
    last = next(e for e in events if isinstance(e, JobFailed) and e.job_id == fails.id)
    assert (last.attempt, last.reason) == (2, "failed 2 of 2 attempts: broken")


async def test_only_what_is_asked_for_is_told(new_app: AppFactory, server_url: str, namespace: str):
    """`events=(JobCompleted,)` publishes nothing else; jobs of many are told one by one."""
    app = new_app(bus_prefix=namespace, events=(JobCompleted,))

    @app.task
    async def work(number: int) -> int:
        return number

    async with watching(server_url, namespace) as events, working(app):
        jobs = await app.enqueue_many([work.call(number) for number in range(50)])
        await until(lambda: len(events) >= 50, "every job should be told")

    assert {type(event) for event in events} == {JobCompleted}
    assert {event.job_id for event in events} == {job.id for job in jobs}


async def test_unreadable_job_is_told_as_failed(
    app: App, server_url: str, namespace: str, client: Any
):
    """What is no job at all is dead, and told so, with what is known of it."""

    @app.task
    async def work() -> None: ...

    async with watching(server_url, namespace) as events, working(app):
        subject = f"jetq.{app.name}.task.default.normal.-.strange"
        await client.jetstream().publish(subject, b"not json")
        await until(lambda: events, "it should have been told")

    assert [(type(event), event.task, event.job_id) for event in events] == [
        (JobFailed, "", "default.-.strange")
    ]


async def test_nothing_is_told_by_default(new_app: AppFactory, server_url: str, namespace: str):
    """An app that does not ask for events publishes none."""
    app = new_app(bus_prefix=namespace)

    @app.task
    async def work() -> None: ...

    async with watching(server_url, namespace) as events, working(app):
        job = await work.enqueue()
        await job.result(5)
        async with Bus("probe", servers=server_url, prefix=namespace) as bus:
            await bus.publish(JobCompleted(app="probe", job_id="1", task="t", queue="q"))
        await until(lambda: events, "the probe should have come")

    assert [event.app for event in events] == ["probe"]


async def test_events_of_a_job_have_its_correlation(app: App, server_url: str, namespace: str):
    """From its enqueuing on: that of what it follows from, or, at a beginning, its own id."""
    told_of: dict[str, list[Context]] = {}

    @app.task
    async def work() -> None: ...

    async with Bus("watcher", servers=server_url, prefix=namespace) as bus, working(app):

        @bus.on(JobEnqueued, JobCompleted)
        async def note(event: JobEvent, ctx: Context) -> None:
            told_of.setdefault(event.job_id, []).append(ctx)

        await bus.ready()
        with following(Cause("request-1")):
            caused = await work.enqueue()
        alone = await work.enqueue()
        (many,) = await app.enqueue_many([work.call()])
        await until(lambda: sum(map(len, told_of.values())) == 6, "all should be told")

    trails = {caused.id: "request-1", alone.id: alone.id, many.id: many.id}
    for job_id, correlation_id in trails.items():
        assert [ctx.correlation_id for ctx in told_of[job_id]] == [correlation_id] * 2
        assert [ctx.causation_id for ctx in told_of[job_id]] == [job_id] * 2
