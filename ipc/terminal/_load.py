"""Find the object that `MODULE:NAME` names."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import typer

from ._errors import ModuleBrokenError, ObjectMissingError

__all__ = ["import_module", "load"]

T = TypeVar("T")

MAX_TRACE_LINES = 8


def load(place: str, wanted: type[T] | tuple[type[T], ...], what: str) -> T:
    """Import an object; the current directory counts as a place to import from.

    Args:
        place: `module:name`.
        what: What it should be, in a word, for errors: "app".

    Raises:
        typer.BadParameter: `place` is not written as `module:name`.
        ObjectMissingError: The module does not exist, or what it has is of another type.
        ModuleBrokenError: The module raises when it is imported.
    """
    module_name, colon, attribute = place.partition(":")
    if not colon or not module_name or not attribute:
        example = wanted[0] if isinstance(wanted, tuple) else wanted
        raise typer.BadParameter(
            f"{place!r} is not written as MODULE:{what.upper()}, such as shop.tasks:{what} for "
            f"`{what} = {example.__name__}(…)` in shop/tasks.py"
        )
    found: Any = import_module(module_name, what, place)
    for name in attribute.split("."):
        if not hasattr(found, name):
            reason = f"module {module_name!r} has no {attribute!r}"
            raise ObjectMissingError(what, place, reason + suggestion(found, wanted))
        found = getattr(found, name)
    if not isinstance(found, wanted):
        reason = f"{attribute!r} is of type {type(found).__name__!r}"
        raise ObjectMissingError(what, place, reason + suggestion(found, wanted))
    return found


def import_module(name: str, what: str, place: str) -> ModuleType:
    """Import a module, telling a missing one from one that raises.

    Raises:
        ObjectMissingError: It does not exist.
        ModuleBrokenError: It raises.
    """
    if name.startswith((".", "/")):
        raise ObjectMissingError(
            what,
            place,
            "a module is named as it is imported, such as shop.tasks, from the folder above",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # Also raised by an import inside the module; then it names another one.
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise ModuleBrokenError(name, end_of_trace(exc)) from exc
        reason = f"there is no module {exc.name!r} in {Path.cwd()} nor among the installed ones"
        if "/" in name or name.endswith(".py"):
            reason += f"; write it as {name.removesuffix('.py').strip('./').replace('/', '.')!r}"
        raise ObjectMissingError(what, place, reason) from exc
    except (Exception, SystemExit) as exc:
        raise ModuleBrokenError(name, end_of_trace(exc)) from exc


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


def suggestion(module: Any, wanted: type[Any] | tuple[type[Any], ...]) -> str:
    """Return what a module does have, as the end of a sentence."""
    members = getattr(module, "__dict__", {}).items()
    names = [name for name, value in members if isinstance(value, wanted)]
    return f"; there is {', '.join(map(repr, names))}" if names else ""
