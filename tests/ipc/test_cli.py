"""The command line, run as a person runs it: processes, signals, output, exit codes."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc import Bus, Event, Retry, TypeDefinitionError
from ipc.cli._events import as_json, printable
from ipc.cli._requests import request_of
from tests.conftest import status_of, until

SHOP = """
import asyncio
import msgspec
from pathlib import Path
from collections.abc import AsyncIterator
from ipc import Bus, Context, Event, Request, Service, ServiceError

class Customer(msgspec.Struct):
    name: str

class Joined(Event, type="cli.Joined"):
    \"\"\"A customer has joined.\"\"\"
    name: str
    age: int = 0

class Moved(Event, type="cli.Moved", version=2):
    to: str

class Find(Request[Customer], type="cli.Find"):
    id: int

class Count(Request[int], type="cli.Count"):
    to: int

class Wait(Request[str], type="cli.Wait"): ...

class NotFoundError(ServiceError, code=404, type="cli.NotFoundError"):
    pass

shop = Service({name!r}, version="1.2.3", publishes=[Joined])

@shop.handle
async def find(request: Find) -> Customer:
    if request.id == 0:
        raise NotFoundError("there is no customer 0")
    return Customer(f"customer {{request.id}}")

@shop.handle
async def count(request: Count) -> AsyncIterator[int]:
    for number in range(request.to):
        yield number

@shop.handle
async def wait(request: Wait) -> str:
    Path("waiting").touch()
    while not Path("go on").exists():
        await asyncio.sleep(0.01)
    return "done"

@shop.on(Joined, durable="letters")
async def write(event: Joined) -> None: ...

broken = 1
"""


ODD = """
from ipc import Event

class Odd(Event, type="cli.Odd"):
    field: complex
"""


NOTES = """
from pathlib import Path
from ipc import Bus
from shop import Joined

bus = Bus("notes", prefix={prefix!r}, storage="memory")

@bus.on(Joined, durable="notes")
async def note(event: Joined) -> None:
    Path(event.name).touch()
"""


class Joined(Event, type="cli.Joined"):
    name: str
    age: int = 0


class Moved(Event, type="cli.Moved", version=2):
    to: str


@Moved.upcast(1)
def from_one(fields: Any) -> Any:
    return {"to": "somewhere"}


class Done(msgspec.Struct):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> str:
        """What it told the person, in one line and without frames."""
        return " ".join(self.err.replace("│", " ").split())


class CommandLine:
    """Runs commands in a folder with a module `shop`, in this test's namespace."""

    def __init__(self, folder: Path, url: str, namespace: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.env = {**os.environ, "NATS_URL": url, "IPC_PREFIX": namespace, "COLUMNS": "120"}

    async def start(self, *args: str) -> Process:
        command = [sys.executable, "-m", "ipc", *args]
        return await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=self.env, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )

    async def __call__(self, *args: str, stdin: str = "") -> Done:
        process = await self.start(*args)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 20)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Process]:
        """Run `ipc serve shop:shop`, and stop it as a service manager does."""
        process = await self.start("serve", "shop:shop", "--grace", "1")
        try:

            async def answers() -> bool:
                return (await self("services", self.namespace, "--json")).json != []

            await until(answers, "the service should answer", 20)
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 20)


@pytest.fixture
def ipc(tmp_path: Path, server_url: str, namespace: str) -> CommandLine:
    """The command line, beside a module `shop`."""
    (tmp_path / "shop.py").write_text(SHOP.format(name=namespace))
    (tmp_path / "odd.py").write_text(ODD)
    (tmp_path / "empty.json").write_text("{}")
    return CommandLine(tmp_path, server_url, namespace)


@pytest.fixture
async def bus(server_url: str, namespace: str) -> AsyncIterator[Bus]:
    """A bus of another program."""
    async with Bus("other", servers=server_url, prefix=namespace, storage="memory") as bus:
        yield bus


