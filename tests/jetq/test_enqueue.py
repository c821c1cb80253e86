"""Enqueueing: one job or many, now or later, with keys, ids and expiry, on a real server."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ipc import LocalServer, ServerUnavailableError
from jetq import (
    App,
    EnqueueManyError,
    JobExistsError,
    JobExpiredError,
    JobNotFoundError,
    MessageTooLargeError,
    OptionsError,
    Priority,
    ResultNotStoredError,
    Retry,
    current_job,
)
from tests.conftest import until, until_status, working


@pytest.fixture
def seen():
    """What the jobs of `note` were called with, in the order they ran."""
    return []


@pytest.fixture
def note(app: App, seen):
    """A task that notes its argument."""

    @app.task(name="note")
    async def note(what: int) -> int:
        seen.append(what)
        return what

    return note


async def stored(client, app: App, queue="default") -> int:
    """Return how many messages lie on a queue's stream."""
    stream = app.layout.queue_stream_name(queue)
    return (await client.jetstream().stream_info(stream)).state.messages


# -- one job ---------------------------------------------------------------------------------


async def test_enqueued_job_is_on_the_server(app: App, note, client):
    """Once enqueue returns, the job is stored: whoever looks finds it."""
    async with app:
        job = await note.enqueue(1)

        assert job.created
        assert await job.status() == "pending"
        assert await stored(client, app) == 1


async def test_job_runs_and_its_result_has_the_tasks_type(app: App):
    """What the task returned comes back as the type it promises."""

    class Sent(msgspec.Struct):
        message_id: str

    @app.task
    async def send(to: str) -> Sent:
        return Sent(f"to {to}")

    async with working(app):
        job = await send.enqueue("ada")

        assert await job.result(5) == Sent("to ada")


async def test_headers_travel_with_the_job(app: App):
    """What the caller gives as headers is there for the task to read, and in retries."""

    @app.task(retry=Retry(base_delay=0))
    async def read() -> dict[str, str]:
        if current_job().attempt == 1:
            raise ValueError("again")
        return dict(current_job().headers)

    async with working(app):
        job = await read.using(headers={"tenant": "ä/1"}).enqueue()

        assert await job.result(5) == {"tenant": "ä/1"}


async def test_task_may_store_no_results(app: App):
    """With result=False nothing is kept: a finished job leaves no trace."""
    ran = asyncio.Event()

    @app.task(result=False)
    async def fire_and_forget() -> int:
        ran.set()
        return 1

    async with working(app):
        job = await fire_and_forget.enqueue()
        await asyncio.wait_for(ran.wait(), 5)

        async def is_gone() -> bool:
            try:
                await job.info()
            except JobNotFoundError:
                return True
            return False

        await until(is_gone, "the job should leave no trace")
        with pytest.raises(ResultNotStoredError, match="without result=False"):
            await job.result(1)


async def test_failure_is_kept_even_without_results(app: App):
    """result=False is about results: what went wrong is recorded all the same."""

    @app.task(result=False, retry=False)
    async def broken():
        raise ValueError("wrong")

    async with working(app):
        job = await broken.enqueue()

        await until_status(job, "failed")


async def test_results_are_kept_for_a_time(app: App):
    """After result_ttl the server forgets an outcome by itself."""

    @app.task(result_ttl=1)
    async def quick() -> int:
        return 1

    async with working(app):
        job = await quick.enqueue()
        assert await job.result(5) == 1

        async def is_gone() -> bool:
            try:
                await job.info()
            except JobNotFoundError:
                return True
            return False

        await until(is_gone, "the outcome should be gone after a second")


# -- later -------------------------------------------------------------------------------------


async def test_delayed_job_waits_for_its_time(app: App, note, seen):
    """A delay is kept by the server: the job is scheduled, then it runs."""
    async with working(app):
        job = await note.using(delay=0.5).enqueue(1)
        info = await job.info()

        assert info.status == "scheduled"
        assert info.due_at is not None
        assert await job.result(5) == 1
        finished = await job.info()
        assert finished.started_at is not None
        assert finished.started_at >= info.due_at


