"""The command line, run as a person runs it: processes, signals, output, exit codes."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import typer

from ipc import IpcError
from jetq import App
from jetq.cli._load import load_app
from tests.conftest import status_of, until, until_status

SHOP = """
import asyncio, os, pathlib
import msgspec
from jetq import App

app = App({name!r}, storage="memory", timeout=1.5)

class Email(msgspec.Struct):
    to: str

@app.task(queue="mail")
async def send(email: Email, *, pause: float = 0) -> str:
    pathlib.Path("sending").touch()
    await asyncio.sleep(pause)
    return f"sent to {{email.to}}"

@app.task(queue="mail", name="warehouse.pack", retry=False)
async def pack(weight: int) -> int:
    raise ValueError(f"too heavy: {{weight}}")

@app.task(queue="mail", name="garage.pack")
async def pack_again() -> None: ...

@app.task(queue="who", name="who")
async def who() -> int:
    await asyncio.sleep(0.2)
    return os.getpid()
"""

MAIL = '{"email": {"to": "ada"}}'


class Finished(msgspec.Struct):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What it told the person, in one line and without frames."""
        return " ".join(self.err.replace("│", " ").split())

    @property
    def json(self):
        """What it told a program."""
        return json.loads(self.out)


class Running:
    """A command that runs."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def says(self, text: str, times: int = 1) -> None:
        """Return once it has said something, so many times."""

        def has_said() -> bool:
            return self.log.read_text().count(text) >= times

        try:
            await until(has_said, f"it should have said {text!r}", 15)
        except BaseException:
            print(self.log.read_text())
            raise

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ends(self, timeout: float = 10) -> int:
        """Return its exit code once it has ended."""
        async with asyncio.timeout(timeout):
            return await self.process.wait()


class Shop:
    """A directory with an app in shop.py, and a server for it."""

    def __init__(self, directory: Path, name: str, url: str) -> None:
        self.directory = directory
        self.name = name
        self.environment = {**os.environ, "NATS_URL": url, "COLUMNS": "200"}
        self.environment.pop("JETQ_APP", None)
        self.write("shop.py", SHOP.format(name=name))

    def write(self, name: str, text: str) -> None:
        """Write a file beside shop.py."""
        (self.directory / name).write_text(text)

    async def run(self, *arguments: str, stdin: str = "") -> Finished:
        """Run a command to its end."""
        process = await self._start(arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate(stdin.encode())
        return Finished(process.returncode or 0, out.decode(), err.decode())

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[Running]:
        """Start a command; what is left of it in the end is killed."""
        log = self.directory / f"{arguments[0]}-{len(list(self.directory.iterdir()))}.log"
        with log.open("wb") as err:
            process = await self._start(arguments, stdin=DEVNULL, stdout=err, stderr=err)
        try:
            yield Running(process, log)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self, arguments: tuple[str, ...], **streams: object) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jetq", *arguments),
            cwd=self.directory,
            env=self.environment,
            **streams,  # type: ignore[arg-type]
        )


@pytest.fixture
def shop(tmp_path, namespace, server_url) -> Shop:
    """A shop whose app has this test's namespace on the shared server."""
    return Shop(tmp_path, namespace, server_url)


