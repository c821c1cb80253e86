"""Dead letters: what failed for good or arrived broken is kept, shown and replayed."""

import asyncio

import msgspec
import pytest

from jetq import App, JobFailedError, JobNotRetryableError, Retry
from jetq._dead_letter import revived
from tests.conftest import until, until_status, working


@pytest.fixture
def broken(app: App):
    """A task that always fails."""

    @app.task(name="broken", retry=Retry(max_attempts=2, base_delay=0))
    async def broken(what: int):
        raise ValueError(f"no {what}")

    return broken


async def letters(app: App, queue=None):
    """Return all dead letters, oldest first."""
    return [letter async for letter in app.dead_letters.list(queue)]


async def test_letter_has_reason_attempts_and_the_jobs_body(app: App, broken):
    """Nothing of a dead job is lost: the body of its last attempt lies in the letter."""
    async with working(app):
        job = await broken.using(headers={"a": "b"}).enqueue(1)
        await until_status(job, "failed")
        (letter,) = await letters(app)

    assert letter.job_id == job.id
    assert (letter.task, letter.queue, letter.priority) == ("broken", "default", "normal")
    assert letter.reason == "failed 2 of 2 attempts: no 1"
    assert letter.attempts == 2
    assert letter.error is not None
    assert letter.error.kind == "builtins.ValueError"
    assert b'"args":{"what":1}' in letter.body
    assert b'"headers":{"a":"b"}' in letter.body
    assert b'"attempt":2' in letter.body


async def test_letters_are_listed_oldest_first_and_by_queue(app: App, broken):
    """All of them, or those of one queue."""

    @app.task(queue="mail", retry=False)
    async def mail():
        raise ValueError

    async with working(app):
        for number in range(3):
            await until_status(await broken.enqueue(number), "failed")
        await until_status(await mail.enqueue(), "failed")

        assert [letter.queue for letter in await letters(app)] == ["default"] * 3 + ["mail"]
        assert [letter.reason[-1] for letter in await letters(app, "default")] == ["0", "1", "2"]
        assert len(await letters(app, "mail")) == 1
        assert await letters(app, "other") == []


async def test_many_letters_are_listed_page_by_page(app: App):
    """However many there are, each is listed once."""

    @app.task(retry=False)
    async def broken(what: int):
        raise ValueError

    async with working(app) as worker:
        jobs = await app.enqueue_many([broken.call(number) for number in range(600)])
        await until(lambda: worker.stats.dead == 600, "all should be dead")

        listed = [letter.job_id for letter in await letters(app)]
        assert len(listed) == 600
        assert set(listed) == {job.id for job in jobs}


async def test_no_letters_is_no_error(app: App):
    """An app whose streams do not exist yet has none."""
    async with app:
        assert await letters(app) == []
        assert await app.dead_letters.find("default.-.x") is None


async def test_letters_can_be_thrown_away(app: App, broken):
    """One, a queue's, or all; the outcome stays, but there is nothing to retry."""
    async with working(app):
        jobs = [await broken.enqueue(number) for number in range(3)]
        for job in jobs:
            await until_status(job, "failed")

        assert await app.dead_letters.purge(job_id=jobs[0].id) == 1
        with pytest.raises(JobNotRetryableError, match="not among the dead letters"):
            await jobs[0].retry()
        assert await jobs[0].status() == "failed"
        assert await app.dead_letters.purge(queue="mail") == 0
        assert await app.dead_letters.purge() == 2
        assert await letters(app) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"nonsense", "the body is not a job"),
        (b"", "the body is not a job"),
        (b"\xff\xfe\x00", "the body is not a job"),
        (b"[1, 2]", "the body is not a job"),
        (b'{"args":{}}', "the body is not a job"),
        (b'{"$type":7}', "the body is not a job"),
        (b'{"$type":"nobody"}', "unknown task 'nobody'"),
        (b'{"$type":"broken","args":{"what":"x"}}', "argument 'what' of task 'broken'"),
        (b'{"$type":"broken","args":{"what":1,"more":2}}', "more"),
        (b'{"$type":"broken","args":[1]}', "task 'broken'"),
        (b'{"$type":"broken","args":{"what":"\xff"}}', "broken"),
        (b'{"$type":"broken","attempt":"first"}', "the body is not a job"),
    ],
)
async def test_what_arrives_broken_is_kept_and_the_worker_goes_on(
    app: App, broken, client, body, reason
):
    """Whatever bytes somebody puts on a queue: they are dead-lettered as they came."""

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app) as worker:
        await client.jetstream().publish(f"jetq.{app.name}.task.default.normal.-.bad", body)
        await until(lambda: worker.stats.dead == 1, "it should be dead")

        (letter,) = await letters(app)
        assert letter.body == body
        assert reason in letter.reason
        assert letter.job_id == "default.-.bad"
        job = app.job("default.-.bad")
        with pytest.raises(JobFailedError, match="failed"):
            await job.result(5)
        assert await (await fine.enqueue()).result(5) == "ran"


