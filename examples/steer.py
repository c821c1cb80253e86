"""Cancelling, putting off, rejecting, and retrying a dead letter."""

import asyncio

from jetq import (
    App,
    JobCancelledError,
    JobFailedError,
    Reject,
    Retry,
    RetryAfter,
    Snooze,
    current_job,
)

app = App("example-steer")

printer = {"has paper": False}
card_is_valid = {"4711": False}


@app.task
async def print_label(order: str) -> str:
    if not printer["has paper"]:
        printer["has paper"] = True
        # Not counted as an attempt.
        raise Snooze(0.5, "no paper")
    return f"label for {order}, attempt {current_job().attempt}"


@app.task(retry=Retry(max_attempts=3))
async def ask_stock(item: str) -> int:
    if current_job().attempt == 1:
        # Counted as an attempt; the delay is the task's choice, not the policy's.
        raise RetryAfter(0.2, "the stock service asked for patience")
    return 3


@app.task
async def charge(card: str) -> str:
    if not card_is_valid[card]:
        # No attempt will help: to the dead letters at once.
        raise Reject(f"card {card} is not valid")
    return "charged"


@app.task
async def make_report() -> None:
    await asyncio.sleep(3600)


async def main() -> None:
    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())

        print("put off:", await (await print_label.enqueue("o-1")).result(timeout=10))
        print("retried:", await (await ask_stock.enqueue("teapot")).result(timeout=10))

        report = await make_report.enqueue()
        while await report.status() != "processing":
            await asyncio.sleep(0.05)
        await report.cancel("nobody will read it")
        try:
            await report.result(timeout=10)
        except JobCancelledError as error:
            print("cancelled:", error.reason)

        later = await make_report.using(delay=3600).enqueue()
        print("scheduled:", await later.status(), "-> cancelled:", await later.cancel())

        charged = await charge.enqueue("4711")
        try:
            await charged.result(timeout=10)
        except JobFailedError as error:
            print("rejected:", error.reason)
        async for letter in app.dead_letters.list():
            if letter.job_id == charged.id:
                print("dead letter:", letter.task, letter.reason, letter.body.decode())

        card_is_valid["4711"] = True
        await charged.retry()
        print("retried by hand:", await charged.result(timeout=10))

        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
