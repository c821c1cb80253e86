"""A worker inside an asyncio service that also takes requests.

The service listens on a TCP port. Each line it gets is a name; it answers with the id of
the job that will greet it, and works on those jobs itself, beside its other duties.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jetq import App, current_job


class Greetings:
    """Stands for what jobs share: a database pool, an HTTP client."""

    def __init__(self) -> None:
        self.sent: list[str] = []


@asynccontextmanager
async def lifespan() -> AsyncIterator[Greetings]:
    """Opened when the worker starts, closed after its last job."""
    greetings = Greetings()
    yield greetings
    print(f"closing, {len(greetings.sent)} greetings were sent")


app = App("example-embed", lifespan=lifespan)


@app.task
async def greet(name: str) -> str:
    greetings: Greetings = current_job().state
    greetings.sent.append(name)
    return f"hello, {name}"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Enqueue a job for each line; a request does not wait for its job."""
    while line := await reader.readline():
        job = await greet.enqueue(line.decode().strip())
        writer.write(f"{job.id}\n".encode())
    writer.close()


async def visit(port: int) -> None:
    """Play a client of the service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for name in ("Ada", "Grace"):
        writer.write(f"{name}\n".encode())
        job_id = (await reader.readline()).decode().strip()
        print(job_id, "->", await app.job(job_id).result(timeout=10))
    writer.close()


async def main() -> None:
    # Entering the worker connects the app, so `enqueue` works wherever this has begun.
    async with app.worker(concurrency=20, grace=5) as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        service = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with service:
            await visit(service.sockets[0].getsockname()[1])
        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
