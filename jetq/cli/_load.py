"""Find the app that a command is about."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ipc.terminal import load
from jetq._app import App

from ._errors import AppEmptyError

__all__ = ["load_app", "open_app"]


def load_app(place: str) -> App:
    """Import the app that `module:app` names; see `ipc.terminal.load`."""
    return load(place, App, "app")


def name_or_load_app(place: str) -> App:
    """Return the app that `module:app` names, or, of a bare name, one without its tasks.

    That is enough to look at jobs and to steer them; it creates nothing on the server.
    """
    return load_app(place) if ":" in place else App(place, declare=False)


@asynccontextmanager
async def open_app(place: str) -> AsyncGenerator[App]:
    """Connect the app that `module:app` or a bare name names, to look at what it has stored.

    Raises:
        AppEmptyError: It has nothing on the server: most likely the name is wrong.
    """
    async with name_or_load_app(place) as app:
        if await app.jetstream.find_stream(app.layout.results_stream) is None:
            raise AppEmptyError(app.name, app.settings.shown_servers)
        yield app
