"""A process that serves: `python -m tests.faults.event_work <service>`.

Logs to stderr. It ends at once when its stdin is closed, so it does not outlive the test.
"""

import asyncio
import sys

from ipc import Service
from ipc.terminal import LogLevel, configure_logging, stop_with_stdin
from tests.faults.events import SERVICES, new_bus


async def main(service: Service) -> None:
    """Serve until killed."""
    async with new_bus() as bus:
        await bus.serve(service)


if __name__ == "__main__":
    configure_logging(LogLevel.DEBUG)
    stop_with_stdin(patience=0)
    asyncio.run(main(SERVICES[sys.argv[1]]))
