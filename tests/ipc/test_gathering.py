"""One request to every instance of a service, and what all of them say."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from ipc import (
    Answer,
    Bus,
    Context,
    LocalServer,
    NoResponderError,
    PermissionDeniedError,
    Request,
    Service,
    ServiceError,
    UnreadableError,
)
from tests.conftest import flushed, until

from .conftest import BusFactory
from .conftest import serving as serving_unknown


class Status(Request[str], type="gathering.Status"):
    detail: str = ""


class SickError(ServiceError, code=507):
    free_bytes: int


def status_of(name: str, answer: Any = None) -> Service:
    """Make a service that answers with its name, or raises an error, or never answers."""
    service = Service("status")

    @service.handle
    async def status(request: Status) -> str:
        if answer == "never":
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return name

    return service


@asynccontextmanager
async def serving(bus: Bus, *services: Service) -> AsyncIterator[None]:
    """Serve until all who look it up know."""
    async with serving_unknown(bus, *services):
        ids = {one.id for one in bus.serving}

        async def are_known() -> bool:
            buses = await bus.registry.instances()
            return ids <= {service.id for one in buses for service in one.services}

        await bus.registry.write()
        await until(are_known, "the services should be known")
        yield


@asynccontextmanager
async def instances(new_bus: BusFactory, answers: Iterable[Any]) -> AsyncIterator[list[str]]:
    """Serve an instance on a bus of its own for each answer; yield their ids."""
    async with AsyncExitStack() as stack:
        ids: list[str] = []
        for number, answer in enumerate(answers):
            bus = await stack.enter_async_context(new_bus(f"instance-{number}"))
            await stack.enter_async_context(serving(bus, status_of(f"status-{number}", answer)))
            ids.append(bus.serving[0].id)
        yield ids


async def listen(client: Client, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
    """Subscribe as any client does; return once the server knows."""
    await client.subscribe(subject, cb=receive)
    # nats-py sends a ping ahead of what waits to be sent: only the second one comes behind it.
    await flushed(client)


# -- who answers --------------------------------------------------------------------------


async def test_every_instance_answers(bus: Bus, new_bus: BusFactory):
    """It returns when all that are known to run have, long before the time is up."""
    async with instances(new_bus, [None] * 5) as ids:
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert sorted(gathered) == [f"status-{number}" for number in range(5)]
    assert {answer.instance: answer.reply for answer in gathered.answers} == {
        id: f"status-{number}" for number, id in enumerate(ids)
    }
    assert (len(gathered), gathered.errors, gathered.silent) == (5, {}, [])
    assert gathered.is_complete


async def test_one_instance_is_all(bus: Bus):
    """Nobody else is waited for."""
    async with serving(bus, status_of("only")):
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert list(gathered) == ["only"]


async def test_instances_of_different_services_answer(bus: Bus, new_bus: BusFactory):
    """What counts is the request that they answer, not what they are called."""
    other = Service("other")

    @other.handle
    async def status(request: Status) -> str:
        return "other"

    async with new_bus("two") as two, serving(bus, status_of("status"), other):
        gathered = await asyncio.wait_for(two.gather(Status(), timeout=60), 10)

    assert sorted(gathered) == ["other", "status"]


async def test_services_that_answer_something_else_are_not_waited_for(bus: Bus):
    """Though they are known to run."""

    class Other(Request[str], type="gathering.Other"):
        pass

    async def handle(request: Any) -> str:
        return ""

    handle.__annotations__["request"] = Other
    other = Service("other")
    other.handle(handle)
    async with serving(bus, status_of("status"), other):
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert list(gathered) == ["status"]


async def test_instance_that_has_ended_is_not_waited_for(bus: Bus, new_bus: BusFactory):
    """It said so when it ended."""
    async with instances(new_bus, [None]), new_bus("gone") as gone:
        async with serving(gone, status_of("gone")):
            assert len(await bus.gather(Status())) == 2

        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert list(gathered) == ["status-0"]


async def test_each_instance_is_asked_once(bus: Bus, new_bus: BusFactory):
    """And a request, in contrast, comes to one of them."""
    asked: list[str] = []

    def noting(name: str) -> Service:
        service = Service("status")

        @service.handle
        async def status(request: Status, ctx: Context) -> str:
            asked.append(name)
            return ctx.source

        return service

    async with new_bus("two") as two, serving(bus, noting("one")), serving(two, noting("two")):
        gathered = await bus.gather(Status())
        assert sorted(asked) == ["one", "two"]

        asked.clear()
        await bus.request(Status())
        assert len(asked) == 1

    assert list(gathered) == ["test", "test"]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_answers_are_written_as_the_question(new_bus: BusFactory, codec: Any):
    """Errors too."""
    async with (
        new_bus(codec=codec) as bus,
        instances(new_bus, [None, SickError("full", free_bytes=0)]),
    ):
        gathered = await bus.gather(Status())

    assert list(gathered) == ["status-0"]
    assert [type(error) for error in gathered.errors.values()] == [SickError]


async def test_instances_behind_an_old_name_are_known(bus: Bus):
    """A caller that has the old name of a request waits for all who answer it."""

    def status(**config: Any) -> type[Any]:
        class Renamed(Request[str], **config):
            pass

        return Renamed

    def answering(request: type[Any], answer: asyncio.Event) -> Service:
        async def handle(request: Any) -> str:
            await answer.wait()
            return "answer"

        handle.__annotations__["request"] = request
        service = Service("renamed")
        service.handle(handle)
        return service

    new = status(type="gathering.New", aliases=("gathering.Old",))
    old = status(type="gathering.Old")
    at_once, later = asyncio.Event(), asyncio.Event()
    at_once.set()
    async with serving(bus, answering(new, at_once), answering(new, later)):
        asyncio.get_running_loop().call_later(0.2, later.set)
        gathered = await bus.gather(old())

    assert list(gathered) == ["answer", "answer"]


# -- who does not -------------------------------------------------------------------------


async def test_silent_instance_is_named(bus: Bus, new_bus: BusFactory):
    """Who is known to run and does not answer in time; the others' answers count."""
    async with instances(new_bus, [None, "never", None]) as ids:
        gathered = await bus.gather(Status(), timeout=0.3)

    assert sorted(gathered) == ["status-0", "status-2"]
    assert gathered.silent == [ids[1]]
    assert not gathered.is_complete


