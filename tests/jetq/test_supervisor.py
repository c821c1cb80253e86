"""The supervisor: processes run side by side, come back when they die, and end when told."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jetq._supervisor import Supervisor
from tests.conftest import until

# Writes down its process id, then waits for its stdin to end, as supervised processes do.
FAITHFUL = """
import os, pathlib, sys
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
sys.stdin.read()
"""
# Writes one byte for each SIGTERM it gets and needs a while to end.
SLOW_TO_STOP = """
import os, pathlib, signal, sys, time
signals = open(sys.argv[1] + "/signals", "ab", buffering=0)
signal.signal(signal.SIGTERM, lambda *_: signals.write(b"."))
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
while not pathlib.Path(sys.argv[1], "end").exists():
    time.sleep(0.01)
"""
FAILING = """
import os, pathlib, sys
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
sys.exit(1)
"""
WITH_A_CHILD = """
import os, pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1], str(child.pid)).touch()
child.wait()
"""


def command(script: str, directory: Path) -> list[str]:
    """Return the command that runs a script on a directory."""
    return [sys.executable, "-S", "-c", script, str(directory)]


def pids(directory: Path) -> set[int]:
    """Return the process ids that were written down."""
    return {int(path.name) for path in directory.iterdir() if path.name.isdigit()}


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that ended and waits to be reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@asynccontextmanager
async def supervising(*commands: list[str], watch: Path | None = None):
    """Run a supervisor beside the test; yield it and the task it runs in."""
    supervisor = Supervisor(commands, watch=watch)
    run = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, run
    finally:
        run.cancel()
        await asyncio.wait([run])


async def test_process_that_dies_is_replaced(tmp_path):
    """A killed process gets a successor, and the others do not notice."""
    once = command(FAITHFUL, tmp_path)
    async with supervising(once, once):
        await until(lambda: len(pids(tmp_path)) == 2, "two processes should have started")
        killed, other = pids(tmp_path)

        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(pids(tmp_path)) == 3, "a third should have started")

        assert is_running(other)


async def test_pauses_grow_between_restarts(tmp_path):
    """A process that cannot start is not started again in a tight loop."""
    async with supervising(command(FAILING, tmp_path)):
        await until(lambda: len(pids(tmp_path)) >= 2, "it should have been started again")
        await asyncio.sleep(0.7)  # the second pause takes a second

        assert len(pids(tmp_path)) == 2


async def test_stop_waits_for_every_process_and_starts_none(tmp_path):
    """A process may finish in its own time, and is told only once however often we are."""
    async with supervising(command(SLOW_TO_STOP, tmp_path)) as (supervisor, run):
        await until(lambda: pids(tmp_path), "it should have started")
        supervisor.stop()
        supervisor.stop()
        signals = tmp_path / "signals"
        await until(lambda: signals.read_bytes(), "it should have been told")
        assert not run.done()

        (tmp_path / "end").touch()
        await asyncio.wait_for(run, 5)

        assert signals.read_bytes() == b"."
        assert len(pids(tmp_path)) == 1


async def test_kill_ends_also_what_processes_started(tmp_path):
    """A second Ctrl-C leaves nothing behind."""
    async with supervising(command(WITH_A_CHILD, tmp_path)) as (supervisor, run):
        await until(lambda: pids(tmp_path), "the process should have a child")
        (grandchild,) = pids(tmp_path)

        supervisor.stop()
        supervisor.kill()

        await asyncio.wait_for(run, 5)
        await until(lambda: not is_running(grandchild), "the child's child should be gone")


async def test_stdin_of_a_process_ends_with_the_supervisor(tmp_path):
    """Even if the supervisor is killed with SIGKILL, its processes can notice."""
    script = """
import asyncio, json, sys
from jetq._supervisor import Supervisor
asyncio.run(Supervisor([json.loads(sys.argv[1])]).run())
"""
    once = command(FAITHFUL, tmp_path)
    arguments = [sys.executable, "-c", script, str(once).replace("'", '"')]
    supervisor = await asyncio.create_subprocess_exec(*arguments)
    await until(lambda: pids(tmp_path), "a process should have started")
    (pid,) = pids(tmp_path)

    supervisor.kill()
    await supervisor.wait()

    await until(lambda: not is_running(pid), "the process should have ended")


@pytest.mark.parametrize("script", [FAITHFUL, FAILING], ids=["that runs", "that failed"])
async def test_changed_file_restarts_a_process(tmp_path, script):
    """A change in a Python file starts a process anew, at once, whatever became of it."""
    pytest.importorskip("watchfiles")
    code, marks = tmp_path / "code", tmp_path / "marks"
    code.mkdir()
    marks.mkdir()
    # Ended by SIGTERM if it runs.
    async with supervising(command(script, marks), watch=code):
        await until(lambda: pids(marks), "it should have started")

        async def another_started() -> bool:
            # Written again and again, as the watching takes a moment to begin.
            (code / "tasks.py").write_text(str(asyncio.get_running_loop().time()))
            await asyncio.sleep(0.1)
            return len(pids(marks)) > 1

        await until(another_started, "it should have been started anew")
