"""Requests: one instance of a service answers each, and every way to fail is its own error."""

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from ipc import (
    BadRequestError,
    Bus,
    ConnectionLostError,
    Context,
    Event,
    EventStreamMissingError,
    LocalServer,
    MessageTooLargeError,
    NoResponderError,
    PermissionDeniedError,
    ReplyTimeoutError,
    ReplyTooLargeError,
    Request,
    Service,
    ServiceBusyError,
    ServiceError,
    ServiceStoppedError,
    UnreadableError,
    current_context,
)
from ipc._envelope import Meta
from ipc._serving import time_in
from tests.conftest import flushed, until

from .conftest import BusFactory, serving

CODE, TEXT = "Nats-Service-Error-Code", "Nats-Service-Error"


class User(msgspec.Struct):
    name: str
    age: int


class FetchUser(Request[User], type="serving.FetchUser"):
    name: str


class Add(Request[int], type="serving.Add"):
    a: int
    b: int = 0


class ListUsers(Request[list[User]], type="serving.ListUsers"):
    pass


class Forget(Request[None], type="serving.Forget"):
    pass


class FindTime(Request[datetime | None], type="serving.FindTime"):
    known: bool


class Hold(Request[int], type="serving.Hold"):
    number: int = 0


class Describe(Request[dict[str, Any]], type="serving.Describe"):
    pass


class Pass(Request[dict[str, Any]], type="serving.Pass"):
    timeout: float | None = None


class Anything(Request[Any], type="serving.Anything"):
    value: Any = None


class Find(
    Request[str], type="serving.Find", version=2, aliases=("serving.Search", "before.Search")
):
    text: str


@Find.upcast(1)
def text_of(fields: dict[str, Any]) -> dict[str, Any]:
    return {"text": fields["words"]}


class Placed(Event, type="serving.Placed"):
    number: int


class ClosedError(ServiceError, code=409):
    """The shop has closed."""


class Made(msgspec.Struct):
    """A service, and what it has been asked."""

    service: Service
    asked: list[Any] = []


def answering(answer: Callable[[Any], Any], name: str = "any", **options: Any) -> Made:
    """Make a service that answers `Anything` with what a function makes of its value."""
    made = Made(Service(name, **options))

    @made.service.handle
    async def handle(request: Anything) -> Any:
        made.asked.append(request.value)
        return answer(request.value)

    return made


def adding(name: str = "calculator", **options: Any) -> Made:
    """Make a service that adds."""
    made = Made(Service(name, **options))

    @made.service.handle
    async def add(request: Add) -> int:
        made.asked.append(request)
        return request.a + request.b

    return made


class Holding:
    """A service whose answers wait until they may go."""

    def __init__(self, **options: Any) -> None:
        self.service = Service("holding", **options)
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.release = asyncio.Event()
        self.service.handle(self.hold)

    async def hold(self, request: Hold) -> int:
        self.begun.append(request.number)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request.number)
            raise
        return request.number

    async def asked_by(self, bus: Bus, *numbers: int) -> list[asyncio.Task[int]]:
        """Ask, and return the requests once the first of them are being handled."""
        asked = [asyncio.create_task(bus.request(Hold(number=number))) for number in numbers]
        room = min(self.service.concurrency, len(numbers))
        await until(lambda: len(self.begun) >= room, "the requests should be handled")
        await bus.connection.confirm()
        return asked