async def test_all_may_be_silent(bus: Bus, new_bus: BusFactory):
    """That is no error: who they are is the answer."""
    async with instances(new_bus, ["never", "never"]) as ids:
        gathered = await bus.gather(Status(), timeout=0.2)

    assert (gathered.answers, gathered.silent) == ([], sorted(ids))


async def test_handlers_are_cancelled_when_the_time_is_up(bus: Bus):
    """As those of any request."""
    cancelled = asyncio.Event()
    service = Service("status")

    @service.handle
    async def status(request: Status) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ""

    async with serving(bus, service):
        await bus.gather(Status(), timeout=0.1)

        await asyncio.wait_for(cancelled.wait(), 5)


PROGRAM = """
import asyncio, sys
from ipc import Bus, Request, Service

class Status(Request[str], type="gathering.Status"):
    detail: str = ""

service = Service("status")

@service.handle
async def status(request: Status) -> str:
    return "process"

async def main(url, prefix):
    async with Bus("process", servers=url, prefix=prefix, storage="memory") as bus:
        await bus.serve(service)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def process(server_url: str, namespace: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an instance in a process of its own."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, server_url, namespace, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


async def known_pids(bus: Bus) -> set[int]:
    """Return the processes that are known to serve something."""
    try:
        return {one.pid for one in await bus.registry.instances() if one.services}
    except NoResponderError:
        return set()


async def test_process_that_hangs_is_named(bus: Bus, server_url: str, namespace: str):
    """It is stopped, not ended: connected and known, but it says nothing. Later it goes on."""
    async with serving(bus, status_of("here")), process(server_url, namespace) as other:

        async def is_known() -> bool:
            return other.pid in await known_pids(bus)

        await until(is_known, "the process should be known", 20)
        os.kill(other.pid, signal.SIGSTOP)
        try:
            gathered = await bus.gather(Status(), timeout=0.5)
        finally:
            os.kill(other.pid, signal.SIGCONT)

        assert list(gathered) == ["here"]
        assert len(gathered.silent) == 1
        assert sorted(await bus.gather(Status())) == ["here", "process"]


async def test_process_that_was_killed_is_named(bus: Bus, server_url: str, namespace: str):
    """It could not say goodbye, so it is known for a while yet; nobody waits for long."""
    async with process(server_url, namespace) as other:

        async def is_known() -> bool:
            return other.pid in await known_pids(bus)

        await until(is_known, "the process should be known", 20)
        other.kill()
        await other.wait()

        async def is_gone() -> bool:
            return not await bus.services("status")

        await until(is_gone, "the server should have noticed")
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert (gathered.answers, len(gathered.silent)) == ([], 1)


async def test_error_is_its_instance_s(bus: Bus, new_bus: BusFactory):
    """Of its own class; the others' answers count."""
    sick, broken = SickError("full", free_bytes=7), ValueError("broken")
    async with instances(new_bus, [sick, None, broken]) as ids:
        with capture_logs():
            gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert list(gathered) == ["status-1"]
    assert set(gathered.errors) == {ids[0], ids[2]}
    assert isinstance(gathered.errors[ids[0]], SickError)
    assert gathered.errors[ids[2]].kind == "builtins.ValueError"
    assert gathered.silent == []
    assert not gathered.is_complete


