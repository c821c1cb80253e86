"""Tasks that run in processes: those import this module, so they are not defined in a test."""

import os
import time
from pathlib import Path

from jetq import App

app = App("processes", storage="memory")


@app.task(process=True)
def whose_pid() -> int:
    """Return the id of the process it runs in."""
    return os.getpid()


@app.task(process=True, retry=False)
def fail_far_away() -> None:
    """Raise in the process."""
    raise ValueError("from far away")


@app.task(process=True, retry=False, timeout=0.5)
def write_late(path: str, pid_path: str) -> None:
    """Say which process runs, and write a file much later."""
    Path(pid_path).write_text(str(os.getpid()))
    time.sleep(60)
    Path(path).write_text("too late")
