"""Buses on the shared server, each test in a world of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc import Bus, Service
from tests.conftest import until

BusFactory = Callable[..., Bus]


@pytest.fixture
def new_bus(server_url: str, namespace: str) -> BusFactory:
    """Make a bus on the shared server, in this test's namespace, that keeps all in memory."""

    def make(name: str = "test", **options: Any) -> Bus:
        settings = {"servers": server_url, "prefix": namespace, "storage": "memory", "grace": 1.0}
        return Bus(name, **{**settings, **options})

    return make


@pytest.fixture
async def bus(new_bus: BusFactory) -> AsyncIterator[Bus]:
    """An open bus with the default settings."""
    async with new_bus() as bus:
        yield bus


@asynccontextmanager
async def serving(bus: Bus, *services: Service) -> AsyncIterator[None]:
    """Run services beside the test, and let them end in order."""
    task = asyncio.create_task(bus.serve(*services))

    def has_begun() -> bool:
        if task.done():
            task.result()
        return len(bus.serving) >= len(services) and bus.is_ready

    try:
        await until(has_begun, "the services should have begun")
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
