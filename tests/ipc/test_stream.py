"""Answers of many items: in order, as fast as they are taken, ended by either side."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
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
    LocalServer,
    NoResponderError,
    PermissionDeniedError,
    ReplyTimeoutError,
    ReplyTooLargeError,
    Request,
    Service,
    ServiceError,
    StreamBrokenError,
    UnreadableError,
)
from ipc._stream import CREDIT, STREAM_HEADER
from tests.conftest import flushed, until
from tests.faults.proxy import Proxy

from .conftest import BusFactory, serving

CODE = "Nats-Service-Error-Code"


class Row(msgspec.Struct):
    number: int


class ListRows(Request[Row], type="stream.ListRows"):
    count: int


class Items(Request[Any], type="stream.Items"):
    pass


class Ask(Request[int], type="stream.Ask"):
    pass


class TooManyError(ServiceError, code=416):
    limit: int


class Rows:
    """A service that answers with so many rows, and what it has been up to."""

    def __init__(self, **options: Any) -> None:
        self.service = Service("rows", **options)
        self.made = 0
        self.begun = 0
        self.ended = 0
        self.service.handle(self.list_rows)

    async def list_rows(self, request: ListRows) -> AsyncIterator[Row]:
        self.begun += 1
        try:
            for number in range(request.count):
                self.made = number + 1
                yield Row(number)
        finally:
            self.ended += 1


def yielding(*items: Any, then: Exception | None = None) -> Service:
    """Make a service that answers with some items, and perhaps fails then."""
    service = Service("items")

    @service.handle
    async def answer(request: Items) -> AsyncIterator[Any]:
        for item in items:
            yield item
        if then is not None:
            raise then

    return service


class Waiting:
    """A service that answers with one item, and then works for as long as it may."""

    def __init__(self, **options: Any) -> None:
        self.service = Service("waiting", **options)
        self.begun = 0
        self.ended = 0
        self.release = asyncio.Event()
        self.service.handle(self.answer)

    async def answer(self, request: Items) -> AsyncIterator[Any]:
        self.begun += 1
        try:
            yield "first"
            await self.release.wait()
            yield "last"
        finally:
            self.ended += 1


async def listen(client: Client, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
    """Subscribe as any client does; return once the server knows."""
    await client.subscribe(subject, cb=receive)
    # nats-py sends a ping ahead of what waits to be sent: only the second one comes behind it.
    await flushed(client)


def ask(**said: Any) -> bytes:
    """Return a request as a client in another language writes it."""
    return json.dumps({"$credit": 10, **said}).encode()


async def take(items: AsyncIterator[Any], taken: list[Any]) -> None:
    """Note what comes, one after the other, until there is no more."""
    async for item in items:
        taken.append(item)


class Answer:
    """What a plain client gets as an answer of many items."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.inbox = client.new_inbox()
        self.messages: list[Msg] = []

    async def ask(self, subject: str, data: bytes) -> None:
        async def note(message: Msg) -> None:
            self.messages.append(message)

        await self.client.subscribe(self.inbox, cb=note)
        await self.client.publish(subject, data, reply=self.inbox)

    async def say(self, **control: Any) -> None:
        """Give credit or cancel: on the subject that came with every message."""
        await self.client.publish(self.messages[0].reply, json.dumps(control).encode())

    @property
    def items(self) -> list[Any]:
        return [json.loads(one.data) for one in self.messages if not one.headers]

    @property
    def states(self) -> list[str]:
        return [one.headers[STREAM_HEADER] for one in self.messages if one.headers]


# -- items --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, CREDIT, CREDIT + 1, 5_000])
async def test_items_come_in_order(bus: Bus, count: int):
    """All of them, however many; then the loop ends."""
    rows = Rows()
    async with serving(bus, rows.service):
        received = [row async for row in bus.stream(ListRows(count=count))]

    assert received == [Row(number) for number in range(count)]
    assert (rows.begun, rows.ended) == (1, 1)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_items_are_written_as_the_question(bus: Bus, new_bus: BusFactory, codec: Any):
    """Whatever the service's bus writes otherwise."""
    async with new_bus(codec=codec) as caller, serving(bus, Rows().service):
        received = [row async for row in caller.stream(ListRows(count=3))]

    assert received == [Row(0), Row(1), Row(2)]