async def listen(client: Client, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
    """Subscribe as any client does; return once the server knows."""
    await client.subscribe(subject, cb=receive)
    # nats-py sends a ping ahead of what waits to be sent: only the second one comes behind it.
    await flushed(client)


async def begin(bus: Bus, *services: Service) -> asyncio.Task[None]:
    """Serve beside the test, until the test says so; return once requests are taken."""
    serve = asyncio.create_task(bus.serve(*services))
    await until(lambda: len(bus.serving) == len(services) and bus.is_ready, "they should begin")
    return serve


async def ask(client: Client, namespace: str, name: str, data: bytes) -> Msg:
    """Ask as a client in any language does."""
    return await client.request(f"{namespace}.request.{name}", data, timeout=5)


# -- asked and answered -------------------------------------------------------------------


async def test_request_is_answered_with_its_type(bus: Bus):
    """What the handler returns arrives as an instance of the class that the request names."""
    users = Service("users", version="1.2.0")

    @users.handle
    async def fetch(request: FetchUser) -> User:
        return User(request.name, 18)

    async with serving(bus, users):
        user = await bus.request(FetchUser(name="Noel"))

    assert user == User("Noel", 18)


async def test_answer_may_be_anything_that_can_be_encoded(bus: Bus):
    """Nothing, a list, a time: whatever `Request[…]` says."""
    service, now = Service("users"), datetime.now(UTC)

    @service.handle
    async def forget(request: Forget) -> None: ...

    @service.handle
    async def list_users(request: ListUsers) -> list[User]:
        return [User("Ada", 36), User("Noel", 18)]

    @service.handle
    async def find_time(request: FindTime) -> datetime | None:
        return now if request.known else None

    async with serving(bus, service):
        assert await bus.request(Forget()) is None
        assert await bus.request(ListUsers()) == [User("Ada", 36), User("Noel", 18)]
        assert await bus.request(FindTime(known=True)) == now
        assert await bus.request(FindTime(known=False)) is None


async def test_each_of_many_requests_gets_its_own_answer(bus: Bus):
    """However many are under way at once."""
    async with serving(bus, adding().service):
        answers = await asyncio.gather(*(bus.request(Add(a=n, b=1)) for n in range(500)))

    assert answers == [number + 1 for number in range(500)]


async def test_instances_share_the_requests(new_bus: BusFactory):
    """Each request is handled by one of them, and each of them handles some."""
    async with new_bus("one") as one, new_bus("two") as two, new_bus("caller") as caller:
        first, second = adding(), adding()
        async with serving(one, first.service), serving(two, second.service):
            await asyncio.gather(*(caller.request(Add(a=n)) for n in range(200)))

    assert sorted(request.a for request in first.asked + second.asked) == list(range(200))
    assert first.asked
    assert second.asked


async def test_one_definition_is_served_on_several_buses(new_bus: BusFactory):
    """A service is a description; every bus that serves it has an instance."""
    made = adding()
    async with (
        new_bus("one") as one,
        new_bus("two") as two,
        serving(one, made.service),
        serving(two, made.service),
    ):
        infos = await one.services("calculator")
        assert await two.request(Add(a=1, b=2)) == 3

    assert len({info.id for info in infos}) == 2


async def test_bus_serves_several_services(bus: Bus):
    """Each with its own handlers; what one does not answer is not answered by the other."""
    async with serving(bus, adding().service, answering(str).service):
        assert await bus.request(Add(a=1, b=2)) == 3
        assert await bus.request(Anything(value=7)) == "7"
        with pytest.raises(NoResponderError):
            await bus.request(Forget())


async def test_buses_with_other_prefixes_are_other_worlds(bus: Bus, new_bus: BusFactory):
    """A request under one prefix is not answered by a service under another."""
    async with new_bus(prefix=f"{bus.subjects.prefix}x") as other, serving(other, adding().service):
        with pytest.raises(NoResponderError):
            await bus.request(Add(a=1))


async def test_handler_knows_who_asks(new_bus: BusFactory):
    """The context says where a request came from."""
    service = Service("describing")

    @service.handle
    async def describe(request: Describe, ctx: Context) -> dict[str, Any]:
        return {
            "source": ctx.source,
            "subject": ctx.subject,
            "type": ctx.type,
            "bus": ctx.bus.name,
            "current": current_context() is ctx,
        }

    async with new_bus("server") as server, new_bus("caller") as caller, serving(server, service):
        described = await caller.request(Describe())

    assert described == {
        "source": "caller",
        "subject": caller.subjects.request("serving.Describe"),
        "type": "serving.Describe",
        "bus": "server",
        "current": True,
    }


async def test_request_of_a_handler_follows_from_its_own(bus: Bus):
    """What began it all, and what it was sent because of, are carried along."""
    service, seen = Service("chain"), list[Context]()

    @service.handle
    async def pass_on(request: Pass, ctx: Context) -> dict[str, Any]:
        seen.append(ctx)
        return await ctx.bus.request(Describe())

    @service.handle
    async def describe(request: Describe, ctx: Context) -> dict[str, Any]:
        seen.append(ctx)
        return {}

    async with serving(bus, service):
        await bus.request(Pass())

    outer, inner = seen
    assert outer.causation_id == ""
    assert outer.id == outer.correlation_id == inner.correlation_id == inner.causation_id
    assert inner.id not in ("", outer.id)


# -- other languages, other codecs, other versions ----------------------------------------


async def test_plain_json_is_a_request(bus: Bus, client: Client, namespace: str):
    """Any NATS client asks with an object of the fields, and gets plain JSON."""
    async with serving(bus, adding().service):
        reply = await ask(client, namespace, "serving.Add", b'{"a": 40, "b": 2}')

    assert (reply.data, reply.headers) == (b"42", None)


async def test_request_without_a_time_has_no_deadline(bus: Bus, client: Client, namespace: str):
    """A client that says nothing of itself is unknown, and waits as long as it likes."""
    service, seen = Service("describing"), list[Context]()

    @service.handle
    async def describe(request: Describe, ctx: Context) -> dict[str, Any]:
        seen.append(ctx)
        return {}

    async with serving(bus, service):
        await ask(client, namespace, "serving.Describe", b"{}")

    (ctx,) = seen
    assert (ctx.id, ctx.source, ctx.correlation_id, ctx.time_left) == ("", "", "", None)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_bus_asks_in_its_codec(bus: Bus, new_bus: BusFactory, codec: Any):
    """A service reads both, whatever its own bus writes, and answers as it was asked."""
    async with new_bus(codec=codec) as caller, serving(bus, adding().service):
        assert await caller.request(Add(a=1, b=2)) == 3
        with pytest.raises(NoResponderError):
            await caller.request(Forget())


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
async def test_answer_is_written_as_the_question(
    bus: Bus, client: Client, namespace: str, codec: Any
):
    """Errors too."""
    async with serving(bus, adding().service):
        answered = await ask(client, namespace, "serving.Add", codec.encode({"a": 1, "b": 2}))
        refused = await ask(client, namespace, "serving.Add", codec.encode({"a": "one"}))

    assert answered.data == codec.encode(3)
    assert codec.decode(refused.data)["code"] == 400


@pytest.mark.parametrize(
    ("asked_as", "fields"),
    [
        ("serving.Find", {"words": "tea"}),
        ("serving.Find", {"$type": "serving.Find", "$version": 2, "text": "tea"}),
        ("serving.Find", {"$type": "serving.Find", "$version": 1, "words": "tea"}),
        ("serving.Find", {"$type": "serving.Search", "$version": 2, "text": "tea"}),
        ("serving.Search", {"$type": "serving.Search", "$version": 1, "words": "tea"}),
        ("before.Search", {"$type": "before.Search", "$version": 2, "text": "tea"}),
        ("before.Search", {"$type": "serving.Find", "$version": 2, "text": "tea"}),
        ("serving.Find", {"$type": "serving.Find", "$version": 3, "text": "tea", "limit": 5}),
    ],
)
async def test_old_names_and_versions_are_answered(
    bus: Bus, client: Client, namespace: str, asked_as: str, fields: dict[str, Any]
):
    """And a newer one, as far as it can be read: services and callers are not replaced at once."""
    service = Service("search")

    @service.handle
    async def find(request: Find) -> str:
        return request.text

    async with serving(bus, service):
        reply = await ask(client, namespace, asked_as, json.dumps(fields).encode())

    assert reply.data == b'"tea"'


# -- what is no request -------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"not json",
        b'{"a": 1',
        b'{"a": "one"}',
        b'{"a": "\xff"}',
        b"\x81",
        b"\xc1\xff",
        b"\x81\xa1a\xa1b",
        b'{"a": ' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:20]),
)
async def test_malformed_request_is_refused(bus: Bus, client: Client, namespace: str, data: bytes):
    """With code 400 and what is wrong; the service answers the next one."""
    made = adding()
    async with serving(bus, made.service):
        reply = await ask(client, namespace, "serving.Add", data)
        assert await bus.request(Add(a=1, b=2)) == 3

    headers = reply.headers or {}
    assert headers[CODE] == "400"
    assert headers[TEXT].startswith("not a serving.Add: ")
    assert len(made.asked) == 1


