"""A client in another language: Node.js tells, asks and answers Python, and enqueues its jobs.

What runs in Node.js is written with the client of `examples/node`, which knows the protocol and
nothing of Python.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from ipc import (
    Bus,
    Context,
    Event,
    NoResponderError,
    Request,
    Retry,
    Service,
    ServiceError,
    UnreadableError,
)
from ipc._subjects import part_of_key
from jetq import App
from tests.conftest import until, working
from tests.ipc.conftest import BusFactory, serving

from .conftest import CLIENT, Node

# Whichever test comes first installs the packages.
pytestmark = pytest.mark.timeout(150)


class User(msgspec.Struct):
    name: str
    age: int


class UserCreated(Event, type="interop.UserCreated"):
    user: User


class Moved(Event, type="interop.Moved", key="account"):
    account: str
    number: int


class Order(Event, type="interop.Order"):
    number: int


class OrderPaid(Event, type="interop.Order.Paid"):
    number: int


class FetchUser(Request[User], type="interop.FetchUser"):
    id: int


class Count(Request[int], type="interop.Count"):
    to: int


class UserNotFoundError(ServiceError, code=404, type="interop.UserNotFoundError"):
    id: int


ADA = User("Ada", 36)

# What many a client writes where it has nothing to say.
NULLS = "$correlation: null, $causation: null, $version: null, $credit: null"


def users(counted: list[int] | None = None) -> Service:
    """Return a service that knows one user, and counts."""
    service = Service("users", version="1.2.0", description="knows people")

    @service.handle
    async def fetch_user(request: FetchUser) -> User:
        if request.id != 7:
            raise UserNotFoundError(f"there is no user {request.id}", id=request.id)
        return ADA

    @service.handle
    async def count(request: Count) -> AsyncIterator[int]:
        for number in range(request.to):
            if counted is not None:
                counted.append(number)
            yield number

    return service


# -- events: from Node to Python -----------------------------------------------------------


async def test_event_from_node_is_typed_in_python(bus: Bus, node: Node):
    """A JSON object on the type's subject; what it says of itself is known too."""
    async with bus.subscribe(UserCreated) as events:
        await node("""
            bus.publish("interop.UserCreated", { user: { name: "Ada", age: 36 } });
        """)

        event = await anext(events)

    assert event == UserCreated(user=ADA)
    assert events.context.source == "node"
    assert events.context.time is not None
    assert events.context.id == events.context.correlation_id != ""
    assert events.context.causation_id == ""


async def test_event_that_says_nothing_of_itself_is_read(bus: Bus, node: Node):
    """The subject says its type; all else may be missing."""
    async with bus.subscribe(UserCreated) as events:
        await node("""
            const data = JSON.stringify({ user: { name: "Ada", age: 36 } });
            bus.connection.publish(`${namespace}.event.-.interop.UserCreated`, data);
        """)

        assert await anext(events) == UserCreated(user=ADA)


async def test_event_comes_once_whatever_other_types_are_called(bus: Bus, node: Node):
    """A type's name may begin with another's: `Order` has nothing to do with `Order.Paid`."""
    async with bus.subscribe(Order, OrderPaid) as events:
        await node("""
            bus.publish("interop.Order.Paid", { number: 1 });
            bus.publish("interop.Order", { number: 2 });
        """)

        assert [await anext(events), await anext(events)] == [OrderPaid(number=1), Order(number=2)]


async def test_event_from_node_follows_from_one_from_python(bus: Bus, node: Node):
    """What began in Python keeps its correlation on its way through Node."""
    program = """
        bus.on("interop.UserCreated", (event) => {
          bus.publish("interop.Moved", { account: "a", number: 1 }, { key: "a", after: event });
        });
    """
    async with node.running(program), bus.subscribe(UserCreated, Moved) as events:
        await bus.publish(UserCreated(user=ADA))
        await anext(events)
        first = events.context

        assert await anext(events) == Moved(account="a", number=1)

    assert events.context.correlation_id == first.id
    assert events.context.causation_id == first.id


