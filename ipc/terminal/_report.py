"""Tell a person what went wrong: one sentence on stderr, for what can be expected."""

from __future__ import annotations

import traceback
from typing import cast

from ipc import IpcError

from ._output import note

__all__ = ["report"]


def report(
    error: BaseException, program: str, expected: tuple[type[BaseException], ...] = ()
) -> None:
    """Print an error; with its traceback only if nobody expected it.

    Args:
        program: What the person has called.
        expected: Besides `IpcError` and `OSError`.
    """
    error = unwrap(error)
    if isinstance(error, (IpcError, OSError, *expected)):
        note(f"{program}: {error}", style="red")
        return
    note("".join(traceback.format_exception(error)))
    note(f"{program}: unexpected {type(error).__name__}: {error}", style="red")


def unwrap(error: BaseException) -> BaseException:
    """Return the error itself: a task group wraps even a single one."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        if len(inner) == 1:
            return unwrap(inner[0])
    return cast(BaseException, error)