async def test_job_can_be_given_a_date(app: App, note):
    """`eta` is a time of any zone; one in the past means now."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    async with working(app):
        later = await note.using(eta=soon.astimezone()).enqueue(1)
        now = await note.using(eta=datetime.now(UTC) - timedelta(days=1)).enqueue(2)

        due_at = (await later.info()).due_at
        assert due_at is not None
        assert abs(due_at - soon) < timedelta(milliseconds=2)
        assert await now.result(5) == 2


async def test_delays_survive_without_a_worker(app: App, note, client):
    """Nobody has to be there when a job falls due: it waits in the queue from then on."""
    async with app:
        job = await note.using(delay=0.1).enqueue(1)

        await until_status(job, "pending")
        assert await stored(client, app) == 1


async def test_expired_job_is_not_run(app: App, note, seen):
    """What was not started by its expiry is dropped, and says so."""
    async with app:
        job = await note.using(expires=0.05).enqueue(1)
        fresh = await note.using(expires=timedelta(hours=1)).enqueue(2)
        await asyncio.sleep(0.06)

        async with working(app):
            with pytest.raises(JobExpiredError, match="before a worker could start it"):
                await job.result(5)
            assert await fresh.result(5) == 2
        assert await job.status() == "expired"
        assert seen == [2]


# -- own ids --------------------------------------------------------------------------------


async def test_same_id_twice_is_one_job(app: App, note, seen):
    """While waiting, while running and after the end: an id is one job, and enqueue says so."""
    release, started = asyncio.Event(), asyncio.Event()

    @app.task(name="hold")
    async def hold() -> str:
        started.set()
        await release.wait()
        return "held"

    async with app:
        first = await hold.using(id="order-1").enqueue()
        waiting = await hold.using(id="order-1").enqueue()
        async with working(app):
            await asyncio.wait_for(started.wait(), 5)
            running = await hold.using(id="order-1").enqueue()
            release.set()
            assert await first.result(5) == "held"
            started.clear()
            ended = await hold.using(id="order-1").enqueue()

            assert first.created
            assert not waiting.created
            assert not running.created
            assert not ended.created
            assert first == waiting == running == ended == hold.job("order-1")
            assert await ended.result(5) == "held"
            assert not started.is_set()


async def test_same_id_is_one_job_while_scheduled(app: App, note):
    """A delayed job with an id of one's own can be enqueued again without harm."""
    async with app:
        first = await note.using(id="a", delay=60).enqueue(1)
        second = await note.using(id="a", delay=60).enqueue(2)
        third = await note.using(id="a").enqueue(3)

        assert [first.created, second.created, third.created] == [True, False, False]
        assert await second.status() == "scheduled"


async def test_same_id_many_times_at_once_is_one_job(app: App, note, client):
    """A race for one id has one winner."""
    async with app:
        jobs = await asyncio.gather(*(note.using(id="a").enqueue(n) for n in range(20)))

        assert sum(bool(job.created) for job in jobs) == 1
        assert len(set(jobs)) == 1
        assert await stored(client, app) == 1


# -- unique keys ----------------------------------------------------------------------------


async def test_unique_key_returns_the_job_that_is_there(app: App, note, client):
    """While one with the key waits, enqueueing returns that one."""
    async with app:
        first = await note.using(unique="welcome ada@example.com").enqueue(1)
        second = await note.using(unique="welcome ada@example.com").enqueue(2)
        other = await note.using(unique="welcome bob@example.com").enqueue(3)

        assert second == first
        assert not second.created
        assert other.created
        assert await stored(client, app) == 2


async def test_unique_key_can_be_an_error(app: App, note):
    """By choice a second job with the key is refused, naming the first."""
    async with app:
        first = await note.using(unique="k").enqueue(1)

        with pytest.raises(JobExistsError, match="the same unique key") as caught:
            await note.using(unique="k", on_conflict="raise").enqueue(2)
        assert caught.value.job_id == first.id


async def test_unique_key_is_held_while_the_job_is_scheduled(app: App, note):
    """A job that waits for its time has its key."""
    async with app:
        first = await note.using(unique="k", delay=60).enqueue(1)

        assert await note.using(unique="k").enqueue(2) == first
        assert await note.using(unique="k", priority=Priority.HIGH).enqueue(2) == first


