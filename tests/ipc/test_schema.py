"""Types as documents: JSON Schema of what goes over the wire, AsyncAPI of what a program does."""

from typing import Any

import msgspec
import pytest

from ipc import Bus, Event, Request, Service
from ipc._schema import asyncapi, json_schema
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
    assert channels["crm.Joined"]["address"] == "ipc.event.crm.Joined"
    assert channels["crm.Charged"]["address"] == "ipc.event.crm.Charged.{part}"
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
    assert names == ["crm.Charged", "crm.FindCustomers", "crm.Joined"]


def test_type_without_a_schema_is_an_error():
    """A field that JSON Schema cannot say is refused, not left out."""

    class Odd(Event, type="crm.Odd"):
        field: complex

    with pytest.raises(TypeError):
        json_schema([type_of(Odd)])