async def test_errors_alone_are_an_answer(bus: Bus, new_bus: BusFactory):
    """All are known then, so nobody is waited for."""
    async with instances(new_bus, [SickError("full", free_bytes=0)] * 2):
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert (len(gathered), len(gathered.errors)) == (0, 2)


# -- the first so many --------------------------------------------------------------------


async def test_first_answers_are_enough(bus: Bus, new_bus: BusFactory):
    """Who has not answered then was not given the time, so is not called silent."""
    async with instances(new_bus, [None, "never", None, "never"]):
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60, first=2), 10)

    assert sorted(gathered) == ["status-0", "status-2"]
    assert gathered.silent == []


async def test_first_one_is_enough(bus: Bus, new_bus: BusFactory):
    """However many there are."""
    async with instances(new_bus, [None] * 3):
        assert len(await bus.gather(Status(), first=1)) == 1


async def test_errors_are_not_among_the_first(bus: Bus, new_bus: BusFactory):
    """What is asked for is answers."""
    async with instances(new_bus, [SickError("full", free_bytes=0), None]):
        gathered = await bus.gather(Status(), first=1)

    assert list(gathered) == ["status-1"]


async def test_fewer_than_the_first_so_many_are_all(bus: Bus, new_bus: BusFactory):
    """All that are known have answered; more cannot come."""
    async with instances(new_bus, [None, None]):
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60, first=5), 10)

    assert len(gathered) == 2


@pytest.mark.parametrize("first", [0, -1])
async def test_first_is_at_least_one(bus: Bus, first: int):
    """Asking for no answer is a mistake."""
    async with serving(bus, status_of("status")):
        with pytest.raises(ValueError, match="first"):
            await bus.gather(Status(), first=first)


# -- nobody, and nobody who knows ---------------------------------------------------------


async def test_nobody_answers(bus: Bus):
    """The caller is told at once."""
    with pytest.raises(NoResponderError, match=r"gathering\.Status"):
        await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)


