"""Health checks: what a probe is told while a worker starts, works and drains."""

import asyncio
import json
import socket
import urllib.error
import urllib.request

import pytest

from ipc.terminal import serve_health
from jetq import App
from tests.conftest import until


@pytest.fixture
def listener():
    """A socket that listens on a free port."""
    return socket.create_server(("127.0.0.1", 0))


async def probe(listener: socket.socket, path: str) -> tuple[int, dict]:
    """Return what an HTTP client gets from a path: status code and decoded body."""
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> tuple[int, dict]:
        try:
            with opener.open(url, timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(ask)


async def test_worker_is_alive_but_not_ready_before_it_connected(app: App, listener):
    """A worker that still starts should get no traffic, and no restart either."""
    worker = app.worker(queues=["mail"])
    async with serve_health(worker, listener):
        live, ready = await probe(listener, "/livez"), await probe(listener, "/readyz")

    assert live[0] == 200
    assert ready[0] == 503
    assert ready[1]["status"] == "unavailable"
    assert ready[1]["connected"] is False


async def test_worker_is_ready_until_it_drains(app: App, listener):
    """Told to stop, a worker finishes its jobs: alive, but no longer ready."""
    going_on = asyncio.Event()

    @app.task(queue="mail")
    async def send() -> None:
        await going_on.wait()

    async with app.worker(grace=10) as worker, serve_health(worker, listener):
        run = asyncio.create_task(worker.run())
        await until(lambda: worker.is_ready, "the worker should be ready")
        await send.enqueue()
        await until(lambda: worker.running == 1, "the job should run")
        working = await probe(listener, "/readyz")
        worker.stop()
        await until(lambda: not worker.is_ready, "the worker should drain")

        draining = await probe(listener, "/readyz")
        live = await probe(listener, "/livez")
        going_on.set()
        await run

        assert working == (
            200,
            {
                "status": "ok",
                "connected": True,
                "running": 1,
                "stats": {
                    "completed": 0,
                    "retried": 0,
                    "dead": 0,
                    "expired": 0,
                    "dropped": 0,
                    "given_back": 0,
                },
            },
        )
        assert draining[0] == 503
        assert draining[1]["running"] == 1
        assert live[0] == 200
        assert worker.stats.completed == 1
