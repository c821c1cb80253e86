"""An environment for each peer, with the versions that its requirements file pins."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

__all__ = ["ENVIRONMENTS", "InstallError", "install", "versions"]

HERE = Path(__file__).parent

ENVIRONMENTS = HERE.parent / ".peers"
"""Where they are kept from run to run."""


class InstallError(Exception):
    """The environment of a peer could not be made."""

    def __init__(self, peer: str, output: str) -> None:
        super().__init__(peer, output)
        self.peer, self.output = peer, output

    def __str__(self) -> str:
        lines = self.output.strip().splitlines() or ["no output"]
        return f"not installed: {lines[-1]}"


async def install(peer: str, environments: Path = ENVIRONMENTS) -> Path:
    """Return the interpreter of the peer's environment, made now unless it is up to date.

    Raises:
        InstallError: There was no environment to be had.
    """
    wanted = _requirements(peer).read_text(encoding="utf-8")
    environment = environments / peer
    python, stamp = environment / "bin" / "python", environment / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    await _run(peer, sys.executable, "-m", "venv", str(environment))
    pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet")
    await _run(peer, *pip, "install", "--requirement", str(_requirements(peer)))
    stamp.write_text(wanted, encoding="utf-8")
    return python


async def versions(peer: str, python: Path) -> dict[str, str]:
    """Return the versions of the packages that the peer's requirements name.

    Raises:
        InstallError: The environment does not answer.
    """
    listed = await _run(peer, str(python), "-m", "pip", "list", "--format", "json")
    installed = {
        package["name"].lower(): package["version"]
        for package in msgspec.json.decode(listed, type=list[dict[str, str]])
    }
    lines = _requirements(peer).read_text(encoding="utf-8").splitlines()
    named = [re.split(r"[\[=]", line)[0] for line in lines if not line.startswith("#")]
    return {name: installed[name] for name in named}


def _requirements(peer: str) -> Path:
    return HERE / "requirements" / f"{peer}.txt"


async def _run(peer: str, *command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise InstallError(peer, errors.decode(errors="replace"))
    return output
