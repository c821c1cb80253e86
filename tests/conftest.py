"""What every test may ask for: one real server for all, and a name of its own.

A test of the app asks for `app` (or for `new_app`, to set something), defines its tasks on
it and runs them with `async with working(app):`. What takes a moment is awaited with `until`.
"""

import asyncio
import inspect
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from ipc import LocalServer
from jetq import App, Job, Worker

AppFactory = Callable[..., App]

# What a test notes under this name goes with its report, from whichever process runs it.
ACCOUNT = "account"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The address of one nats-server that all tests share; keep to your `namespace`."""
    server = LocalServer()
    try:
        asyncio.run(server.start())
        yield server.url
    finally:
        asyncio.run(server.stop())


@pytest.fixture
def namespace() -> str:
    """A fresh name of lower case letters and digits, as an app or a domain may have."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def new_app(server_url: str, namespace: str) -> AppFactory:
    """Make an app on the shared server, in this test's namespace, that keeps all in memory."""

    def make(**options: Any) -> App:
        return App(namespace, **{"servers": server_url, "storage": "memory", **options})

    return make


@pytest.fixture
def app(new_app: AppFactory) -> App:
    """An app with the default settings, without tasks."""
    return new_app()


@pytest.fixture
async def client(server_url: str) -> AsyncIterator[Client]:
    """A plain NATS client on the shared server, as any language has one."""
    client = await nats.connect(server_url)
    yield client
    await client.close()


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def flushed(client: Client) -> None:
    """Return once the server has acted on what a plain client has sent."""
    # The first one's PING may go ahead of what was still buffered.
    await client.flush()
    await client.flush()


@asynccontextmanager
async def working(app: App, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker beside the test, and stop it in the end."""
    # What still runs when a test is over need not be waited for.
    async with app.worker(**{"grace": 0.2, **options}) as worker:
        run = asyncio.create_task(worker.run())
        try:
            await until(lambda: worker.is_ready or run.done(), "the worker should have started")
            yield worker
        finally:
            worker.stop()
            await run


async def until(condition: Callable[[], Any], message: str, timeout: float = 10.0) -> Any:
    """Return what `condition` returns, once that is true; fail with `message` if it stays false.

    Args:
        condition: Called every 10 ms; awaited if it returns something to await.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"{message}, but not within {timeout:g} s")
        await asyncio.sleep(0.01)


async def until_status(job: Job[Any], status: str, timeout: float = 10.0) -> None:
    """Return once a job has that status."""

    async def has_status() -> bool:
        return await job.status() == status

    await until(has_status, f"job {job.id} should be {status}", timeout)


async def status_of(url: str) -> int:
    """Return the status code that an HTTP client gets; 0 if nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> int:
        try:
            with opener.open(url, timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    return await asyncio.to_thread(ask)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the accounts of all fault tests that passed."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {said}"
        for report in terminalreporter.getreports("passed")
        for name, said in report.user_properties
        if name == ACCOUNT and report.when == "call"
    ]
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
