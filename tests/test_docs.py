"""What the documentation says is so: its programs run, its commands work, its links lead on."""

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import nats
import pytest

from ipc import LocalServer
from jetq import App
from tests.interop.conftest import CLIENT, node_packages

__all__ = ["node_packages"]

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs/how-to", ROOT / "deploy", ROOT / "examples")
    for path in [*folder.glob("*.md"), *folder.glob("cluster/*.md")]
)
REFERENCE = ROOT / "docs" / "reference.md"

JOB_ID = r"[a-z]+\.-\.[\w=-]{16}"

GUIDES = [
    "publish-and-subscribe-events.md",
    "ask-a-service.md",
    "handle-every-event.md",
    "change-a-type.md",
    "allow-a-service-only-its-own.md",
    "connect-jobs-and-services.md",
    "trace-and-follow.md",
]
JAVASCRIPT = "talk-from-another-language.md"


def page_id(path: Path) -> str:
    """Return how a page is called in the tests' output."""
    return str(path.relative_to(ROOT))


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file it belongs in, as its first line says: `# shop.py`, `// tell.mjs`."""
        found = re.match(r"(?:#|//) ([\w/]+\.\w+)(, continued)?\n", self.text)
        return found[1] if found else None

    @property
    def continues(self) -> bool:
        """Whether it goes on where an earlier block of the file ends."""
        return self.text.partition("\n")[0].endswith(", continued")


def blocks(page: Path, after: str = "") -> list[Block]:
    """Return a page's blocks of code, in order; those after a heading, if one is given."""
    text = page.read_text("utf-8")
    text = text[text.index(f"\n{after}\n") if after else 0 :]
    found = re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [Block(language, textwrap.dedent(text)) for _, language, text in found]


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the programs of a page; what is continued is appended, what comes anew replaces."""
    written: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "python" and block.file is not None:
            before = written.get(block.file, "") if block.continues else ""
            written[block.file] = before + block.text
    for name, text in written.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in written]


def environment(server_url: str) -> dict[str, str]:
    """Return the environment of a reader: the `jetq` command on the path, a server to use."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        **os.environ,
        "NATS_URL": server_url,
        "PATH": path,
        "COLUMNS": "200",
        # As on a terminal, what is printed is there at once.
        "PYTHONUNBUFFERED": "1",
    }


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
    program, _ = write_files(ROOT / "README.md", tmp_path)

    assert "sent 'hi' to ada@example.com" in run_python(program, server_url)


async def test_jobs_of_a_plain_client_are_run(server_url: str, tmp_path: Path):
    """A worker runs what the programs in the protocol's description enqueue with nats-py alone."""
    write_files(ROOT / "docs/protocol.md", tmp_path)
    programs = [tmp_path / "enqueue.py", tmp_path / "delayed.py"]
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


def steps(page: Path, after: str = "") -> Iterator[Block | Step]:
    """Yield a page's files and commands in the order of reading."""
    for block in blocks(page, after):
        if block.file is not None:
            yield block
        elif block.language == "console":
            for text in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, *shown = text.replace("\\\n", "").strip().splitlines()
                yield Step(command, shown)


# Done before a test begins.
DONE = ("make ", "pip ", "npm install", "jetq server")

# What these show may take a moment to become true: a person looks again.
LOOKS = ("jetq jobs show", "ipc services", "ipc durables", "ipc types", "curl ")

