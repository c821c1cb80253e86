"""What can go wrong in a command line only."""

from __future__ import annotations

from ipc import IpcError

__all__ = ["ModuleBrokenError", "ObjectMissingError"]


class ObjectMissingError(IpcError):
    """There is nothing where an object should be, or something else."""

    def __init__(self, what: str, place: str, reason: str) -> None:
        super().__init__(what, place, reason)
        self.what = what
        self.place = place
        self.reason = reason

    def __str__(self) -> str:
        return f"no {self.what} at {self.place!r}: {self.reason}"


class ModuleBrokenError(IpcError):
    """A module, or one that it imports, raises when it is imported."""

    def __init__(self, module: str, trace: str) -> None:
        super().__init__(module, trace)
        self.module = module
        self.trace = trace
        """The end of the traceback."""

    def __str__(self) -> str:
        return f"module {self.module!r} cannot be imported:\n{self.trace}"