async def test_event_stored_by_node_reaches_durables_in_python(bus: Bus, node: Node):
    """The server acknowledges it, and stores one id once."""
    seen: list[tuple[str, str, str]] = []

    @bus.on(UserCreated, durable="mailer")
    async def welcome(event: UserCreated, ctx: Context) -> None:
        seen.append((event.user.name, ctx.source, ctx.id))

    await bus.ready()
    await node("""
        const [ada, bo] = [{ user: { name: "Ada", age: 36 } }, { user: { name: "Bo", age: 5 } }];
        await bus.publishDurably("interop.UserCreated", ada, { id: "a" });
        await bus.publishDurably("interop.UserCreated", ada, { id: "a" });
        await bus.publishDurably("interop.UserCreated", bo, { id: "b" });
    """)

    await until(lambda: ("Bo", "node", "b") in seen, "the last should be welcomed")
    assert sorted(seen) == [("Ada", "node", "a"), ("Bo", "node", "b")]


async def test_order_by_key_is_kept_across_languages(bus: Bus, node: Node):
    """Whoever publishes: what comes after waits for what came before, also where that fails."""
    seen: list[int] = []
    failed = asyncio.Event()

    @bus.on(Moved, durable="ledger", ordered=True, retry=Retry(base_delay=0.05, jitter=False))
    async def book(event: Moved) -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("not yet")
        seen.append(event.number)

    await bus.ready()
    await bus.publish(Moved(account="Zoë's", number=0), durable=True)
    await failed.wait()
    await node("""
        const moved = { account: "Zoë's", number: 1 };
        await bus.publishDurably("interop.Moved", moved, { key: moved.account });
    """)
    await bus.publish(Moved(account="Zoë's", number=2), durable=True)

    await until(lambda: len(seen) == 3, "all should be booked")
    assert seen == [0, 1, 2]


async def test_languages_agree_on_the_part_of_a_key(node: Node):
    """Of texts with every character that JSON may escape, and of whole numbers."""
    keys: list[Any] = ["", "zoë", "😀", True, False, None, 0, -1, 2**53 - 1]
    keys += [chr(code) for code in (*range(0x100), 0x2028, 0x2029, 0xFEFF, 0xFFFF)]

    said = await node(f"""
        const {{ partOf }} = await import("./ipc.js");
        say({json.dumps(keys)}.map(partOf));
    """)

    assert said == [int(part_of_key(key)) for key in keys]


# -- events: from Python to Node -----------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (
            UserCreated(user=ADA),
            {"$type": "interop.UserCreated", "user": {"name": "Ada", "age": 36}},
        ),
        (Moved(account="a", number=1), {"$type": "interop.Moved", "account": "a", "number": 1}),
    ],
    ids=["of a type", "of a type with a key"],
)
async def test_node_reads_events_of_python(
    bus: Bus, node: Node, event: Event, fields: dict[str, Any]
):
    """JSON that says what it is, of whom, and when it was sent."""
    listen = """
        bus.on("interop.UserCreated", say);
        bus.on("interop.Moved", say);
    """
    async with node.running(listen) as program:
        await bus.publish(event)

        said = await program.said()

    assert {name: said[name] for name in fields} == fields
    assert said.keys() - fields.keys() == {"$id", "$time", "$source"}
    assert said["$source"] == "test"
    assert said["$time"].endswith("Z")


async def test_node_has_a_durable_of_its_own(bus: Bus, node: Node):
    """It gets every event that a durable in Python gets, and again what it could not handle."""
    seen: list[int] = []

    @bus.on(Moved, durable="ledger", concurrency=1)
    async def book(event: Moved) -> None:
        seen.append(event.number)

    await bus.ready()
    handle = """
        let failed = false;
        await bus.onDurable("interop.Moved", "audit", async (event) => {
          if (event.number === 1 && !failed) {
            failed = true;
            throw new Error("not yet");
          }
          say(event.number);
        });
    """
    async with node.running(handle) as program:
        for number in range(3):
            await bus.publish(Moved(account="a", number=number), durable=True)

        said = [await program.said() for _ in range(3)]
        await until(lambda: len(seen) == 3, "Python should have all")

        durables = {one.durable: one.takes for one in await bus.durables.list()}
    assert sorted(said) == seen == [0, 1, 2]
    assert durables == {"audit": ["interop.Moved"], "ledger": ["interop.Moved"]}


