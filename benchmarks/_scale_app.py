"""The app that `jetq worker --processes` runs: jobs that use the processor a little."""

from __future__ import annotations

import time

from jetq import App

from ._jetq import APP, QUEUE

__all__ = ["app"]

BURNT = 200e-6
"""Seconds of CPU time that a job takes, as one that decodes and checks a document does."""

app = App(APP)


@app.task(name="bench.burn", queue=QUEUE, result=False)
async def burn(number: int, text: str) -> None:
    """Use the processor, and nothing else."""
    end = time.thread_time() + BURNT
    while time.thread_time() < end:
        pass
