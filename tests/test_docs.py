"""What the documentation says is so: its programs run, its commands work, its links lead on."""

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from ipc import LocalServer
from jetq import App

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs/how-to", ROOT / "deploy", ROOT / "examples")
    for path in [*folder.glob("*.md"), *folder.glob("cluster/*.md")]
)
REFERENCE = ROOT / "docs" / "reference.md"

JOB_ID = r"[a-z]+\.-\.[\w=-]{16}"


def page_id(path: Path) -> str:
    """Return how a page is called in the tests' output."""
    return str(path.relative_to(ROOT))


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file it belongs in, as its first line says: `# shop.py`."""
        found = re.match(r"# ([\w/]+\.py)(, continued)?\n", self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks of code, in order."""
    found = re.findall(
        r"^( *)```(\w+)\n(.*?)^\1```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [Block(language, textwrap.dedent(text)) for _, language, text in found]


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the programs of a page; what is continued is appended."""
    written: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "python" and block.file is not None:
            written[block.file] = written.get(block.file, "") + block.text
    for name, text in written.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in written]


def environment(server_url: str) -> dict[str, str]:
    """Return the environment of a reader: the `jetq` command on the path, a server to use."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "NATS_URL": server_url, "PATH": path, "COLUMNS": "200"}


def run_python(program: Path, server_url: str) -> str:
    """Run a program of a page and return what it prints."""
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=program.parent,
        env=environment(server_url),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- programs -----------------------------------------------------------------------------


def test_the_twenty_lines_of_the_readme_run(server_url: str, tmp_path: Path):
    """The first program that a visitor sees works as it stands."""
    (program,) = write_files(ROOT / "README.md", tmp_path)

    assert "sent 'hi' to ada@example.com" in run_python(program, server_url)


async def test_jobs_of_a_plain_client_are_run(server_url: str, tmp_path: Path):
    """A worker runs what the programs in the protocol's description enqueue with nats-py alone."""
    programs = write_files(ROOT / "docs/protocol.md", tmp_path)
    app = App("shop", servers=server_url)
    results: list[int] = []

    @app.task(name="add", queue="maths")
    async def add(a: int, b: int) -> int:
        results.append(a + b)
        return a + b

    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        for program in programs:
            await asyncio.to_thread(run_python, program, server_url)
        async with asyncio.timeout(10):
            while len(results) < len(programs):
                await asyncio.sleep(0.05)
        worker.stop()

    assert results == [5, 5]
    assert add.queue == "maths"


def test_the_tests_of_the_testing_guide_pass(tmp_path: Path):
    """Who copies the guide's tests sees them pass."""
    write_files(ROOT / "docs/how-to/test-your-tasks.md", tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "--rootdir", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_every_python_block_passes_the_type_checker(tmp_path: Path):
    """Programs, and the pieces between them, name what exists and use it as it is meant.

    The pieces of a page are checked as one program, in their order.
    """
    roots: list[dict[str, str]] = []
    for number, page in enumerate(PAGES):
        folder = tmp_path / f"page{number}"
        folder.mkdir()
        roots.append({"root": str(folder)})
        write_files(page, folder)
        pieces = [
            block.text for block in blocks(page) if block.language == "python" and not block.file
        ]
        (folder / f"{page.stem.replace('-', '_')}_pieces.py").write_text("\n".join(pieces), "utf-8")

    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps({"executionEnvironments": roots}), "utf-8")

    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--project", config],
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout


# -- commands -----------------------------------------------------------------------------


class Step(NamedTuple):
    """A command of the tutorial, and the lines it shows."""

    command: str
    shown: list[str]


def steps(page: Path) -> Iterator[Block | Step]:
    """Yield a page's files and commands in the order of reading."""
    for block in blocks(page):
        if block.file is not None:
            yield block
        elif block.language == "console":
            for text in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, *shown = text.replace("\\\n", "").strip().splitlines()
                yield Step(command, shown)


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self.folder = folder
        self.environment = environment(server_url)
        self.ids: dict[str, str] = {}
        """The job ids on the page, and what they are here."""
        self.worker: subprocess.Popen[bytes] | None = None

    def write(self, block: Block) -> None:
        with (self.folder / str(block.file)).open("a", encoding="utf-8") as file:
            file.write(block.text)

    def follow(self, step: Step) -> None:
        command = re.sub(JOB_ID, lambda found: self.ids.get(found[0], found[0]), step.command)
        if command.startswith(("pip ", "jetq server")):
            return  # done before this test began
        if command == "kill %1":
            self.stop_worker()
        elif command.endswith(" &"):
            self.worker = subprocess.Popen(
                shlex.split(command.removesuffix(" &")),
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        else:
            self.run(command, step.shown)

    def run(self, command: str, shown: list[str]) -> None:
        """Run a command; what it shows of a job may take a moment to become true."""
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                shlex.split(command),
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
            )
            if self.matches(done.stdout, shown):
                break
            assert "jobs show" in command, f"{command}\n{done.stdout}\ninstead of\n{shown}"
            assert time.monotonic() < deadline, f"{command}\n{done.stdout}\ninstead of\n{shown}"
        fails = any(line.startswith("jetq: ") for line in shown)
        assert (done.returncode != 0) == fails, done.stdout

    def matches(self, output: str, shown: list[str]) -> bool:
        """Return whether the shown lines are among the output, in order, spaces apart."""
        lines = iter(" ".join(line.split()) for line in output.splitlines())
        return all(any(self.same(line, wanted) for line in lines) for wanted in shown)

    def same(self, line: str, wanted: str) -> bool:
        """Return whether a line is the wanted one; a new job id is taken note of."""
        pattern = re.escape(wanted).replace("…", ".*")
        shown_ids: list[str] = re.findall(JOB_ID, wanted)
        for shown_id in shown_ids:
            here = self.ids.get(shown_id)
            pattern = pattern.replace(re.escape(shown_id), re.escape(here) if here else JOB_ID)
        if not re.fullmatch(pattern, line):
            return False
        self.ids.update(zip(shown_ids, re.findall(JOB_ID, line), strict=True))
        return True

    def stop_worker(self) -> None:
        if self.worker is not None:
            self.worker.terminate()
            self.worker.wait(20)
            self.worker = None


@pytest.mark.timeout(180)
def test_the_tutorial_can_be_followed(tmp_path: Path):
    """Every file and command of the tutorial, in its order, shows what the tutorial shows."""
    with contextlib.closing(OwnServer()) as server:
        reader = Reader(tmp_path, server.url)
        try:
            for step in steps(ROOT / "docs" / "tutorial.md"):
                reader.write(step) if isinstance(step, Block) else reader.follow(step)
        finally:
            reader.stop_worker()


class OwnServer:
    """A server for a test that must be the only one to use an app's name."""

    def __init__(self) -> None:
        self._server = LocalServer()
        asyncio.run(self._server.start())
        self.url = self._server.url

    def close(self) -> None:
        asyncio.run(self._server.stop())


# -- links and the reference ----------------------------------------------------------------


def headings(page: Path) -> set[str]:
    """Return what the headings of a page are linked by."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_something(page: Path):
    """Relative links name files and headings that exist."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)

    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if heading:
            assert heading in headings(target), f"{link}: no such heading"


def load_builder() -> ModuleType:
    """Return `docs/build_reference.py` as a module."""
    spec = importlib.util.spec_from_file_location(
        "build_reference", ROOT / "docs" / "build_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date():
    """`docs/reference.md` says what the docstrings and the command line say."""
    assert REFERENCE.read_text("utf-8") == load_builder().build(), "run `make docs`"
