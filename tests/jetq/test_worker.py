"""The worker: it runs what waits, keeps its leases, survives what breaks, and stops in order."""

import asyncio
import time

import pytest

from jetq import App, Queue, current_job
from tests.conftest import AppFactory, until, until_status, working


async def test_worker_runs_jobs_at_once_up_to_its_concurrency(app: App):
    """As many jobs run at the same time as there are slots, never more."""
    running, most = 0, 0

    @app.task
    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with working(app, concurrency=7) as worker:
        jobs = await app.enqueue_many([work.call() for _ in range(100)])
        for job in jobs:
            await job.result(10)

        assert most == 7
        await until(lambda: worker.stats.completed == 100, "all should be counted")


async def test_thousands_of_jobs_may_sleep_at_once(new_app: AppFactory):
    """What a slot costs is memory only; all leases are renewed, so each job runs once."""
    app = new_app(queues=[Queue("sleeping", lease=1)])
    running = executions = 0
    awake = asyncio.Event()

    @app.task(queue="sleeping", result=False)
    async def sleep():
        nonlocal running, executions
        running, executions = running + 1, executions + 1
        await awake.wait()
        # Past the lease.
        await asyncio.sleep(1.5)
        running -= 1

    async with working(app, concurrency=2_000) as worker:
        await app.enqueue_many([sleep.call() for _ in range(2_000)])
        await until(lambda: running == 2_000, "all should run")
        awake.set()
        await until(lambda: worker.stats.completed == 2_000, "all should end")

    assert executions == 2_000


async def test_worker_takes_hundreds_of_queues(app: App):
    """It starts, and takes jobs that wait in each of them and those that come later."""
    ran: list[int] = []
    tasks = []
    for number in range(200):

        @app.task(name=f"work-{number}", queue=f"queue-{number}", result=False)
        async def work(number: int = number):
            ran.append(number)

        tasks.append(work)

    async with app:
        await app.enqueue_many([task.call() for task in tasks])
        async with working(app, concurrency=10):
            await until(lambda: len(ran) == 200, "what waits in each queue should run")
            await app.enqueue_many([task.call() for task in tasks])
            await until(lambda: len(ran) == 400, "what comes to each queue should run")

    assert sorted(ran) == sorted([*range(200), *range(200)])


async def test_worker_takes_all_queues_of_its_app_or_those_it_is_told(app: App):
    """Without a choice every queue that a task names is worked on."""

    @app.task(queue="mail")
    async def mail() -> str:
        return "sent"

    @app.task(queue="images")
    async def image() -> str:
        return "scaled"

    async with working(app, queues=["mail"]):
        sent, scaled = await mail.enqueue(), await image.enqueue()
        assert await sent.result(5) == "sent"
        assert await scaled.status() == "pending"
    async with working(app) as worker:
        assert worker.queues == ("mail", "images")
        assert await scaled.result(5) == "scaled"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"concurrency": 0}, "concurrency is at least 1"),
        ({"queues": {"mail": 0}}, "weight is a positive number"),
        ({"queues": []}, "nothing to work on"),
        ({}, "nothing to work on"),
    ],
)
def test_worker_refuses_what_makes_no_sense(options, problem):
    """A worker that could never run anything is an error at once."""
    with pytest.raises(ValueError, match=problem):
        App("shop").worker(**options)


async def test_lease_is_renewed_while_a_job_runs(new_app: AppFactory):
    """A job may take many times its queue's lease, and still runs once."""
    app = new_app(queues=[Queue("slow", lease=1)])
    runs = []

    @app.task(queue="slow")
    async def long() -> float:
        runs.append(current_job().attempt)
        started = time.monotonic()
        await asyncio.sleep(3)
        return time.monotonic() - started

    async with working(app), working(app):
        job = await long.enqueue()

        assert await job.result(20) >= 3
        assert runs == [1]


async def test_stop_lets_running_jobs_finish_and_gives_the_rest_back(app: App):
    """After `stop` nothing new starts, what runs may end, and what waits is another's."""
    release, started = asyncio.Event(), []

    @app.task
    async def work(number: int) -> int:
        started.append(number)
        await release.wait()
        return number

    async with app:
        jobs = await app.enqueue_many([work.call(number) for number in range(10)])
        async with app.worker(concurrency=3, grace=10) as worker:
            run = asyncio.create_task(worker.run())
            await until(lambda: len(started) == 3, "the slots should be taken")
            worker.stop()
            await until(lambda: not worker.is_ready, "it should not be ready any more")
            release.set()
            await run

        assert [await job.status() for job in jobs[:3]] == ["completed"] * 3
        assert started == [0, 1, 2]
        async with working(app):
            assert [await job.result(5) for job in jobs] == list(range(10))


