"""A worker process is told to stop, or frozen past its lease."""

import asyncio

from tests.faults.accounts import one_outcome_each, until
from tests.faults.tasks import LEASE


async def test_late_outcome_of_a_frozen_worker_is_discarded(shop, start_worker, runs, account):
    """SIGSTOP past the lease: its jobs run elsewhere, and what it says later does not count."""
    frozen = start_worker(concurrency=10)
    jobs = await shop.app.enqueue_many([shop.nap.call(LEASE / 2) for _ in range(10)])
    await until(lambda: len(runs.by(frozen.pid)) == 10, "all jobs running in the first worker")
    frozen.suspend()
    other = start_worker(concurrency=10)
    outcomes = await one_outcome_each(shop.app, jobs)
    frozen.resume()
    await until(
        lambda: frozen.log.count("second outcome discarded") == 10,
        "ten late outcomes discarded",
    )

    assert {outcome.worker.rpartition("-")[2] for outcome in outcomes.values()} == {str(other.pid)}
    assert await one_outcome_each(shop.app, jobs) == outcomes
    account(len(jobs))


async def test_frozen_worker_goes_on_where_it_was(shop, start_worker, runs, account):
    """If nobody else took its jobs, a worker that lost its leases does not begin them again."""
    worker = start_worker(concurrency=10)
    jobs = await shop.app.enqueue_many([shop.nap.call(LEASE) for _ in range(10)])
    await until(lambda: len(runs) == 10, "all jobs running")
    worker.suspend()
    jobs += [await shop.note.enqueue() for _ in range(100)]
    await asyncio.sleep(2 * LEASE)
    worker.resume()
    outcomes = await one_outcome_each(shop.app, jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    assert runs.num_repeated() == 0
    account(len(jobs))


async def test_unstarted_jobs_are_given_back_at_once(shop, start_worker, runs, account):
    """After SIGTERM what was held but not started runs elsewhere, without waiting for the lease."""
    leaving = start_worker(concurrency=2)
    # At a pace of hundreds a second it holds more than it has slots, so that it holds
    # some of the long jobs before it notices that they are long.
    quick = await shop.app.enqueue_many([shop.long_nap.call(0) for _ in range(1000)])
    await until(lambda: len(runs) > 200, "a worker that has found its pace")
    slow = await shop.app.enqueue_many([shop.long_nap.call(1) for _ in range(20)])
    ids = {job.id for job in slow}
    await until(lambda: len(runs.by(leaving.pid) & ids) == 2, "two long jobs running")
    leaving.terminate()
    other = start_worker(concurrency=50)
    outcomes = await one_outcome_each(shop.app, [*quick, *slow], timeout=10)
    await until(lambda: not leaving.running, "the end of the first worker")

    assert leaving.stats().given_back > 0
    assert len(runs.by(leaving.pid) & ids) == 2, "what ran was finished, nothing else was begun"
    assert len(runs.by(other.pid) & ids) == 18
    assert runs.num_repeated() == 0
    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(quick) + len(slow))


async def test_job_longer_than_the_grace_period_is_given_back(shop, start_worker, runs, account):
    """It is cancelled where it runs, and begins again elsewhere, without waiting for the lease."""
    leaving = start_worker(grace=0.5)
    job = await shop.long_nap.enqueue(3)
    await until(lambda: runs.by(leaving.pid), "the job running in the first worker")
    leaving.terminate()
    other = start_worker()
    await until(lambda: not leaving.running, "the end of the first worker", timeout=2)
    outcomes = await one_outcome_each(shop.app, [job], timeout=10)

    assert leaving.stats().given_back == 1
    assert runs.by(other.pid) == {job.id}
    assert outcomes[job.id].status == "completed"
    account(1)
