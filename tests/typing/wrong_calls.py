# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Calls that are type errors, and types that a type checker must know. Never run.

Every line that ends in `# pyright: ignore[…]` must be an error, of that kind: pyright
complains about one that is not, and about any error elsewhere.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, assert_type

import msgspec

from ipc import Answer, Bus, Context, Event, Events, Gathered, Request, Service, UnknownEvent
from jetq import App, Call, Job, Priority, Retry, Worker, current_job

app = App("shop")


class Email(msgspec.Struct):
    to: str
    subject: str


class Sent(msgspec.Struct):
    message_id: str


@app.task(queue="mail", retry=Retry(max_attempts=5), timeout=30)
async def send(email: Email, *, dry_run: bool = False) -> Sent:
    return Sent("1")


@app.task
def add(a: int, b: int = 0) -> int:
    return a + b


@app.task(process=True)
def render(path: str) -> None: ...


async def results_have_the_types_of_their_tasks() -> None:
    job = await send.enqueue(Email("ada", "hi"), dry_run=True)
    assert_type(job, Job[Sent])
    assert_type(await job.result(timeout=10), Sent)
    assert_type(await (await add.enqueue(1)).result(), int)
    assert_type(await (await add.using(delay=1).enqueue(1, b=2)).result(), int)
    assert_type(await (await render.enqueue("x")).result(), None)
    assert_type(app.job("id"), Job[Any])
    assert_type(add.job("mine"), Job[int])
    _: str = await (await add.enqueue(1)).result()  # pyright: ignore[reportAssignmentType]
    print((await job.result()).id)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


async def many_keep_their_type() -> None:
    calls = [add.call(n) for n in range(3)]
    assert_type(calls, list[Call[int]])
    assert_type(await app.enqueue_many(calls, atomic=True), list[Job[int]])
    await app.enqueue_many([1, 2])  # pyright: ignore[reportArgumentType]


async def tasks_are_still_functions() -> None:
    assert_type(add(1, 2), int)
    assert_type(await send(Email("ada", "hi")), Sent)
    add("1")  # pyright: ignore[reportArgumentType]
    await send()  # pyright: ignore[reportCallIssue]


async def wrong_arguments() -> None:
    await send.enqueue("ada")  # pyright: ignore[reportArgumentType]
    await send.enqueue()  # pyright: ignore[reportCallIssue]
    await send.enqueue(Email("ada", "hi"), True)  # pyright: ignore[reportCallIssue]
    await send.enqueue(Email("ada", "hi"), dry_run="yes")  # pyright: ignore[reportArgumentType]
    await send.enqueue(Email("ada", "hi"), dryrun=True)  # pyright: ignore[reportCallIssue]
    await add.enqueue("1")  # pyright: ignore[reportArgumentType]
    await add.enqueue(1, 2, 3)  # pyright: ignore[reportCallIssue]
    await render.enqueue(1)  # pyright: ignore[reportArgumentType]
    add.call("1")  # pyright: ignore[reportArgumentType]
    add.call()  # pyright: ignore[reportCallIssue]
    add.using(delay=1).call("1")  # pyright: ignore[reportArgumentType]
    await add.using(delay=1).enqueue()  # pyright: ignore[reportCallIssue]


async def wrong_options() -> None:
    assert_type(await add.using(priority=Priority.HIGH, unique="k").enqueue(1), Job[int])
    add.using(prioritty=Priority.HIGH)  # pyright: ignore[reportCallIssue]
    add.using(priority="high")  # pyright: ignore[reportArgumentType]
    add.using(delay="1 minute")  # pyright: ignore[reportArgumentType]
    add.using(eta="2030-01-01")  # pyright: ignore[reportArgumentType]
    add.using(unique=7)  # pyright: ignore[reportArgumentType]
    add.using(on_conflict="ignore")  # pyright: ignore[reportArgumentType]
    add.using(headers={"a": 1})  # pyright: ignore[reportArgumentType]


def wrong_definitions() -> None:
    App()  # pyright: ignore[reportCallIssue]
    App("shop", storage="tape")  # pyright: ignore[reportArgumentType]
    app.task(queue=1)  # pyright: ignore[reportArgumentType]
    app.task(retry=3)  # pyright: ignore[reportArgumentType]
    app.task(unknown=1)  # pyright: ignore[reportCallIssue]
    Retry(5)  # pyright: ignore[reportCallIssue]
    Retry(max_attempts="5")  # pyright: ignore[reportArgumentType]
    Retry(retry_on=(1,))  # pyright: ignore[reportArgumentType]