async def test_grace_ends_and_the_job_is_given_back(app: App):
    """A job that does not end within the grace period is cancelled and runs elsewhere at once."""
    seen = []

    @app.task
    async def work() -> int:
        seen.append("started")
        try:
            await asyncio.sleep(3600 if len(seen) == 1 else 0)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return current_job().attempt

    async with app:
        job = await work.enqueue()
        async with app.worker(grace=0.1) as worker:
            run = asyncio.create_task(worker.run())
            await until(lambda: worker.running == 1, "it should run")
            worker.stop()
            await run
            assert worker.stats.given_back == 1

        async with working(app):
            # The lease of 30 seconds is not waited for, and nothing was counted as failed.
            assert await job.result(10) == 1
        assert seen == ["started", "cancelled", "started"]


async def test_cancelled_worker_gives_back_without_grace(app: App):
    """Cancelling `run` is a way to stop: nothing is lost, and it is over quickly."""

    @app.task
    async def work(first: bool = True):
        if len(runs) == 0:
            runs.append(1)
            await asyncio.sleep(3600)

    runs = []
    async with app:
        job = await work.enqueue()
        async with app.worker(grace=3600) as worker:
            run = asyncio.create_task(worker.run())
            await until(lambda: worker.running == 1, "it should run")
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        async with working(app):
            assert await job.result(10) is None


async def test_error_in_a_job_stops_nothing_else(app: App):
    """Thousands of failures are thousands of outcomes, not the end of the worker."""

    @app.task(retry=False)
    async def work(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    async with working(app) as worker:
        await app.enqueue_many([work.call(number) for number in range(1000)])

        await until(lambda: worker.stats.completed + worker.stats.dead == 1000, "all should end")
        assert worker.stats.completed == worker.stats.dead == 500


async def test_worker_goes_on_after_a_restart_of_the_server(namespace, tmp_path):
    """A server that was killed and comes back finds its workers waiting for it."""
    from ipc import LocalServer

    async with LocalServer() as server:
        app = App(namespace, servers=server.url)

        @app.task
        async def work(number: int) -> int:
            return number

        async with working(app) as worker:
            assert await (await work.enqueue(1)).result(5) == 1
            server.kill()
            await until(lambda: not worker.is_ready, "the loss should be noticed")
            await server.start()
            assert await (await work.enqueue(2)).result(20) == 2
            assert worker.is_ready


async def test_job_finished_while_the_server_was_away_is_settled_afterwards(namespace):
    """A worker keeps the outcome until the server takes it: the job runs once."""
    from ipc import LocalServer

    async with LocalServer() as server:
        app = App(namespace, servers=server.url)
        runs, release = [], asyncio.Event()

        @app.task
        async def work() -> int:
            runs.append(1)
            await release.wait()
            return len(runs)

        async with working(app) as worker:
            app.jetstream.timeout = 0.5
            job = await work.enqueue()
            await until(lambda: runs, "it should run")
            server.kill()
            await until(lambda: not worker.is_ready, "the loss should be noticed")
            release.set()
            # Longer than one request may wait for the server.
            await asyncio.sleep(1)
            await server.start()

            assert await job.result(20) == 1
            assert runs == [1]


async def test_deleted_queue_is_made_again(app: App, client):
    """If somebody deletes a queue's stream, the worker brings it back and goes on."""

    @app.task
    async def work(number: int) -> int:
        return number

    async with working(app):
        assert await (await work.enqueue(1)).result(5) == 1
        await client.jetstream().delete_stream(app.layout.queue_stream_name("default"))

        assert await (await work.enqueue(2)).result(10) == 2


async def test_two_workers_share_a_queue(app: App, new_app: AppFactory):
    """Every job runs once, whoever takes it."""
    runs = []
    apps = [app, new_app()]
    for one in apps:

        @one.task(name="work")
        async def work(number: int):
            runs.append(number)
            await asyncio.sleep(0)

    async with working(apps[0], concurrency=10), working(apps[1], concurrency=10):
        await app.enqueue_many([app.tasks["work"].call(number) for number in range(2000)])
        await until(lambda: len(runs) >= 2000, "all should run")

    assert sorted(runs) == list(range(2000))


async def test_app_stays_open_while_anybody_needs_it(app: App):
    """A worker inside an open app closes nothing when it leaves."""

    @app.task
    async def work(): ...

    async with app:
        async with working(app):
            pass

        assert app.is_open
        await until_status(await work.enqueue(), "pending")
    assert not app.is_open