async def test_published_event_arrives(ipc: CommandLine, bus: Bus):
    """As its class, whether the command knows that or not; its id is printed."""
    async with bus.subscribe(Joined) as events:
        plain = await ipc("publish", "cli.Joined", '{"name": "Ada"}')
        checked = await ipc(
            "publish", "cli.Joined", '{"name": "Grace"}', "--module", "shop", "--json"
        )

        assert (plain.code, checked.code) == (0, 0)
        assert await anext(events) == Joined("Ada")
        assert events.context.id == plain.out.strip()
        assert events.context.source == "cli"
        assert await anext(events) == Joined("Grace")
        assert checked.json["ids"] == [events.context.id]


async def test_published_event_has_the_version_of_its_class(ipc: CommandLine, bus: Bus):
    """Readers would else take it for an old one, and make something else of it."""
    async with bus.subscribe(Moved) as events:
        await ipc("publish", "cli.Moved", '{"to": "Rome"}', "--module", "shop")

        assert await anext(events) == Moved("Rome")


async def test_many_events_are_published_from_stdin(ipc: CommandLine, bus: Bus):
    """One JSON object a line."""
    lines = "".join(f'{{"name": "n{number}"}}\n' for number in range(1500))
    async with bus.subscribe(Joined) as events:
        done = await ipc("publish", "cli.Joined", "-", stdin=lines)

        found = [(await anext(events)).name for _ in range(1500)]
    assert found == [f"n{number}" for number in range(1500)]
    assert done.out == "published 1500 events\n"
    assert "1000 published" in done.err


async def test_durable_event_with_an_id_is_stored_once(ipc: CommandLine, bus: Bus):
    """The command waits for the server, and may be repeated."""
    seen: list[Joined] = []

    @bus.on(Joined, durable="letters")
    async def note(event: Joined) -> None:
        seen.append(event)

    await bus.ready()
    for _ in range(2):
        done = await ipc("publish", "cli.Joined", '{"name": "Ada"}', "--durable", "--id", "a-1")
        assert (done.code, done.out) == (0, "a-1\n")
    await bus.publish(Joined("last"), durable=True)
    await until(lambda: Joined("last") in seen, "all should be handled")

    assert [event.name for event in seen].count("Ada") == 1


async def test_events_are_printed_as_they_come(ipc: CommandLine, bus: Bus):
    """Decoded, for people or as JSON, also of types that nobody here knows; Ctrl-C ends it."""
    process = await ipc.start("subscribe", "cli.*", "--json")
    people = await ipc.start("subscribe", "cli.>", "--count", "1", "-v")
    assert process.stderr is not None
    assert people.stderr is not None
    await process.stderr.readline()
    await people.stderr.readline()

    await bus.publish(Joined("Ada", 36))
    assert process.stdout is not None
    line = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
    process.send_signal(signal.SIGINT)
    out, _ = await asyncio.wait_for(people.communicate(), 10)
    await asyncio.wait_for(process.communicate(), 10)

    assert (line["type"], line["fields"]) == ("cli.Joined", {"name": "Ada", "age": 36})
    assert (line["source"], line["subject"]) == ("other", f"{ipc.namespace}.event.-.cli.Joined")
    assert process.returncode == people.returncode == 0
    assert 'cli.Joined  name="Ada"  age=36  from other' in out.decode()
    assert "\x1b" not in out.decode()


HOSTILE = {
    "an extension": msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(5, b"abc")}),
    "odd keys": msgspec.msgpack.encode({"x": {None: 1}}),
    "control": b'{"$type": "evil.\\u001b]0;title\\u0007", "k\\u001b[31m": "\\u009b31m"}',
    "ids": b'{"$id": "\\u001b[31m", "$source": "\\u001b[32m", "$causation": "\\u001b[33m"}',
    "the first year": b'{"$time": "0001-01-01T00:00:00Z"}',
    "the last year": b'{"$time": "9999-12-31T23:59:59Z"}',
    "malformed": b"[1",
    "good": b'{"$time": "2026-01-01T12:00:00Z", "last": true}',
}