async def test_request_of_another_type_is_refused(bus: Bus, client: Client, namespace: str):
    """Its `$type` counts, not only the subject it was sent to."""
    made = adding()
    async with serving(bus, made.service):
        reply = await ask(client, namespace, "serving.Add", b'{"$type": "serving.Hold", "a": 1}')

    assert reply.headers == {CODE: "400", TEXT: "expected serving.Add, got serving.Hold"}
    assert made.asked == []


async def test_old_request_that_cannot_be_brought_up_is_refused(
    bus: Bus, client: Client, namespace: str
):
    """A field that the upcast needs is missing: that is the caller's fault, so code 400."""
    service = Service("search")

    @service.handle
    async def find(request: Find) -> str:
        return request.text

    async with serving(bus, service):
        reply = await ask(client, namespace, "serving.Find", b'{"$version": 1, "word": "tea"}')

    assert (reply.headers or {})[CODE] == "400"


def count(**fields: Any) -> type[Any]:
    """Define a request as one program has it; another may have other fields."""

    class Count(Request[int], type="serving.Count"):
        __annotations__ = fields

    return Count


async def test_malformed_request_is_an_error_of_its_own(bus: Bus):
    """Here caller and service have different ideas of a request."""
    counted, told = count(words=str), count(words=int)
    service = Service("counting")

    async def handle(request: Any) -> int:
        return len(request.words)

    handle.__annotations__["request"] = counted
    service.handle(handle)
    async with serving(bus, service):
        with pytest.raises(BadRequestError, match=r"\$\.words") as caught:
            await bus.request(told(words=7))

    assert caught.value.code == 400


async def test_whatever_comes_is_answered(bus: Bus, client: Client, namespace: str):
    """A request whose bytes were spoiled has some answer, and never stops the service."""
    spoiler = random.Random(7)
    whole = b'{"$type":"serving.Add","a":1,"b":2,"$id":"x-1","$timeout":5.0,"$credit":0}'
    async with serving(bus, adding().service):
        replies: list[Msg] = []
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(spoiler.randint(1, 4)):
                data[spoiler.randrange(len(data))] = spoiler.randrange(256)
            replies.append(await ask(client, namespace, "serving.Add", bytes(data)))
        assert await bus.request(Add(a=1, b=2)) == 3

    codes = Counter((reply.headers or {}).get(CODE, "answered") for reply in replies)
    assert set(codes) == {"400", "answered"}


async def test_request_that_nobody_waits_for_is_handled(bus: Bus, client: Client, namespace: str):
    """A message without a reply subject; there is nobody to answer, which is no failure."""
    made = adding()
    async with serving(bus, made.service):
        with capture_logs() as logs:
            await client.publish(f"{namespace}.request.serving.Add", b'{"a": 1}')
            await client.publish(f"{namespace}.request.serving.Add", b"malformed")
            await flushed(client)
            await until(lambda: made.asked, "it should be handled")
            assert await bus.request(Add(a=1, b=2)) == 3
            await until(lambda: bus.running == 0, "all should be done")

    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize(
    "said",
    ['"$timeout": "soon"', '"$timeout": null', '"$timeout": 1e400', '"$type": 7', '"$id": []'],
)
async def test_nonsense_beside_the_fields_counts_as_not_said(
    bus: Bus, client: Client, namespace: str, said: str
):
    """What a request says of itself is not what it asks; only that is checked."""
    async with serving(bus, adding().service):
        data = f'{{"a": 1, "b": 2, {said}}}'.encode()
        reply = await ask(client, namespace, "serving.Add", data)

    assert reply.data == b"3"


# -- time ---------------------------------------------------------------------------------


async def test_handler_knows_how_long_its_caller_waits(bus: Bus):
    """So that it can leave out what takes too long."""
    service, left = Service("holding"), list[float | None]()

    @service.handle
    async def hold(request: Hold, ctx: Context) -> int:
        left.append(ctx.time_left)
        return 0

    async with serving(bus, service):
        await bus.request(Hold(), timeout=60)
        await bus.request(Hold())

    assert left[0] is not None
    assert 30 < left[0] <= 60
    assert left[1] is not None
    assert 0 < left[1] <= bus.timeout


async def test_handler_is_cancelled_when_its_caller_has_given_up(bus: Bus):
    """Nobody waits for what it would say; the service goes on."""
    made = Holding()
    async with serving(bus, made.service, adding().service):
        with pytest.raises(ReplyTimeoutError, match=r"within 0\.1 s"):
            await bus.request(Hold(number=7), timeout=0.1)

        await until(lambda: made.cancelled == [7], "the handler should be cancelled")
        assert await bus.request(Add(a=1, b=2)) == 3
        assert bus.running == 0


