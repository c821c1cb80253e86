"""Work that keeps a CPU busy, in a process pool.

The main module is imported again in each process of the pool, so what starts the program
stands below `if __name__ == "__main__"`.
"""

import asyncio
import os

from jetq import App

app = App("example-processes")


@app.task(process=True, timeout=60)
def count_primes(limit: int) -> tuple[int, int]:
    """Return how many primes are below `limit`, and the process that counted them."""
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return sum(sieve), os.getpid()


async def main() -> None:
    slots = os.cpu_count() or 1
    async with app.worker(concurrency=slots) as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())

        jobs = await app.enqueue_many(count_primes.call(limit * 100_000) for limit in range(1, 9))
        results = [await job.result(timeout=60) for job in jobs]
        for (primes, _), limit in zip(results, range(1, 9), strict=True):
            print(f"{primes} primes below {limit * 100_000}")
        here = os.getpid()
        print("counted in other processes:", all(pid != here for _, pid in results))

        worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