async def test_no_event_can_harm_who_looks_on(ipc: CommandLine, bus: Bus):
    """Whatever it is made of: it is shown, obeyed by no terminal, and the next one comes."""
    ipc.env["TZ"] = "America/New_York"
    count = str(len(HOSTILE) - 1)
    people = await ipc.start("subscribe", "evil.>", "--count", count, "-v")
    programs = await ipc.start("subscribe", "evil.>", "--count", count, "--json")
    for process in (people, programs):
        assert process.stderr is not None
        await process.stderr.readline()

    for body in HOSTILE.values():
        await bus.connection.publish(bus.subjects.event("evil.Event"), body)
    out, err = await asyncio.wait_for(people.communicate(), 10)
    lines, _ = await asyncio.wait_for(programs.communicate(), 10)

    shown = out.decode().splitlines()
    assert all(line.isprintable() for line in shown)
    extension, keys, control, ids, first, last, good = shown
    assert "Ext(5, b'abc')" in extension
    assert 'x={"None":1}' in keys
    assert r"evil.\x1b]0;title\x07  k\x1b[31m=" in control
    assert r"from \x1b[32m  id \x1b[31m  because of \x1b[33m" in ids
    assert first.startswith("0001-01-01T00:00:00+00:00 ")
    assert last.startswith("18:59:59.000 ")
    assert good.startswith("07:00:00.000  evil.Event  last=true")
    assert b"malformed" in err
    assert [json.loads(line)["type"] for line in lines.splitlines()][-1] == "evil.Event"


@given(st.text())
def test_printable_text_has_nothing_for_the_terminal_to_obey(text: str):
    """And stays as it is, if it was so before."""
    shown = printable(text)

    assert shown.replace("\n", "").replace("\t", "").isprintable()
    assert shown == text or not text.isprintable()


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.datetimes(timezones=st.just(UTC)),
    st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=3)),
)
keys = st.one_of(st.none(), st.integers(-2, 2), st.floats(0, 1), st.text(max_size=3), st.binary())


@settings(max_examples=50)
@given(st.recursive(leaves, lambda one: st.lists(one) | st.dictionaries(keys, one)))
def test_whatever_messagepack_carries_is_shown_as_json(value: Any):
    """As itself, or in words."""
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(value))

    msgspec.json.decode(as_json(received))


def test_value_within_a_thousand_others_is_shown():
    """What can just be read cannot always be written."""
    value: Any = 1
    for _ in range(100_000):
        value = [value]

    assert b"..." in as_json(value)


def test_request_of_an_unknown_type_says_what_it_was_given():
    """Also under names that are none in Python."""
    fields = {"first-name": "Ada", "class": [1], "": None}

    asked = request_of("cli.Unknown", fields)

    assert msgspec.to_builtins(asked) == {"$type": "cli.Unknown", **fields}


def test_request_says_nothing_in_the_name_of_ipc():
    """What begins with `$` is the bus's to say."""
    with pytest.raises(TypeDefinitionError, match="'\\$id'"):
        request_of("cli.Other", {"$id": "x"})


