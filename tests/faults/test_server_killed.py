"""The server dies, and comes back with what it had stored."""

import asyncio

from tests.faults.accounts import one_outcome_each, until
from tests.faults.load import Producer
from tests.faults.tasks import Shop


async def test_acknowledged_jobs_survive_the_server(server, shop, start_worker, runs, account):
    """SIGKILL of the server, twice, amid enqueueing and working: what was acknowledged ends."""
    # Few enough slots that some jobs always wait.
    start_worker(concurrency=4)
    async with Producer(shop) as producer:
        for _ in range(2):
            await producer.until_more(500)
            await until(lambda: len(runs) > 100, "a worker amid its work")
            server.kill()
            await asyncio.sleep(0.5)
            await server.start()
        await producer.until_more(500)
    outcomes = await one_outcome_each(shop.app, producer.jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(producer.jobs))


async def test_batch_survives_the_server(server, shop, start_worker, runs, account):
    """SIGKILL of the server half-way through one batch: the rest is stored, nothing twice."""
    calls = [shop.note.call() for _ in range(5000)]
    stream = shop.app.layout.queue_stream_name("work")

    async def half_way() -> bool:
        found = await shop.app.jetstream.find_stream(stream)
        return found is not None and found.state.messages >= 500

    enqueueing = asyncio.create_task(shop.app.enqueue_many(calls))
    await until(half_way, "some jobs of the batch stored")
    assert not enqueueing.done()
    server.kill()
    await server.start()
    jobs = await enqueueing
    found = await shop.app.jetstream.find_stream(stream)
    assert found is not None
    assert found.state.messages == len(jobs)
    start_worker(concurrency=50)
    await one_outcome_each(shop.app, jobs)

    assert runs.num_repeated() == 0
    account(len(jobs))


async def test_retries_survive_the_server(server, shop, start_worker, runs, account):
    """Jobs that wait for their next attempt when the server dies complete at the third."""
    start_worker()
    jobs = await shop.app.enqueue_many([shop.succeed_late.call() for _ in range(500)])
    await until(lambda: any(run.attempt == 2 for run in runs.all()), "some second attempts")
    server.kill()
    await asyncio.sleep(0.5)
    await server.start()
    outcomes = await one_outcome_each(shop.app, jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    assert {outcome.attempt for outcome in outcomes.values()} == {3}
    account(len(jobs))


async def test_worker_brings_back_queues_in_memory(
    server, monkeypatch, start_worker, runs, account
):
    """With memory storage a restart loses the jobs, but neither the queues nor the worker."""
    monkeypatch.setenv("JETQ_STORAGE", "memory")
    shop = Shop()
    async with shop.app:
        start_worker()
        before = await shop.note.enqueue()
        await before.result(timeout=10)
        running = await shop.nap.enqueue(2)
        await until(lambda: len(runs) == 2, "a job that runs during the restart")
        await server.restart()
        after = [await shop.note.enqueue() for _ in range(100)]
        outcomes = await one_outcome_each(shop.app, [running, *after])

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(after) + 1)