def children_of(pid: int) -> set[int]:
    """Return the processes that a process started and that still run."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.add(int(stat.parent.name))
    return found


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that ended and waits to be reaped does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- worker ------------------------------------------------------------------------------


async def test_worker_finishes_its_job_on_sigterm(shop, app: App):
    """Told to stop, a worker lets the running job finish, starts no other and exits with 0."""
    async with shop.running("worker", "shop:app", "--queues", "mail") as worker, app:
        await worker.says("worker started")
        done = await shop.run("enqueue", "shop:app", "send", "--args", MAIL, "--wait", "10")
        sending = shop.directory / "sending"
        sending.unlink()
        slow = '{"email": {"to": "grace"}, "pause": 1}'
        id = (await shop.run("enqueue", "shop:app", "shop.send", "--args", slow)).out.strip()
        await until(sending.exists, "the slow job should run")

        worker.tell(signal.SIGTERM)

        assert await worker.ends() == 0
        assert done.out.splitlines()[1] == '"sent to ada"'
        assert await app.job(id).result(timeout=1) == "sent to grace"


async def test_second_signal_ends_a_worker_at_once(shop):
    """Whoever does not want to wait for running jobs says so a second time."""
    endless = '{"email": {"to": "ada"}, "pause": 3600}'
    await shop.run("enqueue", "shop:app", "send", "--args", endless)
    async with shop.running("worker", "shop:app") as worker:
        await until((shop.directory / "sending").exists, "the job should run")
        worker.tell(signal.SIGTERM)
        await worker.says("waiting for running jobs")

        worker.tell(signal.SIGTERM)

        assert await worker.ends(2) == 143
        assert "a second signal, ending at once" in worker.log.read_text()
        assert "Traceback" not in worker.log.read_text()


async def test_ctrl_c_at_a_terminal_stops_cleanly_and_in_colour(shop):
    """At a terminal logs are coloured, and Ctrl-C shows no traceback."""
    terminal, other_end = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jetq", "worker", "shop:app"),
        cwd=shop.directory,
        env={**shop.environment, "TERM": "xterm", "NO_COLOR": ""},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        preexec_fn=lambda: os.login_tty(0),
    )
    os.close(other_end)
    shown = b""
    async with asyncio.timeout(10):
        while b"worker started" not in shown:
            shown += await asyncio.to_thread(os.read, terminal, 4096)
        os.write(terminal, b"\x03")
        code = await process.wait()
    with suppress(OSError):
        while more := os.read(terminal, 4096):
            shown += more
    os.close(terminal)

    assert code == 0
    assert b"\x1b[" in shown
    assert b"worker stopped" in shown
    assert b"Traceback" not in shown


async def test_logs_are_json_if_wished(shop):
    """With --log-json every line on stderr is one object."""
    async with shop.running("worker", "shop:app", "--log-json", "--name", "w1") as worker:
        await worker.says("worker started")
        worker.tell(signal.SIGTERM)
        await worker.ends()

        first = json.loads(worker.log.read_text().splitlines()[0])

        assert first["event"] == "worker started"
        assert first["worker"] == "w1"


async def test_several_processes_share_the_work(shop, app: App):
    """Every process gets jobs, one that is killed is replaced, and all end together."""

    @app.task(queue="who", name="who")
    async def who() -> int:
        return 0

    async def workers_at_work() -> set[int]:
        jobs = await app.enqueue_many([who.call() for _ in range(4)])
        return set(await asyncio.gather(*(job.result(10) for job in jobs)))

    async with shop.running(
        *("worker", "shop:app", "--queues", "who", "--concurrency", "2", "--processes", "2")
    ) as parent:
        await parent.says("worker started", times=2)
        children = children_of(parent.process.pid)
        async with app:
            first = await workers_at_work()
            killed = children.pop()
            os.kill(killed, signal.SIGKILL)
            await parent.says("worker started", times=3)
            second = await workers_at_work()
        parent.tell(signal.SIGTERM)

        assert await parent.ends() == 0
        assert first == children | {killed}
        assert len(second) == 2
        assert killed not in second
        assert not any(is_running(pid) for pid in first | second)


async def test_service_manager_may_signal_every_process(shop, app: App):
    """A worker that hears of a stop twice, from its supervisor too, still finishes its job."""
    slow = '{"email": {"to": "ada"}, "pause": 1}'
    id = (await shop.run("enqueue", "shop:app", "send", "--args", slow)).out.strip()
    async with shop.running("worker", "shop:app", "--processes", "2") as parent, app:
        await until((shop.directory / "sending").exists, "the job should run")

        for pid in [*children_of(parent.process.pid), parent.process.pid]:
            os.kill(pid, signal.SIGTERM)

        assert await parent.ends() == 0
        assert await app.job(id).result(timeout=1) == "sent to ada"


async def test_workers_end_when_their_supervisor_is_killed(shop):
    """No worker is left behind, even by a SIGKILL that nobody can catch."""
    async with shop.running("worker", "shop:app", "--processes", "2") as parent:
        await parent.says("worker started", times=2)
        children = children_of(parent.process.pid)

        parent.tell(signal.SIGKILL)

        gone = "the workers should have ended"
        await until(lambda: not any(is_running(pid) for pid in children), gone)
        assert len(children) == 2


async def test_health_port_tells_when_a_worker_drains(shop, free_port):
    """Ready while it takes jobs; alive, but not ready, while it finishes its last ones."""
    url = f"http://127.0.0.1:{free_port}"
    slow = '{"email": {"to": "ada"}, "pause": 1}'
    await shop.run("enqueue", "shop:app", "send", "--args", slow)
    async with shop.running("worker", "shop:app", "--health-port", str(free_port)) as worker:
        await until((shop.directory / "sending").exists, "the job should run")
        working = [await status_of(f"{url}/{path}") for path in ("livez", "readyz")]

        worker.tell(signal.SIGTERM)
        await worker.says("waiting for running jobs")
        draining = [await status_of(f"{url}/{path}") for path in ("livez", "readyz")]

        assert working == [200, 200]
        assert draining == [200, 503]
        assert await worker.ends() == 0


async def test_worker_reloads_when_a_file_changes(shop):
    """With --reload a change in the code starts the worker anew, errors and all."""
    good = (shop.directory / "shop.py").read_text()
    async with shop.running("worker", "shop:app", "--reload") as worker:
        await worker.says("worker started")

        async def noticed() -> bool:
            # Written again and again, as the watching takes a moment to begin.
            shop.write("shop.py", good + "\nraise KeyError('half-written')\n")
            await asyncio.sleep(0.2)
            return "files changed" in worker.log.read_text()

        await until(noticed, "the change should have been noticed")
        await worker.says("KeyError: 'half-written'")
        await worker.says("waiting for a change")

        shop.write("shop.py", good)
        await worker.says("worker started", times=2)
        worker.tell(signal.SIGINT)

        assert await worker.ends() == 0


# -- server and dev ------------------------------------------------------------------------


async def test_server_serves_until_ctrl_c(shop, free_port):
    """`jetq server` keeps its data in a folder; a second one there or on its port says why not."""
    options = ("--port", str(free_port), "--data-dir", "data")
    async with shop.running("server", *options) as server:
        await server.says(f"nats-server at nats://127.0.0.1:{free_port}, data in")
        second = await shop.run("server", *options)
        third = await shop.run("server", "--data-dir", "data", "--port", str(free_port + 1))
        server.tell(signal.SIGINT)

        assert await server.ends() == 0
        assert (shop.directory / "data" / "jetstream").is_dir()
        assert second.code == 1
        assert "choose another port with --port" in second.said
        assert "Traceback" not in second.err
        assert third.code == 1
        assert "choose another directory with --data-dir" in third.said


async def test_dev_runs_server_and_worker(shop, free_port):
    """`jetq dev` is all that is needed to work on an app; one Ctrl-C ends all of it."""
    async with shop.running("dev", "shop:app", "--port", str(free_port)) as dev:
        await dev.says("worker started")
        children = children_of(dev.process.pid)
        shop.environment["NATS_URL"] = f"nats://127.0.0.1:{free_port}"
        done = await shop.run("enqueue", "shop:app", "send", "--args", MAIL, "--wait", "10")
        dev.tell(signal.SIGINT)

        assert await dev.ends() == 0
        assert done.code == 0
        assert len(children) == 2
        assert not any(is_running(pid) for pid in children)


# -- one job -------------------------------------------------------------------------------


async def test_enqueued_job_is_shown_and_cancelled(shop):
    """A job can be followed and steered by its id; the app's name is enough for that."""
    enqueue = ("enqueue", "shop:app", "send", "--args", "-", "--id", "first", "--delay", "3600")
    enqueued = await shop.run(*enqueue, "--priority", "high", "--json", stdin=MAIL)
    again = await shop.run(*enqueue, stdin=MAIL)
    id = enqueued.json["id"]
    waiting = await shop.run("jobs", "show", id, "--app", shop.name, "--json")
    cancelled = await shop.run("jobs", "cancel", id, "--app", shop.name, "--json")
    too_late = await shop.run("jobs", "cancel", id, "--app", "shop:app")
    shown = await shop.run("jobs", "show", id, "--app", "shop:app")

    assert enqueued.json == {"id": id, "task": "shop.send", "queue": "mail", "created": True}
    assert again.out.strip() == id
    assert "was there already" in again.said
    assert waiting.json["status"] == "scheduled"
    assert cancelled.json == {"id": id, "cancelled": True}
    assert too_late.code == 1
    assert "had ended before" in too_late.said
    assert "status    cancelled" in shown.out
    assert "\x1b[" not in shown.out
    assert not any(line.endswith(" ") for line in shown.out.splitlines())


