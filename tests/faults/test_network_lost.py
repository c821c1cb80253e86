"""The network goes away and comes back, and the server never noticed more than that."""

import asyncio

import pytest

from tests.faults.accounts import one_outcome_each, until
from tests.faults.proxy import Proxy
from tests.faults.tasks import Shop


@pytest.fixture
async def network(server, monkeypatch):
    """What lies between the server and everybody else."""
    async with Proxy(server.url) as proxy:
        monkeypatch.setenv("NATS_URL", proxy.url)
        yield proxy


# Longer than any single request to the server waits.
OUTAGE = 6.0


async def test_everybody_goes_on_when_the_network_is_back(network, start_worker, runs, account):
    """While it is away an enqueue waits; then it returns, and the worker works as before."""
    shop = Shop()
    async with shop.app:
        start_worker()
        jobs = await shop.app.enqueue_many([shop.note.call() for _ in range(1000)])
        await until(lambda: len(runs) > 200, "a worker amid its work")
        await network.cut()
        waiting = asyncio.create_task(shop.note.enqueue())
        done, _ = await asyncio.wait({waiting}, timeout=OUTAGE)
        assert not done
        await network.restore()
        jobs.append(await waiting)
        outcomes = await one_outcome_each(shop.app, jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(jobs))


async def test_job_that_ends_while_the_network_is_away_is_not_lost(
    network, start_worker, runs, account
):
    """Its worker keeps the outcome until it can be told, instead of leaving it to the lease."""
    shop = Shop()
    async with shop.app:
        start_worker()
        jobs = await shop.app.enqueue_many([shop.long_nap.call(1) for _ in range(10)])
        await until(lambda: len(runs) == len(jobs), "ten running jobs")
        await network.cut()
        await asyncio.sleep(OUTAGE)
        await network.restore()
        outcomes = await one_outcome_each(shop.app, jobs, timeout=10)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    assert runs.num_repeated() == 0
    account(len(jobs))