async def test_service_is_served_asked_and_stopped(ipc: CommandLine):
    """`ipc serve` runs it; others ask it, list it, and see how it has done."""
    async with ipc.serving() as process:
        one = await ipc("request", "cli.Find", '{"id": 7}')
        none = await ipc("request", "cli.Find", '{"id": 0}')
        every = await ipc("request", "cli.Find", '{"id": 7}', "--all", "--json")
        table = await ipc("request", "cli.Find", '{"id": 7}', "--all")
        items = await ipc("request", "cli.Count", '{"to": 300}', "--stream")
        wrong = await ipc("request", "cli.Count", '{"to": 3}')
        known = await ipc("request", "cli.Find", '{"id": 8}', "--module", "shop")
        listed = await ipc("services", ipc.namespace)
        stats = await ipc("services", ipc.namespace, "--stats", "--json")
        types = await ipc("types", "--json")
        shown = await ipc("types", "cli.Find")

    assert process.returncode == 0
    assert (one.code, one.json) == (0, {"name": "customer 7"})
    assert (none.code, none.out) == (1, "")
    assert none.said == "ipc: there is no customer 0 (code 404)"
    (reply,) = every.json["replies"].values()
    assert (reply, every.json["silent"]) == ({"name": "customer 7"}, [])
    assert '{"name":"customer 7"}' in table.out
    assert items.lines == list(range(300))
    assert "asked with bus.stream" in wrong.said
    assert (known.code, known.json) == (0, {"name": "customer 8"})
    assert "1.2.3" in listed.out
    assert f"{ipc.namespace}.request.cli.Find" in listed.out
    (service,) = stats.json
    find = next(one for one in service["endpoints"] if one["name"] == "Find")
    assert (find["num_requests"], find["num_errors"]) == (5, 1)
    by_name = {one["record"]["name"]: one for one in types.json}
    assert by_name["cli.Find"]["answers"] == [ipc.namespace]
    assert by_name["cli.Joined"]["handles"] == [ipc.namespace]
    assert '"$type"' in shown.out


async def test_health_port_tells_when_a_service_drains(ipc: CommandLine, free_port: int):
    """Ready while it takes requests; alive, but not ready, while it finishes its last ones."""
    url = f"http://127.0.0.1:{free_port}"
    service = await ipc.start("serve", "shop:shop", "--health-port", str(free_port))

    async def is_ready() -> bool:
        return await status_of(f"{url}/readyz") == 200

    await until(is_ready, "the service should be ready", 20)
    slow = await ipc.start("request", "cli.Wait")
    await until((ipc.folder / "waiting").exists, "the request should be handled")
    working = [await status_of(f"{url}/{path}") for path in ("livez", "readyz")]

    service.send_signal(signal.SIGTERM)
    await until(lambda: is_not(is_ready), "the service should drain")
    draining = [await status_of(f"{url}/{path}") for path in ("livez", "readyz")]
    (ipc.folder / "go on").touch()
    out, _ = await slow.communicate()
    await service.communicate()

    assert working == [200, 200]
    assert draining == [200, 503]
    assert (out, slow.returncode, service.returncode) == (b'"done"\n', 0, 0)


async def is_not(condition: Callable[[], Awaitable[bool]]) -> bool:
    return not await condition()


async def test_what_a_service_needs_is_created_beforehand(ipc: CommandLine):
    """`ipc apply`, for services that may not create it; it handles nothing."""
    first = await ipc("apply", "shop:shop")
    again = await ipc("apply", "shop:shop", "--json")
    durables = await ipc("durables", "list", "--json")

    assert (first.code, again.code) == (0, 0)
    assert first.out.splitlines() == again.json["there"]
    assert "letters" in again.json["there"]
    (durable,) = durables.json
    assert (durable["durable"], durable["takes"], durable["waiting"]) == (
        "letters",
        ["cli.Joined"],
        0,
    )


async def test_bus_that_may_not_declare_is_applied(ipc: CommandLine):
    """That is what `ipc apply` is for; what the bus says itself is not given again."""
    notes = NOTES.format(prefix=ipc.namespace).replace('"memory"', '"memory", declare=False')
    (ipc.folder / "notes.py").write_text(notes)

    refused = await ipc("serve", "notes:bus")
    applied = await ipc("apply", "notes:bus", "--json")
    twice = await ipc("serve", "notes:bus", "--name", "other")
    elsewhere = await ipc("apply", "notes:bus", "--prefix", "elsewhere")

    assert (refused.code, "ipc apply" in refused.said) == (1, True)
    assert (applied.code, "notes" in applied.json["there"]) == (0, True)
    assert (twice.code, "--name is for services" in twice.said) == (2, True)
    assert (elsewhere.code, "what its prefix is" in elsewhere.said) == (2, True)


