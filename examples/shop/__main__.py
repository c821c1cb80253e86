"""Start a server, the two services and the worker, each a process; then go shopping."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ipc import Bus, LocalServer, ServiceError
from jetq import JobCompleted

from .messages import PlaceOrder, SignUp

PROGRAMS = [
    ["ipc", "serve", "examples.shop.users:users"],
    ["ipc", "serve", "examples.shop.orders:orders"],
    ["jetq", "worker", "examples.shop.worker:app"],
]

say = partial(print, "shop   |", flush=True)


@contextmanager
def running(program: list[str], server: str) -> Iterator[None]:
    """Run a program for as long as the block lasts; then let it finish what it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", *program, "--log-level=warning"],
        env={**os.environ, "NATS_URL": server},
        # Ctrl-C at the terminal is for us; we stop the programs afterwards.
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def until_open(bus: Bus) -> None:
    """Return once both services answer, and the worker's two durables are there.

    Events are kept for the durables that exist. They stay when the worker ends, so this
    matters on the first day only.
    """
    while len(await bus.services()) < 2 or len(await bus.durables.list()) < 2:
        await asyncio.sleep(0.1)


async def shop(bus: Bus) -> None:
    """Play the customers, and listen to what is done for them."""
    async with bus.subscribe(JobCompleted) as completed:
        ada = await bus.request(SignUp(name="Ada", email="ada@example.com"))
        job = await anext(completed)
        say(f"{job.task} has completed")

        order = await bus.request(PlaceOrder(user_id=ada.id, item="teapot"))
        say(f"Ada has ordered a {order.item}")
        # The receipt, and the parcel that it led to.
        for _ in range(2):
            job = await anext(completed)
            say(f"{job.task} has completed")

    for user_id in (ada.id, 99):
        try:
            await bus.request(PlaceOrder(user_id=user_id, item="teapot"))
        except ServiceError as error:
            say(f"{type(error).__name__}: {error}")


async def main() -> None:
    async with LocalServer() as server:
        users, orders, worker = (running(program, server.url) for program in PROGRAMS)
        with users, orders, worker:
            async with asyncio.timeout(30), Bus("customers", servers=server.url) as bus:
                await until_open(bus)
                say("open")
                await shop(bus)
                say("closing")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
