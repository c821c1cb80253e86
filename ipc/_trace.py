"""Tracebacks that begin where the user's own code does."""

from __future__ import annotations

from types import TracebackType

__all__ = ["own_frames"]


def own_frames(error: BaseException, *ours: str) -> TracebackType | None:
    """Return an exception's traceback without the frames between the caller and user code.

    Args:
        ours: What the names of modules begin with that are left out, besides ipc's.
    """
    frames = error.__traceback__
    while frames is not None:
        module: str = frames.tb_frame.f_globals.get("__name__", "")
        if not module.startswith(("ipc._", *ours)):
            break
        frames = frames.tb_next
    return frames
