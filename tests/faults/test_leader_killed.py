"""A cluster loses the server that leads a queue's stream."""

import msgspec
import pytest

from ipc import LocalCluster
from tests.faults.accounts import one_outcome_each, until
from tests.faults.load import Producer
from tests.faults.tasks import Shop


@pytest.fixture
async def cluster(monkeypatch):
    """Three servers, and three replicas of every stream."""
    async with LocalCluster() as cluster:
        monkeypatch.setenv("NATS_URL", ",".join(cluster.urls))
        monkeypatch.setenv("JETQ_REPLICAS", "3")
        yield cluster


async def leader_of(app, stream):
    """Return the name of the server that leads a stream."""
    reply = await app.connection.request(f"$JS.API.STREAM.INFO.{stream}")
    return msgspec.json.decode(reply.data)["cluster"]["leader"]


# An election takes some 6 s, and three servers share the processor with everything else.
@pytest.mark.timeout(120)
async def test_acknowledged_jobs_survive_their_leader(cluster, start_worker, runs, account):
    """SIGKILL of a stream's leader amid enqueueing and working: what was acknowledged ends."""
    shop = Shop()
    async with shop.app:
        start_worker(concurrency=8)
        async with Producer(shop) as producer:
            await until(lambda: len(runs) > 300, "a worker amid its work")
            leader = await leader_of(shop.app, shop.app.layout.queue_stream_name("work"))
            node = next(node for node in cluster.nodes if node.name == leader)
            node.kill()
            await producer.until_more(500)
            await node.start()
            await producer.until_more(200)
        outcomes = await one_outcome_each(shop.app, producer.jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(producer.jobs))
