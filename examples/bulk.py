"""20,000 jobs in one call, with progress."""

import asyncio
import time

from rich.progress import Progress

from jetq import App

app = App("example-bulk")

NUM_JOBS = 20_000


# Nobody asks for these results, so none are stored: that saves a write for each job.
@app.task(result=False)
async def resize(image: int) -> None:
    await asyncio.sleep(0)


async def main() -> None:
    async with app.worker(concurrency=200) as worker, asyncio.TaskGroup() as group:
        started = time.perf_counter()
        jobs = await app.enqueue_many(resize.call(image) for image in range(NUM_JOBS))
        print(f"enqueued {len(jobs)} jobs in {time.perf_counter() - started:.1f} s")

        group.create_task(worker.run())
        with Progress() as progress:
            bar = progress.add_task("resizing", total=NUM_JOBS)
            while worker.stats.completed < NUM_JOBS:
                progress.update(bar, completed=worker.stats.completed)
                await asyncio.sleep(0.1)
            progress.update(bar, completed=NUM_JOBS)
        print(f"completed {worker.stats.completed} jobs")

        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
