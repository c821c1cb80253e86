"""Several processes, kept running until they are told to stop.

Each is a child with a pipe to its stdin. It should end when that pipe does, because
then this process is gone, whatever became of it. A child runs in a session of its own:
Ctrl-C at the terminal reaches it once, through us, and not twice.

    running   ends by itself        → started again, after a pause that grows
    running   a watched file changes → told to stop, started again
    running   told to stop          → waited for, and not started again
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import structlog

__all__ = ["Supervisor"]

log = structlog.stdlib.get_logger("jetq")

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0

# A process that ran for this long before it died starts with the first pause again.
HEALTHY_AFTER = 30.0


class Supervisor:
    """Runs commands side by side, and each of them again when it ends by itself."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        environment: Mapping[str, str] | None = None,
        watch: Path | None = None,
    ) -> None:
        """Set up; nothing runs before `run`.

        Args:
            commands: Program and arguments of each process.
            environment: Variables beside those of this process.
            watch: Restart the processes when a `.py` file below this directory changes.
                A process that ends with an error of its own then waits for a change.
        """
        self._commands = commands
        self._environment = {**os.environ, **(environment or {})}
        self._watch = watch
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._processes: dict[int, Process] = {}
        self._told: set[int] = set()

    async def run(self) -> None:
        """Run the processes until `stop` was called and all of them ended.

        Cancelling kills them.
        """
        async with anyio.create_task_group() as group:
            for number, command in enumerate(self._commands):
                group.start_soon(self._keep_running, number, command)
            if self._watch is not None:
                group.start_soon(self._watch_files, self._watch)

    def stop(self) -> None:
        """Tell every process to stop, as SIGTERM does, and start none again."""
        self._stopping.set()
        self._tell_all()

    def kill(self) -> None:
        """End every process at once, and what it started itself."""
        for process in self._processes.values():
            kill_session(process)

    # -- one process --------------------------------------------------------------------

    async def _keep_running(self, number: int, command: Sequence[str]) -> None:
        pause, loop = FIRST_PAUSE, asyncio.get_running_loop()
        while not self._stopping.is_set():
            started_at, changed = loop.time(), self._changed
            code = await self._run_once(number, command)
            if self._stopping.is_set() or changed.is_set():
                continue
            if self._watch is not None and code > 0:
                log.warning("process ended, waiting for a change", process=number, exit_code=code)
                await self._first_of(changed, self._stopping)
                continue
            if loop.time() - started_at >= HEALTHY_AFTER:
                pause = FIRST_PAUSE
            log.warning(
                "process ended by itself, starting another",
                process=number,
                exit_code=code,
                pause=pause,
            )
            with anyio.move_on_after(pause):
                await self._first_of(changed, self._stopping)
            pause = min(pause * 2, LAST_PAUSE)

    async def _run_once(self, number: int, command: Sequence[str]) -> int:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, env=self._environment, start_new_session=True
        )
        self._processes[number] = process
        try:
            if self._stopping.is_set():
                self._tell(number)
            return await process.wait()
        except anyio.get_cancelled_exc_class():
            kill_session(process)
            with anyio.CancelScope(shield=True):
                await process.wait()
            raise
        finally:
            del self._processes[number]
            self._told.discard(number)

    def _tell_all(self) -> None:
        for number in tuple(self._processes):
            self._tell(number)

    def _tell(self, number: int) -> None:
        # Once, however many files change while a process finishes its work.
        if number not in self._told:
            self._told.add(number)
            with contextlib.suppress(ProcessLookupError):
                self._processes[number].terminate()

    # -- files --------------------------------------------------------------------------

    async def _watch_files(self, directory: Path) -> None:
        async for paths in changes_of_python_files(directory, self._stopping):
            log.info("files changed, starting anew", files=paths)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            self._tell_all()

    @staticmethod
    async def _first_of(*events: asyncio.Event) -> None:
        async with anyio.create_task_group() as group:

            async def wait(event: asyncio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            for event in events:
                group.start_soon(wait, event)


def kill_session(process: Process) -> None:
    """End a process at once, and what it started itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def changes_of_python_files(directory: Path, stop: asyncio.Event) -> AsyncIterator[list[str]]:
    """Yield the paths of changed `.py` files; those of virtual environments do not count."""
    # An extra of its own: only who reloads needs it.
    from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType]

    # When cancelled, it ends only after `rust_timeout` milliseconds.
    watching = awatch(directory, watch_filter=PythonFilter(), stop_event=stop, rust_timeout=500)
    async for changes in watching:
        yield sorted(str(Path(path).relative_to(directory)) for _, path in changes)
