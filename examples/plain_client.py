"""A job enqueued by a NATS client that knows nothing of jetq.

`enqueue` and `read_outcome` use nats-py and JSON only; the same few lines can be written
in any language that has a NATS client. docs/protocol.md explains each field.
"""

import asyncio
import json
import os
import secrets
from typing import Any

import nats
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from jetq import App

app = App("example-plain")


@app.task(name="add", queue="maths")
async def add(a: int, b: int) -> int:
    return a + b


async def enqueue(client: Client, token: str) -> None:
    """Store a job of task `add`: one publish, acknowledged by the queue's stream."""
    subject = f"jetq.example-plain.task.maths.normal.-.{token}"
    body = {"$type": "add", "args": {"a": 2, "b": 3}}
    ack = await client.jetstream().publish(subject, json.dumps(body).encode())
    print("stored in", ack.stream)


async def read_outcome(client: Client, token: str) -> dict[str, Any]:
    """Return how the job ended, once it has."""
    subject = f"jetq.example-plain.result.maths.-.{token}"
    async with asyncio.timeout(10):
        while True:
            try:
                found = await client.jetstream().get_last_msg("jetq-example-plain-results", subject)
                return json.loads(found.data or b"")
            except NotFoundError:
                await asyncio.sleep(0.05)


async def main() -> None:
    # The worker comes first: it creates the queue's stream.
    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())

        client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
        token = secrets.token_urlsafe(12)
        await enqueue(client, token)
        outcome = await read_outcome(client, token)
        print(outcome["$type"], outcome["result"])
        await client.close()

        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