# Ports on the pages; a test has others.
PORTS = ("4222", "8080")


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self.folder = folder
        self.environment = environment(server_url)
        self.ids: dict[str, str] = {}
        """The job ids on the page, and what they are here."""
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.background: dict[int, subprocess.Popen[bytes]] = {}
        """What runs in the background, by the number that a shell gives it."""
        self.screen = folder / "screen.txt"
        """What those print, to the terminal that they were started from."""
        self.screen.touch()
        self.seen = 0
        """How many lines of that were shown on the page."""

    def here(self, text: str) -> str:
        """Return what stands on the page with the ids and ports of this test."""
        for port, ours in self.ports.items():
            text = re.sub(rf"\b{port}\b", ours, text)
        return re.sub(JOB_ID, lambda found: self.ids.get(found[0], found[0]), text)

    def read(self, page: Path, after: str = "") -> None:
        """Follow a page, from a heading if one is given, to its end."""
        try:
            for step in steps(page, after):
                self.write(step) if isinstance(step, Block) else self.follow(step)
        finally:
            for number in list(self.background):
                self.kill(number)

    def write(self, block: Block) -> None:
        with (self.folder / str(block.file)).open("a" if block.continues else "w") as file:
            file.write(self.here(block.text))

    def follow(self, step: Step) -> None:
        command = self.here(step.command)
        if command.startswith(DONE):
            return
        if command.startswith("kill %"):
            self.kill(int(command.removeprefix("kill %")))
        elif command.startswith("nats "):
            output = asyncio.run(self.with_nats(*shlex.split(command)[1:]))
            self.expect(command, output, step.shown)
        elif command.endswith(" &"):
            self.start(command.removesuffix(" &"))
            self.expect(command, "", step.shown)
        else:
            self.run(command, step.shown)

    def start(self, command: str) -> None:
        """Run a command in the background, numbered as a shell does."""
        with self.screen.open("a") as screen:
            self.background[max(self.background, default=0) + 1] = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdout=screen,
                stderr=screen,
                start_new_session=True,
            )

    def kill(self, number: int) -> None:
        """End what runs in the background, as `kill` does."""
        process = self.background.pop(number)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)

    def run(self, command: str, shown: list[str]) -> None:
        """Run a command, again where that is what a person would do."""
        deadline = time.monotonic() + 30
        while True:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=30,
            )
            if self.shows(done.stdout, shown):
                break
            looks = any(look in command for look in LOOKS)
            if not looks or time.monotonic() > deadline:
                self.expect(command, done.stdout, shown)
                break
        fails = any(line.startswith(("jetq: ", "ipc: ")) for line in shown)
        assert (done.returncode != 0) == fails, done.stdout

    async def with_nats(self, verb: str, *arguments: str) -> str:
        """Do what the `nats` tool does, which comes with no package; return what it shows."""
        subject, body = arguments[-2:]
        client = await nats.connect(self.environment["NATS_URL"])
        try:
            if verb == "request":
                return (await client.request(subject, body.encode(), timeout=5)).data.decode()
            if "--jetstream" in arguments:
                await client.jetstream().publish(subject, body.encode())
            else:
                await client.publish(subject, body.encode())
            return ""
        finally:
            await client.drain()

    def expect(self, command: str, output: str, shown: list[str]) -> None:
        """Return once what is shown has come, some of it from the background."""
        deadline = time.monotonic() + 10
        while not self.shows(output, shown):
            screen = "\n".join(self.screen.read_text().splitlines()[self.seen :])
            told = f"{command}\n{output}\nin the background\n{screen}\ninstead of\n{shown}"
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def shows(self, output: str, shown: list[str]) -> bool:
        """Return whether the shown lines came, in order, from a command or the background."""
        printed, screen = output.splitlines(), self.screen.read_text().splitlines()
        lines = [*printed, *screen[self.seen :]]
        position = 0
        for wanted in shown:
            while position < len(lines) and not self.same(lines[position], wanted):
                position += 1
            if position == len(lines):
                return False
            position += 1
        self.seen += max(0, position - len(printed))
        return True

    def same(self, line: str, wanted: str) -> bool:
        """Return whether a line is the wanted one, spaces apart; a new job id is taken note of."""
        pattern = re.escape(" ".join(wanted.split())).replace("…", ".*")
        shown_ids: list[str] = re.findall(JOB_ID, wanted)
        for shown_id in shown_ids:
            here = re.escape(self.ids[shown_id]) if shown_id in self.ids else JOB_ID
            pattern = pattern.replace(re.escape(shown_id), f"({here})")
        found = re.fullmatch(pattern, " ".join(line.split()))
        if found is None:
            return False
        self.ids.update(zip(shown_ids, found.groups(), strict=True))
        return True


def free_ports(count: int) -> list[str]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [str(listener.getsockname()[1]) for listener in listeners]


@pytest.mark.timeout(180)
def test_the_tutorial_can_be_followed(tmp_path: Path):
    """Every file and command of the tutorial, in its order, shows what the tutorial shows."""
    with contextlib.closing(OwnServer()) as server:
        Reader(tmp_path, server.url).read(ROOT / "docs" / "tutorial.md")


@pytest.mark.timeout(90)
def test_the_readme_can_be_followed(tmp_path: Path):
    """What it lets a visitor type shows what it says."""
    with contextlib.closing(OwnServer()) as server:
        Reader(tmp_path, server.url).read(ROOT / "README.md", after="## Services that talk")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_can_be_followed(guide: str, tmp_path: Path):
    """A guide whose programs and commands belong together shows what it says."""
    with contextlib.closing(OwnServer()) as server:
        Reader(tmp_path, server.url).read(ROOT / "docs" / "how-to" / guide)


@pytest.mark.timeout(90)
def test_the_protocol_of_messages_is_as_described(tmp_path: Path):
    """Clients that know NATS alone speak with a service by the description of its protocol."""
    with contextlib.closing(OwnServer()) as server:
        Reader(tmp_path, server.url).read(ROOT / "docs" / "protocol.md", after="## ipc")


@pytest.mark.timeout(150)
def test_the_guide_in_javascript_can_be_followed(node_packages: None, tmp_path: Path):
    """With Node.js and its NATS client, as the guide says; skipped where they are not."""
    (tmp_path / "node_modules").symlink_to(CLIENT / "node_modules")

    with contextlib.closing(OwnServer()) as server:
        Reader(tmp_path, server.url).read(ROOT / "docs" / "how-to" / JAVASCRIPT)


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