async def test_unique_key_is_held_while_running_and_free_afterwards(app: App):
    """A running job has its key; the end of the job frees it."""
    release, started = asyncio.Event(), asyncio.Event()

    @app.task
    async def hold():
        started.set()
        await release.wait()

    async with working(app):
        first = await hold.using(unique="k").enqueue()
        await asyncio.wait_for(started.wait(), 5)
        assert await hold.using(unique="k").enqueue() == first
        release.set()
        await first.result(5)

        async def is_free() -> bool:
            return bool((await hold.using(unique="k").enqueue()).created)

        await until(is_free, "the key should be free after the end")


async def test_unique_key_is_held_between_attempts(app: App):
    """A job that waits for its next attempt still has its key; a dead one has not."""

    @app.task(retry=Retry(max_attempts=2, base_delay=0.3, jitter=False))
    async def broken():
        raise ValueError("no")

    async with working(app):
        first = await broken.using(unique="k").enqueue()
        await until_status(first, "retrying")

        assert await broken.using(unique="k").enqueue() == first
        await until_status(first, "failed")
        assert (await broken.using(unique="k", delay=60).enqueue()).created


async def test_race_for_a_unique_key_has_one_winner(app: App, note, client):
    """However many ask at once, one job is stored and all get it."""
    async with app:
        jobs = await asyncio.gather(*(note.using(unique="k").enqueue(n) for n in range(20)))

        assert sum(bool(job.created) for job in jobs) == 1
        assert len(set(jobs)) == 1
        assert await stored(client, app) == 1


# -- debounce -------------------------------------------------------------------------------


async def test_debounced_calls_become_one_job_with_the_last_arguments(app: App, note, seen):
    """Calls with one key within the delay are one run, of the last of them."""
    async with working(app):
        jobs = [await note.using(debounce="cart 7", delay=0.4).enqueue(n) for n in range(5)]

        assert len(set(jobs)) == 1
        assert [job.created for job in jobs] == [True, False, False, False, False]
        assert await jobs[0].result(5) == 4
        assert seen == [4]


async def test_debounce_begins_anew_after_the_run(app: App, note, seen):
    """A call after the job ran is a new job."""
    async with working(app):
        first = await note.using(debounce="k", delay=0.05).enqueue(1)
        await first.result(5)
        second = await note.using(debounce="k", delay=0.05).enqueue(2)
        await second.result(5)

        assert second != first
        assert second.created
        assert seen == [1, 2]


async def test_debounced_calls_at_once_become_one_job(app: App, note, client):
    """Calls from many places at the same time do not make two jobs."""
    async with app:
        jobs = await asyncio.gather(
            *(note.using(debounce="k", delay=60).enqueue(n) for n in range(10))
        )

        assert len(set(jobs)) == 1
        assert await stored(client, app) == 1


async def test_debounce_keys_are_the_tasks_own(app: App, note, client):
    """Two tasks that debounce with the same text do not replace each other's jobs."""

    @app.task(name="other")
    async def other(what: int): ...

    async with app:
        first = await note.using(debounce="k", delay=60).enqueue(1)
        second = await other.using(debounce="k", delay=60).enqueue(2)

        assert (await first.info()).task == "note"
        assert (await second.info()).task == "other"
        assert await stored(client, app) == 2


async def test_debounce_leaves_a_job_alone_that_waits_for_its_retry(app: App, seen):
    """A call after the job ran cannot take the place of the run that is still owed."""

    @app.task(retry=Retry(base_delay=0.5, jitter=False))
    async def flaky(what: int) -> int:
        seen.append((what, current_job().attempt))
        if seen == [(1, 1)]:
            raise ValueError("again")
        return what

    async with working(app):
        first = await flaky.using(debounce="k", delay=0.01).enqueue(1)
        await until_status(first, "retrying")
        second = await flaky.using(debounce="k", delay=0.01).enqueue(2)

        assert await second.result(5) == 2
        assert await first.result(5) == 1


# -- many -------------------------------------------------------------------------------------