async def test_languages_share_a_durable(bus: Bus, node: Node):
    """Handlers of one durable are competing consumers, whatever they are written in."""
    seen: list[int] = []

    @bus.on(Moved, durable="ledger", concurrency=1)
    async def book(event: Moved) -> None:
        seen.append(event.number)

    await bus.ready()
    handle = """
        await bus.onDurable("interop.Moved", "ledger", async (event) => say(event.number));
    """
    async with node.running(handle) as program:
        said = list[int]()
        for number in range(200):
            await bus.publish(Moved(account="a", number=number), durable=True)

        async def is_empty() -> bool:
            (durable,) = await bus.durables.list()
            return durable.pending + durable.unacknowledged == 0

        await until(is_empty, "all should be handled")
        said += await program.end()

    assert sorted(seen + said) == list(range(200))
    assert seen
    assert said


# -- requests: from Node to Python ----------------------------------------------------------


async def test_node_asks_python(bus: Bus, node: Node):
    """The answer is the declared type, as JSON."""
    async with serving(bus, users()):
        said = await node("""
            say(await bus.request("interop.FetchUser", { id: 7 }));
        """)

    assert said == {"name": "Ada", "age": 36}


async def test_error_of_python_is_readable_for_any_client(bus: Bus, node: Node):
    """Its code and message are in the headers of a NATS service, its fields in the body."""
    async with serving(bus, users()):
        said = await node("""
            const subject = `${namespace}.request.interop.FetchUser`;
            const answer = await bus.connection.request(subject, JSON.stringify({ id: 8 }));
            const { headers } = answer;
            say({
              code: headers.get("Nats-Service-Error-Code"),
              text: headers.get("Nats-Service-Error"),
              body: answer.json(),
            });
        """)

    assert said["code"] == "404"
    assert said["text"] == "there is no user 8"
    assert said["body"] == {
        "$type": "interop.UserNotFoundError",
        "code": 404,
        "message": "there is no user 8",
        "data": {"id": 8},
    }


async def test_error_of_python_is_thrown_in_node(bus: Bus, node: Node):
    """With all that was declared."""
    async with serving(bus, users()):
        said = await node("""
            await bus.request("interop.FetchUser", { id: 8 }).catch((error) => {
              const { code, message, type, data } = error;
              say([error instanceof ServiceError, code, message, type, data]);
            });
        """)

    assert said == [True, 404, "there is no user 8", "interop.UserNotFoundError", {"id": 8}]


async def test_request_that_does_not_fit_is_refused(bus: Bus, node: Node):
    """The message says what is wrong with it."""
    async with serving(bus, users()):
        said = await node("""
            const asked = [{ id: "seven" }, {}].map((one) => bus.request("interop.FetchUser", one));
            const settled = await Promise.allSettled(asked);
            say(settled.map(({ reason }) => [reason.code, reason.message]));
        """)

    assert [code for code, _ in said] == [400, 400]
    assert all("interop.FetchUser" in text and "id" in text for _, text in said)


async def test_what_is_null_is_not_said(bus: Bus, node: Node):
    """A request that has null where it could say nothing loses nothing of what it does say."""
    service = Service("users")
    seen: list[tuple[str, str, str, bool]] = []

    @service.handle
    async def fetch_user(request: FetchUser, ctx: Context) -> User:
        seen.append((ctx.id, ctx.source, ctx.correlation_id, ctx.time_left is not None))
        return ADA

    async with serving(bus, service):
        await node(f"""
            const request = {{ id: 7, $id: "a1", $source: "node", $timeout: 5, {NULLS} }};
            const subject = `${{namespace}}.request.interop.FetchUser`;
            await bus.connection.request(subject, JSON.stringify(request));
        """)

    assert seen == [("a1", "node", "a1", True)]