async def test_item_may_be_anything(bus: Bus):
    """Nothing at all, or an empty text, is an item like any other."""
    items = [None, "", 0, [], {}, "größer", [1, None], {"a": None}]
    async with serving(bus, yielding(*items)):
        assert [item async for item in bus.stream(Items())] == items


async def test_items_may_be_large(bus: Bus):
    """As large as a message may be, many of them: what waits is not all held at once."""
    item = "x" * (bus.connection.max_payload - 2)
    async with serving(bus, yielding(*[item] * 30)):
        sizes = [len(one) async for one in bus.stream(Items())]

    assert sizes == [len(item)] * 30


async def test_many_answers_go_on_at_once(bus: Bus):
    """Each caller gets its own items."""

    async def all_rows(count: int) -> int:
        return len([row async for row in bus.stream(ListRows(count=count))])

    async with serving(bus, Rows().service):
        assert await asyncio.gather(*map(all_rows, range(0, 400, 8))) == list(range(0, 400, 8))


async def test_handler_that_streams_knows_its_request(new_bus: BusFactory):
    """Its context, its state, and the middleware around it are as of any other."""
    service, seen = Service("items"), list[Any]()

    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append("before")
        await call_next()
        seen.append("after")

    service.middleware.append(note)

    @service.handle
    async def answer(request: Items, ctx: Context) -> AsyncIterator[Any]:
        yield ctx.source
        yield ctx.type
        yield ctx.correlation_id == ctx.id
        seen.append("items")

    async with new_bus("server") as server, new_bus("caller") as caller, serving(server, service):
        items = [item async for item in caller.stream(Items())]
        await until(lambda: server.running == 0, "the handler should be done")

    assert items == ["caller", "stream.Items", True]
    assert seen == ["before", "items", "after"]


async def test_service_can_stream_what_another_streams(bus: Bus):
    """Handlers ask as anybody does."""
    service, rows = Service("items"), Rows()

    @service.handle
    async def answer(request: Items, ctx: Context) -> AsyncIterator[Any]:
        async for row in ctx.bus.stream(ListRows(count=250)):
            yield row.number

    async with serving(bus, service, rows.service):
        assert [item async for item in bus.stream(Items())] == list(range(250))


# -- back-pressure ------------------------------------------------------------------------


async def test_handler_does_not_run_ahead(bus: Bus):
    """It makes as many items as may be on their way, and waits until some are taken."""
    rows = Rows()
    async with serving(bus, rows.service), aclosing(bus.stream(ListRows(count=10_000))) as items:
        assert await anext(items) == Row(0)
        # The last one waits to be sent.
        await until(lambda: rows.made == CREDIT + 1, "it should use its credit")
        for _ in range(5):
            await bus.connection.confirm()
        assert rows.made == CREDIT + 1

        for number in range(1, 1_000):
            assert await anext(items) == Row(number)
            assert rows.made <= number + 1 + CREDIT + 1


