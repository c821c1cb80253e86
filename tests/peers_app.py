"""The app of a made-up peer: plain NATS, run by `test_peers`. It executes one job twice."""

from __future__ import annotations

import nats
from nats.aio.client import Client

from benchmarks._workload import TEXT
from benchmarks.peers._job import RESULTS, URL, count

REPEATED = 7


async def connect() -> Client:
    client = await nats.connect(URL)
    await client.jetstream().add_stream(name="jobs", subjects=["jobs"])
    return client


async def fill(client: Client, numbers: range) -> None:
    for number in numbers:
        await send(client, number)


async def send(client: Client, number: int, reply: str = "") -> None:
    body = f"{number} {reply} {TEXT}".encode()
    await client.jetstream().publish("jobs", body)


async def ask(client: Client, number: int) -> int:
    replies = await client.subscribe(inbox := client.new_inbox(), max_msgs=1)
    await send(client, number, inbox)
    return int((await replies.next_msg(timeout=10)).data)


async def work() -> None:
    client = await connect()
    jobs = await client.jetstream().pull_subscribe("jobs", durable="worker")
    while True:
        for message in await jobs.fetch(1, timeout=60):
            number, reply, *_ = message.data.decode().split(" ")
            count(int(number))
            if int(number) == REPEATED and not RESULTS:
                count(REPEATED)
            if reply:
                await client.publish(reply, number.encode())
            await message.ack()