async def test_deadline_of_node_is_known_in_python(bus: Bus, node: Node):
    """The handler is cancelled once nobody in Node waits any more."""
    service, cancelled = Service("slow"), asyncio.Event()

    @service.handle
    async def fetch_user(request: FetchUser) -> User:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return ADA

    async with serving(bus, service):
        said = await node("""
            const asked = bus.request("interop.FetchUser", { id: 7 }, { timeout: 0.1 });
            await asked.catch((error) => say(error.name));
        """)

        await asyncio.wait_for(cancelled.wait(), 5)
    assert said == "TimeoutError"


async def test_node_asks_every_instance(new_bus: BusFactory, bus: Bus, node: Node):
    """It knows from discovery whom to expect, and each says who it is."""
    async with new_bus() as other, serving(bus, users()), serving(other, users()):
        ids = {bus.serving[0].id, other.serving[0].id}
        said = await node("""
            const answers = await bus.gather("interop.FetchUser", { id: 7 });
            say(Object.fromEntries(answers));
        """)

    assert said.keys() == ids
    assert all(answer == {"name": "Ada", "age": 36} for answer in said.values())


async def test_node_reads_an_answer_of_many_items(bus: Bus, node: Node):
    """More of them than may be on their way at once: whenever half are taken, it asks for more."""
    async with serving(bus, users()):
        said = await node("""
            const numbers = [];
            for await (const number of bus.stream("interop.Count", { to: 500 }, { credit: 10 })) {
              numbers.push(number);
            }
            say(numbers);
        """)

    assert said == list(range(500))


async def test_node_ends_an_answer_of_many_items(bus: Bus, node: Node):
    """Who leaves the loop tells the service, which stops; it was ahead by the credit at most."""
    counted: list[int] = []

    def has_stopped() -> bool:
        endpoints = bus.serving[0].stats().endpoints
        return any(one.name == "Count" and one.num_requests == 1 for one in endpoints)

    async with serving(bus, users(counted)):
        await node("""
            for await (const number of bus.stream("interop.Count", { to: 1e9 }, { credit: 10 })) {
              if (number === 20) break;
            }
        """)

        await until(has_stopped, "the service should stop")
    # One more is ready when it has to wait.
    assert 20 <= counted[-1] <= 20 + 10 + 1


# -- requests: from Python to Node ----------------------------------------------------------

PEOPLE = """
    await bus.serve("people", "2.0.1", {
      "interop.FetchUser"({ id, $source }) {
        if (id === 7) return { name: "Ada", age: 36 };
        if (id === 8) throw new ServiceError(410, "user 8 is gone", { data: { since: 2020 } });
        if (id === 9) {
          const type = "interop.UserNotFoundError";
          throw new ServiceError(404, "there is no user 9", { type, data: { id } });
        }
        if (id === 10) return { name: $source };
        throw new Error("out of\\norder");
      },
    });
"""


async def test_python_asks_node(bus: Bus, node: Node):
    """Whoever answers on a request's subject may be written in anything."""
    async with node.running(PEOPLE):
        assert await bus.request(FetchUser(id=7)) == ADA


async def test_error_of_node_is_raised_in_python(bus: Bus, node: Node):
    """As a `ServiceError` with its code and message, also if it was not meant to be one."""
    async with node.running(PEOPLE):
        with pytest.raises(ServiceError) as meant:
            await bus.request(FetchUser(id=8))
        with pytest.raises(ServiceError) as not_meant:
            await bus.request(FetchUser(id=11))

    assert (meant.value.code, meant.value.message) == (410, "user 8 is gone")
    assert (not_meant.value.code, not_meant.value.message) == (500, "Error: out of\norder")


async def test_error_of_node_is_of_the_class_that_it_names(bus: Bus, node: Node):
    """Where that is declared in Python; it has the fields that the class has."""
    async with node.running(PEOPLE):
        with pytest.raises(UserNotFoundError, match="there is no user 9") as raised:
            await bus.request(FetchUser(id=9))

    assert raised.value.id == 9


