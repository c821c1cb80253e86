"""Asking the server for jobs: what is asked when, and that priority holds on a real server."""

import asyncio

import pytest

from jetq import App, Priority
from jetq._feed import Ask, Lane, plan
from tests.conftest import AppFactory, until, until_status, working


def lane(name: str, state: str, *, weight: float = 1, asked: int = 0, backlog: int = 0) -> Lane:
    """Return a lane in one of the states that the module's theory names."""
    one = Lane("queue", "stream", name, weight)
    one.empty = state == "empty"
    one.listening = 7 if state == "listening" else 0
    one.backlog = backlog
    if asked:
        one.requests.append([1, asked])
    if state == "missing":
        one.not_before = 1000.0
    return one


UNKNOWN, EMPTY, LISTENING = ("unknown",), ("empty",), ("listening",)


@pytest.mark.parametrize(
    ("states", "room", "asks"),
    [
        pytest.param(["unknown", "unknown"], 10, [("0", 10)], id="the most urgent is asked first"),
        pytest.param(["empty", "unknown"], 10, [("0", "listen"), ("1", 10)], id="then the next"),
        pytest.param(["listening", "unknown"], 10, [("1", 10)], id="listening proves it empty"),
        pytest.param(["fetching", "unknown"], 10, [], id="an open question is waited for"),
        pytest.param(["more", "unknown"], 10, [("0", 10)], id="more of the urgent before others"),
        pytest.param(["missing", "unknown"], 10, [], id="what is unknown proves nothing"),
        pytest.param(["unknown", "empty"], 0, [("1", "listen")], id="no room, no fetch"),
        pytest.param(["empty", "empty"], -3, [("0", "listen"), ("1", "listen")], id="but listen"),
        pytest.param(["listening", "listening"], 10, [], id="nothing to do"),
    ],
)
def test_what_is_asked_of_two_priorities(states, room, asks):
    """A level is asked only when every level above it is known to be empty."""
    levels = []
    for number, state in enumerate(states):
        asked = {"fetching": 5, "more": 5}.get(state, 0)
        levels.append([lane(str(number), state, asked=asked, backlog=9 if state == "more" else 0)])

    planned = list(plan(levels, room, now=1.0))

    assert [(ask.lane.consumer, "listen" if ask.listen else ask.batch) for ask in planned] == asks


def test_urgent_jobs_are_asked_for_beyond_the_room():
    """As many more as less urgent jobs wait here: those make room for them."""
    levels = [[lane("0", "more", asked=2, backlog=9)], [lane("1", "unknown")]]

    planned = list(plan(levels, -2, 1.0, evictable=[5, 0]))

    assert [(ask.lane.consumer, ask.batch) for ask in planned] == [("0", 3)]


@pytest.mark.parametrize(
    ("weights", "room", "batches"),
    [
        ([1, 1], 10, [5, 5]),
        ([3, 1], 8, [6, 2]),
        ([1, 1, 1], 10, [4, 4, 2]),
        ([1, 1], 1, [1]),
        ([1000, 1], 10, [10]),
    ],
)
def test_queues_of_one_priority_share_the_room(weights, room, batches):
    """Each queue is asked for its share; together never for more than there is room."""
    level = [lane(str(n), "unknown", weight=weight) for n, weight in enumerate(weights)]

    planned = list(plan([level], room, now=1.0))

    assert [ask.batch for ask in planned] == batches
    assert sum(batches) <= room


def test_lanes_with_more_are_asked_for_a_portion_in_turn():
    """Not each for one job: the one that was asked for least is the first."""
    level = [lane(str(n), "more", backlog=9) for n in range(3)]
    level[0].turn = 1.0

    planned = list(plan([level], 6, now=1.0, portion=4))

    assert [(ask.lane.consumer, ask.batch) for ask in planned] == [("1", 4), ("2", 2)]


def test_empty_queue_leaves_its_share_to_the_others():
    """Weights count among the queues that may have jobs."""
    level = [lane("full", "unknown", weight=1), lane("empty", "empty", weight=9)]

    planned = list(plan([level], 10, now=1.0))

    assert planned == [Ask(level[0], 10), Ask(level[1], 1, listen=True)]


# -- on a real server ----------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4, 20])
async def test_critical_jobs_start_at_the_next_free_slots(app: App, concurrency):
    """With 10,000 low jobs waiting, critical ones are the next that start."""
    started, gate = [], asyncio.Semaphore(0)

    @app.task
    async def work(what: str):
        started.append(what)
        await gate.acquire()

    async with working(app, concurrency=concurrency) as worker:
        low = work.using(priority=Priority.LOW)
        await app.enqueue_many([low.call("low") for _ in range(10_000)])
        # Some have run, so the worker has a pace and holds jobs beyond its slots.
        for _ in range(500):
            gate.release()
        before = 500 + concurrency
        await until(lambda: len(started) == before, "the slots should be taken")

        critical = work.using(priority=Priority.CRITICAL)
        jobs = [await critical.enqueue(f"critical {number}") for number in range(3)]
        for job in jobs:
            await until_status(job, "processing")
        assert len(started) == before
        for number in range(3):
            gate.release()
            await until(lambda n=number: len(started) > before + n, "the next should start")

        assert started[before:] == ["critical 0", "critical 1", "critical 2"]
        worker.stop()


