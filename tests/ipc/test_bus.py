"""A bus: how it is opened, closed and told to stop, and what it refuses."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from ipc import (
    DEFAULT_SERVER,
    Bus,
    BusNotOpenError,
    Connection,
    Context,
    Domain,
    Event,
    EventStreamMissingError,
    Handler,
    InvalidNameError,
    NoResponderError,
    Request,
    ServerUnavailableError,
    Service,
    Settings,
)
from tests.conftest import until

from .conftest import BusFactory, serving


class Placed(Event, type="bus.Placed"):
    number: int = 0


class Fetch(Request[int], type="bus.Fetch"):
    pass


class World:
    """Says when a bus's lifespan was entered and left."""

    def __init__(self, *, fails: bool = False) -> None:
        self.told: list[str] = []
        self.fails = fails

    @property
    def lifespan(self) -> Callable[[], AbstractAsyncContextManager[Any]]:
        @asynccontextmanager
        async def lifespan() -> AsyncGenerator[str]:
            self.told.append("entered")
            if self.fails:
                raise RuntimeError("no database")
            try:
                yield "state"
            finally:
                self.told.append("left")

        return lifespan


def takes(bus: Bus, **options: Any) -> list[int]:
    """Handle events by noting their numbers."""
    seen: list[int] = []

    @bus.on(Placed, **options)
    async def note(event: Placed) -> None:
        seen.append(event.number)

    return seen


class Stuck:
    """A handler that waits until it is let go."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.ends: list[str] = []
        bus.on(Placed, **options)(self.handle)

    async def handle(self, event: Placed) -> None:
        self.begun.set()
        try:
            await self.let.wait()
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("done")


# -- what it is given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("", {}, InvalidNameError),
        ("a.b", {}, InvalidNameError),
        ("a b", {}, InvalidNameError),
        ("shop", {"prefix": "a.b"}, InvalidNameError),
        ("shop", {"prefix": ""}, InvalidNameError),
        ("shop", {"codec": "xml"}, ValueError),
        ("shop", {"timeout": 0}, ValueError),
        ("shop", {"timeout": -1}, ValueError),
        ("shop", {"timeout": float("nan")}, ValueError),
        ("shop", {"grace": -0.1}, ValueError),
        ("shop", {"grace": float("nan")}, ValueError),
        ("shop", {"replicas": 2}, ValueError),
        ("shop", {"storage": "tape"}, ValueError),
        ("shop", {"domains": [Domain("shop"), Domain("shop", history=60)]}, ValueError),
    ],
)
def test_settings_out_of_range_are_refused(name: str, options: dict[str, Any], error: Any):
    """When the bus is made, with its name."""
    with pytest.raises(error, match=r"shop|default|bus|prefix"):
        Bus(name, **options)


@pytest.mark.parametrize(
    ("servers", "environment", "expected"),
    [
        (None, None, (DEFAULT_SERVER,)),
        (None, "nats://a:1, nats://b:2", ("nats://a:1", "nats://b:2")),
        ("nats://c:3", "nats://a:1", ("nats://c:3",)),
        (["nats://c:3", "nats://d:4"], "nats://a:1", ("nats://c:3", "nats://d:4")),
    ],
)
def test_servers_are_the_argument_else_the_environment_else_this_machine(
    monkeypatch: pytest.MonkeyPatch, servers: Any, environment: str | None, expected: Any
):
    """`NATS_URL` is the environment's word for it."""
    monkeypatch.delenv("NATS_URL", raising=False)
    if environment is not None:
        monkeypatch.setenv("NATS_URL", environment)

    assert Bus("shop", servers=servers).settings.servers == expected


async def test_bus_finds_its_server_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, server_url: str, namespace: str
):
    """Where the program says nothing."""
    monkeypatch.setenv("NATS_URL", server_url)

    async with Bus("shop", prefix=namespace) as bus:
        await bus.connection.confirm()


def test_making_a_bus_connects_to_nothing():
    """A module that makes one can be imported anywhere."""
    bus = Bus("shop", servers="nats://127.0.0.1:1")

    assert repr(bus) == "<Bus 'shop'>"
    # What the server shows beside its connection.
    assert bus.settings.name == "ipc shop"
    assert not bus.is_open
    assert not bus.is_ready


# -- opening and closing -------------------------------------------------------------------


