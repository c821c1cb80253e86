"""Types as documents: JSON Schema of what goes over the wire, AsyncAPI of what a program does."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest

from ipc import Bus, Event, Request, Service
from ipc._schema import asyncapi, json_schema, schema_of
from ipc._surface import surface_of_bus, surface_of_module, surface_of_service
from ipc._types import type_of


class Address(msgspec.Struct):
    city: str


class Customer(msgspec.Struct):
    name: str
    address: Address | None = None


class Joined(Event, type="crm.Joined", aliases=("crm.Registered",), version=2):
    """A customer has joined."""

    customer: Customer


class Charged(Event, type="crm.Charged", key="customer"):
    customer: str
    cents: int = 0


class FindCustomers(Request[list[Customer]], type="crm.FindCustomers"):
    city: str


class ListCustomers(Request[Customer], type="crm.ListCustomers"): ...


class Visit(NamedTuple):
    page: str
    seconds: dict[int, float]


class Company(msgspec.Struct, tag=True):
    founded: datetime


class Person(msgspec.Struct, tag=True):
    born: dict[bytes, datetime]


class Visited(Event, type="crm.Visited"):
    at: datetime
    began_at: Annotated[datetime, msgspec.Meta(tz=True)]
    ended_at: Annotated[datetime, msgspec.Meta(tz=False)] | None
    visits: list[Visit]
    visitor: Annotated[list[int] | Company | Person | None, msgspec.Meta(title="Visitor")]
    colours: dict[str, Annotated[dict[int | str, int], msgspec.Meta(description="By shade.")]]


@Joined.upcast(1)
def from_one(fields: Any) -> Any:
    return fields


crm = Service("crm", version="1.2.0", description="Knows customers.", publishes=[Joined])


@crm.handle
async def find(request: FindCustomers) -> list[Customer]:
    return []


@crm.on(Charged, durable="totals", ordered=True)
async def total(event: Charged) -> None: ...


@crm.on(Joined)
async def greet(event: Joined) -> None: ...


def test_schema_describes_what_is_on_the_wire():
    """A type's schema has its name, its fields, and what else is known of it."""
    document = json_schema([type_of(Joined), type_of(FindCustomers), type_of(Charged)])

    joined = document["$defs"]["crm.Joined"]
    assert joined["properties"]["$type"] == {"enum": ["crm.Joined"]}
    assert joined["properties"]["customer"] == {"$ref": "#/$defs/Customer"}
    assert joined["required"] == ["$type", "customer"]
    assert joined["x-ipc"] == {
        "kind": "event",
        "version": 2,
        "aliases": ["crm.Registered"],
        "upcasts": [1],
    }
    request = document["$defs"]["crm.FindCustomers"]["x-ipc"]
    assert request["reply"] == {"type": "array", "items": {"$ref": "#/$defs/Customer"}}
    assert document["$defs"]["crm.Charged"]["x-ipc"]["key"] == "customer"
    assert {"Address", "Customer", "ipc.Meta"} <= document["$defs"].keys()


def test_keys_and_times_are_described():
    """Keys of mappings are text in JSON only, and a text may be a time, wherever they stand."""
    definitions = json_schema([type_of(Visited)])["$defs"]

    fields = definitions["crm.Visited"]["properties"]
    with_offset = {"type": "string", "format": "date-time"}
    without = {"type": "string", "format": "partial-date-time"}
    number = {"type": "string", "format": "integer"}
    assert fields["at"] == {"anyOf": [with_offset, without]}
    assert fields["began_at"] == with_offset
    assert fields["ended_at"] == {"anyOf": [without, {"type": "null"}]}
    assert definitions["Visit"]["prefixItems"][1]["propertyNames"] == number
    assert definitions["Company"]["properties"]["founded"] == fields["at"]
    born = definitions["Person"]["properties"]["born"]
    assert born["propertyNames"] == {"type": "string", "contentEncoding": "base64"}
    assert born["additionalProperties"] == fields["at"]
    shades = fields["colours"]["additionalProperties"]
    assert shades["propertyNames"] == {"anyOf": [number, {"type": "string"}]}
    assert "propertyNames" not in fields["colours"]