async def test_client_gives_the_credit(bus: Bus, client: Client, namespace: str):
    """How many items may come unasked is for the one who asks to say."""
    async with serving(bus, Rows().service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.ListRows", ask(count=10, **{"$credit": 3}))
        await until(lambda: len(answer.items) == 3, "so many should come")
        await bus.connection.confirm()
        await flushed(client)
        assert (len(answer.items), answer.states) == (3, ["open"])

        await answer.say(credit=2)
        await until(lambda: len(answer.items) == 5, "two more should come")
        await answer.say(credit=100)
        await until(lambda: "end 10" in answer.states, "all should come")

    assert answer.items == [{"number": number} for number in range(10)]
    assert answer.states == ["open", "end 10"]


async def test_malformed_credit_changes_nothing(bus: Bus, client: Client, namespace: str):
    """Neither ends it the answer, nor does it let anything come."""
    async with serving(bus, Rows().service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.ListRows", ask(count=4, **{"$credit": 1}))
        await until(lambda: answer.items, "the first should come")
        for data in (b"", b"nonsense", b"\xff", b'{"credit": "\xff"}', b'{"credit": null}', b"[5]"):
            await client.publish(answer.messages[0].reply, data)
        await answer.say(credit=1)
        await until(lambda: len(answer.items) == 2, "one more should come")
        await bus.connection.confirm()
        await flushed(client)
        assert len(answer.items) == 2

        await answer.say(credit=10)
        await until(lambda: "end 4" in answer.states, "the rest should come")


# -- ended by the caller ------------------------------------------------------------------


async def test_leaving_the_loop_stops_the_handler(bus: Bus):
    """It need not be told otherwise."""
    rows = Rows()
    async with serving(bus, rows.service):
        async for row in bus.stream(ListRows(count=1_000_000)):
            if row.number == 3:
                break

        await until(lambda: rows.ended == 1, "the handler should be stopped")
        await until(lambda: bus.running == 0, "nothing should be under way")
    assert rows.made < 1_000


async def test_failing_in_the_loop_stops_the_handler(bus: Bus):
    """As leaving it in any other way does."""
    rows = Rows()

    async def fail() -> None:
        async for _ in bus.stream(ListRows(count=1_000_000)):
            raise ZeroDivisionError

    async with serving(bus, rows.service):
        with pytest.raises(ZeroDivisionError):
            await fail()

        await until(lambda: rows.ended == 1, "the handler should be stopped")


async def test_handler_is_stopped_where_it_waits(bus: Bus):
    """Also while there is nothing to send."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        async with aclosing(bus.stream(Items())) as items:
            assert await anext(items) == "first"
            assert waiting.ended == 0

        await until(lambda: waiting.ended == 1, "the handler should be stopped")


async def test_caller_that_is_cancelled_stops_the_handler(bus: Bus):
    """Its task need not know that it was in a stream."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        task = asyncio.create_task(take(bus.stream(Items()), []))
        await until(lambda: waiting.begun, "the handler should begin")
        task.cancel()

        await until(lambda: waiting.ended == 1, "the handler should be stopped")
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_caller_that_leaves_before_the_first_message_stops_the_handler(bus: Bus):
    """Where to say so comes with the first message, and may come later."""
    waiting = Waiting(concurrency=1)
    async with serving(bus, waiting.service):
        first = bus.stream(Items())
        assert await anext(first) == "first"
        task = asyncio.create_task(anext(bus.stream(Items())))
        await until(lambda: bus.running == 2, "the second request should wait for its turn")
        task.cancel()
        await asyncio.wait({task})
        await first.aclose()

        await until(lambda: waiting.begun == 2, "it should be the second one's turn")
        await until(lambda: waiting.ended == 2, "its handler should be stopped")


async def test_request_is_not_left_running_for_a_caller_that_gave_up(bus: Bus):
    """It waited for its turn for longer than its caller waited for a sign of life."""
    waiting = Waiting(concurrency=1)
    async with serving(bus, waiting.service):
        first = bus.stream(Items())
        assert await anext(first) == "first"
        with pytest.raises(ReplyTimeoutError):
            await anext(bus.stream(Items(), timeout=0.1))
        # Nothing is to be left of it on the caller's side either.
        await asyncio.sleep(0.2)
        await first.aclose()

        await until(lambda: waiting.ended == 1, "the first should be stopped")
        await until(lambda: bus.running == 0, "nothing should be under way", 3)


async def test_any_client_can_end_it(bus: Bus, client: Client, namespace: str):
    """By saying so where it gives credit."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.Items", ask())
        await until(lambda: answer.items, "the first should come")

        await answer.say(cancel=True)

        await until(lambda: waiting.ended == 1, "the handler should be stopped")


async def test_leaving_a_loop_is_no_error_of_the_service(bus: Bus):
    """Neither in its statistics, nor in the log."""
    rows = Rows()
    async with serving(bus, rows.service):
        with capture_logs() as logs:
            async for _ in bus.stream(ListRows(count=1_000_000)):
                break
            await until(lambda: bus.running == 0, "the handler should be stopped")
        (endpoint,) = bus.serving[0].stats().endpoints

    assert (endpoint.num_requests, endpoint.num_errors, endpoint.last_error) == (1, 0, "")
    assert [entry for entry in logs if entry["log_level"] != "info"] == []


async def test_caller_that_vanishes_stops_the_handler(bus: Bus, new_bus: BusFactory):
    """Its connection is closed, in the midst of it; it can say nothing any more."""
    rows = Rows()
    async with serving(bus, rows.service):
        async with new_bus("caller") as caller:
            items = caller.stream(ListRows(count=1_000_000), timeout=0.6)
            assert await anext(items) == Row(0)
            await caller.connection.close()
            with pytest.raises(ConnectionLostError):
                await take(items, [])

        # What waits for credit sends no item, but a sign of life.
        await until(lambda: rows.ended == 1, "the handler should be stopped")


async def test_caller_that_vanishes_stops_a_handler_that_sends_nothing(
    bus: Bus, client: Client, namespace: str
):
    """It is found out with the next sign of life, of which there are three in the time."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.Items", ask(**{"$timeout": 0.3}))
        await until(lambda: answer.items, "the first should come")
        await client.close()

        await until(lambda: waiting.ended == 1, "the handler should be stopped")


# -- ended by the service -----------------------------------------------------------------


async def test_error_comes_after_the_items(bus: Bus):
    """What was yielded before counts."""
    received: list[Any] = []
    async with serving(bus, yielding(1, 2, 3, then=TooManyError("enough", limit=3))):
        with pytest.raises(TooManyError, match="enough") as caught:
            await take(bus.stream(Items()), received)

    assert received == [1, 2, 3]
    assert caught.value.limit == 3


async def test_error_may_come_first(bus: Bus):
    """Before there is any item."""
    async with serving(bus, yielding(then=TooManyError("enough", limit=0))):
        with pytest.raises(TooManyError):
            await anext(bus.stream(Items()))


async def test_handler_that_fails_is_logged(bus: Bus):
    """Its caller gets code 500, as of any handler; the next request is answered."""
    async with serving(bus, yielding(1, then=LookupError("no such thing"))):
        for _ in range(2):
            with capture_logs() as logs, pytest.raises(ServiceError) as caught:
                await take(bus.stream(Items()), [])
            assert (caught.value.code, caught.value.kind) == (500, "builtins.LookupError")
            assert [entry["event"] for entry in logs] == ["request handler failed"]
        (endpoint,) = bus.serving[0].stats().endpoints

    assert (endpoint.num_requests, endpoint.num_errors) == (2, 2)


async def test_item_is_too_large(bus: Bus):
    """An error of its own, as of an answer that is no stream."""
    received: list[Any] = []
    async with serving(bus, yielding(1, "x" * bus.connection.max_payload)):
        with pytest.raises(ReplyTooLargeError, match=str(bus.connection.max_payload)):
            await take(bus.stream(Items()), received)

    assert received == [1]


async def test_item_that_cannot_be_encoded_is_an_error(bus: Bus):
    """Of the service's, and the caller is told."""
    async with serving(bus, yielding(1, object())):
        with capture_logs(), pytest.raises(ServiceError) as caught:
            await take(bus.stream(Items()), [])

    assert (caught.value.code, caught.value.kind) == (500, "builtins.TypeError")


async def test_service_that_stops_says_so(bus: Bus, new_bus: BusFactory):
    """Its caller is not left waiting for more."""
    waiting = Waiting()
    async with new_bus("server", grace=0) as server:
        async with serving(server, waiting.service):
            items = bus.stream(Items())
            assert await anext(items) == "first"

        with pytest.raises(ServiceError) as caught:
            await anext(items)
    assert caught.value.code == 503
    assert waiting.ended == 1


async def test_handler_has_its_resources_until_its_end(bus: Bus, new_bus: BusFactory):
    """The lifespan is left after the last handler, also if that was not at its end."""
    order: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        order.append("lifespan")

    service = Service("items", lifespan=lifespan)

    @service.handle
    async def answer(request: Items) -> AsyncIterator[Any]:
        try:
            while True:
                yield "item"
        finally:
            await asyncio.sleep(0.05)
            order.append("handler")

    async with new_bus("server") as server:
        async with serving(server, service):
            items = bus.stream(Items())
            assert await anext(items) == "item"
        with pytest.raises(ServiceError):
            await take(items, [])

    assert order == ["handler", "lifespan"]


async def test_service_that_drains_finishes_its_streams(bus: Bus, new_bus: BusFactory):
    """An answer that was begun is given to its end, if there is time."""
    rows = Rows()
    async with new_bus("server", grace=30) as server:
        serve = asyncio.create_task(server.serve(rows.service))
        await until(lambda: server.serving and server.is_ready, "the service should begin")
        items = bus.stream(ListRows(count=1_000))
        received = [await anext(items)]
        server.stop()
        received += [row async for row in items]
        await asyncio.wait_for(serve, 5)

    assert received == [Row(number) for number in range(1_000)]


# -- silence ------------------------------------------------------------------------------


async def test_slow_handler_is_waited_for(bus: Bus):
    """It gives signs of life for as long as it works, however little time there may be none."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        items = bus.stream(Items(), timeout=0.3)
        assert await anext(items) == "first"
        asyncio.get_running_loop().call_later(0.8, waiting.release.set)

        assert await anext(items) == "last"


async def test_signs_of_life_come_three_times_as_often(bus: Bus, client: Client, namespace: str):
    """As the asking side would give up; two may be lost."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.Items", ask(**{"$timeout": 0.15}))
        await until(lambda: answer.states.count("alive") >= 3, "it should give signs of life")
        waiting.release.set()
        await until(lambda: "end 2" in answer.states, "the rest should come")

    assert answer.items == ["first", "last"]


