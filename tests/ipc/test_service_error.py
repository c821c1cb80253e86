"""Errors of services: what is raised in one process arrives in another as what it is."""

import copy
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from ipc import (
    BadRequestError,
    Bus,
    Context,
    IpcError,
    ReplyTooLargeError,
    Request,
    Service,
    ServiceBusyError,
    ServiceError,
    TypeDefinitionError,
)
from ipc._client import header_block, parse_headers
from ipc._codec import CODECS
from ipc._service_error import CODE_HEADER, TEXT_HEADER, error_in, error_message

from .conftest import serving

CODEC_NAMES = sorted(CODECS)


class Card(msgspec.Struct):
    number: str
    expires: datetime | None = None


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class UserNotFoundError(ServiceError, code=404):
    """There is no such user."""

    id: int


class RefusedError(ServiceError, code=402, type="payments.Refused"):
    """A payment was refused."""

    reason: str
    retry_after: float | None = None
    tags: list[str] = []  # noqa: RUF012  (each error gets a list of its own)


class CardRefusedError(RefusedError, code=403):
    """The card was refused; what a refusal says, and more."""

    card: Card


class PlainError(ServiceError):
    """Nothing but what it is."""


class NoUserError(ServiceError, code=404):
    """Writes its message itself."""

    id: int

    def __init__(self, id: int) -> None:
        super().__init__(f"there is no user {id}", id=id)


class Fail(Request[int], type="service_error.Fail"):
    what: str = ""


def received(error: Exception, codec: Any = "json") -> ServiceError:
    """Return what arrives of an error, having gone over the wire as it does."""
    headers, body = error_message(error, CODECS[codec])
    arrived = error_in(parse_headers(header_block(headers)), body, CODECS[codec])
    assert arrived is not None
    return arrived


def failing(error: Exception) -> Service:
    """Make a service that raises an error, whatever it is asked."""
    service = Service("failing")

    @service.handle
    async def fail(request: Fail) -> int:
        raise error

    return service


async def listen(client: Client, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> None:
    """Subscribe as any client does; return once the server knows."""
    await client.subscribe(subject, cb=receive)
    # nats-py sends a ping ahead of what waits to be sent: only the second one comes behind it.
    await client.flush()
    await client.flush()


# -- declared, made -----------------------------------------------------------------------


def test_error_has_code_message_and_what_is_annotated():
    """As it was declared; shown, it says what is for people."""
    error = UserNotFoundError("there is no user 7", id=7)

    assert isinstance(error, IpcError)
    assert (error.code, error.message, error.id, error.data()) == (
        404,
        "there is no user 7",
        7,
        {"id": 7},
    )
    assert str(error) == "there is no user 7 (code 404)"


def test_error_without_a_message_shows_its_name():
    """There is always something to read in a log."""
    assert str(PlainError()) == f"{PlainError.type} (code 500)"


def test_error_is_named_by_where_it_is_declared():
    """Unless it is given a name; code 500 unless it is given another."""
    assert UserNotFoundError.type == "tests.ipc.test_service_error.UserNotFoundError"
    assert RefusedError.type == "payments.Refused"
    assert (PlainError.code, PlainError("no").code) == (500, 500)


def test_what_has_a_default_may_be_left_out():
    """The default is each error's own."""
    one, two = RefusedError("no", reason="limit"), RefusedError("no", reason="limit")

    one.tags.append("once")

    assert (one.retry_after, one.tags, two.tags, RefusedError.tags) == (None, ["once"], [], [])


def test_error_inherits_what_is_annotated():
    """A class that derives from another has that one's data, and a code and name of its own."""
    card = Card("4000")
    error = CardRefusedError("no", reason="lost", card=card)

    assert isinstance(error, RefusedError)
    assert error.data() == {"reason": "lost", "retry_after": None, "tags": [], "card": card}
    assert (error.code, CardRefusedError.type) == (
        403,
        "tests.ipc.test_service_error.CardRefusedError",
    )


def test_error_may_narrow_what_it_inherits():
    """What a class says of a field counts, not what it was before."""

    class WideError(ServiceError):
        limit: int | str

    class NarrowError(WideError):
        limit: int  # pyright: ignore[reportIncompatibleVariableOverride]

    assert WideError("no", limit="a").data() == {"limit": "a"}
    assert NarrowError("no", limit=7).data() == {"limit": 7}
    with pytest.raises(TypeError):
        NarrowError("no", limit="a")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (UserNotFoundError, {}),
        (UserNotFoundError, {"id": "seven"}),
        (UserNotFoundError, {"id": None}),
        (UserNotFoundError, {"id": 7, "name": "Noel"}),
        (CardRefusedError, {"reason": "lost"}),
        (PlainError, {"id": 7}),
        (ServiceError, {"id": 7}),
    ],
)
def test_data_that_does_not_fit_is_refused(kind: type[ServiceError], data: dict[str, Any]):
    """Where it is raised: a caller gets what is declared, or nothing of it."""
    with pytest.raises(TypeError, match=kind.__name__):
        kind("no", **data)