async def test_handler_that_does_not_give_up_is_left_to_finish(bus: Bus):
    """It may have something to bring to an end; what it returns is for nobody."""
    service, release = Service("stubborn"), asyncio.Event()
    ended: list[int] = []

    @service.handle
    async def hold(request: Hold) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
            ended.append(request.number)
        return request.number

    async with serving(bus, service):
        with capture_logs() as logs:
            with pytest.raises(ReplyTimeoutError):
                await bus.request(Hold(number=7), timeout=0.1)
            release.set()
            await until(lambda: bus.running == 0, "it should be done")

    assert ended == [7]
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_handler_whose_time_is_up_asks_nobody(bus: Bus):
    """There is no time left in which others could answer."""
    made, service = adding(), Service("stubborn")
    errors: list[Exception] = []

    @service.handle
    async def hold(request: Hold, ctx: Context) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await ctx.bus.request(Add(a=1), timeout=60)
            except ReplyTimeoutError as exc:
                errors.append(exc)
            raise
        return 0

    async with serving(bus, service, made.service):
        with pytest.raises(ReplyTimeoutError):
            await bus.request(Hold(), timeout=0.1)
        await until(lambda: errors, "the handler should be told")

    assert "within 0 s" in str(errors[0])
    assert made.asked == []


async def test_request_whose_time_is_up_is_not_begun(bus: Bus):
    """It waited for its turn until its caller had gone: the time is counted from its arrival."""
    made = Holding(concurrency=1)
    async with serving(bus, made.service):
        (first,) = await made.asked_by(bus, 1)
        with pytest.raises(ReplyTimeoutError):
            await bus.request(Hold(number=2), timeout=0.1)
        made.release.set()

        assert await first == 1
        assert await bus.request(Hold(number=3)) == 3

    assert made.begun == [1, 3]


async def test_request_of_a_handler_gets_no_longer_than_its_caller(bus: Bus):
    """Whatever it asks for: nobody waits for it any longer."""
    service = Service("chain")

    @service.handle
    async def pass_on(request: Pass, ctx: Context) -> dict[str, Any]:
        return await ctx.bus.request(Describe(), timeout=request.timeout)

    @service.handle
    async def describe(request: Describe, ctx: Context) -> dict[str, Any]:
        return {"left": ctx.time_left}

    async with serving(bus, service):
        longer = await bus.request(Pass(timeout=60), timeout=2)
        unsaid = await bus.request(Pass(), timeout=2)
        shorter = await bus.request(Pass(timeout=1), timeout=60)

    assert longer["left"] <= 2
    assert unsaid["left"] <= 2
    assert shorter["left"] <= 1


async def test_whole_chain_ends_with_the_first_caller(bus: Bus):
    """A handler that waits for another service, and that one, are cancelled alike."""
    made, service, ended = Holding(), Service("chain"), asyncio.Event()

    @service.handle
    async def pass_on(request: Pass, ctx: Context) -> dict[str, Any]:
        try:
            await ctx.bus.request(Hold(number=1), timeout=60)
        finally:
            ended.set()
        return {}

    async with serving(bus, made.service, service):
        with pytest.raises(ReplyTimeoutError):
            await bus.request(Pass(), timeout=0.2)

        await asyncio.wait_for(ended.wait(), 5)
        await until(lambda: made.cancelled == [1], "the inner handler should be cancelled")


# -- every failure its own error ----------------------------------------------------------


async def test_nobody_answers(bus: Bus):
    """The caller is told at once, not when its time is up."""
    with pytest.raises(NoResponderError, match=r"serving\.Add"):
        await bus.request(Add(a=1), timeout=60)


async def test_nobody_answers_in_time(bus: Bus):
    """The service is there, but says nothing: it may still have acted."""
    made = Holding()
    async with serving(bus, made.service):
        with pytest.raises(ReplyTimeoutError, match=r"serving\.Hold"):
            await bus.request(Hold(), timeout=0.1)

    assert made.begun == [0]


@pytest.mark.parametrize(
    "data", [b"", b"not json", b'{"name": "Noel"}', b'"Noel"', b"null", b"\xff"]
)
async def test_answer_cannot_be_read(bus: Bus, client: Client, namespace: str, data: bytes):
    """It is not what the request says; its caller never gets something of another type."""

    async def answer(message: Msg) -> None:
        await message.respond(data)

    await listen(client, f"{namespace}.request.serving.FetchUser", answer)

    with pytest.raises(UnreadableError, match="the answer is not as declared") as caught:
        await bus.request(FetchUser(name="Noel"))
    assert caught.value.subject == f"{namespace}.request.serving.FetchUser"


async def test_request_is_too_large(bus: Bus):
    """It is not sent at all."""
    made = answering(len)
    async with serving(bus, made.service):
        with pytest.raises(MessageTooLargeError, match=r"serving\.Anything") as caught:
            await bus.request(Anything(value="x" * bus.connection.max_payload))
        assert await bus.request(Anything(value="x")) == 1

    assert caught.value.size_bytes > caught.value.limit_bytes == bus.connection.max_payload
    assert made.asked == ["x"]


async def test_answer_is_too_large(bus: Bus):
    """The caller is told so, with both sizes, and the service goes on."""
    limit = bus.connection.max_payload
    async with serving(bus, answering(lambda size: "x" * size).service):
        with pytest.raises(ReplyTooLargeError, match=str(limit)) as caught:
            await bus.request(Anything(value=limit))
        assert await bus.request(Anything(value=1)) == "x"

    assert caught.value.code == 413
    assert str(limit + 2) in caught.value.message


async def test_service_is_busy(bus: Bus):
    """More wait than may: who comes then is told at once that nothing was begun."""
    made = Holding(concurrency=2, max_waiting=3)
    async with serving(bus, made.service):
        asked = await made.asked_by(bus, 1, 2, 3, 4, 5)

        with pytest.raises(ServiceBusyError) as caught:
            await bus.request(Hold(number=6))
        made.release.set()

        assert await asyncio.gather(*asked) == [1, 2, 3, 4, 5]
        assert await bus.request(Hold(number=7)) == 7

    assert caught.value.code == 503
    assert made.begun == [1, 2, 3, 4, 5, 7]