async def workers() -> None:
    async with app.worker(queues=["mail"], concurrency=100) as worker:
        assert_type(worker, Worker)
    app.worker(queues={"mail": 2.0, "images": 1})
    app.worker(concurrency="100")  # pyright: ignore[reportArgumentType]
    app.worker(queues={"mail": "much"})  # pyright: ignore[reportArgumentType]


def inside_a_task() -> None:
    job = current_job()
    assert_type(job.id, str)
    assert_type(job.attempt, int)
    print(job.attempts)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]


def lifespans() -> None:
    @asynccontextmanager
    async def lifespan():
        yield {"pool": 1}

    App("shop", lifespan=lifespan)
    App("shop", lifespan=lifespan())  # pyright: ignore[reportArgumentType]


# -- ipc ---------------------------------------------------------------------------------------


class UserCreated(Event):
    name: str


class UserDeleted(Event, type="shop.UserDeleted", version=2, key="name"):
    name: str


class FetchUser(Request[Sent]):
    id: int


class ListRows(Request[list[int]]):
    pass


bus = Bus("shop")
users = Service("users")


async def replies_have_the_types_that_their_requests_say() -> None:
    assert_type(await bus.request(FetchUser(id=7)), Sent)
    assert_type(await bus.request(ListRows(), timeout=2), list[int])
    _: str = await bus.request(FetchUser(id=7))  # pyright: ignore[reportAssignmentType]
    await bus.request(UserCreated(name="ada"))  # pyright: ignore[reportArgumentType]
    await bus.request(FetchUser)  # pyright: ignore[reportArgumentType]
    await bus.request(FetchUser(id="7"))  # pyright: ignore[reportArgumentType]
    await bus.request(FetchUser())  # pyright: ignore[reportCallIssue]
    await bus.request(FetchUser(id=7), timeout="2")  # pyright: ignore[reportArgumentType]


async def gathered_and_streamed_replies_have_them_too() -> None:
    gathered = await bus.gather(FetchUser(id=7), timeout=1, first=2)
    assert_type(gathered, Gathered[Sent])
    assert_type(gathered.answers, list[Answer[Sent]])
    assert_type(list(gathered), list[Sent])
    async for row in bus.stream(FetchUser(id=7)):
        assert_type(row, Sent)
    await bus.gather(UserCreated(name="ada"))  # pyright: ignore[reportArgumentType]
    bus.stream(UserCreated(name="ada"))  # pyright: ignore[reportArgumentType]


async def only_events_are_published() -> None:
    await bus.publish(UserCreated(name="ada"), durable=True, id="ada-1")
    bus.publish_nowait(UserCreated(name="ada"))
    await bus.publish(FetchUser(id=7))  # pyright: ignore[reportArgumentType]
    bus.publish_nowait(FetchUser(id=7))  # pyright: ignore[reportArgumentType]
    await bus.publish(UserCreated)  # pyright: ignore[reportArgumentType]
    await bus.publish({"name": "ada"})  # pyright: ignore[reportArgumentType]
    await bus.publish(UserCreated(name=7))  # pyright: ignore[reportArgumentType]
    await bus.publish(UserCreated(name="ada"), True)  # pyright: ignore[reportCallIssue]


async def subscriptions_yield_what_they_are_of() -> None:
    async for event in bus.subscribe(UserCreated):
        assert_type(event, UserCreated)
    async for event in bus.subscribe(UserCreated, UserDeleted, group="mailers"):
        assert_type(event, UserCreated | UserDeleted)
    async for event in bus.subscribe(UserCreated, UserDeleted, unknown="keep"):
        assert_type(event, UserCreated | UserDeleted | UnknownEvent)
    async for event in bus.subscribe("shop.*"):
        assert_type(event, Event)
    async for event in bus.subscribe(UserCreated, "shop.*", unknown="keep"):
        assert_type(event, Event | UnknownEvent)
    async with bus.subscribe(UserCreated, unknown="error") as events:
        assert_type(events, Events[UserCreated])
        assert_type(events.context, Context)
    bus.subscribe(FetchUser)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(Email)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(UserCreated, unknown="ignore")  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(UserCreated, durable="mailer")  # pyright: ignore[reportCallIssue]