async def test_bus_is_served_with_its_own_handlers(ipc: CommandLine):
    """A program that only handles events needs no service."""
    (ipc.folder / "notes.py").write_text(NOTES.format(prefix=ipc.namespace))
    process = await ipc.start("serve", "notes:bus")
    try:

        async def is_worked_on() -> bool:
            durables = await ipc("durables", "list", "--json")
            return bool(durables.code == 0 and any(one["waiting"] for one in durables.json))

        await until(is_worked_on, "the durable should be worked on", 20)
        await ipc("publish", "cli.Joined", '{"name": "Ada"}', "--durable")
        await until((ipc.folder / "Ada").exists, "the event should be handled")
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 0


async def test_nobody_there_is_said_in_a_sentence(ipc: CommandLine):
    """No responder, no server, no such type or service: exit code 1, no traceback."""
    nobody = await ipc("request", "cli.Find", "{}")
    nothing = await ipc("types", "cli.Nothing")
    none = await ipc("services", ipc.namespace)
    ipc.env["NATS_URL"] = "nats://127.0.0.1:1"
    away = await ipc("request", "cli.Find", "{}", "--timeout", "0.2")

    assert (nobody.code, nothing.code, none.code, away.code) == (1, 1, 0, 1)
    assert "nobody listens on" in nobody.said
    assert "no type 'cli.Nothing'" in nothing.said
    assert none.said == "no service answers"
    assert "no NATS server reachable" in away.said
    assert "Traceback" not in nobody.err + nothing.err + away.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["publish", "cli.Joined", "not json"], 2, "the fields are a JSON object"),
        (["publish", "cli.Joined", "{}", "-m", "shop"], 2, "not the fields of cli.Joined"),
        (["publish", "cli.Joined", "{}", "--id", "x"], 2, "--id is for one event"),
        (["publish", "cli.Joined", "{}", "-m", "nowhere"], 1, "there is no module 'nowhere'"),
        (["serve", "shop:shopp"], 1, "has no 'shopp'; there is 'shop'"),
        (["serve", "shop:broken"], 1, "'broken' is of type 'int'"),
        (["serve", "shop"], 2, "is not written as MODULE:SERVICE"),
        (["schema", "export", "nowhere"], 1, "there is no module 'nowhere'"),
        (["publish", "", "{}"], 2, "'' is no type's name"),
        (["publish", "x..y", "{}"], 2, "'x..y' is no type's name"),
        (["publish", "cli.Joined", '{"$id": "x"}'], 2, "names with '$' are ipc's own"),
        (["publish", "cli.Find", "{}", "-m", "shop"], 2, "`ipc request cli.Find`"),
        (["subscribe", "a b"], 2, "not 'a b'"),
        (["subscribe", "cli.*", "--prefix", "a b"], 1, "invalid prefix 'a b'"),
        (["request", "a b", "{}"], 2, "'a b' is no type's name"),
        (["request", "cli.Find", '{"id": "x"}', "-m", "shop"], 2, "not the fields of cli.Find"),
        (["request", "cli.Joined", "{}", "-m", "shop"], 2, "`ipc publish cli.Joined`"),
        (["request", "cli.Find", "{}", "--all", "--stream"], 2, "--all or --stream"),
        (["schema", "export", "odd"], 1, "type 'cli.Odd': it has no JSON Schema"),
        (["schema", "check", "empty.json", "shop"], 2, "not what `ipc schema export` writes"),
        (["schema", "check", "shop.py", "shop"], 2, "JSON"),
        (["durables", "dead", "replay", "letters"], 2, "give an ID, or --all"),
        (["durables", "remove", "letters"], 1, "there is no durable 'letters'"),
    ],
)
async def test_what_is_wrong_is_said(ipc: CommandLine, args: list[str], code: int, said: str):
    """With what to write instead, and without a traceback."""
    done = await ipc(*args)

    assert done.code == code
    assert said in done.said
    assert "Traceback" not in done.err