async def test_error_of_a_service_that_knows_nothing_of_ipc_is_raised(bus: Bus, node: Node):
    """The two headers of a NATS service are enough; what stands in the body is its own affair."""
    service = """
        const { Svcm } = await import("@nats-io/services");
        const service = await new Svcm(bus.connection).add({ name: "busy", version: "1.0.0" });
        const bodies = ["", "no JSON", '{"data": "later"}', '"later"'];
        service.addEndpoint("any", {
          subject: `${namespace}.request.interop.FetchUser`,
          handler: (_, message) =>
            message.respondError(429, "too many, später", bodies[message.json().id]),
        });
    """
    async with node.running(service):
        for body in range(4):
            with pytest.raises(ServiceError) as raised:
                await bus.request(FetchUser(id=body))

            assert (raised.value.code, raised.value.message) == (429, "too many, später")


async def test_answer_of_node_that_does_not_fit_is_an_error(bus: Bus, node: Node):
    """Python takes no answer that is not as the request declares."""
    async with node.running(PEOPLE):
        with pytest.raises(UnreadableError, match="age"):
            await bus.request(FetchUser(id=10))


async def test_python_hears_that_node_is_gone(bus: Bus, node: Node):
    """At once, as of any service."""
    async with node.running(PEOPLE):
        pass

    with pytest.raises(NoResponderError):
        await bus.request(FetchUser(id=7))


async def test_languages_share_the_requests(bus: Bus, node: Node):
    """Instances in Node and in Python are one group: each request goes to one of them."""
    service = Service("people")

    @service.handle
    async def fetch_user(request: FetchUser) -> User:
        return User("Python", 33)

    async with node.running(PEOPLE), serving(bus, service):
        replies = [await bus.request(FetchUser(id=7)) for _ in range(60)]

    assert {reply.name for reply in replies} == {"Ada", "Python"}


async def test_python_asks_every_instance_also_in_node(bus: Bus, node: Node):
    """Discovery knows those in Node as well: nobody is left out for being slower than others."""
    people = """
        await bus.serve("people", "2.0.1", {
          async "interop.FetchUser"() {
            await new Promise((resolve) => setTimeout(resolve, 100));
            return { name: "Bo", age: 5 };
          },
        });
    """
    async with serving(bus, users()), node.running(people):
        gathered = await bus.gather(FetchUser(id=7), timeout=5)

    assert sorted(user.name for user in gathered) == ["Ada", "Bo"]
    assert gathered.is_complete


# -- discovery ------------------------------------------------------------------------------


async def test_python_finds_services_of_node(bus: Bus, node: Node):
    """With their endpoints, and how they have done."""
    async with node.running(PEOPLE):
        await bus.request(FetchUser(id=7))
        (found,), (stats,) = await asyncio.gather(
            bus.services("people"), bus.service_stats("people")
        )

    assert (found.name, found.version) == ("people", "2.0.1")
    (endpoint,) = found.endpoints
    assert endpoint.name == "FetchUser"
    assert endpoint.subject == bus.subjects.request("interop.FetchUser")
    assert stats.id == found.id
    assert stats.endpoints[0].num_requests == 1


async def test_every_service_is_found_and_measured(bus: Bus, node: Node, namespace: str):
    """Whatever its library writes where there is nothing to say; and one writes fractions."""
    services = """
        const answer = (verb, name, said) =>
          bus.connection.subscribe(`$SRV.${verb}.${namespace}`, {
            callback: (_, message) =>
              message.respond(JSON.stringify({ name, id: "a1", version: "1.0.0", ...said })),
          });
        const measured = (endpoint) => {
          const endpoints = [{ name: "any", subject: "any", num_requests: 3, ...endpoint }];
          return { started: new Date(), endpoints };
        };
        answer("INFO", "plain", { endpoints: [] });
        answer("INFO", ".NET", { description: null });
        answer("STATS", "plain", measured({}));
        answer("STATS", "Node.js", measured({ average_processing_time: 1e6 / 3 }));
        answer("STATS", "Rust", measured({ last_error: null }));
        answer("STATS", "Rust, failed", measured({ last_error: { status: "broken", code: 500 } }));
    """
    async with node.running(services):
        found, stats = await asyncio.gather(bus.services(namespace), bus.service_stats(namespace))

    assert {one.name for one in found} == {"plain", ".NET"}
    assert {one.name for one in stats} == {"plain", "Node.js", "Rust", "Rust, failed"}


