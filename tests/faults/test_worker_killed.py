"""A worker process dies in the middle of its work."""

from tests.faults.accounts import one_outcome_each, until
from tests.faults.tasks import OFTEN


async def test_jobs_of_a_killed_worker_are_done_by_another(shop, start_worker, runs, account):
    """SIGKILL of one of two workers amid 2,000 jobs: each job ends once, none is lost."""
    jobs = await shop.app.enqueue_many([shop.note.call() for _ in range(2000)])
    victim, other = start_worker(), start_worker()
    await until(lambda: len(runs.by(victim.pid)) > 300, "300 jobs run by the first worker")
    victim.kill()
    outcomes = await one_outcome_each(shop.app, jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    assert runs.by(other.pid)
    account(len(jobs))


async def test_job_that_kills_its_workers_becomes_a_dead_letter(shop, start_worker, runs, account):
    """It may take down a few workers, then it is set aside; other jobs of its queue complete."""
    fatal = await shop.kill_worker.enqueue()
    others = await shop.app.enqueue_many([shop.note.call() for _ in range(200)])
    worker = start_worker()

    async def is_dead() -> bool:
        nonlocal worker
        if not worker.running:
            worker = start_worker()
        return await shop.app.dead_letters.find(fatal.id) is not None

    await until(is_dead, "a dead letter of the job that kills its workers", timeout=30)
    outcomes = await one_outcome_each(shop.app, [fatal, *others])

    letter = await shop.app.dead_letters.find(fatal.id)
    deaths = sum(run.job_id == fatal.id for run in runs.all())
    assert f"its worker fell silent {deaths} times" in letter.reason
    # A first delivery that ends in silence is not counted: it may never have started.
    assert deaths == shop.kill_worker.retry.max_crashes + 1 < OFTEN
    assert outcomes.pop(fatal.id).status == "failed"
    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(others) + 1)
