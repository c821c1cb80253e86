# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Calls that are type errors, and types that a type checker must know. Never run.

Every line that ends in `# pyright: ignore[…]` must be an error, of that kind: pyright
complains about one that is not, and about any error elsewhere.
"""

from contextlib import asynccontextmanager
from typing import Any, assert_type

import msgspec

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
