"""Services are found, described and measured by any NATS client, and find those of others."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats.errors
import nats.micro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro.request import Request as MicroRequest
from nats.micro.request import ServiceError as MicroError
from nats.micro.service import ServiceInfo as MicroInfo
from nats.micro.service import ServicePing as MicroPing
from structlog.testing import capture_logs

from ipc import Bus, EndpointInfo, Request, Service, ServiceError, ServiceInfo, ServiceStats
from ipc._micro import VERBS, read_answer
from tests.conftest import flushed, until

from .conftest import BusFactory, serving


class Add(Request[int], type="micro.Add"):
    a: int
    b: int = 0


class Größe(Request[int], type="micro.Size"):
    pass


class Count(Request[list[int]], type="micro.Count", aliases=("micro.Enumerate",)):
    to: int


def calculator(name: str = "calculator", **options: Any) -> Service:
    """Make a service that adds, and fails where the sum is below nothing."""
    service = Service(name, **options)

    @service.handle
    async def add(request: Add) -> int:
        if request.a + request.b < 0:
            raise ValueError("below nothing")
        return request.a + request.b

    return service


async def confirm(client: Client) -> None:
    """Return once the server has acted on what a client has sent."""
    # nats-py sends a ping ahead of what waits to be sent: only the second one comes behind it.
    await flushed(client)


async def ask(client: Client, subject: str) -> dict[str, Any]:
    """Ask on a control subject, and return what comes first."""
    reply = await client.request(subject, b"", timeout=5)
    return json.loads(reply.data)


async def ask_all(client: Client, subject: str, count: int) -> list[dict[str, Any]]:
    """Ask on a control subject, and return the first so many answers."""
    answers: list[dict[str, Any]] = []

    async def note(message: Msg) -> None:
        answers.append(json.loads(message.data))

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=note)
    await client.publish(subject, b"", reply=inbox)
    await until(lambda: len(answers) >= count, "all should answer")
    await subscription.unsubscribe()
    return answers


# -- what any client sees -----------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
async def test_instance_answers_as_one_of_all_by_its_name_and_by_its_id(
    bus: Bus, client: Client, namespace: str, verb: str
):
    """To each of the three verbs of ADR-32."""
    async with serving(bus, calculator(namespace, version="1.2.0")):
        id = bus.serving[0].id
        for subject in (
            f"$SRV.{verb}",
            f"$SRV.{verb}.{namespace}",
            f"$SRV.{verb}.{namespace}.{id}",
        ):
            answer = await ask(client, subject)

            assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
            assert (answer["name"], answer["id"], answer["version"]) == (namespace, id, "1.2.0")


@pytest.mark.parametrize("verb", VERBS)
async def test_others_are_not_answered_for(bus: Bus, client: Client, namespace: str, verb: str):
    """Neither another service nor another instance of this one."""
    async with serving(bus, calculator(namespace)):
        for subject in (f"$SRV.{verb}.x{namespace}", f"$SRV.{verb}.{namespace}.x"):
            with pytest.raises(nats.errors.NoRespondersError):
                await ask(client, subject)


async def test_ping_says_who_is_there(bus: Bus, client: Client, namespace: str):
    """And nothing else."""
    async with serving(bus, calculator(namespace, version="1.2.0", metadata={"team": "sums"})):
        answer = await ask(client, f"$SRV.PING.{namespace}")
        id = bus.serving[0].id

    assert answer == {
        "type": "io.nats.micro.v1.ping_response",
        "name": namespace,
        "id": id,
        "version": "1.2.0",
        "metadata": {"team": "sums"},
    }


async def test_info_says_what_is_answered(bus: Bus, client: Client, namespace: str):
    """Every type of request, where it is asked, and what it is answered with."""
    service = calculator(namespace, description="Adds numbers")

    @service.handle
    async def count(request: Count) -> list[int]:
        return list(range(request.to))

    async with serving(bus, service):
        answer = await ask(client, f"$SRV.INFO.{namespace}")

    assert answer["description"] == "Adds numbers"
    assert answer["endpoints"] == [
        {
            "name": "Add",
            "subject": f"{namespace}.request.micro.Add",
            "queue_group": "q",
            "metadata": {"type": "micro.Add", "reply": "int"},
        },
        {
            "name": "Count",
            "subject": f"{namespace}.request.micro.Count",
            "queue_group": "q",
            "metadata": {"type": "micro.Count", "reply": "list[int]"},
        },
    ]


async def test_info_tells_streams_apart(bus: Bus, client: Client, namespace: str):
    """They are asked in another way."""
    service = Service(namespace)

    @service.handle
    async def count(request: Count) -> AsyncIterator[list[int]]:
        for number in range(request.to):
            yield [number]

    async with serving(bus, service):
        (endpoint,) = (await ask(client, f"$SRV.INFO.{namespace}"))["endpoints"]

    assert endpoint["metadata"]["streams"] == "true"


async def test_stats_count_requests_and_errors(bus: Bus, client: Client, namespace: str):
    """With the last error, and the time they took in nanoseconds."""
    async with serving(bus, calculator(namespace)):
        fresh = await ask(client, f"$SRV.STATS.{namespace}")
        for number in range(5):
            await bus.request(Add(a=number))
        with capture_logs(), pytest.raises(ServiceError):
            await bus.request(Add(a=-1))
        await client.request(f"{namespace}.request.micro.Add", b"malformed")
        used = await ask(client, f"$SRV.STATS.{namespace}")

    assert set(fresh) == {"type", "name", "id", "version", "metadata", "started", "endpoints"}
    assert fresh["endpoints"] == [
        {
            "name": "Add",
            "subject": f"{namespace}.request.micro.Add",
            "queue_group": "q",
            "num_requests": 0,
            "num_errors": 0,
            "last_error": "",
            "processing_time": 0,
            "average_processing_time": 0,
        }
    ]
    (endpoint,) = used["endpoints"]
    assert (endpoint["num_requests"], endpoint["num_errors"]) == (7, 2)
    assert "not a micro.Add" in endpoint["last_error"]
    assert endpoint["average_processing_time"] == endpoint["processing_time"] // 7 > 0
    assert isinstance(endpoint["processing_time"], int)


async def test_stats_say_since_when(bus: Bus, client: Client, namespace: str):
    """In UTC, as RFC 3339 writes it."""
    before = datetime.now(UTC)
    async with serving(bus, calculator(namespace)):
        started = (await ask(client, f"$SRV.STATS.{namespace}"))["started"]

    assert started.endswith("Z")
    assert before <= datetime.fromisoformat(started) <= datetime.now(UTC)


async def test_stats_count_what_was_refused_and_what_was_late(
    bus: Bus, client: Client, namespace: str
):
    """A request is counted whatever became of it."""
    service, release = Service(namespace, concurrency=1, max_waiting=0), asyncio.Event()

    @service.handle
    async def add(request: Add) -> int:
        await release.wait()
        return 0

    async with serving(bus, service):
        late = asyncio.create_task(bus.request(Add(a=1), timeout=0.2))
        await until(lambda: bus.running == 1, "the request should be handled")
        with pytest.raises(ServiceError):
            await bus.request(Add(a=2))
        await asyncio.wait({late})
        await until(lambda: bus.running == 0, "the handler should be cancelled")
        (endpoint,) = (await ask(client, f"$SRV.STATS.{namespace}"))["endpoints"]

    assert late.exception() is not None
    assert (endpoint["num_requests"], endpoint["num_errors"]) == (2, 2)


async def test_every_instance_answers_for_itself(
    new_bus: BusFactory, client: Client, namespace: str
):
    """Each with an id and statistics of its own."""
    async with (
        new_bus("one") as one,
        new_bus("two") as two,
        serving(one, calculator(namespace)),
        serving(two, calculator(namespace)),
    ):
        for number in range(30):
            await one.request(Add(a=number))
        ids = {one.serving[0].id, two.serving[0].id}
        pings = await ask_all(client, f"$SRV.PING.{namespace}", 2)
        stats = await ask_all(client, "$SRV.STATS", 2)

    assert {answer["id"] for answer in pings} == {answer["id"] for answer in stats} == ids
    assert sum(answer["endpoints"][0]["num_requests"] for answer in stats) == 30


async def test_nobody_is_found_afterwards(bus: Bus, client: Client, namespace: str):
    """A service that has ended answers nobody."""
    async with serving(bus, calculator(namespace)):
        assert await ask(client, f"$SRV.PING.{namespace}")
    await bus.connection.confirm()

    for verb in VERBS:
        with pytest.raises(nats.errors.NoRespondersError):
            await ask(client, f"$SRV.{verb}.{namespace}")


async def test_question_that_cannot_be_answered_is_left(bus: Bus, client: Client, namespace: str):
    """A message on a control subject to which nobody listens, with whatever in it."""
    async with serving(bus, calculator(namespace)):
        with capture_logs() as logs:
            await client.publish(f"$SRV.PING.{namespace}", b"\xff")
            await client.publish(f"$SRV.PING.{namespace}", b"\xff", reply=client.new_inbox())
            await flushed(client)
            assert await ask(client, f"$SRV.PING.{namespace}")

    assert logs == []


async def test_names_of_endpoints_are_as_adr_32_wants_them(
    bus: Bus, client: Client, namespace: str
):
    """Whatever a class is called in Python, which knows more letters."""
    service = Service(namespace)

    @service.handle
    async def size(request: Größe) -> int:
        return 0

    async with serving(bus, service):
        (endpoint,) = (await ask(client, f"$SRV.INFO.{namespace}"))["endpoints"]

    assert re.fullmatch(r"[a-zA-Z0-9_-]+", endpoint["name"])


async def test_nats_py_reads_it(bus: Bus, client: Client, namespace: str):
    """With the classes that it has for the purpose."""
    async with serving(bus, calculator(namespace, version="1.2.0", description="Adds numbers")):
        ping = MicroPing.from_dict(await ask(client, f"$SRV.PING.{namespace}"))
        info = MicroInfo.from_dict(await ask(client, f"$SRV.INFO.{namespace}"))
        id = bus.serving[0].id

    assert (ping.name, ping.id, ping.version) == (info.name, info.id, info.version)
    assert (info.name, info.id, info.version) == (namespace, id, "1.2.0")
    assert [endpoint.subject for endpoint in info.endpoints] == [f"{namespace}.request.micro.Add"]


# -- what a bus sees of others ------------------------------------------------------------


async def test_bus_finds_services(bus: Bus, new_bus: BusFactory, namespace: str):
    """By name, or all there are; its own among them."""
    other_name = f"{namespace}-other"
    async with (
        new_bus("other") as other,
        serving(bus, calculator(namespace)),
        serving(other, calculator(other_name)),
    ):
        named = await bus.services(namespace)
        everybody = await bus.services()
        (stats,) = await bus.service_stats(namespace)
        id = bus.serving[0].id

    assert [(info.name, info.id) for info in named] == [(namespace, id)]
    assert {namespace, other_name} <= {info.name for info in everybody}
    assert named[0].endpoints == [
        EndpointInfo(
            name="Add",
            subject=f"{namespace}.request.micro.Add",
            metadata={"type": "micro.Add", "reply": "int"},
        )
    ]
    assert (stats.id, stats.endpoints[0].num_requests) == (id, 0)


async def test_nobody_is_there(bus: Bus, namespace: str):
    """Nobody is an answer, not an error."""
    assert await bus.services(namespace) == []
    assert await bus.service_stats(namespace) == []


async def test_bus_finds_services_of_nats_py(bus: Bus, client: Client, namespace: str):
    """And measures them, and asks them: they answer on whatever subject they like."""

    async def add(request: MicroRequest) -> None:
        asked = json.loads(request.data)
        if asked["b"] < 0:
            raise MicroError("422", "below nothing")
        await request.respond(json.dumps(asked["a"] + asked["b"]).encode())

    async with await nats.micro.add_service(
        client, name=namespace, version="2.0.0", description="Adds", metadata={"by": "nats-py"}
    ) as service:
        await service.add_endpoint(
            name="add", subject=bus.subjects.request("micro.Add"), handler=add
        )
        await confirm(client)
        (info,) = await bus.services(namespace)
        assert await bus.request(Add(a=1, b=2)) == 3
        with pytest.raises(ServiceError) as caught:
            await bus.request(Add(a=1, b=-2))
        (stats,) = await bus.service_stats(namespace)

    assert (info.id, info.version, info.description) == (service.id, "2.0.0", "Adds")
    assert info.metadata == {"by": "nats-py"}
    assert [endpoint.name for endpoint in info.endpoints] == ["add"]
    assert (caught.value.code, caught.value.message) == (422, "below nothing")
    (endpoint,) = stats.endpoints
    assert (endpoint.num_requests, endpoint.num_errors) == (2, 1)
    assert "below nothing" in str(endpoint.last_error)


async def test_services_of_both_kinds_share_requests(bus: Bus, client: Client, namespace: str):
    """They are in one queue group, as all services are."""
    answered: list[int] = []

    async def add(request: MicroRequest) -> None:
        answered.append(json.loads(request.data)["a"])
        await request.respond(b"0")

    async with (
        await nats.micro.add_service(client, name=namespace, version="2.0.0") as service,
        serving(bus, calculator(namespace)),
    ):
        await service.add_endpoint(
            name="add", subject=bus.subjects.request("micro.Add"), handler=add
        )
        await confirm(client)
        await asyncio.gather(*(bus.request(Add(a=number)) for number in range(100)))
        own = bus.serving[0].stats().endpoints[0].num_requests

    assert own + len(answered) == 100
    assert own
    assert answered


async def test_malformed_answer_is_skipped(bus: Bus, client: Client, namespace: str):
    """Whoever gives it; the others are found."""

    async def answer(message: Msg) -> None:
        for data in (b"", b"nonsense", b"[]", b'{"name": 7}', b'{"name": "\xff"}', b"\xff"):
            await client.publish(message.reply, data)

    await client.subscribe(f"$SRV.INFO.{namespace}", cb=answer)
    await confirm(client)
    async with serving(bus, calculator(namespace)):
        with capture_logs() as logs:
            infos = await bus.services(namespace)

    assert [info.name for info in infos] == [namespace]
    assert [entry["log_level"] for entry in logs] == ["warning"] * 6


@pytest.mark.parametrize(
    "answer",
    [
        {"metadata": None, "endpoints": None, "description": None},
        {},
        {"metadata": {}, "endpoints": [], "more": 7},
        {"endpoints": [{"name": "add", "subject": "add", "metadata": None, "queue_group": None}]},
    ],
)
def test_what_is_not_needed_may_be_missing(answer: dict[str, Any]):
    """Or be null, or be more: libraries differ in what they write."""
    whole = {"name": "calculator", "id": "1", "version": "1.0.0", **answer}

    info = read_answer(json.dumps(whole).encode(), ServiceInfo)

    assert (info.name, info.id, info.version) == ("calculator", "1", "1.0.0")
    assert [endpoint.name for endpoint in info.endpoints] in ([], ["add"])


@pytest.mark.parametrize(
    ("last_error", "time"),
    [(None, 0), ("no", 7), ({"code": 500, "description": "no"}, 7.5), ("", 2**53)],
)
def test_stats_are_read_as_libraries_write_them(last_error: Any, time: float):
    """Some write an object for an error, some a fraction for a time."""
    endpoint = {
        "name": "add",
        "subject": "add",
        "num_requests": 1,
        "num_errors": 1,
        "last_error": last_error,
        "processing_time": time,
        "average_processing_time": time,
        "data": {"any": "thing"},
    }
    whole = {
        "type": "io.nats.micro.v1.stats_response",
        "name": "calculator",
        "id": "1",
        "version": "1.0.0",
        "started": "2030-01-01T00:00:00Z",
        "endpoints": [endpoint],
    }

    stats = read_answer(json.dumps(whole).encode(), ServiceStats)

    assert stats.endpoints[0].processing_time == time
    assert stats.endpoints[0].last_error == (last_error or "")


@given(
    name=st.text(),
    metadata=st.dictionaries(st.text(), st.text()),
    endpoints=st.lists(
        st.builds(
            EndpointInfo,
            name=st.text(),
            subject=st.text(),
            metadata=st.none() | st.dictionaries(st.text(), st.text()),
        )
    ),
)
def test_what_we_write_we_can_read(
    name: str, metadata: dict[str, str], endpoints: list[EndpointInfo]
):
    """Whatever a service says of itself."""
    info = ServiceInfo(name=name, id="1", version="1.0.0", metadata=metadata, endpoints=endpoints)

    assert read_answer(msgspec.json.encode(info), ServiceInfo) == info
