"""A cluster loses the server that leads a queue's stream."""

from collections import Counter

import msgspec
import pytest

from ipc import Bus, LocalCluster
from tests.conftest import ACCOUNT
from tests.faults.accounts import one_outcome_each, until
from tests.faults.event_load import Publisher
from tests.faults.events import LEASE, Placed
from tests.faults.load import Producer
from tests.faults.tasks import Shop


@pytest.fixture
async def cluster(monkeypatch):
    """Three servers, and three replicas of every stream."""
    async with LocalCluster() as cluster:
        monkeypatch.setenv("NATS_URL", ",".join(cluster.urls))
        monkeypatch.setenv("JETQ_REPLICAS", "3")
        yield cluster


async def leader_of(connection, stream, cluster):
    """Return the server that leads a stream."""
    reply = await connection.request(f"$JS.API.STREAM.INFO.{stream}")
    name = msgspec.json.decode(reply.data)["cluster"]["leader"]
    return next(node for node in cluster.nodes if node.name == name)


# An election takes some 6 s, and three servers share the processor with everything else.
@pytest.mark.timeout(120)
async def test_acknowledged_jobs_survive_their_leader(cluster, start_worker, runs, account):
    """SIGKILL of a stream's leader amid enqueueing and working: what was acknowledged ends."""
    shop = Shop()
    async with shop.app:
        start_worker(concurrency=8)
        async with Producer(shop) as producer:
            await until(lambda: len(runs) > 300, "a worker amid its work")
            stream = shop.app.layout.queue_stream_name("work")
            node = await leader_of(shop.app.connection, stream, cluster)
            node.kill()
            await producer.until_more(500)
            await node.start()
            await producer.until_more(200)
        outcomes = await one_outcome_each(shop.app, producer.jobs)

    assert {outcome.status for outcome in outcomes.values()} == {"completed"}
    account(len(producer.jobs))


@pytest.mark.timeout(120)
async def test_acknowledged_events_survive_their_leader(cluster, record_property):
    """SIGKILL of a stream's leader amid durable fan-out: each durable gets every event."""
    handled = {"mailer": Counter(), "ledger": Counter()}
    async with Bus("faults", replicas=3, timeout=30) as bus:
        for durable, numbers in handled.items():

            @bus.on(Placed, durable=durable, lease=LEASE)
            async def note(event: Placed, numbers: Counter = numbers) -> None:
                numbers[event.number] += 1

        await bus.ready()
        async with Publisher(bus) as publisher:
            await publisher.until_more(100)
            node = await leader_of(bus.connection, bus.subjects.stream("faults"), cluster)
            node.kill()
            await publisher.until_more(200)
            await node.start()
            await publisher.until_more(100)
        acknowledged = publisher.acknowledged
        await until(
            lambda: all(acknowledged <= set(numbers) for numbers in handled.values()),
            "both durables to have every event",
            30,
        )

    twice = sum(count > 1 for numbers in handled.values() for count in numbers.values())
    record_property(ACCOUNT, f"published {len(acknowledged)} for 2, lost 0, handled twice {twice}")