async def test_bus_is_open_inside_its_block(new_bus: BusFactory):
    """Before and after it is not; and it can be opened again, as another one to the others."""
    bus = new_bus()
    ids: set[str] = set()
    for _ in range(2):
        assert not bus.is_open
        async with bus:
            assert bus.is_open
            assert bus.is_ready
            ids.add(bus.id)
        assert not bus.is_ready
    assert len(ids) == 2


async def test_bus_is_opened_once(bus: Bus):
    """A second time is a mistake, and does no harm."""
    with pytest.raises(RuntimeError, match="bus 'test' is open already"):
        async with bus:
            pass

    await bus.publish(Placed())
    assert bus.is_ready


async def test_server_that_is_not_there_is_an_error(new_bus: BusFactory):
    """Within the bus's timeout; the bus is not open then."""
    bus = new_bus(servers="nats://127.0.0.1:1", timeout=0.1)

    with pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1"):
        async with bus:
            pass
    assert not bus.is_open


async def test_shared_connection_is_left_open(new_bus: BusFactory, server_url: str):
    """Several buses may use one; who opened it closes it."""
    connection = Connection(Settings.load(server_url))
    await connection.open()
    try:
        async with (
            new_bus("one", connection=connection) as one,
            new_bus("two", connection=connection) as two,
        ):
            seen = takes(two)
            await two.ready()
            assert one.connection is two.connection is connection
            await one.publish(Placed(number=1))
            await until(lambda: seen == [1], "the other should have it")

        assert connection.is_connected
        await connection.confirm()
        # Of what the buses have asked for, nothing is left.
        with pytest.raises(NoResponderError):
            await connection.request(two.subjects.event("bus.Placed"))
    finally:
        await connection.close()


async def test_own_connection_is_closed(new_bus: BusFactory):
    """With the bus."""
    async with new_bus() as bus:
        connection = bus.connection

    assert not connection.is_connected


@pytest.mark.parametrize("attribute", ["connection", "jetstream", "scope", "state", "serving"])
async def test_what_an_open_bus_has_is_not_there_else(new_bus: BusFactory, attribute: str):
    """Asking for it says that the bus is not open."""
    with pytest.raises(BusNotOpenError, match="use it inside `async with bus:`"):
        getattr(new_bus(), attribute)


# -- lifespan ------------------------------------------------------------------------------


async def test_lifespan_is_around_everything(new_bus: BusFactory):
    """It is entered before the first handler begins, and left when the last has ended."""
    world = World()
    bus = new_bus(lifespan=world.lifespan)

    @bus.on(Placed)
    async def handle(event: Placed, ctx: Context) -> None:
        world.told.append("begun")
        await asyncio.sleep(0.05)
        world.told.append(f"done with {ctx.state}")

    async with bus:
        assert world.told == ["entered"]
        assert bus.state == "state"
        await bus.publish(Placed())
        await until(lambda: "begun" in world.told, "the handler should begin")

    assert world.told == ["entered", "begun", "done with state", "left"]


async def test_lifespan_may_use_the_connection(new_bus: BusFactory):
    """It is there before and after it."""
    published = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        await bus.publish(Placed(number=1))
        yield
        await bus.publish(Placed(number=2))
        await bus.connection.confirm()
        published.set()

    bus = new_bus(lifespan=lifespan)
    async with new_bus("other") as other, other.subscribe(Placed) as events:
        async with bus:
            pass
        assert published.is_set()
        assert [(await anext(events)).number for _ in range(2)] == [1, 2]


async def test_lifespan_that_fails_leaves_the_bus_closed(new_bus: BusFactory):
    """Its error is what opening raises; nothing stays connected, and it can be tried again."""
    world = World(fails=True)
    bus = new_bus(lifespan=world.lifespan)

    with pytest.raises(RuntimeError, match="no database"):
        async with bus:
            pass
    assert not bus.is_open

    world.fails = False
    async with bus:
        assert bus.state == "state"
    assert world.told == ["entered", "entered", "left"]


async def test_lifespan_is_left_after_an_exception(new_bus: BusFactory):
    """Whatever ends the block."""
    world = World()

    with pytest.raises(RuntimeError, match="mine"):
        async with new_bus(lifespan=world.lifespan):
            raise RuntimeError("mine")

    assert world.told == ["entered", "left"]


