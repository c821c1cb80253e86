"""The server or a service dies amid events and requests."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ipc import (
    Bus,
    ConnectionLostError,
    LocalServer,
    NoResponderError,
    ReplyTimeoutError,
    ServerUnavailableError,
)
from tests.conftest import ACCOUNT
from tests.faults.accounts import POLL_INTERVAL, until
from tests.faults.event_load import Callers, Publisher
from tests.faults.events import Moved, Placed, new_bus
from tests.faults.notes import Notes, leave_note
from tests.faults.processes import ROOT

Process = subprocess.Popen[bytes]
Start = Callable[[str], Process]
Account = Callable[[str], None]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """What was handled in any process of this test."""
    file = tmp_path / "notes"
    monkeypatch.setenv("NOTES_FILE", str(file))
    return Notes(file)


@pytest.fixture
async def bus(server: LocalServer) -> AsyncIterator[Bus]:
    """An open bus on this test's `server`."""
    async with new_bus() as bus:
        yield bus


@pytest.fixture
def start(server: LocalServer, notes: Notes, tmp_path: Path) -> Iterator[Start]:
    """Start a process that serves; whatever is left of it is killed after the test."""
    started: list[tuple[Process, Path]] = []

    def start(service: str) -> Process:
        log = tmp_path / f"{service}-{len(started) + 1}.log"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.event_work", service],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=log.open("wb"),
        )
        started.append((process, log))
        return process

    yield start
    for process, log in started:
        kill(process)
        # Shown by pytest if the test failed.
        print(f"-- log of process {process.pid}", log.read_text()[-5000:], sep="\n")


@pytest.fixture
def account(record_property: Callable[[str, object], None]) -> Account:
    """Note, for the summary, what became of what was sent."""
    return partial(record_property, ACCOUNT)


def kill(process: Process) -> None:
    """SIGKILL, and wait for the end."""
    process.kill()
    process.communicate()


async def kill_amid_work(process: Process, notes: Notes) -> set[tuple[str, int]]:
    """SIGKILL a process while it handles events; return which."""
    while True:
        # Stopped first, so that it finishes nothing between the look and the kill.
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        unfinished = notes.of("begun", process.pid) - notes.of("done", process.pid)
        if unfinished:
            kill(process)
            return unfinished
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(POLL_INTERVAL)


async def until_ready(bus: Bus, *processes: Process) -> None:
    """Return once processes listen: what is published before would not be kept for them."""
    wanted = {process.pid for process in processes}

    async def are_ready() -> bool:
        return wanted <= {
            instance.pid
            for instance in await bus.registry.instances()
            if instance.durables or any(service.handles for service in instance.services)
        }

    await until(are_ready, f"{len(processes)} processes ready")


async def until_nothing_is_kept(bus: Bus) -> None:
    """Return once every durable has acked every event."""

    async def is_empty() -> bool:
        found = await bus.jetstream.find_stream(bus.subjects.stream("faults"))
        return found is not None and found.state.messages == 0

    await until(is_empty, "an event stream that has nothing left")


# -- durables -----------------------------------------------------------------------------


async def test_every_durable_gets_every_event_though_the_server_dies(
    server: LocalServer, bus: Bus, start: Start, notes: Notes, account: Account
):
    """SIGKILL of the server, twice, amid publishing: three durables get what was acknowledged."""
    durables = ("mailer", "stock", "audit")
    await until_ready(bus, *map(start, durables))
    async with Publisher(bus) as publisher:
        for _ in range(2):
            await publisher.until_more(200)
            await until(
                lambda: all(len(notes.numbers("done", one)) > 100 for one in durables),
                "all durables amid their work",
            )
            # So that it certainly dies with events on their way to it.
            server.suspend()
            await publisher.until_all_wait()
            server.kill()
            await asyncio.sleep(0.3)
            await server.start()
        await publisher.until_more(200)
    await until_nothing_is_kept(bus)

    for durable in durables:
        assert notes.numbers("done", durable) == publisher.acknowledged
    published = len(publisher.acknowledged)
    account(f"published {published} for 3, lost 0, handled twice {notes.num_repeated()}")