def handlers_take_the_events_that_they_are_for() -> None:
    @bus.on(UserCreated, durable="mailer", concurrency=20, retry=Retry(max_attempts=2))
    async def created(event: UserCreated) -> None: ...

    @users.on(UserCreated, UserDeleted, durable="mailer", ordered=True, start="all")
    async def either(event: UserCreated | UserDeleted, ctx: Context) -> None: ...

    @bus.on(UserCreated)
    async def any_event(event: Event, ctx: Context) -> None: ...

    @bus.on(UserCreated)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def another(event: UserDeleted) -> None: ...

    @bus.on(UserCreated, UserDeleted)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def one_of_two(event: UserCreated) -> None: ...

    @bus.on(UserCreated)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    def not_async(event: UserCreated) -> None: ...

    @bus.on(UserCreated)  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
    async def one_too_many(event: UserCreated, ctx: Context, number: int) -> None: ...

    bus.on(FetchUser)  # pyright: ignore[reportArgumentType]
    bus.on("shop.*")  # pyright: ignore[reportArgumentType]
    bus.on(UserCreated, durably="mailer")  # pyright: ignore[reportCallIssue]
    bus.on(UserCreated, concurrency="20")  # pyright: ignore[reportArgumentType]
    bus.on(UserCreated, unknown="keep")  # pyright: ignore[reportArgumentType]
    bus.on(UserCreated, start="yesterday")  # pyright: ignore[reportArgumentType]
    users.on(UserCreated, retry=3)  # pyright: ignore[reportArgumentType]


def services_are_described() -> None:
    @users.handle
    async def fetch_user(request: FetchUser, ctx: Context) -> Sent:
        return Sent("1")

    @users.handle
    async def list_rows(request: ListRows) -> AsyncIterator[list[int]]:
        yield [1]

    Service("users", version=1)  # pyright: ignore[reportArgumentType]
    Service("users", publishes=[FetchUser])  # pyright: ignore[reportArgumentType]
    Service("users", requests=[UserCreated])  # pyright: ignore[reportArgumentType]
    Bus()  # pyright: ignore[reportCallIssue]
    Bus("shop", codec="xml")  # pyright: ignore[reportArgumentType]
    Bus("shop", storage="tape")  # pyright: ignore[reportArgumentType]


def messages_cannot_be_changed() -> None:
    created = UserCreated(name="ada")
    assert_type(created.name, str)
    created.name = "bob"  # pyright: ignore[reportAttributeAccessIssue]


# -- between jobs and services ------------------------------------------------------------------


@app.task
async def welcome(event: UserCreated) -> int:
    return 1


@app.task
async def say_goodbye(event: UserDeleted, loudly: bool) -> None: ...


async def forwarded_jobs_have_the_types_of_their_requests() -> None:
    fetch = app.forward(FetchUser, queue="users", retry=Retry(max_attempts=2), timeout=5)
    job = await fetch.enqueue(FetchUser(id=7))
    assert_type(job, Job[Sent])
    assert_type(await job.result(), Sent)
    rows = app.forward(ListRows, retry=False, result=False)
    assert_type(await rows.enqueue(ListRows()), Job[list[int]])
    await fetch.enqueue(7)  # pyright: ignore[reportArgumentType]
    await fetch.enqueue()  # pyright: ignore[reportCallIssue]
    await fetch.enqueue(ListRows())  # pyright: ignore[reportArgumentType]
    app.forward(UserCreated)  # pyright: ignore[reportArgumentType]
    app.forward(FetchUser(id=7))  # pyright: ignore[reportArgumentType]
    app.forward(FetchUser, timeout="5")  # pyright: ignore[reportArgumentType]
    app.forward(FetchUser, priority="high")  # pyright: ignore[reportArgumentType]


def events_enqueue_tasks_that_take_them() -> None:
    app.enqueue_on(UserCreated, welcome)
    app.enqueue_on(UserCreated, welcome.using(priority=Priority.HIGH), durable="x", start="all")
    app.enqueue_on(UserDeleted, welcome)  # pyright: ignore[reportArgumentType]
    app.enqueue_on(UserDeleted, say_goodbye)  # pyright: ignore[reportArgumentType]
    app.enqueue_on(UserCreated, add)  # pyright: ignore[reportArgumentType]
    app.enqueue_on(FetchUser, welcome)  # pyright: ignore[reportArgumentType]
    app.enqueue_on(UserCreated, welcome, start="yesterday")  # pyright: ignore[reportArgumentType]
    app.enqueue_on(UserCreated)  # pyright: ignore[reportCallIssue]