async def test_handlers_run_so_many_at_once(bus: Bus):
    """The others wait for their turn, in the order they came."""
    made = Holding(concurrency=3)
    async with serving(bus, made.service):
        asked = await made.asked_by(bus, *range(10))
        assert made.begun == [0, 1, 2]
        assert bus.running == 10

        made.release.set()
        await asyncio.gather(*asked)

    assert made.begun == list(range(10))


async def test_handler_that_raises_is_answered(bus: Bus):
    """Code 500, the exception's class and its words; in the log with its traceback."""

    def fail(value: Any) -> Any:
        raise LookupError(f"no such thing: {value}")

    async with serving(bus, answering(fail).service):
        with capture_logs() as logs, pytest.raises(ServiceError) as caught:
            await bus.request(Anything(value="unicorn"))

    error = caught.value
    assert (type(error), error.code, error.kind) == (ServiceError, 500, "builtins.LookupError")
    assert error.message == "no such thing: unicorn"
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["event"] == "request handler failed"
    assert entry["type"] == "serving.Anything"
    assert entry["handler"].endswith("handle")
    assert isinstance(entry["exc_info"][1], LookupError)


async def test_handler_whose_own_work_was_cancelled_has_failed(bus: Bus):
    """The service has not stopped, and whoever asks again gets no other answer."""
    service = Service("impatient")

    @service.handle
    async def hold(request: Hold) -> int:
        work = asyncio.create_task(asyncio.sleep(60))
        work.cancel()
        await work
        return 0

    async with serving(bus, service, adding().service):
        with capture_logs() as logs, pytest.raises(ServiceError) as caught:
            await bus.request(Hold())
        assert await bus.request(Add(a=1, b=2)) == 3

    assert caught.value.code == 500
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "request handler failed"
    ]


async def test_declared_error_is_not_logged(bus: Bus):
    """It is an answer like any other."""

    def fail(value: Any) -> Any:
        raise ClosedError("come back tomorrow")

    async with serving(bus, answering(fail).service):
        with capture_logs() as logs, pytest.raises(ClosedError, match="come back tomorrow"):
            await bus.request(Anything())

    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_service_goes_on_after_errors(bus: Bus):
    """However many there were."""

    def fail_sometimes(value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value

    async with serving(bus, answering(fail_sometimes, concurrency=3).service):
        with capture_logs():
            answers = await asyncio.gather(
                *(bus.request(Anything(value=n)) for n in range(50)), return_exceptions=True
            )

    assert [answer for answer in answers if isinstance(answer, int)] == list(range(0, 50, 2))


@pytest.mark.parametrize(
    "value", [object(), {1, object()}, "\ud800"], ids=["object", "set", "surrogate"]
)
async def test_answer_that_cannot_be_encoded_is_an_error(bus: Bus, value: Any):
    """The caller need not wait until its time is up."""
    async with serving(bus, answering(lambda _: value).service):
        with pytest.raises(ServiceError) as caught:
            await bus.request(Anything())

    assert caught.value.code == 500


async def test_error_with_many_words_is_answered(bus: Bus):
    """An exception may carry all that was worked on: what is too much is cut."""

    def fail(value: Any) -> Any:
        raise ValueError("x" * (bus.connection.max_payload + 1))

    async with serving(bus, answering(fail).service):
        # What logs it to a terminal would be busy with it for minutes.
        with capture_logs(), pytest.raises(ServiceError) as caught:
            await bus.request(Anything())

    assert (caught.value.code, caught.value.kind) == (500, "builtins.ValueError")
    assert caught.value.message.startswith("xxx")


class HoldsThingsError(ServiceError, code=422):
    thing: Any


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HoldsThingsError("no", thing=object()), 422),
        (HoldsThingsError("no", thing="\ud800"), 422),
        (ServiceError("\ud800"), 500),
        (ValueError("\ud800"), 500),
    ],
    ids=lambda value: repr(value).encode("ascii", "backslashreplace").decode(),
)
async def test_error_that_cannot_be_encoded_is_answered(bus: Bus, error: Exception, code: int):
    """At least with its code; the caller need not wait until its time is up."""

    def fail(value: Any) -> Any:
        raise error

    async with serving(bus, answering(fail).service):
        with pytest.raises(ServiceError) as caught:
            await bus.request(Anything())

    assert caught.value.code == code


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def test_error_without_words_is_answered(bus: Bus):
    """An exception whose `str` fails is one all the same."""

    def fail(value: Any) -> Any:
        raise SilentError

    async with serving(bus, answering(fail).service):
        with pytest.raises(ServiceError) as caught:
            await bus.request(Anything())

    assert caught.value.code == 500
    assert caught.value.kind.endswith("SilentError")


async def test_caller_may_not_ask():
    """The server says so, and it is not taken for silence."""
    config = (
        'accounts { A { jetstream: enabled, users: [ { user: "u", password: "secret", '
        'permissions: { publish: { deny: ["*.request.serving.Add"] } } } ] } }'
    )
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with Bus("caller", servers=url, timeout=60) as bus:
            with pytest.raises(PermissionDeniedError, match=r"serving\.Add"):
                await bus.request(Add(a=1))


async def test_connection_is_lost_meanwhile():
    """The caller is told at once that the answer cannot come; it may have been acted on."""
    made = Holding()
    async with (
        LocalServer() as server,
        Bus("server", servers=server.url, storage="memory", grace=0) as bus,
        Bus("caller", servers=server.url, storage="memory", grace=0, timeout=60) as caller,
        serving(bus, made.service),
    ):
        (asked,) = await made.asked_by(caller, 1)
        await server.restart()

        with pytest.raises(ConnectionLostError):
            await asyncio.wait_for(asked, 10)