def test_service_says_how_it_answers():
    """With one reply or a stream of items; of what only asks, nobody knows."""

    async def find(request: FindCustomers) -> list[Customer]:
        return []

    async def find_all(request: ListCustomers) -> AsyncIterator[Customer]:
        yield Customer("Ada")

    service = Service("crm")
    service.handle(find)
    service.handle(find_all)
    exported = schema_of(surface_of_service(service))["$defs"]
    asks = schema_of(surface_of_service(Service("shop", requests=[ListCustomers])))["$defs"]

    assert exported["crm.FindCustomers"]["x-ipc"]["streams"] is False
    assert exported["crm.ListCustomers"]["x-ipc"]["streams"] is True
    assert "streams" not in asks["crm.ListCustomers"]["x-ipc"]


def test_every_reference_in_a_document_leads_somewhere():
    """In both kinds of document."""
    documents = [
        json_schema([type_of(Joined), type_of(FindCustomers), type_of(Charged)]),
        asyncapi(surface_of_service(crm)),
    ]
    for document in documents:
        for ref in references(document):
            found: Any = document
            for step in ref.removeprefix("#/").split("/"):
                found = found[step]


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        here = [value for key, value in part.items() if key == "$ref"]
        return here + [ref for value in part.values() for ref in references(value)]
    if isinstance(part, list):
        return [ref for value in part for ref in references(value)]
    return []


def test_same_types_make_the_same_document():
    """Whatever order they are given in."""
    kinds = [type_of(Joined), type_of(FindCustomers), type_of(Charged)]

    assert json_schema(kinds) == json_schema(reversed(kinds))
    assert list(json_schema(kinds)["$defs"]) == sorted(json_schema(kinds)["$defs"])


def test_asyncapi_says_what_a_service_receives_and_sends():
    """With the NATS subjects as addresses, and what a request is answered with."""
    document = asyncapi(surface_of_service(crm))

    assert document["asyncapi"] == "3.0.0"
    assert document["info"] == {
        "title": "crm",
        "version": "1.2.0",
        "description": "Knows customers.",
    }
    assert {name: op["action"] for name, op in document["operations"].items()} == {
        "answer.crm.FindCustomers": "receive",
        "handle.crm.Joined": "receive",
        "handle.totals.crm.Charged": "receive",
        "publish.crm.Joined": "send",
    }
    channels = document["channels"]
    assert channels["crm.FindCustomers"]["address"] == "ipc.request.crm.FindCustomers"
    assert channels["crm.Joined"]["address"] == "ipc.event.-.crm.Joined"
    assert channels["crm.Charged"]["address"] == "ipc.event.{part}.crm.Charged"
    assert document["operations"]["answer.crm.FindCustomers"]["reply"] == {
        "channel": {"$ref": "#/channels/crm.FindCustomers.reply"}
    }
    assert document["components"]["messages"]["crm.Joined"]["summary"] == "A customer has joined."


def test_bus_and_module_have_a_surface_too():
    """A bus shows what it handles; a module, the types that are in it."""
    bus = Bus("watcher")

    @bus.on(Joined)
    async def note(event: Joined) -> None: ...

    assert [kind.name for kind in surface_of_bus(bus).types] == ["crm.Joined"]
    names = [kind.name for kind in surface_of_module("crm", globals()).types]
    assert names == [
        "crm.Charged",
        "crm.FindCustomers",
        "crm.Joined",
        "crm.ListCustomers",
        "crm.Visited",
    ]


def test_type_without_a_schema_is_an_error():
    """A field that JSON Schema cannot say is refused, not left out."""

    class Odd(Event, type="crm.Odd"):
        field: complex

    with pytest.raises(TypeError):
        json_schema([type_of(Odd)])
