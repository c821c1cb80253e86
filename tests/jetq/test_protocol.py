"""The protocol: any NATS client can enqueue a job and read what became of it."""

import asyncio
import json

import msgspec
import pytest
from nats.js.errors import APIError

from jetq import App, Priority, current_job
from tests.conftest import flushed, until, working


class Line(msgspec.Struct):
    item: str
    count: int


@pytest.fixture
def order(app: App):
    """A task with typed arguments."""

    @app.task(name="shop.order", queue="orders")
    async def order(lines: list[Line], *, note: str = "") -> dict[str, int]:
        return {line.item: line.count for line in lines}

    return order


async def test_job_is_a_subject_and_a_json_body(app: App, order, client):
    """A plain publish to the job's subject is a job; its outcome is a JSON message too."""
    body = {"$type": "shop.order", "args": {"lines": [{"item": "tea", "count": 2}]}}
    async with working(app):
        ack = await client.jetstream().publish(
            f"jetq.{app.name}.task.orders.normal.-.from-elsewhere", json.dumps(body).encode()
        )
        assert ack.stream == f"jetq-{app.name}-queue-orders"

        outcome = await until(
            lambda: last(client, f"jetq-{app.name}-results", f"jetq.{app.name}.result.orders.-.*"),
            "an outcome should be stored",
        )

    assert outcome["$type"] == "completed"
    assert outcome["task"] == "shop.order"
    assert outcome["attempt"] == 1
    assert outcome["result"] == {"tea": 2}
    assert outcome["started_at"] <= outcome["finished_at"]


async def last(client, stream, subject):
    """Return the newest message on a subject as JSON, or None."""
    try:
        message = await client.jetstream().get_last_msg(stream, subject)
    except APIError:
        return None
    return json.loads(message.data)


async def test_outcome_is_announced(app: App, order, client):
    """Who subscribes to `settled` is told of every outcome as it is stored."""
    subscription = await client.subscribe(f"jetq.{app.name}.settled.orders.-.mine")
    await flushed(client)
    async with working(app):
        await order.using(id="mine").enqueue([Line("tea", 1)])

        message = await subscription.next_msg(timeout=5)

    assert json.loads(message.data)["result"] == {"tea": 1}


async def test_delayed_job_is_a_message_schedule(app: App, order, client):
    """A job for later goes to `later`, with the headers of a schedule (NATS ADR-51)."""
    async with working(app):
        target = f"jetq.{app.name}.task.orders.low.-.later-one"
        await client.jetstream().publish(
            f"jetq.{app.name}.later.orders.low.-.later-one",
            b'{"$type":"shop.order","args":{"lines":[]}}',
            headers={"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": target},
        )

        assert await app.job("orders.-.later-one").result(10) == {}


async def test_job_of_jetq_is_readable_for_everybody(app: App, order, client):
    """A plain client reads what jetq enqueued: where it lies and what is in it."""
    async with app:
        await order.using(
            id="a1", unique="cart 7", priority=Priority.HIGH, headers={"tenant": "x"}
        ).enqueue([Line("tea", 2)], note="soon")
        stream = client.jetstream()
        message = await stream.get_msg(f"jetq-{app.name}-queue-orders", 1)

    body = json.loads(message.data)
    root, name, kind, queue, priority, key, token = (message.subject or "").split(".")
    assert (root, name, kind, queue, priority, token) == (
        ("jetq", app.name, "task", "orders", "high", "a1")
    )
    assert key.startswith("~")
    assert body["$type"] == "shop.order"
    assert body["args"] == {"lines": [{"item": "tea", "count": 2}], "note": "soon"}
    assert body["headers"] == {"tenant": "x"}


async def test_same_subject_twice_can_be_refused_by_the_server(app: App, order, client):
    """With an expectation of nothing there, a plain client has idempotent ids as well."""
    async with app:
        await app.declarations.ensure_queue("orders")
        publish = {
            "subject": f"jetq.{app.name}.task.orders.normal.-.once",
            "payload": b'{"$type":"shop.order","args":{"lines":[]}}',
            "headers": {
                "Nats-Expected-Last-Subject-Sequence": "0",
                "Nats-Expected-Last-Subject-Sequence-Subject": (
                    f"jetq.{app.name}.*.orders.*.-.once"
                ),
            },
        }
        await client.jetstream().publish(**publish)

        with pytest.raises(APIError, match="wrong last sequence"):
            await client.jetstream().publish(**publish)


async def test_unknown_fields_do_no_harm(app: App, client):
    """What a newer client writes beside what is known is passed over."""
    seen = asyncio.Event()

    @app.task(name="any")
    async def any_task(*, a: int):
        assert current_job().enqueued_at is None
        seen.set()

    async with working(app):
        await client.jetstream().publish(
            f"jetq.{app.name}.task.default.normal.-.x",
            b'{"$type":"any","args":{"a":1},"from_the_future":{"b":[1,2]}}',
        )

        await asyncio.wait_for(seen.wait(), 5)
