"""Jobs and services: jobs that ask services, events that enqueue jobs, one trail through all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ipc import (
    Bus,
    Context,
    Event,
    JetStream,
    JetStreamError,
    Request,
    Service,
    ServiceError,
)
from jetq import App, JobFailedError, Retry, TaskDefinitionError, current_job
from jetq._bridge import job_token
from tests.conftest import AppFactory, until, until_status, working


class User(msgspec.Struct):
    name: str


class FetchUser(Request[User]):
    id: int


class UserCreated(Event):
    id: int


class UserGreeted(Event):
    id: int


class UserNotFoundError(ServiceError, code=404):
    id: int


@pytest.fixture
def app(new_app: AppFactory, namespace: str) -> App:
    """An app whose events and requests stay in this test's namespace."""
    return new_app(bus_prefix=namespace)


@pytest.fixture
async def bus(server_url: str, namespace: str) -> AsyncIterator[Bus]:
    """A bus of somebody else, in the same namespace."""
    async with Bus("other", servers=server_url, prefix=namespace, storage="memory") as bus:
        yield bus


@asynccontextmanager
async def serving(bus: Bus, service: Service) -> AsyncIterator[None]:
    """Run a service beside the test."""
    task = asyncio.create_task(bus.serve(service))
    try:
        await until(lambda: service.name in answering(bus) or task.done(), "it should serve")
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def answering(bus: Bus) -> list[str]:
    return [one.service.name for one in bus.serving]


async def test_forwarded_job_completes_with_what_the_service_answers(
    app: App, bus: Bus, namespace: str
):
    """A service that knows nothing of jobs is called reliably, and its answer is the result."""
    users = Service(namespace)

    @users.handle
    async def fetch(request: FetchUser) -> User:
        return User(f"user {request.id}")

    fetch_user = app.forward(FetchUser)
    async with working(app), serving(bus, users):
        job = await fetch_user.enqueue(FetchUser(id=7))

        assert await job.result(5) == User("user 7")


async def test_forwarded_job_waits_for_a_service_that_is_away(app: App, bus: Bus, namespace: str):
    """While nobody answers, the job is retried; when the service is there, it completes."""
    users = Service(namespace)

    @users.handle
    async def fetch(request: FetchUser) -> User:
        return User("found")

    fetch_user = app.forward(FetchUser, retry=Retry(max_attempts=50, base_delay=0.1, max_delay=0.2))
    async with working(app) as worker:
        job = await fetch_user.enqueue(FetchUser(id=1))
        await until(lambda: worker.stats.retried > 0, "the first attempt should find nobody")
        async with serving(bus, users):
            assert await job.result(10) == User("found")


async def test_request_that_is_at_fault_is_not_repeated(app: App, bus: Bus, namespace: str):
    """A code below 500 makes a dead letter at once, one from 500 on is retried."""
    users = Service(namespace)
    asked: list[int] = []

    @users.handle
    async def fetch(request: FetchUser) -> User:
        asked.append(request.id)
        if request.id == 0:
            raise UserNotFoundError("there is no user 0", id=0)
        if asked.count(request.id) == 1:
            raise RuntimeError("the database hung up")
        return User("found")

    fetch_user = app.forward(FetchUser, retry=Retry(base_delay=0.05, jitter=False))
    async with working(app), serving(bus, users):
        refused = await fetch_user.enqueue(FetchUser(id=0))
        with pytest.raises(JobFailedError, match="there is no user 0"):
            await refused.result(5)
        found = await fetch_user.enqueue(FetchUser(id=1))
        assert await found.result(5) == User("found")

    assert asked == [0, 1, 1]


async def test_event_enqueues_a_job_once(app: App, bus: Bus, seen: list[int]):
    """A durable event becomes a job; the same event again is the same job."""

    @app.task
    async def welcome(event: UserCreated) -> None:
        seen.append(event.id)

    app.enqueue_on(UserCreated, welcome)
    async with working(app):
        await bus.publish(UserCreated(id=1), durable=True, id="signup-1")
        await bus.publish(UserCreated(id=1), durable=True, id="signup-1")
        await bus.publish(UserCreated(id=2), durable=True)
        await until(lambda: len(seen) == 2, "both events should have become jobs")
        (reaction,) = app.reactions
        job = welcome.job(job_token(reaction.durable, "signup-1"))
        await until_status(job, "completed")

    assert sorted(seen) == [1, 2]


async def test_events_wait_while_no_worker_runs(app: App, bus: Bus, seen: list[int]):
    """What is published between two workers is enqueued by the next one."""

    @app.task
    async def welcome(event: UserCreated) -> None:
        seen.append(event.id)

    app.enqueue_on(UserCreated, welcome)
    async with working(app):
        pass
    for number in range(3):
        await bus.publish(UserCreated(id=number), durable=True)
    async with working(app):
        await until(lambda: len(seen) == 3, "the events should have waited")

    assert sorted(seen) == [0, 1, 2]