async def test_many_are_stored_in_order(app: App, note, seen, client):
    """Thousands at once; jobs come back, are stored and run in the order of the calls."""
    async with app:
        jobs = await app.enqueue_many([note.call(n) for n in range(5000)])

        assert len(set(jobs)) == 5000
        assert all(job.created for job in jobs)
        assert await stored(client, app) == 5000
        queue = app.layout.queue_stream_name(note.queue)
        waiting = [one.subject async for one in app.jetstream.scan(queue, ">")]
        assert [subject.rpartition(".")[2] for subject in waiting] == [
            job.id.rpartition(".")[2] for job in jobs
        ]
        async with working(app, concurrency=1):
            assert await jobs[-1].result(20) == 4999
            assert await jobs[1234].result(1) == 1234
            assert seen == list(range(5000))


async def test_none_at_all_is_fine(app: App, note):
    """No calls, no jobs, no error."""
    async with app:
        assert await app.enqueue_many([]) == []
        assert await app.enqueue_many([], atomic=True) == []


async def test_many_may_differ_in_everything(app: App, note, client):
    """Delays, ids, keys, priorities and queues can be mixed in one call."""

    @app.task(name="mail", queue="mail")
    async def mail(to: str): ...

    async with app:
        taken = await note.using(unique="k").enqueue(0)
        jobs = await app.enqueue_many(
            [
                note.call(1),
                note.using(delay=60).call(2),
                note.using(unique="k").call(3),
                note.using(id="mine").call(4),
                note.using(id="mine").call(5),
                note.using(priority=Priority.LOW).call(6),
                note.using(debounce="d", delay=60).call(7),
                mail.call("ada"),
            ]
        )

        assert [job.created for job in jobs] == [True, True, False, True, False, True, True, True]
        assert jobs[2] == taken
        assert jobs[3] == jobs[4] == note.job("mine")
        assert [job.queue for job in jobs] == ["default"] * 7 + ["mail"]
        statuses = [await job.status() for job in jobs]
        assert statuses == ["pending", "scheduled", *["pending"] * 4, "scheduled", "pending"]
        assert await stored(client, app) == 6


async def test_failures_among_many_are_named(app: App, note):
    """If some are refused, the error says which are stored and which are not."""
    async with app:
        await note.using(unique="k").enqueue(0)

        with pytest.raises(EnqueueManyError) as caught:
            await app.enqueue_many(
                [
                    note.call(1),
                    note.using(unique="k", on_conflict="raise").call(2),
                    note.call(3),
                ]
            )
        assert len(caught.value.acknowledged) == 2
        assert len(caught.value.unconfirmed) == 1
        for job_id in caught.value.acknowledged:
            assert await app.job(job_id).status() == "pending"


async def test_atomic_batch_is_stored_whole(app: App, note, seen):
    """Up to 1,000 jobs at once, all of them or none."""
    async with working(app):
        jobs = await app.enqueue_many([note.call(n) for n in range(1000)], atomic=True)

        assert await jobs[-1].result(10) == 999
        await until(lambda: len(seen) == 1000, "all should run")


async def test_atomic_batch_with_a_conflict_stores_nothing(app: App, note, client):
    """One job in the middle that exists already, and none is stored."""
    async with app:
        taken = await note.using(unique="k").enqueue(0)

        with pytest.raises(JobExistsError) as caught:
            await app.enqueue_many(
                [note.call(1), note.using(unique="k").call(2), note.call(3)], atomic=True
            )
        assert caught.value.job_id == taken.id
        assert await stored(client, app) == 1


async def test_atomic_batch_knows_ids_that_have_ended(app: App, note, client, seen):
    """A job with an id of one's own that ran already makes the batch fail, not run again."""
    async with working(app):
        done = await note.using(id="mine").enqueue(0)
        await done.result(5)

        with pytest.raises(JobExistsError):
            await app.enqueue_many([note.call(1), note.using(id="mine").call(2)], atomic=True)
        assert await stored(client, app) == 0
        assert seen == [0]


async def test_what_cannot_be_atomic_is_refused(app: App, note):
    """Two queues, too many jobs or a debounced one: the error says which it is."""

    @app.task(queue="mail")
    async def mail(): ...

    async with app:
        with pytest.raises(OptionsError, match="one queue"):
            await app.enqueue_many([note.call(1), mail.call()], atomic=True)
        with pytest.raises(OptionsError, match="at most 1000"):
            await app.enqueue_many([note.call(n) for n in range(1001)], atomic=True)
        with pytest.raises(OptionsError, match="debounced"):
            await app.enqueue_many([note.using(debounce="k", delay=1).call(1)], atomic=True)