@pytest.mark.parametrize("timeout", ["-1", "0.000001", "0"])
async def test_nonsense_for_a_time_does_not_flood(
    bus: Bus, client: Client, namespace: str, timeout: str
):
    """A stranger cannot have the service send signs of life without end."""
    waiting = Waiting()
    async with serving(bus, waiting.service):
        answer = Answer(client)
        data = f'{{"$credit": 10, "$timeout": {timeout}}}'.encode()
        await answer.ask(f"{namespace}.request.stream.Items", data)
        await until(lambda: waiting.begun, "the handler should begin")
        for _ in range(20):
            await bus.connection.confirm()
        waiting.release.set()
        await until(lambda: "end 2" in answer.states, "the rest should come")

    assert answer.states.count("alive") < 10


async def test_slow_caller_loses_nothing(bus: Bus):
    """It may take its time between items; nobody gives it up for that."""
    async with serving(bus, Rows().service):
        received: list[int] = []
        async for row in bus.stream(ListRows(count=300), timeout=0.1):
            received.append(row.number)
            if row.number in (0, 150):
                await asyncio.sleep(0.3)

    assert received == list(range(300))


async def test_service_falls_silent(bus: Bus, client: Client, namespace: str):
    """It hangs, or its machine is gone: neither item nor sign of life."""

    async def begin(message: Msg) -> None:
        await client.publish(message.reply, b"", headers={STREAM_HEADER: "open"})
        await client.publish(message.reply, b"1")

    await listen(client, f"{namespace}.request.stream.Items", begin)
    items = bus.stream(Items(), timeout=0.2)

    assert await anext(items) == 1
    with pytest.raises(ReplyTimeoutError, match=r"stream\.Items.* within 0\.2 s"):
        await anext(items)


