"""What can go wrong in a command line only."""

from __future__ import annotations

from ipc import IpcError

__all__ = ["ExtraMissingError", "ModuleBrokenError", "ObjectMissingError", "PortTakenError"]


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


class ExtraMissingError(IpcError):
    """An option needs a package that comes with an extra of jetq."""

    def __init__(self, option: str, extra: str) -> None:
        super().__init__(option, extra)
        self.option = option
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.option} needs more than is installed, the extra {self.extra!r} of jetq: "
            f"pip install '.[{self.extra}]' where its source is"
        )


class PortTakenError(IpcError):
    """Another program listens on a port, or we may not."""

    def __init__(self, host: str, port: int, reason: str, option: str) -> None:
        super().__init__(host, port, reason, option)
        self.host = host
        self.port = port
        self.reason = reason
        self.option = option

    def __str__(self) -> str:
        return (
            f"cannot listen on {self.host}:{self.port} ({self.reason}); "
            f"choose another {self.option.rpartition('-')[2]} with {self.option}"
        )