async def test_answer_cannot_be_read(bus: Bus, client: Client, namespace: str):
    """It is not what the request says."""

    async def answer(message: Msg) -> None:
        await message.respond(b"7")

    await listen(client, f"{namespace}.gather.gathering.Status", answer)

    with pytest.raises(UnreadableError, match="the answer is not as declared"):
        await bus.gather(Status())


async def test_service_of_another_language_may_answer(bus: Bus, client: Client, namespace: str):
    """It listens where all are asked; nobody knows of it, but what it says counts."""

    async def answer(message: Msg) -> None:
        await message.respond(b'"stranger"')

    await listen(client, f"{namespace}.gather.gathering.Status", answer)

    gathered = await bus.gather(Status(), timeout=5, first=1)
    assert gathered.answers == [Answer("", "stranger")]


ACCOUNT = """accounts {{ A {{ {jetstream} users: [
    {{ user: "u", password: "secret", permissions: {{ publish: {{ deny: {denied} }} }} }}
] }} }}"""


async def test_nobody_knows_without_jetstream():
    """There is no registry then: it takes the whole time, and all who are there answer."""
    config = ACCOUNT.format(jetstream="", denied="[]")
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with (
            Bus("one", servers=url, grace=0) as one,
            Bus("two", servers=url, grace=0) as two,
            serving_unknown(one, status_of("one")),
            serving_unknown(two, status_of("two")),
        ):
            gathered = await one.gather(Status(), timeout=0.3)
            first = await asyncio.wait_for(one.gather(Status(), timeout=60, first=2), 10)

    assert sorted(gathered) == sorted(first) == ["one", "two"]
    assert (gathered.silent, gathered.is_complete, first.is_complete) == ([], False, True)


async def test_registry_that_may_not_be_read_takes_no_longer():
    """The time that is given is for all of it, looking up whom to expect included."""
    config = ACCOUNT.format(jetstream="jetstream: enabled,", denied='["$JS.API.DIRECT.>"]')
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with (
            Bus("bus", servers=url, storage="memory", timeout=30, grace=0) as bus,
            serving_unknown(bus, status_of("status")),
        ):
            gathered = await asyncio.wait_for(bus.gather(Status(), timeout=0.3), 5)

    assert list(gathered) == ["status"]


async def test_caller_may_not_ask():
    """The server says so, and it is not taken for silence."""
    config = ACCOUNT.format(jetstream="jetstream: enabled,", denied='["*.gather.>"]')
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with (
            Bus("bus", servers=url, storage="memory", grace=0) as bus,
            serving(bus, status_of("status")),
        ):
            with pytest.raises(PermissionDeniedError, match=r"gathering\.Status"):
                await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)


@pytest.mark.parametrize("entry", [b"", b"nonsense", b'{"name": 7}', b'{"name": "\xff"}'])
async def test_malformed_entry_in_the_registry_is_left_out(
    bus: Bus, client: Client, namespace: str, entry: bytes
):
    """Who runs is known from the others."""
    async with serving(bus, status_of("status")):
        await client.jetstream().publish(f"$KV.{namespace}.instance.stranger.1", entry)
        gathered = await asyncio.wait_for(bus.gather(Status(), timeout=60), 10)

    assert list(gathered) == ["status"]


async def test_handler_gathers_no_longer_than_its_caller_waits(bus: Bus):
    """Whatever it asks for: nobody waits for it any longer."""

    class Overview(Request[list[str]], type="gathering.Overview"):
        pass

    service = Service("overview")

    async def overview(request: Any, ctx: Context) -> list[str]:
        return list(await ctx.bus.gather(Status(), timeout=60))

    @service.handle
    async def status(request: Status, ctx: Context) -> str:
        return str(ctx.time_left)

    overview.__annotations__["request"] = Overview
    service.handle(overview)
    async with serving(bus, service):
        (left,) = await bus.request(Overview(), timeout=2)

    assert float(left) <= 2