async def test_options_of_the_task_apply_to_what_events_enqueue(app: App, bus: Bus):
    """`enqueue_on(Event, task.using(…))` enqueues with these options."""
    headers: list[dict[str, str]] = []

    @app.task
    async def welcome(event: UserCreated) -> None:
        headers.append(dict(current_job().headers))

    app.enqueue_on(UserCreated, welcome.using(headers={"by": "event"}))
    async with working(app):
        await bus.publish(UserCreated(id=1), durable=True)
        await until(lambda: headers, "the job should have run")

    assert headers == [{"by": "event"}]


async def test_one_trail_leads_through_events_jobs_and_requests(
    app: App, bus: Bus, namespace: str, server_url: str
):
    """Whatever follows from an event carries its id as correlation, and its trace."""
    users = Service(namespace)
    requests: list[Context] = []
    greeted: list[Context] = []

    @users.handle
    async def fetch(request: FetchUser, ctx: Context) -> User:
        requests.append(ctx)
        return User("found")

    @app.task
    async def welcome(event: UserCreated) -> None:
        await current_job().bus.request(FetchUser(id=event.id))
        await current_job().bus.publish(UserGreeted(id=event.id))

    @bus.on(UserGreeted)
    async def note(event: UserGreeted, ctx: Context) -> None:
        greeted.append(ctx)

    @bus.on(UserCreated)
    async def enqueue(event: UserCreated, ctx: Context) -> None:
        ctx.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        jobs.append(await welcome.enqueue(event))
        first.append(ctx)

    first: list[Context] = []
    jobs: list[Any] = []
    async with working(app), serving(bus, users):
        await bus.ready()
        await bus.publish(UserCreated(id=1))
        await until(lambda: greeted, "the last event should have come")

    assert requests[0].correlation_id == greeted[0].correlation_id == first[0].id
    assert requests[0].causation_id == greeted[0].causation_id == jobs[0].id
    assert greeted[0].traceparent == requests[0].traceparent == first[0].traceparent


async def test_job_enqueued_by_nobody_begins_a_trail(app: App, bus: Bus):
    """A job that follows from nothing is its own correlation."""
    trails: list[tuple[str, str]] = []

    @app.task
    async def look() -> str:
        job = current_job()
        trails.append((job.correlation_id, job.causation_id))
        return job.id

    async with working(app):
        job = await look.enqueue()
        await job.result(5)

    assert trails == [(job.id, "")]


async def test_forwarding_takes_requests_only(app: App):
    """An event, which nobody answers, is refused where the task is defined."""
    with pytest.raises(TypeError, match="UserCreated is an event"):
        app.forward(UserCreated)  # type: ignore[arg-type]


async def test_two_tasks_react_to_one_event(app: App, bus: Bus, seen: list[Any]):
    """Of one queue: each event is a job of both, and not one job that only the first gets."""

    @app.task
    async def welcome(event: UserCreated) -> None:
        seen.append(("welcome", event.id))

    @app.task
    async def count(event: UserCreated) -> None:
        seen.append(("count", event.id))

    app.enqueue_on(UserCreated, welcome)
    app.enqueue_on(UserCreated, count)
    async with working(app):
        for number in range(3):
            await bus.publish(UserCreated(id=number), durable=True)
        await until(lambda: len(seen) == 6, "both should run for each event")

    assert sorted(seen) == [(name, number) for name in ("count", "welcome") for number in range(3)]


async def test_one_task_reacts_to_two_events(app: App, bus: Bus, seen: list[Any]):
    """Each has a durable of its own."""

    @app.task
    async def note(event: UserCreated | UserGreeted) -> None:
        seen.append(type(event).__name__)

    app.enqueue_on(UserCreated, note)
    app.enqueue_on(UserGreeted, note)
    async with working(app):
        await bus.publish(UserCreated(id=1), durable=True)
        await bus.publish(UserGreeted(id=1), durable=True)
        await until(lambda: len(seen) == 2, "both events should have become jobs")

    assert sorted(seen) == ["UserCreated", "UserGreeted"]


def test_durable_enqueues_jobs_for_one_reaction(app: App):
    """A second one would get some of the events, and the first one the others."""

    @app.task
    async def welcome(event: UserCreated) -> None: ...

    app.enqueue_on(UserCreated, welcome, durable="welcome")
    with pytest.raises(TaskDefinitionError, match="give this one durable="):
        app.enqueue_on(UserCreated, welcome, durable="welcome")
    app.enqueue_on(UserCreated, welcome)
    with pytest.raises(TaskDefinitionError, match="give this one durable="):
        app.enqueue_on(UserCreated, welcome)


async def test_worker_that_cannot_take_events_is_not_live(
    app: App, bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    """It runs jobs, but events wait that should become some: better to start it again."""

    @app.task
    async def welcome(event: UserCreated) -> None: ...

    async def refuse(*_: Any, **__: Any) -> None:
        raise JetStreamError("CONSUMER.CREATE", 400, 10026, "maximum consumers limit reached")

    app.enqueue_on(UserCreated, welcome)
    async with working(app) as worker:
        assert (worker.is_ready, worker.is_live) == (True, True)
        monkeypatch.setattr(JetStream, "create_consumer", refuse)
        (reaction,) = app.reactions
        await bus.durables.remove(reaction.durable)

        await until(lambda: not worker.is_live, "it should say so")
        assert not worker.is_ready


@pytest.fixture
def seen() -> list[Any]:
    """What tasks have done."""
    return []
