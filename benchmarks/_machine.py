"""Where and when the figures were measured: what belongs beside every one of them."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from ipc import find_server_binary

__all__ = ["Machine"]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, the versions and the time. Holds no name, path or address."""

    measured_at: datetime
    system: str
    processor: str
    cores: int
    python: str
    loop: str
    nats_server: str
    nats_py: str
    jetq: str

    @classmethod
    def here(cls, loop: str) -> Machine:
        """Return what this machine says of itself."""
        server = subprocess.run(
            [find_server_binary(), "--version"], capture_output=True, text=True, check=True
        )
        return cls(
            measured_at=datetime.now(UTC).replace(microsecond=0),
            system=f"{platform.system()} {platform.machine()}",
            processor=_processor(),
            cores=os.cpu_count() or 0,
            python=f"{platform.python_implementation()} {platform.python_version()}",
            loop=f"uvloop {version('uvloop')}" if loop == "uvloop" else "asyncio",
            nats_server=server.stdout.strip().rpartition("v")[2],
            nats_py=version("nats-py"),
            jetq=version("jetq"),
        )

    def __str__(self) -> str:
        return (
            f"{self.cores} cores ({self.processor}), {self.system}, {self.python}, {self.loop}, "
            f"nats-server {self.nats_server}, nats-py {self.nats_py}, jetq {self.jetq}, "
            f"{self.measured_at:%Y-%m-%d}"
        )


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown processor"
