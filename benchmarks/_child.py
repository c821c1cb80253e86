"""One side's part in a process of its own.

    python -m benchmarks._child <side> <role> <part as JSON>

A side is a module `benchmarks._<side>`, a role one of its functions. The process prints
`"ready"` once a role that waits for others is ready, and last what the role returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import structlog

from ._workload import Part

__all__ = ["LOOPS", "Child", "ChildError", "run"]

DEADLINE = 300.0
"""Seconds after which a process that has not answered is given up."""

LOOPS = ("uvloop", "asyncio")

THIS = (sys.executable, "-m", "benchmarks._child")
"""The program of a side that needs no environment of its own."""


class ChildError(Exception):
    """A process ended without an answer."""

    def __init__(self, side: str, role: str, reason: str) -> None:
        super().__init__(side, role, reason)
        self.side, self.role, self.reason = side, role, reason

    def __str__(self) -> str:
        return f"{self.role} of {self.side} gave no answer: {self.reason}"


class Child:
    """A process that plays a role; `start` it, then ask for what it says."""

    def __init__(self, process: asyncio.subprocess.Process, side: str, role: str) -> None:
        self._process, self._side, self._role = process, side, role

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, side: str, role: str, part: Part, loop: str, program: Sequence[str] = THIS
    ) -> AsyncIterator[Child]:
        """Run a role while the context lasts; it is killed if it runs on."""
        process = await asyncio.create_subprocess_exec(
            *program,
            *(side, role, msgspec.json.encode(part).decode(), loop),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A latency run reports every single delay, in one line.
            limit=2**26,
        )
        try:
            yield cls(process, side, role)
        finally:
            if process.returncode is None:
                # `process.kill` would collect the exit status of a process that has just
                # ended by itself, and `process.wait` then warn that somebody else did.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                await process.wait()

    async def answer(self) -> Any:
        """Return the next thing the process says.

        Raises:
            ChildError: It ended, or said nothing for too long.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(DEADLINE):
                line = await self._process.stdout.readline()
        except TimeoutError:
            reason = f"nothing within {DEADLINE:g} s"
            raise ChildError(self._side, self._role, reason) from None
        if not line:
            errors = await self._process.stderr.read()
            raise ChildError(self._side, self._role, errors.decode(errors="replace"))
        return msgspec.json.decode(line)


async def run(
    side: str, role: str, part: Part, loop: str, program: Sequence[str] = THIS
) -> dict[str, Any]:
    """Run a role to its end in a process of its own and return what it reports.

    What it could not find out, and reports as `None`, is left out.
    """
    async with Child.start(side, role, part, loop, program) as child:
        report = await child.answer()
    return {name: value for name, value in report.items() if value is not None}


def main(side: str, role: str, part: str, loop: str) -> None:
    """Play the role that the command line names."""
    answers = sys.stdout
    # Whatever a library prints must not be taken for an answer.
    sys.stdout = sys.stderr
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def say(answer: Any) -> None:
        print(msgspec.json.encode(answer).decode(), file=answers, flush=True)

    play = getattr(importlib.import_module(f"benchmarks._{side}"), role)
    arguments: dict[str, Any] = {"part": msgspec.json.decode(part, type=Part)}
    if "ready" in inspect.signature(play).parameters:
        arguments["ready"] = lambda: say("ready")
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        say(runner.run(play(**arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