async def test_broken_scheduled_job_is_dead_when_it_falls_due(app: App, client):
    """What is scheduled is not looked at before its time; then it is kept like any other."""
    app.task(name="any")(lambda: None)
    async with working(app) as worker:
        await client.jetstream().publish(
            f"jetq.{app.name}.later.default.low.-.bad",
            b"nonsense",
            headers={
                "Nats-Schedule": "@at 2020-01-01T00:00:00Z",
                "Nats-Schedule-Target": f"jetq.{app.name}.task.default.low.-.bad",
            },
        )
        await until(lambda: worker.stats.dead == 1, "it should be dead")

        (letter,) = await letters(app)
        assert (letter.body, letter.priority) == (b"nonsense", "low")


async def test_replay_of_a_broken_body_keeps_its_bytes(app: App, client):
    """A newer worker may understand what this one did not: it gets the very same bytes."""
    app.task(name="any")(lambda: None)
    body = b'{"$type":"from.the.future", "args": {"x":1},   "unheard_of": [1]}'
    async with app:
        async with working(app) as worker:
            await client.jetstream().publish(f"jetq.{app.name}.task.default.high.-.bad", body)
            await until(lambda: worker.stats.dead == 1, "it should be dead")
        await app.dead_letters.retry("default.-.bad")
        stream = app.layout.queue_stream_name("default")
        stored = await client.jetstream().get_last_msg(
            stream, f"jetq.{app.name}.task.default.high.-.bad"
        )

        assert stored.data == body
        assert await letters(app) == []
        assert await app.job("default.-.bad").status() == "pending"


@pytest.mark.parametrize(
    ("body", "again"),
    [
        (b"nonsense", b"nonsense"),
        (b"\xff", b"\xff"),
        (b'{"$type": "t",  "new": 1}', b'{"$type": "t",  "new": 1}'),
        (
            b'{"$type":"t","args":{"a": 1},"attempt":3,"error":{"message":"x"},"new": [1, 2]}',
            b'{"$type":"t","args":{"a": 1},"new":[1, 2]}',
        ),
        (b'{"$type":"t","expires_at":"2020-01-01T00:00:00Z"}', b'{"$type":"t"}'),
    ],
)
def test_replayed_job_forgets_its_attempts_and_its_expiry(body, again):
    """Everything else in the body stays as it was, known or not."""
    assert revived(body) == again


async def test_job_can_be_dead_and_replayed_again_and_again(app: App, broken):
    """Each replay begins with the first attempt and may end as a dead letter again."""
    async with working(app) as worker:
        job = await broken.enqueue(1)
        for count in (1, 2, 3):
            await until(lambda n=count: worker.stats.dead == n, "it should be dead")
            (letter,) = await letters(app)
            assert letter.attempts == 2
            await job.retry()
        await until(lambda: worker.stats.dead == 4, "it should be dead again")


async def test_retry_of_what_is_not_there_is_an_error(app: App, broken):
    """Only what lies among the dead letters can be replayed."""
    async with app:
        job = await broken.enqueue(1)

        with pytest.raises(JobNotRetryableError):
            await app.dead_letters.retry(job.id)
        with pytest.raises(JobNotRetryableError):
            await app.dead_letters.retry("default.-.nobody")