async def test_program_that_waits_in_vain_still_learns_the_id(shop):
    """Without an outcome in time, --json says which job it is and where it is."""
    waited = await shop.run(
        "enqueue", "shop:app", "send", "--args", MAIL, "--json", "--wait", "0.1"
    )

    assert waited.code == 1
    assert "has no outcome after 0.1 s" in waited.said
    assert waited.json["id"].startswith("mail.")
    assert waited.json["outcome"]["status"] == "pending"


async def test_worker_warns_of_a_queue_that_no_task_uses(shop):
    """A queue's name with a typo in it is not waited on in silence."""
    async with shop.running("worker", "shop:app", "--queues", "mial") as worker:
        await worker.says("no task of the app uses this queue")
        await worker.says("worker started")
        worker.tell(signal.SIGTERM)

        assert await worker.ends() == 0


async def test_failed_job_is_shown_with_its_traceback_and_retried(shop):
    """What failed says where; it waits among the dead letters until somebody decides."""
    about = ("-A", shop.name)
    async with shop.running("worker", "shop:app") as worker:
        await worker.says("worker started")
        pack = ("enqueue", "shop:app", "warehouse.pack", "--args", '{"weight": 90}', "--wait", "9")
        failed, in_words = await asyncio.gather(shop.run(*pack, "--json"), shop.run(*pack))
        worker.tell(signal.SIGTERM)
        await worker.ends()
    id = failed.json["id"]
    shown, table, lines, body = await asyncio.gather(
        shop.run("jobs", "show", id, *about),
        shop.run("dead", "list", *about),
        shop.run("dead", "list", "--json", *about),
        shop.run("dead", "show", id, "--raw", *about),
    )
    retried = await shop.run("jobs", "retry", id, "--json", *about)
    waiting = await shop.run("jobs", "show", id, "--json", *about)

    assert failed.code == 1
    assert failed.json["outcome"]["status"] == "failed"
    assert in_words.code == 1
    assert "failed 1 of 1 attempts: too heavy: 90" in in_words.said
    assert "raise ValueError(" in shown.out
    assert id in table.out
    assert "warehouse.pack" in table.out
    letters = [json.loads(line) for line in lines.out.splitlines()]
    assert [letter["task"] for letter in letters] == ["warehouse.pack", "warehouse.pack"]
    assert json.loads(body.out)["args"] == {"weight": 90}
    assert retried.json == {"id": id, "retried": True}
    assert waiting.json["status"] == "pending"


