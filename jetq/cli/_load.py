"""Find the app that `MODULE:APP` names."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import typer

from jetq._app import App

from ._errors import AppBrokenError, AppEmptyError, AppNotFoundError

__all__ = ["load_app", "open_app"]

MAX_TRACE_LINES = 8


def load_app(place: str) -> App:
    """Import an app; the current directory counts as a place to import from.

    Raises:
        typer.BadParameter: `place` is not written as `module:app`.
        AppNotFoundError: The module does not exist, or the name in it is not an app.
        AppBrokenError: The module raises when it is imported.
    """
    module_name, colon, attribute = place.partition(":")
    if not colon or not module_name or not attribute:
        raise typer.BadParameter(
            f"{place!r} is not written as MODULE:APP, such as shop.tasks:app for "
            "`app = App(…)` in shop/tasks.py"
        )
    if module_name.startswith((".", "/")):
        raise AppNotFoundError(
            place, "a module is named as it is imported, such as shop.tasks, from the folder above"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = import_module(place, module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise AppNotFoundError(
                place, f"module {module_name!r} has no {attribute!r}{suggestion(found)}"
            )
        found = getattr(found, name)
    if not isinstance(found, App):
        raise AppNotFoundError(
            place, f"{attribute!r} is of type {type(found).__name__!r}{suggestion(found)}"
        )
    return found


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


def import_module(place: str, name: str) -> Any:
    """Import a module, telling a missing one from one that raises."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Also raised by an import inside the module; then it names another one.
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise AppBrokenError(name, end_of_trace(exc)) from exc
        reason = f"there is no module {exc.name!r} in {Path.cwd()} nor among the installed ones"
        if "/" in name or name.endswith(".py"):
            reason += f"; write it as {name.removesuffix('.py').strip('./').replace('/', '.')!r}"
        raise AppNotFoundError(place, reason) from exc
    except (Exception, SystemExit) as exc:
        raise AppBrokenError(name, end_of_trace(exc)) from exc


def end_of_trace(exc: BaseException) -> str:
    """Return the last lines of a traceback, which say where it was raised."""
    frames = exc.__traceback__
    while frames is not None and is_import_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(exc), exc, frames, chain=False))
    lines = text.rstrip().splitlines()
    return "\n".join(lines[-MAX_TRACE_LINES:])


def is_import_machinery(file: str) -> bool:
    """Return whether a file is part of how Python imports, or this one."""
    return file.startswith("<frozen importlib") or file in (__file__, importlib.__file__)


def suggestion(module: Any) -> str:
    """Return the apps that a module does have, as the end of a sentence."""
    apps = [name for name, value in getattr(module, "__dict__", {}).items() if is_app(value)]
    return f"; there is {', '.join(map(repr, apps))}" if apps else ""


def is_app(value: Any) -> bool:
    """Return whether a value is an app."""
    return isinstance(value, App)