# -- the end -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"durable": "mailer"}], ids=["live", "durable"])
async def test_closing_waits_for_what_runs(new_bus: BusFactory, options: dict[str, Any]):
    """Handlers that have begun finish first."""
    bus = new_bus(grace=30.0)
    stuck = Stuck(bus, **options)
    async with bus:
        await bus.publish(Placed(), durable=True)
        await stuck.begun.wait()
        asyncio.get_running_loop().call_later(0.05, stuck.let.set)

    assert stuck.ends == ["done"]


@pytest.mark.parametrize("options", [{}, {"durable": "mailer"}], ids=["live", "durable"])
async def test_closing_cancels_what_does_not_end(new_bus: BusFactory, options: dict[str, Any]):
    """After the bus's grace."""
    bus = new_bus(grace=0.0)
    stuck = Stuck(bus, **options)
    async with bus:
        await bus.publish(Placed(), durable=True)
        await stuck.begun.wait()

    assert stuck.ends == ["cancelled"]


@pytest.mark.parametrize("options", [{}, {"durable": "mailer"}], ids=["live", "durable"])
async def test_after_an_exception_nothing_is_waited_for(
    new_bus: BusFactory, options: dict[str, Any]
):
    """Whoever failed wants to be told now, not after the grace."""
    bus = new_bus(grace=30.0)
    stuck = Stuck(bus, **options)

    async def fail() -> None:
        async with bus:
            await bus.publish(Placed(), durable=True)
            await stuck.begun.wait()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await asyncio.wait_for(fail(), 20)
    assert stuck.ends == ["cancelled"]


async def test_cancelling_the_block_closes_the_bus(new_bus: BusFactory):
    """As a program that is told to end does."""
    bus = new_bus(grace=30.0)
    stuck = Stuck(bus)
    opened = asyncio.Event()

    async def run() -> None:
        async with bus:
            opened.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await opened.wait()
    await bus.publish(Placed())
    await stuck.begun.wait()
    running.cancel()
    await asyncio.wait({running}, timeout=10)

    assert running.cancelled()
    assert not bus.is_open
    assert stuck.ends == ["cancelled"]


async def test_drain_finishes_what_was_begun(new_bus: BusFactory):
    """It takes nothing new, returns when all is done, and leaves the bus open."""
    bus = new_bus(grace=30.0)
    stuck = Stuck(bus)
    async with bus:
        await bus.publish(Placed())
        await stuck.begun.wait()
        draining = asyncio.create_task(bus.drain())
        await until(lambda: not bus.is_ready, "it should not be ready any more")
        assert not draining.done()

        stuck.let.set()
        await asyncio.wait_for(draining, 10)
        assert stuck.ends == ["done"]
        assert bus.is_open
        await bus.publish(Placed())
        await bus.connection.confirm()
    assert stuck.ends == ["done"]


# -- handlers that cannot begin ------------------------------------------------------------


async def test_handler_that_cannot_begin_keeps_the_bus_closed(new_bus: BusFactory):
    """Opening raises its error, everything else is undone; when it can begin it can be opened."""
    world = World()
    bus = new_bus(declare=False, lifespan=world.lifespan)
    seen = takes(bus)
    durably = takes(bus, durable="mailer")

    with pytest.raises(EventStreamMissingError, match="bus"):
        async with bus:
            pass
    assert not bus.is_open
    assert world.told == ["entered", "left"]

    async with new_bus() as other:
        takes(other, durable="mailer")
        await other.ready()
    async with bus:
        await bus.publish(Placed(number=1), durable=True)
        await until(lambda: seen == durably == [1], "both should have it")


async def test_handler_that_cannot_begin_later_is_told_by_ready(new_bus: BusFactory):
    """The bus stays open, and is not ready as long as a handler does not listen."""
    async with new_bus(declare=False) as bus:
        takes(bus, durable="mailer")

        with pytest.raises(EventStreamMissingError):
            await bus.ready()
        assert bus.is_open
        assert not bus.is_ready


async def test_serving_fails_with_a_handler_that_cannot_begin(new_bus: BusFactory):
    """Whoever serves is told; nothing of the service is left, and another one can be served."""
    service, other = Service("users"), Service("others")

    @service.handle
    async def fetch(request: Fetch) -> int:
        return 1

    @service.on(Placed, durable="mailer")
    async def handle(event: Placed) -> None: ...

    @other.handle
    async def fetch_other(request: Fetch) -> int:
        return 2

    async with new_bus(declare=False) as bus:
        with pytest.raises(EventStreamMissingError):
            await bus.serve(service)
        with pytest.raises(NoResponderError):
            await bus.request(Fetch(), timeout=1)
        async with serving(bus, other):
            assert await bus.request(Fetch()) == 2