def test_what_is_not_sent_may_be_annotated_too():
    """What belongs to the class is no data of its errors."""

    class TransientError(ServiceError, code=503):
        retryable: ClassVar[bool] = True
        delay: float

    error = TransientError("later", delay=2.5)

    assert (error.data(), error.retryable) == ({"delay": 2.5}, True)


def test_name_belongs_to_one_class():
    """A caller could not tell them apart; the same class may be declared again."""
    with pytest.raises(TypeDefinitionError, match=r"payments\.Refused"):

        class OtherError(ServiceError, type="payments.Refused"):  # pyright: ignore[reportUnusedClass]
            pass

    def declare() -> type[ServiceError]:
        class AgainError(ServiceError):
            pass

        return AgainError

    assert declare() is not declare()


@pytest.mark.parametrize("name", ["kind", "message", "code", "type", "data", "args"])
def test_data_may_be_called_anything(name: str):
    """Or the declaration is refused; what is annotated never changes what the error is."""
    try:
        kind: Any = type(ServiceError)(
            f"With{name.title()}Error",
            (ServiceError,),
            {"__annotations__": {name: str}, "__module__": __name__},
        )
    except TypeDefinitionError:
        return

    error = received(kind("what is said", **{name: "value"}))

    assert type(error) is kind
    assert error.message == "what is said"
    assert error.data() == {name: "value"}


def test_error_can_be_copied():
    """As what carries exceptions from task to task may do."""
    error = copy.copy(UserNotFoundError("no", id=7))

    assert (type(error), error.message, error.data()) == (UserNotFoundError, "no", {"id": 7})


# -- on the wire --------------------------------------------------------------------------