# -- every failure its own error ----------------------------------------------------------


async def test_nobody_answers(bus: Bus):
    """The caller is told at once."""
    with pytest.raises(NoResponderError, match=r"stream\.Items"):
        await anext(bus.stream(Items(), timeout=60))


async def test_caller_may_not_ask():
    """The server says so, and it is not taken for silence."""
    config = (
        'accounts { A { jetstream: enabled, users: [ { user: "u", password: "secret", '
        'permissions: { publish: { deny: ["*.request.stream.Items"] } } } ] } }'
    )
    async with LocalServer(config=config) as server:
        url = server.url.replace("//", "//u:secret@")
        async with Bus("caller", servers=url) as bus:
            with pytest.raises(PermissionDeniedError, match=r"stream\.Items"):
                await anext(bus.stream(Items(), timeout=1))


async def test_stream_is_asked_with_stream(bus: Bus):
    """Asking in the wrong way is told as what it is; nothing is begun."""
    rows = Rows()
    async with serving(bus, rows.service):
        with pytest.raises(BadRequestError, match=r"stream\.ListRows is asked with bus\.stream"):
            await bus.request(ListRows(count=1))
        gathered = await bus.gather(ListRows(count=1))

    assert [type(error) for error in gathered.errors.values()] == [BadRequestError]
    assert rows.begun == 0