async def test_who_stops_waiting_for_a_handler_does_not_stop_it(bus: Bus):
    """It begins all the same."""
    seen = takes(bus)
    durably = takes(bus, durable="mailer")

    waiting = asyncio.create_task(bus.ready())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await bus.ready()
    await bus.publish(Placed(number=1), durable=True)

    await until(lambda: seen == durably == [1], "both should have it")


# -- ready or not --------------------------------------------------------------------------


async def test_bus_is_ready_while_it_takes_events(new_bus: BusFactory):
    """Not while a handler begins, not when it was told to stop."""
    async with new_bus() as bus:
        assert bus.is_ready
        takes(bus, durable="mailer")
        assert not bus.is_ready
        await bus.ready()
        assert bus.is_ready
        bus.stop()
        assert not bus.is_ready
        assert bus.is_open
    bus.stop()
    assert not bus.is_ready


async def test_service_that_stops_lets_serve_return(bus: Bus):
    """`stop` does not wait; `serve` returns when what was begun is done."""
    service = Service("users")

    @service.handle
    async def fetch(request: Fetch) -> int:
        return 7

    running = asyncio.create_task(bus.serve(service))
    await until(lambda: len(bus.serving) == 1 and bus.is_ready, "it should be served")
    assert await bus.request(Fetch()) == 7

    bus.stop()

    await asyncio.wait_for(running, 10)
    assert list(bus.serving) == []


# -- services that handle events -----------------------------------------------------------


async def test_service_handles_events_while_it_is_served(bus: Bus):
    """Not before, not after; and each once, however often it is served."""
    service = Service("mailer")
    handled: list[int] = []

    @service.on(Placed)
    async def note(event: Placed) -> None:
        handled.append(event.number)

    seen = takes(bus)
    await bus.ready()
    for number in range(0, 6, 2):
        async with serving(bus, service):
            await bus.publish(Placed(number=number))
            await until(lambda number=number: number in handled, "it should be handled")
        await bus.publish(Placed(number=number + 1))
        await until(lambda number=number: number + 1 in seen, "the bus itself goes on")

    assert handled == [0, 2, 4]


async def test_durable_of_a_service_rests_while_it_is_not_served(bus: Bus):
    """Its events wait for it on the server."""
    service = Service("mailer")
    handled: list[int] = []

    @service.on(Placed, durable="mailer")
    async def note(event: Placed) -> None:
        handled.append(event.number)

    seen = takes(bus, durable="audit")
    async with serving(bus, service):
        await bus.publish(Placed(number=1), durable=True)
        await until(lambda: handled == [1], "it should be handled")
    await bus.publish(Placed(number=2), durable=True)
    await until(lambda: 2 in seen, "the bus itself goes on")

    assert handled == [1]
    async with serving(bus, service):
        await until(lambda: handled == [1, 2], "what has waited should be handled")


async def test_service_leaves_its_lifespan_when_its_last_event_is_handled(new_bus: BusFactory):
    """What its handlers need is there until they have ended."""
    world = World()
    service = Service("mailer", lifespan=world.lifespan)
    begun, let = asyncio.Event(), asyncio.Event()

    @service.on(Placed)
    async def handle(event: Placed) -> None:
        begun.set()
        await let.wait()
        world.told.append("done")

    async with new_bus(grace=30.0) as bus:
        running = asyncio.create_task(bus.serve(service))
        await until(lambda: len(bus.serving) == 1 and bus.is_ready, "it should be served")
        await bus.publish(Placed())
        await begun.wait()

        draining = asyncio.create_task(bus.drain())
        await until(lambda: not bus.is_ready, "it should stop")
        await bus.connection.confirm()
        let.set()
        await asyncio.wait_for(asyncio.gather(draining, running), 10)

    assert world.told == ["entered", "done", "left"]


