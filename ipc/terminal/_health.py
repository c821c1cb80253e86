"""Say over HTTP whether a worker or a service lives and works, for whoever restarts and routes.

    GET /livez    503 if it cannot go on: restart it
    GET /readyz   503 while it starts, is disconnected, or finishes what it has begun

It answers from the event loop that the work is done in: no answer at all means that that one is
blocked.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import anyio
import msgspec
import typer

from ._errors import ExtraMissingError, PortTakenError

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = [
    "MAX_PORT",
    "HealthHostOption",
    "HealthPortOption",
    "Probed",
    "check_health_port",
    "health_checks",
    "serve_health",
]

MAX_PORT = 65_535

HealthPortOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_PORT,
        help="Answer /livez and /readyz here; of several processes, each on the next port.",
        show_default=False,
    ),
]
HealthHostOption = Annotated[str, typer.Option(help="The address that --health-port listens on.")]


class Probed(Protocol):
    """What can be asked how it is."""

    @property
    def is_live(self) -> bool:
        """Whether it can go on."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it takes work now."""
        ...

    def health(self) -> Mapping[str, Any]:
        """Return what a probe is told beside that, as JSON can carry it."""
        ...


def check_health_port(port: int | None) -> None:
    """Check that what answers on the port is installed.

    Raises:
        ExtraMissingError: It is not.
    """
    installed = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
    if port is not None and not installed:
        raise ExtraMissingError("--health-port", "web")


def health_checks(probed: Probed, host: str, port: int | None) -> AbstractAsyncContextManager[None]:
    """Return what answers health checks, if a port for them is given.

    Raises:
        PortTakenError: It cannot listen there.
    """
    if port is None:
        return nullcontext()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as exc:
        at_fault = "port" if exc.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        # Python appends the address, which the error names anyway.
        reason = str(exc.strerror).partition(" (while")[0]
        raise PortTakenError(host, port, reason, f"--health-{at_fault}") from None
    return serve_health(probed, listener)


@asynccontextmanager
async def serve_health(probed: Probed, listener: socket.socket) -> AsyncGenerator[None]:
    """Answer health checks for as long as the block runs; needs the extra `web`.

    Args:
        listener: A socket that listens already; closed afterwards.
    """
    # An extra of its own: only who asks for a port needs it.
    import uvicorn

    class QuietServer(uvicorn.Server):
        """A server inside a process that has signal handlers of its own."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            """Leave signals alone."""
            yield

    with listener:
        config = uvicorn.Config(
            health_app(probed),
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


def health_app(probed: Probed) -> Starlette:
    """Return an application that answers `/livez` and `/readyz`."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    def answer(good: bool) -> Response:
        return Response(
            msgspec.json.encode({"status": "ok" if good else "unavailable", **probed.health()}),
            status_code=200 if good else 503,
            media_type="application/json",
        )

    # Coroutines, so that they run in the event loop they vouch for, not in a thread.
    async def live(request: Request) -> Response:
        return answer(probed.is_live)

    async def ready(request: Request) -> Response:
        return answer(probed.is_ready)

    return Starlette(routes=[Route("/livez", live), Route("/readyz", ready)])
