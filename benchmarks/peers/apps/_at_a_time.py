"""What several peers need, since they document no call that enqueues many jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks._workload import TEXT, WIDTH

__all__ = ["at_a_time"]


async def at_a_time(
    enqueue: Callable[[int, str], Awaitable[Any]], numbers: range, width: int = WIDTH
) -> None:
    """Enqueue a job for each number, several at a time."""
    waiting = iter(numbers)

    async def produce() -> None:
        for number in waiting:
            await enqueue(number, TEXT)

    await asyncio.gather(*(produce() for _ in range(width)))