# -- middleware ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"durable": "mailer"}], ids=["live", "durable"])
async def test_middleware_is_around_handlers_of_events(
    new_bus: BusFactory, options: dict[str, Any]
):
    """The first one outermost; each sees the context, and what comes of the next."""
    told: list[str] = []
    bus = new_bus()

    def telling(name: str) -> Callable[[Context, Handler], Any]:
        async def tell(ctx: Context, call_next: Handler) -> Any:
            told.append(f"{name} begins {ctx.type}")
            await call_next()
            told.append(f"{name} ends")

        return tell

    bus.middleware += [telling("outer"), telling("inner")]

    @bus.on(Placed, **options)
    async def handle(event: Placed) -> None:
        told.append("handler")

    async with bus:
        await bus.publish(Placed(), durable=True)
        await until(lambda: "outer ends" in told, "it should be handled")

    assert told == [
        "outer begins bus.Placed",
        "inner begins bus.Placed",
        "handler",
        "inner ends",
        "outer ends",
    ]


async def test_middleware_may_keep_an_event_from_its_handler(new_bus: BusFactory):
    """By not calling what comes next."""
    bus = new_bus()

    async def only_even(ctx: Context, call_next: Handler) -> Any:
        if ctx.id not in odd:
            await call_next()

    odd: set[str] = set()
    bus.middleware.append(only_even)
    seen = takes(bus, durable="mailer", concurrency=1)
    async with bus:
        for number in range(6):
            if number % 2:
                odd.add(str(number))
            await bus.publish(Placed(number=number), durable=True, id=str(number))
        await until(lambda: 4 in seen, "the even ones should be handled")
    assert seen == [0, 2, 4]


async def test_bus_and_service_have_middleware_of_their_own(bus: Bus):
    """That of the bus is around its handlers, that of a service around the service's."""
    told: list[str] = []

    async def of_bus(ctx: Context, call_next: Handler) -> Any:
        told.append("bus")
        return await call_next()

    async def of_service(ctx: Context, call_next: Handler) -> Any:
        told.append("service")
        return await call_next()

    service = Service("users")
    bus.middleware.append(of_bus)
    service.middleware.append(of_service)

    @service.handle
    async def fetch(request: Fetch) -> int:
        return 1

    async with serving(bus, service):
        await bus.request(Fetch())

    assert told == ["service"]


# -- what is published and asked -----------------------------------------------------------


async def test_id_of_ones_own_is_for_durable_events(bus: Bus):
    """Who checks it else? Nothing is published."""
    async with bus.subscribe(Placed) as events:
        with pytest.raises(ValueError, match="durable=True"):
            await bus.publish(Placed(), id="order-1")
        await bus.publish(Placed(number=2))

        assert await anext(events) == Placed(number=2)


async def test_request_cannot_be_published(bus: Bus):
    """Nor told to all without waiting."""
    request: Any = Fetch()

    with pytest.raises(TypeError, match=r"bus\.Fetch is a request"):
        await bus.publish(request)
    with pytest.raises(TypeError, match="not published"):
        await bus.publish(request, durable=True)
    with pytest.raises(TypeError, match="not published"):
        bus.publish_nowait(request)


async def test_event_cannot_be_asked(bus: Bus):
    """Nobody answers one."""
    event: Any = Placed()

    with pytest.raises(TypeError, match=r"bus\.Placed is an event, which is published"):
        await bus.request(event)
    with pytest.raises(TypeError, match="is an event"):
        await bus.gather(event)
    with pytest.raises(TypeError, match="is an event"):
        await anext(bus.stream(event))


@pytest.mark.parametrize("thing", [{"number": 1}, "bus.Placed", None, Placed])
async def test_only_messages_can_be_sent(bus: Bus, thing: Any):
    """Neither as an event nor as a request."""
    with pytest.raises(TypeError, match=r"not a subclass of ipc\.Event or ipc\.Request"):
        await bus.publish(thing)
    with pytest.raises(TypeError, match=r"not a subclass of ipc\.Event or ipc\.Request"):
        await bus.request(thing)


# -- told to stop before it has begun ------------------------------------------------------


async def test_drain_while_a_handler_begins_lets_serve_return(new_bus: BusFactory):
    """Who serves was not cancelled: it is as if the handler had never begun."""
    async with new_bus() as bus:
        takes(bus, durable="mailer")
        serve = asyncio.create_task(bus.serve())
        await asyncio.sleep(0)

        await bus.drain()
        done, _ = await asyncio.wait({serve}, timeout=5)

    assert done
    assert not serve.cancelled()
    assert serve.exception() is None
