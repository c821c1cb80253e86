"""Programs in JavaScript that run beside a test, with the client of `examples/node`.

`said = await node("…")` runs one to its end and returns what it said last: `say(value)` of the
program is any JSON. `async with node.running("…") as program:` runs one for as long as the block,
which begins once the program listens; what it says is `await program.said()`. Every program has
`bus`, a `Bus` in the test's namespace, `jobs`, of the test's app, and `ServiceError`. One that
fails fails the test.
"""

import asyncio
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.ipc.conftest import bus, new_bus

__all__ = ["bus", "new_bus"]

CLIENT = Path(__file__).parents[2] / "examples" / "node"

BEGIN = """
import { Bus, ServiceError } from "./ipc.js";
import { Jobs } from "./jetq.js";
const namespace = process.env.NAMESPACE;
const bus = await Bus.open("node", { prefix: namespace });
const jobs = new Jobs(bus.connection, namespace);
const say = (value) => console.log(JSON.stringify(value));
"""

# Standard input ends when the test has seen enough.
END = """
await bus.connection.flush();
console.log();
for await (const _ of process.stdin);
await bus.close();
"""

# Seconds for which a program may be silent.
SILENCE = 10.0

# Seconds that it may take.
INSTALL = 100.0
NPM_INSTALL = (
    "install",
    "--no-package-lock",
    "--no-audit",
    "--no-fund",
    "--ignore-scripts",
    "--prefer-offline",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=500",
)

# What npm says when there is no way to the registry, or not now.
UNREACHABLE = re.compile(
    r"npm (?:error|ERR!) code (?:E?TIMEDOUT|EAI_AGAIN|ENOTFOUND|ENOTCACHED|ECONN|ENET|EHOST"
    r"|ERR_SOCKET|FETCH_ERROR|SELF_SIGNED|CERT|UNABLE_TO|DEPTH_ZERO|E407|E429|E5)"
)


class Package(msgspec.Struct):
    """What a package.json says."""

    engines: dict[str, str]
    dependencies: dict[str, str]

    @property
    def oldest_node(self) -> tuple[int, ...]:
        """The version of Node.js that it needs."""
        return version(self.engines["node"])


def version(text: str) -> tuple[int, ...]:
    """Return the numbers of `v20.15.1`, or `>=20.15`."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def installed(folder: Path) -> dict[str, str]:
    """Return the versions of the packages in a folder, of an installation that was finished."""
    try:
        # npm writes it last.
        listed = json.loads((folder / "node_modules" / ".package-lock.json").read_bytes())
    except FileNotFoundError:
        return {}
    return {
        path.removeprefix("node_modules/"): package.get("version", "")
        for path, package in listed["packages"].items()
    }


def install(folder: Path) -> str:
    """Make sure that a folder has what its package.json names.

    Returns:
        Why it cannot be had here; "" if it is there.
    """
    package = msgspec.json.decode((folder / "package.json").read_bytes(), type=Package)
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        return "Node.js is not installed: there is no `node`"
    found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    if version(found) < package.oldest_node:
        return f"Node.js {found} is too old: the packages need {package.engines['node']}"
    if package.dependencies.items() <= installed(folder).items():
        return ""
    if npm is None:
        return "npm is not installed, and the packages are not either"
    try:
        done = subprocess.run(
            [npm, *NPM_INSTALL], cwd=folder, capture_output=True, text=True, timeout=INSTALL
        )
    except subprocess.TimeoutExpired:
        return f"npm got no packages from its registry within {INSTALL:g} s"
    if UNREACHABLE.search(done.stderr):
        return f"npm cannot reach its registry: {done.stderr.strip().splitlines()[0]}"
    assert done.returncode == 0, done.stderr
    return ""


@pytest.fixture(scope="session")
def node_packages() -> None:
    """The client with all that it needs; without it tests are skipped."""
    # Tests may run in several processes, and one installation is enough.
    with (CLIENT / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = install(CLIENT)
    if missing:
        pytest.skip(missing)


class Program:
    """A program that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self) -> Any:
        """Return the next thing that it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SILENCE):
            line = (await self._process.stdout.readline()).strip()
        if not line:
            await self.end()
            pytest.fail("the program ended, or began to listen, and said nothing more")
        return json.loads(line)

    async def has_begun(self) -> None:
        """Return once it listens."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SILENCE):
            line = await self._process.stdout.readline()
        if line != b"\n":
            await self.end()
            pytest.fail(f"the program should listen before it says anything, but said {line!r}")

    async def end(self) -> list[Any]:
        """Let it end, and return what it still said."""
        try:
            async with asyncio.timeout(SILENCE):
                output, errors = await self._process.communicate(b"")
        finally:
            if self._process.returncode is None:
                self._process.kill()
        assert self._process.returncode == 0, errors.decode()
        return [json.loads(line) for line in output.splitlines() if line]


class Node:
    """Runs programs."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment

    async def __call__(self, program: str) -> Any:
        """Run a program to its end and return what it said last."""
        said = await (await self._start(program)).end()
        return said[-1] if said else None

    @asynccontextmanager
    async def running(self, program: str) -> AsyncIterator[Program]:
        """Run a program beside the test."""
        running = await self._start(program)
        try:
            await running.has_begun()
            yield running
        finally:
            await running.end()

    async def _start(self, program: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            "node",
            "--input-type=module",
            "--eval",
            BEGIN + program + END,
            cwd=CLIENT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return Program(process)


@pytest.fixture
def node(node_packages: None, server_url: str, namespace: str) -> Node:
    """Runs programs on the shared server, in this test's namespace."""
    return Node({**os.environ, "NATS_URL": server_url, "NAMESPACE": namespace})