async def test_single_answer_is_asked_with_request(bus: Bus):
    """The other way round."""
    service, asked = Service("single"), list[Any]()

    @service.handle
    async def answer(request: Ask) -> int:
        asked.append(request)
        return 7

    async with serving(bus, service):
        with pytest.raises(BadRequestError, match=r"stream\.Ask is asked with bus\.request"):
            await anext(bus.stream(Ask()))
        assert await bus.request(Ask()) == 7

    assert len(asked) == 1


async def test_malformed_request_is_refused(bus: Bus, client: Client, namespace: str):
    """With code 400, before the answer is begun."""
    rows = Rows()
    async with serving(bus, rows.service):
        answer = Answer(client)
        await answer.ask(f"{namespace}.request.stream.ListRows", ask(count="many"))
        await until(lambda: answer.messages, "it should be answered")

    (message,) = answer.messages
    assert (message.headers or {})[CODE] == "400"
    assert rows.begun == 0


@pytest.mark.parametrize("data", [b"", b"nonsense", b'{"number": "one"}', b"\xff"])
async def test_item_cannot_be_read(bus: Bus, client: Client, namespace: str, data: bytes):
    """It is not what the request says; the service is told to stop."""
    cancelled = asyncio.Event()

    async def control(message: Msg) -> None:
        if json.loads(message.data).get("cancel"):
            cancelled.set()

    async def answer(message: Msg) -> None:
        await client.publish(message.reply, b"", reply=inbox, headers={STREAM_HEADER: "open"})
        await client.publish(message.reply, b'{"number": 1}', reply=inbox)
        await client.publish(message.reply, data, reply=inbox)

    inbox = client.new_inbox()
    await listen(client, inbox, control)
    await listen(client, f"{namespace}.request.stream.ListRows", answer)
    items = bus.stream(ListRows(count=3))

    assert await anext(items) == Row(1)
    with pytest.raises(UnreadableError, match="the answer is not as declared"):
        await anext(items)
    await asyncio.wait_for(cancelled.wait(), 5)


@pytest.mark.parametrize("end", ["end 3", "end 1", "end", "end many"])
async def test_items_were_lost(bus: Bus, client: Client, namespace: str, end: str):
    """Fewer came than the service says that it has sent, or more."""

    async def answer(message: Msg) -> None:
        for item in (b"1", b"2"):
            await client.publish(message.reply, item)
        await client.publish(message.reply, b"", headers={STREAM_HEADER: end})

    await listen(client, f"{namespace}.request.stream.Items", answer)
    received: list[Any] = []

    with pytest.raises(StreamBrokenError, match="2 items came") as caught:
        await take(bus.stream(Items()), received)
    assert received == [1, 2]
    assert caught.value.received == 2


async def test_service_of_another_language_can_stream(bus: Bus, client: Client, namespace: str):
    """Items, and a header at the end; what it does not know of it need not do."""

    async def answer(message: Msg) -> None:
        for number in range(CREDIT * 2):
            await client.publish(message.reply, json.dumps({"number": number}).encode())
        end = {STREAM_HEADER: f"end {CREDIT * 2}"}
        await client.publish(message.reply, b"", headers=end)

    await listen(client, f"{namespace}.request.stream.ListRows", answer)

    received = [row.number async for row in bus.stream(ListRows(count=0))]
    assert received == list(range(CREDIT * 2))