@pytest.mark.parametrize("token", ["*", ">", "a*b", "ä"])
async def test_job_on_a_subject_like_a_wildcard_touches_no_other_job(app: App, client, token):
    """The server stores it; taken for a job's subject it would mean all jobs of the queue."""

    @app.task(name="later")
    async def later():
        pass

    async with app:
        await app.enqueue_many([later.using(delay=3600).call() for _ in range(20)])
        await app.declarations.ensure_consumers("default")
        stream = app.layout.queue_stream_name("default")
        subject = f"jetq.{app.name}.task.default.normal.-.{token}"
        await client.request(subject, b'{"$type":"later"}')
        # Only what was handed over before is looked up, and its copies removed.
        consumer = await client.jetstream().pull_subscribe_bind("normal", stream)
        (message,) = await consumer.fetch(1)
        await message.nak()
        async with working(app) as worker:
            await until(lambda: worker.stats.dead == 1, "it should be dead")

        (letter,) = await letters(app)
        assert "is not the subject of a job" in letter.reason
        assert letter.subject == subject
        await app.dead_letters.retry(letter.job_id)
        info = await app.jetstream.find_stream(stream)
        assert info is not None
        assert info.state.messages == 21


async def test_body_that_fills_a_message_is_kept(app: App, client):
    """With no room for a reason beside it, the reason is with the outcome alone."""
    app.task(name="any")(lambda: None)
    body = b"x" * client.max_payload
    async with working(app) as worker:
        await client.request(f"jetq.{app.name}.task.default.high.-.full", body)
        await until(lambda: worker.stats.dead == 1, "it should be dead")

        (letter,) = await letters(app)
        assert (letter.job_id, letter.queue, letter.body) == ("default.-.full", "default", body)
        with pytest.raises(JobFailedError, match="the body is not a job"):
            await app.job("default.-.full").result(5)


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {"Jetq-Dead-Letter": "nonsense"},
        {"Jetq-Dead-Letter": "{}"},
        {"Jetq-Dead-Letter": '{"priority": "urgent"}'},
        {"Status": "404"},
    ],
)
async def test_letter_that_jetq_did_not_write_hides_no_other(app: App, broken, client, headers):
    """It is listed like the others, by its subject."""
    async with working(app):
        await until_status(await broken.enqueue(1), "failed")
        await client.request(f"jetq.{app.name}.dead.mail.-.foreign", b"body", headers=headers)
        await until_status(await broken.enqueue(2), "failed")

        first, foreign, last = await letters(app)

    assert (foreign.job_id, foreign.queue, foreign.body) == ("mail.-.foreign", "mail", b"body")
    assert (first.reason[-1], last.reason[-1]) == ("1", "2")


async def test_retry_waits_until_the_job_is_settled(app: App, broken, monkeypatch):
    """A letter is stored before its job is removed; replayed in between, the job is not lost."""
    async with working(app) as worker:
        record, go_on = app.outcomes.record, asyncio.Event()

        async def record_later(*args):
            await go_on.wait()
            return await record(*args)

        monkeypatch.setattr(app.outcomes, "record", record_later)
        job = await broken.enqueue(1)
        await until(lambda: app.dead_letters.find(job.id), "there should be a letter")

        with pytest.raises(JobNotRetryableError, match="not settled yet"):
            await job.retry()
        go_on.set()
        await job.retry()

        await until(lambda: worker.stats.dead == 2, "it should have been replayed")
        await until_status(job, "failed")
        assert await app.dead_letters.find(job.id) is not None


class Picky(msgspec.Struct):
    """A type that raises what no decoder expects."""

    number: int

    def __post_init__(self):
        raise KeyError(self.number)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"$type":"picky","args":{"what":{"number":1}}}', "KeyError"),
        (b'{"$type":"picky","args":{"what":' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "recursion"),
        (b'{"$type":"' + b"x" * 600_000 + b'"}', "unknown task 'xxx"),
        (b'{"$type":"picky","args":{"' + b"x" * 600_000 + b'":1}}', "unknown field"),
        (b'{"$type":"picky","expires_at":"2020-01-01T00:00:00"}', "timezone"),
        (b'{"$type":"picky","attempt":-1000000000}', "attempt"),
    ],
)
async def test_arguments_that_break_the_decoder_are_dead_too(app: App, client, body, reason):
    """Not only what is no JSON: whatever is raised on the way to the task."""

    @app.task(name="picky")
    async def picky(what: Picky | None = None):
        pass

    async with working(app) as worker:
        await client.request(f"jetq.{app.name}.task.default.normal.-.bad", body)
        await until(lambda: worker.stats.dead == 1, "it should be dead")

        (letter,) = await letters(app)

    assert reason in letter.reason
    assert letter.body == body
