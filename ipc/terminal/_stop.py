"""How a running command is told to stop: SIGINT, SIGTERM, or the end of its stdin."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["LEAVE", "on_stop_signal", "stop_with_stdin"]

# Seconds beyond its grace period that a program needs to give work back and to disconnect.
LEAVE = 10.0

LAST_LINE = b"a second signal, ending at once\n"


@contextmanager
def on_stop_signal(
    stop: Callable[[], None], *, kill: Callable[[], None] = lambda: None, patient: bool = False
) -> Generator[None]:
    """Call `stop` in the running event loop at the first SIGINT or SIGTERM.

    A second one calls `kill` and ends the process at once, with 130 or 143.

    Args:
        patient: Let further signals pass. A service manager may signal every process of
            a service; one that has a supervisor then hears of it twice.
    """
    loop = asyncio.get_running_loop()
    received = 0

    # Not the event loop's own handlers: they would wait for a task that blocks the loop.
    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            loop.call_soon_threadsafe(stop)
            return
        if patient:
            return
        kill()
        os.write(2, LAST_LINE)
        os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_stdin(patience: float) -> None:
    """Send ourselves SIGTERM when stdin ends; `patience` seconds later, end at once.

    A supervisor holds the other end. However it dies, its workers notice, even with an
    event loop that is blocked.
    """

    def watch() -> None:
        # Not `sys.stdin`: its lock must be free when the interpreter shuts down.
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-stdin", daemon=True).start()
