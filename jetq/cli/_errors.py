"""What can go wrong in the command line only.

JetqError
├── AppEmptyError         an app has nothing on the server
├── DataDirTakenError     another server keeps its data where ours would
├── LocalServerEndedError a nats-server of ours is gone
├── TaskAmbiguousError    several tasks have the name that was given
└── NoDeadLetterError     a job is not among the dead letters
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jetq._errors import JetqError

__all__ = [
    "AppEmptyError",
    "DataDirTakenError",
    "LocalServerEndedError",
    "NoDeadLetterError",
    "TaskAmbiguousError",
]


class AppEmptyError(JetqError):
    """An app has nothing on the server."""

    def __init__(self, app: str, servers: str) -> None:
        super().__init__(app, servers)
        self.app = app
        self.servers = servers

    def __str__(self) -> str:
        return (
            f"app {self.app!r} has nothing at {self.servers}: no job was ever enqueued, "
            "or the app or the server is named wrong"
        )


class DataDirTakenError(JetqError):
    """Another nats-server that was started by jetq keeps its data in a directory."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.data_dir = data_dir

    def __str__(self) -> str:
        return (
            f"a nats-server keeps its data in {str(self.data_dir)!r} already; use that one, "
            "or choose another directory with --data-dir"
        )


class LocalServerEndedError(JetqError):
    """The nats-server that was started here ended by itself."""

    def __init__(self, url: str, log: Path) -> None:
        super().__init__(url, log)
        self.url = url
        self.log = log

    def __str__(self) -> str:
        return f"the nats-server at {self.url} ended by itself; its log is {str(self.log)!r}"


class TaskAmbiguousError(JetqError):
    """The last part of a task's name fits several tasks."""

    def __init__(self, name: str, tasks: Sequence[str]) -> None:
        super().__init__(name, tasks)
        self.name = name
        self.tasks = tuple(tasks)

    def __str__(self) -> str:
        return f"{self.name!r} may be any of {', '.join(self.tasks)}; give more of the name"


class NoDeadLetterError(JetqError):
    """A job is not among the dead letters."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return (
            f"job {self.job_id!r} is not among the dead letters; "
            "`jetq dead list` shows what is, `jetq jobs show` where the job is"
        )