@pytest.mark.parametrize("how", ["one", "many", "atomic"])
async def test_job_over_the_servers_limit_is_refused(app: App, client, how):
    """A body that the server would not take is an error, and nothing of it is stored."""

    @app.task
    async def take(data: str): ...

    async with app:
        await take.enqueue("small")
        calls = [take.call("small"), take.call("x" * 1_100_000)]
        if how == "one":
            enqueueing = app.enqueue(calls[1])
        else:
            enqueueing = app.enqueue_many(calls, atomic=how == "atomic")

        with pytest.raises(MessageTooLargeError, match="pass a reference to the data"):
            await enqueueing

        assert await stored(client, app) == 1
        assert (await take.enqueue("small")).created


# -- a server that is away ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["one", "many", "atomic"])
async def test_enqueue_waits_for_a_server_that_comes_back(namespace, how):
    """With the server away, enqueue waits; back in time, the job is stored once."""
    async with LocalServer() as server:
        app = App(namespace, servers=server.url, timeout=20)

        @app.task
        async def note(what: int) -> int:
            return what

        async with app:
            app.jetstream.timeout = 0.5
            await note.enqueue(0)
            server.kill()
            if how == "one":
                enqueueing = asyncio.create_task(note.enqueue(1))
            else:
                calls = [note.call(1), note.call(2)]
                many = app.enqueue_many(calls, atomic=how == "atomic")
                enqueueing = asyncio.create_task(many)
            # Longer than any single request may take.
            done, _ = await asyncio.wait({enqueueing}, timeout=1)
            assert not done
            await server.start()

            enqueued = await enqueueing
            jobs = enqueued if isinstance(enqueued, list) else [enqueued]
            async with working(app):
                assert [await job.result(10) for job in jobs] == [1, 2][: len(jobs)]


async def test_enqueue_gives_up_when_the_server_stays_away(namespace):
    """After the app's timeout the error says where the server should be, and how to start one."""
    async with LocalServer() as server:
        app = App(namespace, servers=server.url, timeout=1)

        @app.task
        async def note(what: int): ...

        async with app:
            await note.enqueue(0)
            server.kill()

            with pytest.raises(ServerUnavailableError, match="no NATS server reachable") as error:
                await note.enqueue(1)
            assert server.url in str(error.value)
            assert "jetq server" in str(error.value)
            with pytest.raises(ServerUnavailableError):
                await app.enqueue_many([note.call(1)])
            with pytest.raises(ServerUnavailableError):
                await app.enqueue_many([note.call(1)], atomic=True)


async def test_silent_server_is_an_error_too(namespace):
    """A server that takes the job and never answers: the error says it may be stored."""
    async with LocalServer() as server:
        app = App(namespace, servers=server.url, timeout=1)

        @app.task
        async def note(what: int): ...

        async with app:
            await note.enqueue(0)
            server.suspend()

            with pytest.raises(Exception, match="may have been stored all the same") as caught:
                await note.enqueue(1)
            server.resume()
        assert type(caught.value).__name__ == "EnqueueError"


async def test_stream_in_memory_is_made_again(namespace):
    """A server that forgot its streams gets them again, with the next job."""
    async with LocalServer() as server:
        app = App(namespace, servers=server.url, storage="memory")

        @app.task
        async def note(what: int) -> int:
            return what

        async with working(app):
            assert await (await note.enqueue(0)).result(5) == 0
            server.kill()
            await server.start()

            assert await (await note.enqueue(1)).result(20) == 1


# -- what is on the wire ----------------------------------------------------------------------


async def test_body_holds_only_what_differs(app: App, note, client):
    """Defaults are left out: a plain job is a name, a time and its arguments."""
    async with app:
        await note.enqueue(7)
        stream = app.layout.queue_stream_name("default")
        message = await client.jetstream().get_msg(stream, 1)

    body = json.loads(message.data)
    assert body.pop("enqueued_at").endswith("Z")
    assert body == {"$type": "note", "args": {"what": 7}}
    assert not message.headers
