"""A task, a job, a worker and a result, in one file."""

import asyncio

import msgspec

from jetq import App

app = App("example-hello")


class Email(msgspec.Struct):
    """Arguments are checked against their types, when enqueued and again by the worker."""

    to: str
    subject: str


@app.task(queue="mail")
async def send_email(email: Email, *, dry_run: bool = False) -> str:
    """Pretend to send an email."""
    await asyncio.sleep(0.1)
    return f"{'would send' if dry_run else 'sent'} {email.subject!r} to {email.to}"


async def main() -> None:
    async with app.worker(queues=["mail"]) as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())

        job = await send_email.enqueue(Email("ada@example.com", "hi"), dry_run=True)
        print(job.id, "is", await job.status())
        print(await job.result(timeout=10))

        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