async def test_schema_is_exported_and_checked(ipc: CommandLine):
    """A change that breaks somebody is named, and the exit code is 1."""
    exported = await ipc("schema", "export", "shop", "-o", "old.json")
    same = await ipc("schema", "check", "old.json", "shop")
    module = ipc.folder / "shop.py"
    module.write_text(
        module.read_text().replace("    age: int = 0", "    town: str\n    age: int = 0")
    )
    broken = await ipc("schema", "check", "old.json", "shop:shop")
    as_json = await ipc("schema", "check", "old.json", "shop:shop", "--json")
    api = await ipc("schema", "export", "shop:shop", "--format", "asyncapi")

    assert (exported.code, same.code, broken.code, as_json.code) == (0, 0, 1, 1)
    assert "cli.Joined town: is required, and not written; breaks writers" in broken.out
    assert as_json.json[0]["breaks"] == "writers"
    assert api.json["asyncapi"] == "3.0.0"
    assert "answer.cli.Find" in api.json["operations"]


async def test_permissions_are_printed(ipc: CommandLine):
    """As a block for nats-server's configuration, or as JSON."""
    block = await ipc("permissions", "shop:shop")
    as_json = await ipc("permissions", "shop:shop", "--json")

    assert f'"{ipc.namespace}.request.cli.Find"' in block.out
    assert "allow_responses" in block.out
    assert f"{ipc.namespace}.event.-.cli.Joined" in as_json.json["publish"]


async def test_durables_are_listed_mended_and_removed(ipc: CommandLine, bus: Bus):
    """What holds back is said; dead letters are shown, replayed and purged."""
    broken = True
    seen: list[str] = []

    @bus.on(Joined, durable="letters", retry=Retry(max_attempts=1))
    async def write(event: Joined) -> None:
        if broken:
            raise ValueError("no paper")
        seen.append(event.name)

    await bus.ready()
    for name in ("Ada", "Grace", "Joan"):
        await bus.publish(Joined(name), durable=True)

    async def all_dead() -> list[Any]:
        found = [letter async for letter in bus.dead_letters.list("letters")]
        return found if len(found) == 3 else []

    letters = await until(all_dead, "all should be dead")
    listed = await ipc("durables", "list")
    dead = await ipc("durables", "dead", "list", "--json")
    shown = await ipc("durables", "dead", "show", "letters", letters[0].id)
    broken = False
    replayed = await ipc("durables", "dead", "replay", "letters", letters[0].id)
    await until(lambda: len(seen) == 1, "it should be handled")
    purged = await ipc("durables", "dead", "purge", "letters", letters[1].id, "--json")
    rest = await ipc("durables", "dead", "replay", "letters", "--all")
    await until(lambda: len(seen) == 2, "the last should be handled")
    removed = await ipc("durables", "remove", "letters")

    assert "letters" in listed.out
    assert "cli.Joined" in listed.out
    assert {letter["reason"] for letter in dead.json} == {
        "failed 1 of 1 attempts: ValueError: no paper"
    }
    assert "no paper" in shown.out
    assert replayed.out == "replayed 1 events to 'letters'\n"
    assert purged.json == {"purged": 1}
    assert rest.out == "replayed 1 events to 'letters'\n"
    assert removed.out == "removed 'letters' from cli\n"


async def test_durable_that_holds_back_is_named(ipc: CommandLine, server_url: str):
    """Nobody works on it, and events wait: the list says so, and what to do."""
    async with Bus("gone", servers=server_url, prefix=ipc.namespace, storage="memory") as gone:

        @gone.on(Joined, durable="letters")
        async def write(event: Joined) -> None: ...

        await gone.ready()
    await ipc("publish", "cli.Joined", '{"name": "Ada"}', "--durable")

    listed = await ipc("durables", "list")
    as_json = await ipc("durables", "list", "--json")

    assert "`ipc durables remove letters`" in listed.said
    assert [(one["durable"], one["holds_back"]) for one in as_json.json] == [("letters", True)]
