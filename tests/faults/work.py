"""A worker process: `python -m tests.faults.work <concurrency> <grace>`.

Logs to stderr. SIGTERM stops it; then it writes what it did to stdout, as JSON. It
ends at once when its stdin is closed, so it does not outlive the test.
"""

import asyncio
import os
import signal
import sys
import threading

import msgspec
import structlog

from tests.faults.tasks import Shop


async def main(concurrency: int, grace: float) -> None:
    """Work until told to stop."""
    worker = Shop().app.worker(concurrency=concurrency, grace=grace)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    async with worker:
        await worker.run()
    sys.stdout.buffer.write(msgspec.json.encode(worker.stats))


def end_with_parent() -> None:
    """End when nobody holds the other end of stdin any more."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    # Plain: a pretty traceback takes longer than some of these tests have time.
    renderer = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[structlog.processors.TimeStamper("%H:%M:%S.%f", utc=False), renderer],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