async def test_slow_durable_slows_nobody(bus: Bus, start: Start, notes: Notes, account: Account):
    """While the handler of one is stuck, two others get everything; later it gets all, too."""
    go_on = asyncio.Event()

    @bus.on(Placed, durable="slow", concurrency=10)
    async def wait(event: Placed) -> None:
        leave_note("begun", "slow", event.number)
        await go_on.wait()
        leave_note("done", "slow", event.number)

    await bus.ready()
    await until_ready(bus, start("mailer"), start("stock"))
    published = set(range(500))
    for number in published:
        await bus.publish(Placed(number=number), durable=True)
    for durable in ("mailer", "stock"):
        await until(
            lambda durable=durable: notes.numbers("done", durable) == published,
            f"all events handled by {durable}",
        )
    await until(lambda: len(notes.numbers("begun", "slow")) == 10, "ten stuck handlers")
    assert notes.numbers("done", "slow") == set()
    go_on.set()
    await until_nothing_is_kept(bus)

    assert notes.numbers("done", "slow") == published
    account(f"published {len(published)} for 3, lost 0, handled twice {notes.num_repeated()}")


async def test_events_of_a_killed_process_are_handled_by_another(
    bus: Bus, start: Start, notes: Notes, account: Account
):
    """SIGKILL of one of two with the same durable: what it had begun comes to the other one."""
    victim, other = start("mailer"), start("mailer")
    await until_ready(bus, victim, other)
    async with Publisher(bus) as publisher:
        await until(lambda: len(notes.of("done", victim.pid)) > 100, "the first amid its work")
        interrupted = await kill_amid_work(victim, notes)
        await publisher.until_more(200)
    await until_nothing_is_kept(bus)

    assert interrupted <= notes.of("done", other.pid)
    assert notes.numbers("done", "mailer") == publisher.acknowledged
    account(
        f"published {len(publisher.acknowledged)}, lost 0, handled twice {notes.num_repeated()}"
    )


async def test_order_outlives_a_killed_process(
    bus: Bus, start: Start, notes: Notes, account: Account
):
    """SIGKILL of one of two: of each key, none begins before the one before it is done."""
    victim, other = start("ledger"), start("ledger")
    await until_ready(bus, victim, other)
    accounts, each = [f"account-{number}" for number in range(20)], 20
    for number in range(each):
        for one in accounts:
            await bus.publish(Moved(account=one, number=number), durable=True)
    await until(lambda: len(notes.of("done", victim.pid)) > 20, "the first amid its work")
    interrupted = await kill_amid_work(victim, notes)
    await until_nothing_is_kept(bus)

    in_order = [(step, number) for number in range(each) for step in ("begun", "done")]
    assert notes.steps_by_key() == dict.fromkeys(accounts, in_order)
    assert interrupted <= notes.of("done", other.pid)
    account(f"published {len(accounts) * each}, lost 0, handled twice {notes.num_repeated()}")


# -- requests -----------------------------------------------------------------------------


async def test_another_instance_goes_on_answering(bus: Bus, start: Start, account: Account):
    """SIGKILL of one of two: who had asked it is told so, all others are answered."""
    victim, other = start("doubler"), start("doubler")
    await until_ready(bus, victim, other)
    async with Callers(bus) as callers:
        await callers.until_more(100, victim.pid)
        # Stopped first, so that it certainly dies with requests that it has not answered.
        victim.send_signal(signal.SIGSTOP)
        await until(lambda: callers.errors, "some should wait for it in vain")
        kill(victim)
        await callers.until_more(200, other.pid)
    async with Callers(bus) as later:
        await later.until_more(200, other.pid)

    assert callers.errors
    assert {type(error) for error in callers.errors} <= {ReplyTimeoutError, NoResponderError}
    assert later.errors == []
    account_of_requests(callers, account)


async def test_callers_and_services_outlive_the_server(
    server: LocalServer, bus: Bus, start: Start, account: Account
):
    """SIGKILL of the server amid requests: the same process answers again, nobody else restarts."""
    process = start("doubler")
    await until_ready(bus, process)
    async with Callers(bus) as callers:
        for _ in range(2):
            await callers.until_more(200, process.pid)
            server.kill()
            await asyncio.sleep(0.3)
            await server.start()
        await callers.until_more(200, process.pid)

    assert process.poll() is None
    assert {type(error) for error in callers.errors} <= {
        ConnectionLostError,
        NoResponderError,
        ReplyTimeoutError,
        ServerUnavailableError,
    }
    account_of_requests(callers, account)


def account_of_requests(callers: Callers, account: Account) -> None:
    """Say what became of all requests: an answer or an error, each of them."""
    answered, failed = len(callers.answers), len(callers.errors)
    assert answered + failed == callers.asked
    account(f"asked {callers.asked}, answered {answered}, told of failure {failed}, lost 0")