async def test_priorities_run_in_their_order(app: App):
    """What waits is run critical first, low last, whatever the order of enqueueing."""
    ran = []

    @app.task
    async def work(what: str):
        ran.append(what)

    async with app:
        for number in range(3):
            for priority in reversed(Priority):
                await work.using(priority=priority).enqueue(f"{priority} {number}")
        async with working(app, concurrency=1):
            await until(lambda: len(ran) == 12, "all should run")

    assert ran == [f"{priority} {number}" for priority in Priority for number in range(3)]


async def test_priority_holds_over_queues(app: App):
    """A high job of one queue comes before the normal ones of every other."""
    ran = []

    @app.task(queue="mail")
    async def mail(what: str):
        ran.append(what)

    @app.task(queue="images")
    async def image(what: str):
        ran.append(what)

    async with app:
        await app.enqueue_many([mail.call("mail") for _ in range(50)])
        await image.using(priority=Priority.HIGH).enqueue("high image")
        async with working(app, concurrency=1):
            await until(lambda: len(ran) == 51, "all should run")

    assert ran[0] == "high image"


async def test_queues_are_worked_on_by_weight(app: App):
    """With both queues full, slots go to each in proportion to its weight."""
    ran = []

    @app.task(queue="mail")
    async def mail():
        ran.append("mail")

    @app.task(queue="images")
    async def image():
        ran.append("image")

    async with app:
        await app.enqueue_many([mail.call() for _ in range(400)])
        await app.enqueue_many([image.call() for _ in range(400)])
        async with working(app, queues={"mail": 3, "images": 1}, concurrency=4):
            await until(lambda: len(ran) == 800, "all should run")

    # Wide bounds: how many are asked for at once depends on the worker's pace.
    assert 240 <= ran[:400].count("mail") <= 360


async def test_every_queue_has_its_turn_with_few_slots(app: App):
    """Ten full queues and two slots: none of them waits until others are empty."""
    ran = []
    tasks = []
    for number in range(10):

        @app.task(name=f"work-{number}", queue=f"queue-{number}")
        async def work(number: int = number):
            ran.append(number)
            await asyncio.sleep(0.005)

        tasks.append(work)

    async with app:
        await app.enqueue_many([task.call() for task in tasks for _ in range(40)])
        async with working(app, concurrency=2):
            await until(lambda: len(ran) == 400, "all should run")

    assert all(ran[:200].count(number) >= 10 for number in range(10))


async def test_one_slot_is_shared_by_weight(app: App):
    """Also one job at a time, a queue of three times the weight has three times the jobs."""
    ran = []

    @app.task(queue="mail")
    async def mail():
        ran.append("mail")
        await asyncio.sleep(0.005)

    @app.task(queue="images")
    async def image():
        ran.append("image")
        await asyncio.sleep(0.005)

    async with app:
        await app.enqueue_many([mail.call() for _ in range(100)])
        await app.enqueue_many([image.call() for _ in range(100)])
        async with working(app, queues={"mail": 3, "images": 1}, concurrency=1):
            await until(lambda: len(ran) >= 100, "half of them should run")

    assert 60 <= ran[:100].count("mail") <= 90


async def test_job_goes_to_the_worker_with_a_free_slot(app: App, new_app: AppFactory):
    """A worker whose slots are taken gives back what it is handed, for another to run."""
    release, ran = asyncio.Event(), []

    @app.task(name="hold")
    async def hold():
        await release.wait()

    other = new_app()
    for one, name in ((app, "busy"), (other, "free")):

        @one.task(name="quick")
        async def quick(name: str = name) -> str:
            ran.append(name)
            return name

    async with working(app, concurrency=1) as busy:
        blocking = await hold.enqueue()
        await until(lambda: busy.running == 1, "the first worker should be busy")
        async with other:
            jobs = [
                await other.tasks["quick"].using(priority=priority).enqueue()
                for priority in Priority
                for _ in range(5)
            ]
            # Some were offered to the busy worker by now, which was listening.
            async with working(other, concurrency=1):
                results = [await job.result(10) for job in jobs]

        assert results == ["free"] * 20
        assert ran == ["free"] * 20
        release.set()
        await blocking.result(5)


async def test_worker_holds_only_what_it_can_start(app: App):
    """With long jobs a worker takes no more than its slots; the rest is free for others."""
    release = asyncio.Event()

    @app.task
    async def hold():
        await release.wait()

    async with app:
        jobs = await app.enqueue_many([hold.call() for _ in range(50)])
        async with working(app, concurrency=5) as worker:
            await until(lambda: worker.running == 5, "the slots should be taken")
            stream = app.layout.queue_stream_name("default")
            consumer = await app.jetstream.find_consumer(stream, "normal")

            assert consumer is not None
            assert consumer.num_ack_pending <= 5
            assert await jobs[0].status() == "processing"
            assert await jobs[-1].status() == "pending"
            release.set()
            await jobs[-1].result(10)


async def test_jobs_given_back_in_a_stall_keep_their_order(app: App):
    """A worker that slows down holds too much, returns it, and gets it again as it lay."""
    ran = []

    @app.task(result=False)
    async def work(number: int):
        ran.append(number)
        if number % 400 < 6:
            await asyncio.sleep(0.06)

    async with app:
        await app.enqueue_many([work.call(number) for number in range(3000)])
        async with working(app, concurrency=1):
            await until(lambda: len(ran) >= 3000, "all should run")

    assert ran == list(range(3000))