def test_error_is_two_headers_and_a_body():
    """Any NATS client sees the headers (ADR-32); the body is for those who know the class."""
    headers, body = error_message(UserNotFoundError("there is no user 7", id=7), CODECS["json"])

    assert headers == {
        "Nats-Service-Error-Code": "404",
        "Nats-Service-Error": "there is no user 7",
    }
    assert msgspec.json.decode(body) == {
        "$type": "tests.ipc.test_service_error.UserNotFoundError",
        "code": 404,
        "message": "there is no user 7",
        "data": {"id": 7},
    }


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize(
    "error",
    [
        UserNotFoundError("there is no user 7", id=7),
        UserNotFoundError(id=7),
        PlainError(),
        RefusedError("no", reason="limit", retry_after=1.5, tags=["a", "b"]),
        CardRefusedError("no", reason="lost", card=Card("4000", datetime(2030, 1, 1, tzinfo=UTC))),
        BadRequestError("not a request"),
        ReplyTooLargeError("too large"),
        ServiceBusyError("later"),
    ],
    ids=repr,
)
def test_declared_error_arrives_as_itself(error: ServiceError, codec: str):
    """Of its own class, with code, message and data."""
    arrived = received(error, codec)

    assert type(arrived) is type(error)
    assert (arrived.code, arrived.message, arrived.data()) == (
        error.code,
        error.message,
        error.data(),
    )


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize(
    ("name", "hint", "value"),
    [
        ("number", int, 2**53 + 1),
        ("exact", Decimal, Decimal("1.10")),
        ("content", bytes, b"\x00\xff"),
        ("moment", datetime, datetime(2030, 1, 2, tzinfo=UTC)),
        ("ident", UUID, UUID(int=7)),
        ("color", Color, Color.RED),
        ("point", Point, Point(1, 2)),
        ("card", Card, Card("4000")),
        ("names", set[str], {"a", "b"}),
        ("pair", tuple[int, str], (1, "a")),
        ("counts", dict[int, int], {1: 2}),
        ("maybe", Card | None, None),
        ("anything", Any, {"a": [1, "b", None]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_keeps_its_type(name: str, hint: Any, value: Any, codec: str):
    """Whatever a request or its answer may have, an error may have too."""
    kind: Any = type(ServiceError)(
        "TypedError",
        (ServiceError,),
        {"__annotations__": {name: hint}, "__module__": __name__},
    )

    arrived = received(kind("no", **{name: value}), codec)

    assert type(arrived) is kind
    assert arrived.data() == {name: value}


def test_error_that_is_not_known_is_a_service_error():
    """The caller's program need not have the class: code and message say enough."""
    body = b'{"$type": "shop.SoldOutError", "code": 410, "message": "all gone", "data": {"n": 1}}'
    error = error_in({CODE_HEADER: "410", TEXT_HEADER: "all gone"}, body, CODECS["json"])

    assert type(error) is ServiceError
    assert (error.code, error.message, error.kind) == (410, "all gone", "shop.SoldOutError")
    assert str(error) == "all gone (code 410)"


def test_error_of_another_version_is_a_service_error():
    """Its data does not fit the class as it is here; code and message still count."""
    body = (
        b'{"$type": "tests.ipc.test_service_error.UserNotFoundError", "code": 404, '
        b'"message": "no such user", "data": {"name": "Noel"}}'
    )
    error = error_in({CODE_HEADER: "404", TEXT_HEADER: "no such user"}, body, CODECS["json"])

    assert type(error) is ServiceError
    assert (error.code, error.message) == (404, "no such user")
    assert error.kind == UserNotFoundError.type


def test_any_exception_arrives_with_code_500():
    """Its class is told by name; it is never imported."""
    error = received(LookupError("no such thing"))

    assert (type(error), error.code, error.message) == (ServiceError, 500, "no such thing")
    assert error.kind == "builtins.LookupError"
    assert str(received(LookupError())) == "builtins.LookupError (code 500)"


def test_error_can_be_passed_on():
    """A service that asked another raises what it got; its own caller gets the same."""
    known = received(received(UserNotFoundError("no", id=7)))
    unknown = received(received(LookupError("no such thing")))

    assert (type(known), known.data()) == (UserNotFoundError, {"id": 7})
    assert (unknown.kind, unknown.code, unknown.message) == (
        "builtins.LookupError",
        500,
        "no such thing",
    )


@pytest.mark.parametrize(
    "body", [b"", b"no such user", b"null", b"[]", b"\xff\xff", b'{"code": "x"}']
)
def test_service_of_another_language_has_two_headers(body: bytes):
    """That is all an error needs to be; the body may be anything."""
    headers = {CODE_HEADER: "404", TEXT_HEADER: "there is no user 7"}
    error = error_in(headers, body, CODECS["json"])

    assert type(error) is ServiceError
    assert (error.code, error.message) == (404, "there is no user 7")
    assert str(error) == "there is no user 7 (code 404)"


@pytest.mark.parametrize("code", ["", "teapot", "-1", "4.5", "\u00b2", "\u0664", "9" * 5_000])
def test_code_that_is_no_number_counts_as_500(code: str):
    """It is an error all the same."""
    error = error_in({CODE_HEADER: code, TEXT_HEADER: "no"}, b"", CODECS["json"])

    assert error is not None
    assert error.message == "no"
    assert isinstance(error.code, int)


def test_answer_without_a_code_is_no_error():
    """Whatever it has as a body."""
    assert error_in({}, b'{"$type": "x", "code": 404}', CODECS["json"]) is None
    assert error_in({"Nats-Service-Error": "no"}, b"", CODECS["json"]) is None


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("one\ntwo", "one two"),
        ("one\r\n\r\n two\ttab", "one two tab"),
        ("  spaces  ", "spaces"),
        ("größer als 7 €", "größer als 7 €"),
        ("\u65e5\u672c", "\u65e5\u672c"),
        ("line\u2028separator", "line separator"),
        ("Name: value", "Name: value"),
        ("", "tests.ipc.test_service_error.PlainError"),
        ("x" * 5_000, "x" * 1_000),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_message_is_one_line_in_the_header(message: str, text: str):
    """Cut where it is long; in the body it is as it was raised."""
    headers, _ = error_message(PlainError(message), CODECS["json"])

    assert parse_headers(header_block(headers)) == {CODE_HEADER: "500", TEXT_HEADER: text}
    assert received(PlainError(message)).message == message


@given(message=st.text())
def test_any_message_goes_through(message: str):
    """Line breaks, colons, signs of any script: none becomes another header."""
    for codec in CODEC_NAMES:
        assert received(PlainError(message), codec).message == message
        assert received(ValueError(message), codec).message == (message or "builtins.ValueError")


@given(
    message=st.text(),
    reason=st.text(),
    retry_after=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    tags=st.lists(st.text()),
    number=st.text(),
    expires=st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_any_data_goes_through(message: str, number: str, expires: Any, **data: Any):
    """An error is received as it was raised, in either codec."""
    error = CardRefusedError(message, **data, card=Card(number, expires))
    for codec in CODEC_NAMES:
        arrived = received(error, codec)

        assert type(arrived) is CardRefusedError
        assert (arrived.message, arrived.data()) == (error.message, error.data())


@given(code=st.text(), text=st.text(), body=st.binary())
def test_anything_that_arrives_is_some_error(code: str, text: str, body: bytes):
    """Reading what a stranger sends never fails."""
    for codec in CODECS.values():
        error = error_in({CODE_HEADER: code, TEXT_HEADER: text}, body, codec)

        assert isinstance(error, ServiceError)
        assert str(error)


@given(
    kind=st.sampled_from([UserNotFoundError.type, CardRefusedError.type, "x.Unknown", ""]),
    data=st.dictionaries(
        st.sampled_from(["id", "reason", "card", "tags", "self", "message", "more"]),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    ),
)
def test_any_data_that_arrives_is_some_error(kind: str, data: dict[str, Any]):
    """Of the class that it names if it fits, else of none in particular."""
    body = msgspec.json.encode({"$type": kind, "code": 404, "message": "no", "data": data})
    error = error_in({CODE_HEADER: "404", TEXT_HEADER: "no"}, body, CODECS["json"])

    assert isinstance(error, ServiceError)
    assert (error.message, error.kind) == ("no", kind)


@pytest.mark.parametrize("codec", CODEC_NAMES)
def test_number_that_is_none_is_lost_alone(codec: str):
    """JSON has no `nan`; the error is of its class, or of none, but arrives."""
    arrived = received(RefusedError("no", reason="limit", retry_after=math.nan), codec)

    assert (arrived.code, arrived.message) == (402, "no")


# -- from service to caller ---------------------------------------------------------------


@pytest.mark.parametrize("codec", CODEC_NAMES)
async def test_caller_catches_what_the_service_raises(new_bus: Any, codec: str):
    """The same class, as if the handler had been called here."""
    raised = CardRefusedError("größer\nals das Limit", reason="limit", card=Card("4000"))
    async with new_bus(codec=codec) as bus, serving(bus, failing(raised)):
        with pytest.raises(RefusedError) as caught:
            await bus.request(Fail())

    assert type(caught.value) is CardRefusedError
    assert (caught.value.message, caught.value.data()) == (raised.message, raised.data())


async def test_any_client_sees_code_and_message(bus: Bus, client: Client, namespace: str):
    """In the headers that every NATS service uses."""
    async with serving(bus, failing(UserNotFoundError("there is no\nuser 7", id=7))):
        reply = await client.request(f"{namespace}.request.service_error.Fail", b"{}")

    assert reply.headers == {
        "Nats-Service-Error-Code": "404",
        "Nats-Service-Error": "there is no user 7",
    }
    assert msgspec.json.decode(reply.data)["data"] == {"id": 7}


async def test_service_of_any_language_can_refuse(bus: Bus, client: Client, namespace: str):
    """With the two headers that every NATS service uses, and nothing else."""

    async def refuse(message: Msg) -> None:
        headers = {"Nats-Service-Error-Code": "404", "Nats-Service-Error": "there is no user 7"}
        await client.publish(message.reply, b"", headers=headers)

    await listen(client, f"{namespace}.request.service_error.Fail", refuse)

    with pytest.raises(ServiceError) as caught:
        await bus.request(Fail())
    assert (caught.value.code, caught.value.message) == (404, "there is no user 7")


async def test_error_passes_through_services(bus: Bus):
    """A handler that lets another service's error go is its caller's error as it was."""
    service = Service("relay")

    class Relay(Request[int], type="service_error.Relay"):
        pass

    async def relay(request: Any, ctx: Context) -> int:
        return await ctx.bus.request(Fail())

    relay.__annotations__["request"] = Relay
    service.handle(relay)
    async with serving(bus, service, failing(UserNotFoundError("no", id=7))):
        with pytest.raises(UserNotFoundError) as caught:
            await bus.request(Relay())

    assert caught.value.id == 7


async def test_error_may_be_made_in_its_own_way(bus: Bus):
    """A class's own `__init__` takes what it wants; what arrives is not made by it."""
    async with serving(bus, failing(NoUserError(7))):
        with pytest.raises(NoUserError, match="there is no user 7") as caught:
            await bus.request(Fail())

    assert (caught.value.id, caught.value.code) == (7, 404)