async def test_lost_connection_breaks_an_answer_off():
    """Some items may be lost, so none is given as if it were the next; the handler is stopped."""
    waiting = Waiting()
    async with (
        LocalServer() as server,
        Bus("server", servers=server.url, storage="memory", grace=0) as bus,
        Bus("caller", servers=server.url, storage="memory", grace=0) as caller,
        serving(bus, waiting.service),
    ):
        items = caller.stream(Items(), timeout=1)
        assert await anext(items) == "first"
        await server.restart()

        with pytest.raises(ConnectionLostError):
            await anext(items)
        await until(lambda: bus.is_ready and caller.is_ready, "the connections should be back")
        # Its caller is there again, and takes nothing any more.
        await until(lambda: waiting.ended == 1, "the handler should be stopped", 5)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_caller_that_loses_its_connection_stops_the_handler(
    bus: Bus, new_bus: BusFactory, server_url: str, comes_back: bool
):
    """The service did not lose its own; whether the caller comes back makes no difference."""
    waiting = Waiting()
    async with (
        Proxy(server_url) as network,
        serving(bus, waiting.service),
        new_bus("caller", servers=network.url) as caller,
    ):
        items = caller.stream(Items(), timeout=0.6)
        assert await anext(items) == "first"
        await network.cut()
        if comes_back:
            await network.restore()

        with pytest.raises(ConnectionLostError):
            await anext(items)
        await until(lambda: waiting.ended == 1, "the handler should be stopped", 5)


async def test_service_that_loses_its_connection_breaks_an_answer_off(
    bus: Bus, new_bus: BusFactory, server_url: str
):
    """What it sent meanwhile is lost: no later item is taken for the next one."""
    service, received, ended = Service("items"), list[int](), asyncio.Event()

    @service.handle
    async def answer(request: Items) -> AsyncIterator[Any]:
        try:
            for number in itertools.count():
                yield number
                await asyncio.sleep(0)
        finally:
            ended.set()

    async with (
        Proxy(server_url) as network,
        new_bus("server", servers=network.url) as server,
        serving(server, service),
    ):
        taking = asyncio.create_task(take(bus.stream(Items(), timeout=0.6), received))
        await until(lambda: len(received) > 500, "the answer should be on its way")
        await network.cut()
        await network.restore()

        with pytest.raises((ReplyTimeoutError, StreamBrokenError, ServiceError)):
            await taking
        await asyncio.wait_for(ended.wait(), 5)
    assert received == list(range(len(received)))


async def test_items_that_had_come_are_given_before_the_loss_is_told(bus: Bus, new_bus: BusFactory):
    """They were received in order."""
    async with new_bus("caller") as caller, serving(bus, Rows().service):
        items = caller.stream(ListRows(count=1_000))
        received = [await anext(items)]
        for _ in range(3):
            await caller.connection.confirm()
        await caller.connection.close()
        with pytest.raises(ConnectionLostError):
            await take(items, received)

    assert received == [Row(number) for number in range(len(received))]


async def test_busy_service_says_so(bus: Bus):
    """As to any other request."""
    waiting = Waiting(concurrency=1, max_waiting=0)
    async with serving(bus, waiting.service), aclosing(bus.stream(Items())) as items:
        assert await anext(items) == "first"
        with pytest.raises(ServiceError) as caught:
            await anext(bus.stream(Items()))

    assert caught.value.code == 503


async def test_nothing_that_came_after_a_loss_is_given(
    new_bus: BusFactory, server_url: str, client: Client, namespace: str
):
    """A caller that is slow still has items of before; after those it is told, not given others."""
    asked: list[Msg] = []

    async def answer(message: Msg) -> None:
        asked.append(message)
        for number in range(3):
            await message.respond(str(number).encode())

    await listen(client, f"{namespace}.request.stream.Items", answer)
    async with Proxy(server_url) as network, new_bus("caller", servers=network.url) as caller:
        items = caller.stream(Items(), timeout=5)
        received = [await anext(items)]
        await caller.connection.confirm()
        await network.cut()
        await until(lambda: not caller.is_ready, "the loss should be noticed")
        await network.restore()
        await until(lambda: caller.is_ready, "it should be back")
        # What came between is lost.
        await client.publish(asked[0].reply, b"7")
        await flushed(client)
        await caller.connection.confirm()
        with pytest.raises(ConnectionLostError):
            await take(items, received)

    assert received == [0, 1, 2]