async def test_node_finds_services_of_python(bus: Bus, node: Node):
    """They answer its library's ping, info and stats as its own services do."""
    async with serving(bus, users()):
        id = bus.serving[0].id
        said = await node("""
            await bus.request("interop.FetchUser", { id: 8 }).catch(() => {});
            const ask = (verb) => bus.discover(verb, "users");
            say(await Promise.all(["ping", "info", "stats"].map(ask)));
        """)

    (ping,), (info,), (stats,) = said
    for verb, one in (("ping", ping), ("info", info), ("stats", stats)):
        assert one["type"] == f"io.nats.micro.v1.{verb}_response"
        assert (one["name"], one["id"], one["version"]) == ("users", id, "1.2.0")
    assert info["description"] == "knows people"
    assert info["endpoints"][0] == {
        "name": "FetchUser",
        "subject": bus.subjects.request("interop.FetchUser"),
        "queue_group": "q",
        "metadata": {"type": "interop.FetchUser", "reply": "User"},
    }
    measured = stats["endpoints"][0]
    assert (measured["num_requests"], measured["num_errors"]) == (1, 1)
    assert "there is no user 8" in measured["last_error"]
    assert measured["processing_time"] > 0


# -- jobs -----------------------------------------------------------------------------------


async def test_node_enqueues_a_job_and_reads_its_outcome(app: App, node: Node):
    """A job is one publish; how it ended is told and stored as JSON."""

    @app.task(name="interop.add", queue="maths")
    async def add(a: int, b: int = 1) -> int:
        return a + b

    async with working(app):
        said = await node("""
            const id = await jobs.enqueue("maths", "interop.add", { a: 2, b: 3 });
            say({ id, told: await jobs.outcome(id), stored: await jobs.outcome(id) });
        """)

        assert await app.job(said["id"]).result(5) == 5

    assert said["told"] == said["stored"]
    outcome = said["told"]
    assert (outcome["$type"], outcome["result"]) == ("completed", 5)
    assert (outcome["task"], outcome["attempt"]) == ("interop.add", 1)


async def test_node_learns_that_a_job_has_failed(app: App, node: Node):
    """Whether it was run or its arguments do not fit."""

    @app.task(name="interop.fail", queue="maths", retry=False)
    async def fail(a: int) -> None:
        raise ValueError(f"no {a}")

    async with working(app):
        raised, unfit = await node("""
            const ids = [2, "two"].map((a) => jobs.enqueue("maths", "interop.fail", { a }));
            say(await Promise.all(ids.map(async (id) => jobs.outcome(await id))));
        """)

    assert raised["$type"] == unfit["$type"] == "failed"
    assert raised["error"]["kind"] == "builtins.ValueError"
    assert "no 2" in raised["error"]["message"]
    assert "argument 'a'" in unfit["error"]["message"]


async def test_node_enqueues_a_job_with_a_token_once(app: App, node: Node):
    """Sending it again changes nothing."""
    runs: list[int] = []

    @app.task(name="interop.note", queue="maths")
    async def note(a: int) -> None:
        runs.append(a)

    async with working(app, concurrency=1):
        said = await node("""
            const note = (a, token) => jobs.enqueue("maths", "interop.note", { a }, { token });
            const ids = [await note(1, "mine"), await note(2, "mine"), await note(3)];
            for (const id of ids) await jobs.outcome(id);
            say(ids.slice(0, 2));
        """)

    assert said == ["maths.-.mine", "maths.-.mine"]
    assert runs == [1, 3]


# -- the example ----------------------------------------------------------------------------


async def test_example_shows_what_it_is_for(node_packages: None, server_url: str):
    """`examples/node/hello.js` runs as it stands."""
    process = await asyncio.create_subprocess_exec(
        "node",
        "hello.js",
        cwd=CLIENT,
        env={**os.environ, "NATS_URL": server_url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0
    assert sorted(output.decode().splitlines()) == [
        "answer: hello, Ada",
        "error: 400 nobody to greet",
        "greeted: Ada by hello",
    ]