async def test_service_answers_again_after_a_restart_of_the_server():
    """It subscribes again as soon as the server is back, and is discovered again."""
    async with (
        LocalServer() as server,
        Bus("server", servers=server.url, storage="memory", grace=0) as bus,
        serving(bus, adding().service),
    ):
        assert await bus.request(Add(a=1, b=2)) == 3

        await server.restart()

        await until(lambda: bus.is_ready, "the connection should be back")
        assert await bus.request(Add(a=2, b=2)) == 4
        assert len(await bus.services("calculator")) == 1


async def test_events_are_not_asked(bus: Bus):
    """A mistake that is told where it is made."""
    event: Any = Placed(number=1)
    request: Any = Add(a=1)
    for ask_with in (bus.request, bus.gather):
        with pytest.raises(TypeError, match=r"serving\.Placed is an event"):
            await ask_with(event)
    with pytest.raises(TypeError, match=r"serving\.Placed is an event"):
        await anext(bus.stream(event))
    with pytest.raises(TypeError, match=r"serving\.Add is a request"):
        await bus.publish(request)


# -- middleware and lifespan --------------------------------------------------------------


async def test_middleware_is_around_every_handler(bus: Bus):
    """The first one outermost; it sees the context, and the answer on its way back."""
    made, seen = adding(), list[str]()

    def noting(name: str) -> Callable[[Context, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
        async def note(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
            seen.append(f"{name} {ctx.type}")
            result = await call_next()
            seen.append(f"{name} {result}")
            return result

        return note

    made.service.middleware += [noting("outer"), noting("inner")]
    async with serving(bus, made.service):
        await bus.request(Add(a=1, b=2))

    assert seen == ["outer serving.Add", "inner serving.Add", "inner 3", "outer 3"]


async def test_middleware_can_change_an_answer_or_refuse(bus: Bus):
    """What it returns or raises is the caller's."""
    made = adding()

    async def guard(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if ctx.headers.get("Day") == "sunday":
            raise ClosedError("come back on monday")
        return 10 * await call_next()

    made.service.middleware.append(guard)
    async with serving(bus, made.service):
        assert await bus.request(Add(a=1, b=2)) == 30
        refused = await bus.connection.request(
            bus.subjects.request("serving.Add"), b'{"a": 1}', headers={"Day": "sunday"}
        )

    assert (refused.headers or {})[TEXT] == "come back on monday"
    assert len(made.asked) == 1


async def test_service_has_what_it_needs_while_it_is_served(bus: Bus):
    """Its lifespan begins before the first request and ends after the last answer."""
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        seen.append("opened")
        yield "database"
        seen.append("closed")

    service = Service("stateful", lifespan=lifespan)

    @service.handle
    async def handle(request: Anything, ctx: Context) -> Any:
        seen.append(request.value)
        return ctx.state

    async with serving(bus, service):
        assert await bus.request(Anything(value=1)) == "database"

    assert seen == ["opened", 1, "closed"]


async def test_services_have_a_state_each(new_bus: BusFactory):
    """Neither the bus's nor another service's."""

    def stateful(name: str, request: type[Any]) -> Service:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[str]:
            yield name

        async def handle(request: Any, ctx: Context) -> Any:
            return {"state": ctx.state}

        handle.__annotations__ |= {
            "request": request,
            "return": request.__orig_bases__[0].__args__[0],
        }
        service = Service(name, lifespan=lifespan)
        service.handle(handle)
        return service

    @asynccontextmanager
    async def of_bus() -> AsyncIterator[str]:
        yield "bus"

    async with (
        new_bus(lifespan=of_bus) as bus,
        serving(bus, stateful("one", Describe), stateful("two", Pass)),
    ):
        assert (await bus.request(Describe()), await bus.request(Pass())) == (
            {"state": "one"},
            {"state": "two"},
        )
        assert bus.state == "bus"


async def test_service_that_cannot_begin_says_so(bus: Bus):
    """And those that had begun with it end in order."""
    ended: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        ended.append("first")

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    with pytest.raises(OSError, match="no database"):
        await bus.serve(
            adding("first", lifespan=lifespan).service, answering(str, lifespan=broken).service
        )

    assert ended == ["first"]
    assert not bus.serving
    with pytest.raises(NoResponderError):
        await bus.request(Add(a=1))


async def test_service_whose_handler_cannot_begin_says_so(new_bus: BusFactory):
    """It answers nothing then, and what it had opened is closed."""
    ended = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        ended.set()

    made = adding(lifespan=lifespan)
    made.service.on(Placed, durable="adding")(note_number([]))
    async with new_bus(declare=False) as bus:
        with pytest.raises(EventStreamMissingError):
            await bus.serve(made.service)

        assert ended.is_set()
        assert not bus.serving
        with pytest.raises(NoResponderError):
            await bus.request(Add(a=1))


async def test_service_that_cannot_end_says_so(bus: Bus):
    """The others end in order all the same."""
    ended = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await asyncio.sleep(0.01)
        ended.set()

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("disk full")

    serve = await begin(
        bus, answering(str, lifespan=broken).service, adding(lifespan=lifespan).service
    )
    bus.stop()

    with pytest.raises(OSError, match="disk full"):
        await asyncio.wait_for(serve, 5)
    assert ended.is_set()
    assert not bus.serving


async def test_service_handles_events_with_its_own_state(bus: Bus):
    """Its middleware is around them too."""
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        yield "database"

    async def note(ctx: Context, call_next: Callable[[], Awaitable[Any]]) -> Any:
        seen.append("middleware")
        return await call_next()

    service = Service("stateful", lifespan=lifespan)
    service.middleware.append(note)

    @service.on(Placed)
    async def handle(event: Placed, ctx: Context) -> None:
        seen.append((event.number, ctx.state))

    async with serving(bus, service):
        await bus.publish(Placed(number=1))
        await until(lambda: len(seen) == 2, "the event should be handled")

    assert seen == ["middleware", (1, "database")]


@pytest.mark.parametrize("durable", [{}, {"durable": "stateful"}], ids=["live", "durable"])
async def test_service_handles_events_only_while_it_is_served(bus: Bus, durable: dict[str, Any]):
    """Afterwards what it needs is closed; served again, it handles each event once."""
    handled: list[int] = []
    service = Service("stateful")
    service.on(Placed, **durable)(note_number(handled))
    async with serving(bus, service):
        await bus.publish(Placed(number=1))
        await until(lambda: handled == [1], "it should be handled")

    await bus.publish(Placed(number=2))
    await bus.connection.confirm()
    await until(lambda: bus.running == 0, "nothing should be under way")
    while_away = list(handled)
    async with serving(bus, service):
        await bus.publish(Placed(number=3))
        await until(lambda: 3 in handled, "it should be handled")
        await bus.connection.confirm()

    assert while_away == [1]
    assert handled == ([1, 2, 3] if durable else [1, 3])


def note_number(handled: list[int]) -> Any:
    async def note(event: Placed) -> None:
        handled.append(event.number)

    return note


# -- stopping -----------------------------------------------------------------------------


async def test_service_that_is_told_to_stop_answers_what_it_has(new_bus: BusFactory):
    """Requests that came before are answered, those that wait too; later ones are not taken."""
    made = Holding(concurrency=1)
    async with new_bus("server", grace=30) as server, new_bus("caller") as caller:
        serve = await begin(server, made.service)
        asked = await made.asked_by(caller, 1, 2)

        server.stop()
        await until_nobody_answers(caller, Hold(number=3))
        assert not server.is_ready
        assert not serve.done()
        made.release.set()

        assert await asyncio.gather(*asked) == [1, 2]
        await asyncio.wait_for(serve, 5)
        assert not server.serving

    assert made.begun == [1, 2]


async def until_nobody_answers(caller: Bus, request: Request[Any]) -> None:
    """Return once the server knows nobody who would answer a request."""

    async def is_refused() -> bool:
        try:
            await caller.request(request, timeout=0.2)
        except NoResponderError:
            return True
        except ReplyTimeoutError:
            pass
        return False

    await until(is_refused, "no request should be taken any more")


async def test_drain_finishes_requests(new_bus: BusFactory):
    """It returns when what was begun is answered, so that the connection may be closed."""
    made = Holding()
    async with new_bus("server", grace=30) as server, new_bus("caller") as caller:
        serve = await begin(server, made.service)
        (asked,) = await made.asked_by(caller, 1)

        drain = asyncio.create_task(server.drain())
        await until_nobody_answers(caller, Hold(number=2))
        assert not drain.done()
        made.release.set()
        await asyncio.wait_for(drain, 5)
        running = server.running

        assert await asked == 1
        await asyncio.wait_for(serve, 5)

    assert running == 0


async def test_closing_the_bus_finishes_requests(new_bus: BusFactory):
    """Whoever waits is answered before the connection goes."""
    made = Holding()
    async with new_bus("caller") as caller:
        async with new_bus("server", grace=30) as server:
            serve = await begin(server, made.service)
            (asked,) = await made.asked_by(caller, 1)
            asyncio.get_running_loop().call_later(0.1, made.release.set)

        assert await asked == 1
        await asyncio.wait_for(serve, 5)


async def test_all_services_stop_together(new_bus: BusFactory):
    """One that has much to finish does not let another take requests meanwhile."""
    made = Holding()
    async with new_bus("server", grace=30) as server, new_bus("caller") as caller:
        serve = await begin(server, made.service, adding().service)
        (asked,) = await made.asked_by(caller, 1)

        server.stop()
        await until_nobody_answers(caller, Hold(number=2))
        await server.connection.confirm()
        try:
            with pytest.raises(NoResponderError):
                await caller.request(Add(a=1))
        finally:
            made.release.set()
        assert await asked == 1
        await asyncio.wait_for(serve, 5)


async def test_handler_that_takes_too_long_to_stop_is_cancelled(new_bus: BusFactory):
    """Its caller is told that the service has stopped, and can ask another instance."""
    made = Holding()
    async with new_bus("server", grace=0.1) as server, new_bus("caller") as caller:
        serve = await begin(server, made.service)
        (asked,) = await made.asked_by(caller, 1)

        server.stop()

        with pytest.raises(ServiceStoppedError, match="has stopped"):
            await asked
        await asyncio.wait_for(serve, 5)

    assert made.cancelled == [1]


async def test_request_that_waits_is_refused_when_time_is_up(new_bus: BusFactory):
    """As that which runs: nobody waits for an answer that does not come."""
    made = Holding(concurrency=1)
    async with new_bus("server", grace=0.1) as server, new_bus("caller", timeout=10) as caller:
        serve = await begin(server, made.service)
        asked = await made.asked_by(caller, 1, 2)

        server.stop()
        await asyncio.wait_for(serve, 5)
        done, _ = await asyncio.wait(asked, timeout=2)

        for one in asked:
            one.cancel()
        assert len(done) == 2
        # The first may have acted, the second has not begun.
        assert {type(one.exception()) for one in done} == {ServiceStoppedError, ServiceBusyError}

    assert made.begun == [1]


async def test_service_that_is_cancelled_waits_for_nothing(new_bus: BusFactory):
    """Its handlers are cancelled at once, their callers told, and what it used is closed."""
    ended = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        ended.set()

    made = Holding(lifespan=lifespan)
    async with new_bus("server", grace=30) as server, new_bus("caller") as caller:
        async with serving(server, made.service):
            (asked,) = await made.asked_by(caller, 1)

        assert made.cancelled == [1]
        assert ended.is_set()
        with pytest.raises(ServiceStoppedError):
            await asked
        with pytest.raises(NoResponderError):
            await caller.request(Hold())


async def test_handler_has_its_resources_until_its_end(new_bus: BusFactory):
    """The lifespan is left after the last handler, also if that was cancelled."""
    order: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        order.append("lifespan")

    service, begun = Service("slow", lifespan=lifespan), asyncio.Event()

    @service.handle
    async def hold(request: Hold) -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            order.append("handler")
        return 0

    async with new_bus("server") as server, new_bus("caller") as caller:
        async with serving(server, service):
            asked = asyncio.create_task(caller.request(Hold()))
            await begun.wait()
        with pytest.raises(ServiceStoppedError):
            await asked

    assert order == ["handler", "lifespan"]


async def test_service_can_be_served_again(bus: Bus):
    """Under another id; what it answered before is forgotten."""
    made, ids = adding(), list[str]()
    for _ in range(3):
        async with serving(bus, made.service):
            assert await bus.request(Add(a=1, b=2)) == 3
            (running,) = bus.serving
            ids.append(running.id)
            assert running.stats().endpoints[0].num_requests == 1
        with pytest.raises(NoResponderError):
            await bus.request(Add(a=1, b=2))

    assert len(set(ids)) == 3


async def test_rolling_restart_fails_no_request(new_bus: BusFactory):
    """Instances come and go one after the other, and no caller notices."""
    failed: list[Exception] = []
    answered: Counter[int] = Counter()
    stopping = asyncio.Event()

    async def keep_asking(caller: Bus) -> None:
        while not stopping.is_set():
            try:
                answered[await caller.request(Add(a=1, b=2))] += 1
            except Exception as exc:
                failed.append(exc)

    async with new_bus("caller") as caller, AsyncExitStack() as stack:

        async def instance(number: int) -> tuple[Bus, asyncio.Task[None]]:
            bus = await stack.enter_async_context(new_bus(f"server-{number}"))
            return bus, await begin(bus, adding().service)

        running = await instance(0)
        asking = [asyncio.create_task(keep_asking(caller)) for _ in range(10)]
        for number in range(1, 4):
            following = await instance(number)
            bus, task = running
            bus.stop()
            await asyncio.wait_for(task, 5)
            running = following
        await until(lambda: answered[3] > 100, "requests should be answered")
        stopping.set()
        await asyncio.gather(*asking)
        bus, task = running
        bus.stop()
        await task

    assert failed == []


async def test_service_ends_in_order_without_a_server():
    """There is nobody to say goodbye to; its resources are released all the same."""
    ended = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        ended.set()

    made = Holding(lifespan=lifespan)
    async with (
        LocalServer() as server,
        Bus("server", servers=server.url, storage="memory", grace=0.1) as bus,
    ):
        serve = await begin(bus, made.service)
        asked = await made.asked_by(bus, 1)
        server.kill()
        await until(lambda: not bus.is_ready, "the connection should be lost")

        serve.cancel()
        await asyncio.wait({serve}, timeout=10)
        await asyncio.gather(*asked, return_exceptions=True)

        assert serve.done()
        assert ended.is_set()
        assert made.cancelled == [1]


# -- how it is ----------------------------------------------------------------------------


async def test_bus_says_how_it_is(bus: Bus):
    """For health checks: what it serves, and how much is under way."""
    made = Holding()
    async with serving(bus, made.service):
        (asked,) = await made.asked_by(bus, 1)

        health = bus.health()
        assert (bus.is_ready, bus.is_live, bus.running) == (True, True, 1)
        assert (health["connected"], health["running"]) == (True, 1)
        assert [one.name for one in health["services"]] == ["holding"]

        made.release.set()
        await asked
        assert bus.running == 0
    assert bus.health()["services"] == []


# -- what a handler leaves running --------------------------------------------------------


async def test_what_a_handler_leaves_running_takes_its_own_time(bus: Bus):
    """Its caller has an answer: what is asked for afterwards does not end with that time."""
    service, later = Service("starting"), list[asyncio.Task[int]]()
    time_is_up = asyncio.Event()

    async def work() -> int:
        await time_is_up.wait()
        return await bus.request(Add(a=1, b=2))

    @service.handle
    async def start(request: Forget, ctx: Context) -> None:
        later.append(asyncio.create_task(work()))
        assert ctx.time_left is not None
        asyncio.get_running_loop().call_later(ctx.time_left, time_is_up.set)

    async with serving(bus, service, adding().service):
        await bus.request(Forget(), timeout=0.2)

        assert await asyncio.wait_for(later[0], 5) == 3


# -- what the server does not allow -------------------------------------------------------


@pytest.mark.parametrize("denied", ["request.serving.Add", "event.*.serving.Placed"])
async def test_service_that_may_not_listen_cannot_begin(denied: str):
    """To its requests, or to events: whoever serves is told, and nothing of it is left."""
    config = (
        'accounts { A { jetstream: enabled, users: [ { user: "u", password: "secret", '
        f'permissions: {{ subscribe: {{ deny: ["*.{denied}"] }} }} }} ] }} }}'
    )
    made = adding()
    made.service.on(Placed)(note_number([]))
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with Bus("server", servers=url, storage="memory", grace=0) as bus:
            with pytest.raises(PermissionDeniedError, match=denied.replace("*", r"\*")):
                await asyncio.wait_for(bus.serve(made.service), 10)

            assert not bus.serving
            with pytest.raises(NoResponderError):
                await bus.request(Add(a=1))


# -- for how long a caller says that it waits ---------------------------------------------


@pytest.mark.parametrize("said", [None, 0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_time_that_makes_no_sense_counts_as_not_said(said: float | None):
    """MessagePack can say `nan`, which is neither above nor below anything."""
    assert time_in(Meta(timeout=said)) is None


@pytest.mark.parametrize("said", [0.001, 2, 1e9])
def test_time_that_a_caller_says_counts(said: float):
    """However long or short."""
    assert time_in(Meta(timeout=said)) == said