async def test_dead_letters_are_replayed_and_thrown_away(shop, app: App, client):
    """By id, by queue or all; nothing is thrown away without a yes."""
    async with shop.running("worker", "shop:app") as worker, app:
        await worker.says("worker started")
        for token in ("one", "two", "three"):
            subject = f"jetq.{shop.name}.task.mail.normal.-.{token}"
            await client.jetstream().publish(subject, b"not a job")
        await until_status(app.job("mail.-.three"), "failed")
        worker.tell(signal.SIGTERM)
        await worker.ends()
    letters = ("-A", shop.name)
    shown, unclear, hesitant = await asyncio.gather(
        shop.run("dead", "show", "mail.-.one", *letters),
        shop.run("dead", "purge", *letters),
        shop.run("dead", "purge", "--all", *letters, stdin="n\n"),
    )
    retried = await shop.run("dead", "retry", "mail.-.one", *letters, "--json")
    of_queue = await shop.run("dead", "purge", "--queue", "mail", "--yes", "--json", *letters)
    too_late = await shop.run("dead", "purge", "mail.-.nowhere", "--yes", *letters)
    missing = await shop.run("dead", "show", "mail.-.one", *letters)

    assert "not a job" in shown.out
    assert retried.json == {"retried": ["mail.-.one"]}
    assert unclear.code == 2
    assert "say which" in unclear.said
    assert hesitant.code == 1
    assert of_queue.json == {"purged": 2}
    assert too_late.code == 1
    assert "is not among the dead letters" in too_late.said
    assert missing.code == 1
    assert "not among the dead letters" in missing.said


# -- streams ---------------------------------------------------------------------------------


