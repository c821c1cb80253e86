"""Say over HTTP whether a worker lives and works, for whoever restarts and routes.

    GET /livez    503 if its event loop was held up for long: restart it
    GET /readyz   503 while it starts, is disconnected, or finishes its last jobs

It answers from the worker's own event loop: no answer at all means that it is blocked.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import anyio
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ._worker import Worker, WorkerStats

__all__ = ["Health", "health_app", "serve_health"]


class Health(msgspec.Struct, frozen=True):
    """What a probe is told, as JSON."""

    status: str
    """`ok` or `unavailable`."""
    connected: bool
    """Whether the NATS server can be reached."""
    running: int
    """How many jobs run now."""
    stats: WorkerStats


def health_app(worker: Worker) -> Starlette:
    """Return an application that answers `/livez` and `/readyz` for a worker."""

    def answer(good: bool) -> Response:
        app = worker.app
        health = Health(
            status="ok" if good else "unavailable",
            connected=app.is_open and app.connection.is_connected,
            running=worker.running,
            stats=worker.stats,
        )
        return Response(
            msgspec.json.encode(health),
            status_code=200 if good else 503,
            media_type="application/json",
        )

    # Coroutines, so that they run in the event loop they vouch for, not in a thread.
    async def live(request: Request) -> Response:
        return answer(worker.is_live)

    async def ready(request: Request) -> Response:
        return answer(worker.is_ready)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready)])


class QuietServer(uvicorn.Server):
    """A server inside a process that has signal handlers of its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone."""
        yield


@asynccontextmanager
async def serve_health(worker: Worker, listener: socket.socket) -> AsyncGenerator[None]:
    """Answer health checks of a worker for as long as the block runs.

    Args:
        listener: A socket that listens already; closed afterwards.
    """
    with listener:
        config = uvicorn.Config(
            health_app(worker),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = QuietServer(config)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            try:
                yield
            finally:
                server.should_exit = True