async def test_streams_are_compared_and_applied(shop, client):
    """What is missing or differs is shown first, and changed only by command."""
    before = await shop.run("streams", "show", "-A", "shop:app")
    applied = await shop.run("streams", "apply", "-A", "shop:app", "--json")
    after = await shop.run("streams", "show", "-A", "shop:app", "--json")
    stream = f"jetq-{shop.name}-queue-mail"
    config = (await client.jetstream().stream_info(stream)).config
    config.allow_direct = False
    await client.jetstream().update_stream(config)
    changed = await shop.run("streams", "show", "-A", "shop:app")
    repaired = await shop.run("streams", "apply", "-A", "shop:app")

    assert f"+ {stream}: missing" in before.out
    assert stream in {report["stream"] for report in applied.json}
    assert {report["status"] for report in after.json} == {"ok"}
    assert f"~ {stream}: differs\n    allow_direct: false -> true" in changed.out
    assert f"~ {stream}: changed" in repaired.out


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("{}", "is not written as MODULE:APP"),
        ("missing_{}:app", "there is no module 'missing_"),
        ("{}/tasks.py:app", "write it as '{}.tasks'"),
        ("{}:application", "has no 'application'; there is 'app'"),
        ("{}:send", "'send' is of type 'AsyncTask'; there is 'app'"),
        ("broken_{}:app", "in <module>\n    import surely_not_installed\n"),
        ("half_{}:app", "SyntaxError: "),
    ],
)
def test_app_that_cannot_be_loaded_is_explained(shop, namespace, monkeypatch, place, sentence):
    """Whether module, name or the module's own imports are wrong: the error says which."""
    monkeypatch.chdir(shop.directory)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shop.write(f"{namespace}.py", (shop.directory / "shop.py").read_text())
    shop.write(f"broken_{namespace}.py", "import surely_not_installed\n")
    shop.write(f"half_{namespace}.py", "app = (\n")

    with pytest.raises((IpcError, typer.BadParameter)) as caught:
        load_app(place.format(namespace))

    assert sentence.format(namespace) in str(caught.value)
    assert "importlib" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("worker shop", 2, "'shop' is not written as MODULE:APP"),
        ("worker shoe:app", 1, "there is no module 'shoe' in"),
        ("worker shop:app --queues mail:much", 2, "weight 'much' of queue 'mail' is not a number"),
        ("worker shop:app --queues mail:nan", 2, "queue 'mail' is not a finite number"),
        ("worker shop:app --queues ,", 2, "--queues ',' names no queue"),
        ("worker ./shop:app", 1, "a module is named as it is imported"),
        (
            "worker shop:app --health-port 1 --health-host 256.0.0.1",
            1,
            "another host with --health",
        ),
        ("worker shop:app --health-port 65535 --processes 2", 2, "2 processes need as many ports"),
        ("worker shop:app --servers nats://127.0.0.1:1", 1, "no NATS server reachable at"),
        ("enqueue shop:app sell", 1, "unknown task 'sell'; this app knows shop.send,"),
        ("enqueue shop:app pack", 1, "'pack' may be any of warehouse.pack, garage.pack"),
        ("enqueue shop:app send --args {", 1, "task 'shop.send': Input data was truncated"),
        ('enqueue shop:app send --args {"email":{"to":1}}', 1, "Expected `str`, got `int`"),
        ("jobs show mail.-.nowhere -A {app}", 1, "no job was ever enqueued, or the app"),
        ("jobs show mail.-.x", 2, "Missing option '--app'"),
        ("sreams show", 2, "No such command 'sreams'"),
    ],
)
async def test_bad_input_is_answered_with_a_sentence(shop, command, code, sentence):
    """What is wrong is said in words, on stderr, without a traceback of our own."""
    result = await shop.run(*command.replace("{app}", shop.name).split())

    assert sentence in result.said
    assert result.code == code
    assert result.out == ""
    assert "Traceback" not in result.err


# -- the rest --------------------------------------------------------------------------------


async def test_version_and_completion(shop):
    """`--version` says what runs, and a shell can complete commands."""
    version = await shop.run("--version")
    shop.environment |= {
        "_JETQ_COMPLETE": "complete_bash",
        "COMP_WORDS": "jetq d",
        "COMP_CWORD": "1",
    }
    completed = await shop.run()

    assert version.out.startswith("jetq ")
    assert set(completed.out.split()) == {"dead", "demo", "dev"}
