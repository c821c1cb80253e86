"""Handlers: what their annotations say, and which functions cannot be one."""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ipc import (
    Bus,
    Context,
    Event,
    HandlerDefinitionError,
    InvalidNameError,
    IpcError,
    Request,
    Retry,
    Service,
)
from ipc._handler import EventOptions, event_handler, request_handler

if TYPE_CHECKING:
    from decimal import Decimal


class User(msgspec.Struct):
    name: str


class Placed(Event, type="handler.Placed", aliases=("handler.Ordered",)):
    number: int


class Moved(Event, type="handler.Moved", key="account"):
    account: str


class Fetch(Request[User], type="handler.Fetch"):
    number: int


class ListAll(Request[list[User]], type="handler.ListAll"):
    pass


A_MESSAGE: Any = object()
A_CONTEXT: Any = object()


async def take(event: Placed | Moved) -> None: ...


def on(function: Callable[..., Any], *types: Any, **options: Any) -> Any:
    """Return a function as a handler of events."""
    given: Any = options
    return event_handler(function, types or (Placed,), given)


# -- how a function is called --------------------------------------------------------------


async def with_context(event: Placed, ctx: Context) -> Any:
    return event, ctx


async def with_another_name(message: Placed, whatever: Context) -> Any:
    return message, whatever


async def with_keyword_only(event: Placed, *, ctx: Context) -> Any:
    return event, ctx


async def with_other_parameters(event: Placed, limit: int = 3, *, ctx: Context) -> Any:
    assert limit == 3
    return event, ctx


async def with_postponed_annotations(event: "Placed", ctx: "Context") -> Any:
    return event, ctx


async def with_positional_only(event: Placed, /, *, ctx: Context) -> Any:
    return event, ctx


async def with_all_positional_only(event: Placed, ctx: Context, /) -> Any:
    return event, ctx


async def without_annotation(event, ctx: Context) -> Any:
    return event, ctx


class Receiver:
    async def take(self, event: Placed, ctx: Context) -> Any:
        return event, ctx


@functools.wraps(with_context)
async def wrapped(*arguments: Any, **options: Any) -> Any:
    return await with_context(*arguments, **options)


@pytest.mark.parametrize(
    "function",
    [
        with_context,
        with_another_name,
        with_keyword_only,
        with_other_parameters,
        with_postponed_annotations,
        with_positional_only,
        with_all_positional_only,
        without_annotation,
        Receiver().take,
        wrapped,
    ],
    ids=lambda function: function.__qualname__,
)
async def test_context_is_given_where_annotated(function: Any):
    """Whatever the parameter is called, and wherever it stands."""
    called = on(function).called

    assert await called.call(A_MESSAGE, A_CONTEXT) == (A_MESSAGE, A_CONTEXT)


async def test_context_is_not_forced_on_a_function():
    """Who has no parameter for it gets the message alone."""

    async def plain(event: Placed, times: int = 1) -> Any:
        return event, times

    assert await on(plain).called.call(A_MESSAGE, A_CONTEXT) == (A_MESSAGE, 1)


def test_handler_is_shown_by_its_name():
    """In logs and errors."""
    assert on(Receiver().take).called.name == "Receiver.take"


# -- handlers of events --------------------------------------------------------------------


def test_event_handler_takes_types_by_all_their_names():
    """Those that they have, and those that they had."""
    handler = on(take, Placed, Moved)

    assert [kind.python for kind in handler.kinds] == [Placed, Moved]
    assert sorted(handler.by_name) == ["handler.Moved", "handler.Ordered", "handler.Placed"]


def test_options_have_defaults():
    """As `OnOptions` says."""
    assert on(take).options == EventOptions(
        durable=None,
        group="",
        concurrency=100,
        retry=Retry(max_attempts=5),
        start="new",
        ordered=False,
        lease=30.0,
        unknown="skip",
    )


@pytest.mark.parametrize(
    "options",
    [
        {"group": "mailers", "concurrency": 1, "unknown": "error"},
        {"durable": "mailer", "start": "all", "lease": 1, "retry": Retry(max_attempts=1)},
        {"durable": "mailer", "start": datetime(2030, 1, 1, tzinfo=UTC)},
    ],
)
def test_options_are_taken(options: dict[str, Any]):
    """Each as it was given."""
    taken = on(take, **options).options

    assert {name: getattr(taken, name) for name in options} == options


def test_order_is_kept_of_types_with_a_key():
    """All of them, if there are several."""
    assert on(take, Moved, durable="ledger", ordered=True).options.ordered

    with pytest.raises(HandlerDefinitionError, match=r"class Placed\(Event, key=…\)"):
        on(take, Moved, Placed, durable="ledger", ordered=True)


@pytest.mark.parametrize(
    ("types", "options", "reason"),
    [
        ((Placed,), {"durables": "mailer"}, "durables"),
        ((Placed,), {"durable": "mailer", "group": "mailers"}, "a durable is a group by itself"),
        ((Placed,), {"start": "all"}, "are for durables"),
        ((Moved,), {"ordered": True}, "are for durables"),
        ((Placed,), {"concurrency": 0}, "at least 1"),
        ((Placed,), {"concurrency": -1}, "at least 1"),
        ((Placed,), {"durable": "mailer", "lease": 0.5}, "at least 1"),
        ((Fetch,), {}, "takes the event types"),
        ((Placed, Fetch), {}, "takes the event types"),
    ],
)
def test_options_that_contradict_are_refused(
    types: tuple[Any, ...], options: dict[str, Any], reason: str
):
    """With what is wrong, and the handler's name."""
    with pytest.raises(HandlerDefinitionError, match=reason) as caught:
        on(take, *types, **options)

    assert caught.value.handler == "take"
    assert str(caught.value).startswith("handler 'take': ")


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": "keep"},
        {"unknown": "ignore"},
        {"durable": "mailer", "lease": float("nan")},
        {"durable": "mailer", "start": "yesterday"},
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any]):
    """When the handler is defined, not when the first event comes."""
    with pytest.raises(HandlerDefinitionError):
        on(take, **options)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*", ">", "ä"])
def test_durable_has_a_name(name: str):
    """It becomes part of subjects, and the name of a consumer."""
    with pytest.raises(InvalidNameError, match="durable"):
        on(take, durable=name)


@pytest.mark.parametrize("name", ["a b", "a\r\nPING", "*", ">"])
def test_group_has_a_name(name: str):
    """It is told to the server in a line with others, which ends at spaces and line breaks."""
    with pytest.raises(InvalidNameError, match="group"):
        on(take, group=name)


def test_handler_takes_some_type():
    """None at all is a mistake."""
    with pytest.raises(HandlerDefinitionError, match="takes the event types"):
        event_handler(take, (), {})


@pytest.mark.parametrize("types", [(int,), ("handler.Placed",), (Event,), (User,)])
def test_other_types_are_refused(types: tuple[Any, ...]):
    """What is no event has no subject."""
    with pytest.raises(TypeError, match=r"not a subclass of ipc\.Event"):
        event_handler(take, types, {})


def not_async(event: Placed) -> None: ...


async def generator(event: Placed) -> AsyncIterator[int]:
    yield 1


async def takes_nothing() -> None: ...


async def keyword_only(*, event: Placed) -> None: ...


async def all_in_one(*events: Placed) -> None: ...


async def one_more(event: Placed, number: int) -> None: ...


async def optional_context(event: Placed, ctx: Context | None) -> None: ...


async def unknown_name(event: "Placed", ctx: "Contxt") -> None: ...  # noqa: F821  # pyright: ignore


async def known_to_checkers_only(event: Placed, price: "Decimal | None" = None) -> None: ...


async def unknown_attribute(event: Placed, ctx: "msgspec.Contxt") -> None: ...  # pyright: ignore


async def no_expression(event: Placed, ctx: "Context of it") -> None: ...  # noqa: F722  # pyright: ignore


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (not_async, "must be `async def`, and not yield"),
        (generator, "must be `async def`, and not yield"),
        (lambda event: None, "must be `async def`, and not yield"),
        (takes_nothing, "takes the message as its first parameter"),
        (keyword_only, "takes the message as its first parameter"),
        (all_in_one, "takes the message as its first parameter"),
        (one_more, "parameter 'number': besides the message there is only a context"),
        (optional_context, "parameter 'ctx': besides the message there is only a context"),
        (unknown_name, "an annotation cannot be resolved: .*Contxt"),
        (known_to_checkers_only, "an annotation cannot be resolved: .*Decimal"),
        (unknown_attribute, "an annotation cannot be resolved: .*Contxt"),
        (no_expression, "an annotation cannot be resolved: .*Context of it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_function_that_cannot_handle_is_refused(function: Any, reason: str):
    """With the reason, where it is defined; it is never called."""
    with pytest.raises(HandlerDefinitionError, match=reason) as caught:
        on(function)

    assert isinstance(caught.value, IpcError)
    assert isinstance(caught.value, TypeError)


def test_handler_takes_the_types_that_it_is_for():
    """A function whose annotation says otherwise would get what it does not know."""

    async def take_placed(event: Placed) -> None: ...

    async def take_any(event: Any) -> None: ...

    async def take_events(event: Event) -> None: ...

    with pytest.raises(HandlerDefinitionError, match=r"handler\.Moved, but takes Placed"):
        on(take_placed, Placed, Moved)
    assert len(on(take_any, Placed, Moved).kinds) == 2
    assert len(on(take_events, Placed, Moved).kinds) == 2


@pytest.mark.parametrize("thing", [functools.partial(take), len, min, object(), 5, "take"])
def test_what_is_no_function_is_refused(thing: Any):
    """Whatever it is."""
    with pytest.raises(TypeError):
        on(thing)


# -- one durable, one handler --------------------------------------------------------------


def test_bus_and_service_have_a_durable_once():
    """A second handler would share the events with the first instead of getting them too."""
    for one in (Bus("shop"), Service("shop")):
        one.on(Placed, durable="mailer")(take)
        one.on(Placed)(take)
        one.on(Placed)(take)
        one.on(Placed, durable="stock")(take)

        with pytest.raises(HandlerDefinitionError, match="durable 'mailer' is 'take''s already"):
            one.on(Placed, durable="mailer")(take)


def test_refused_handler_is_not_registered():
    """The bus goes on as if it had never been there."""
    bus = Bus("shop")

    with pytest.raises(HandlerDefinitionError):
        bus.on(Placed, concurrency=0)(take)

    assert bus.handlers == []


def test_function_stays_a_function():
    """The decorator gives it back as it is, so it can be called and registered again."""
    bus = Bus("shop")

    assert bus.on(Placed)(take) is take
    assert bus.on(Placed)(with_context) is with_context
    assert [handler.called.function for handler in bus.handlers] == [take, with_context]


# -- handlers of requests ------------------------------------------------------------------


async def fetch(request: Fetch, ctx: Context) -> User:
    return User("ada")


async def fetch_postponed(request: "Fetch") -> "User":
    return User("ada")


async def fetch_untold(request: Fetch):
    return User("ada")


async def list_all(request: ListAll) -> list[User]:
    return []


async def rows(request: Fetch) -> AsyncIterator[User]:
    yield User("ada")


async def generated_rows(request: Fetch) -> AsyncGenerator[User]:
    yield User("ada")


async def untold_rows(request: Fetch):
    yield User("ada")


@pytest.mark.parametrize(
    ("function", "python", "streams"),
    [
        (fetch, Fetch, False),
        (fetch_postponed, Fetch, False),
        (fetch_untold, Fetch, False),
        (list_all, ListAll, False),
        (rows, Fetch, True),
        (generated_rows, Fetch, True),
        (untold_rows, Fetch, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_annotation_says_which_requests_are_handled(function: Any, python: Any, streams: bool):
    """And whether the answer is one or many is what kind of function it is."""
    handler = request_handler(function)

    assert handler.kind.python is python
    assert handler.streams is streams


def fetch_at_once(request: Fetch) -> User:
    return User("ada")


async def fetch_whom(request) -> User:
    return User("ada")


async def fetch_event(request: Placed) -> None: ...


async def fetch_any(request: Fetch | ListAll) -> User:
    return User("ada")


async def fetch_name(request: Fetch) -> str:
    return "ada"


async def fetch_nothing(request: Fetch) -> None: ...


async def list_strings(request: ListAll) -> list[str]:
    return ["ada"]


async def row_names(request: Fetch) -> AsyncIterator[str]:
    yield "ada"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (fetch_at_once, "must be `async def`"),
        (fetch_whom, r"first parameter is annotated with a subclass of ipc\.Request"),
        (fetch_event, r"first parameter is annotated with a subclass of ipc\.Request"),
        (fetch_any, r"first parameter is annotated with a subclass of ipc\.Request"),
        (fetch_name, r"returns str, but handler\.Fetch is answered with User$"),
        (fetch_nothing, "returns NoneType, but handler.Fetch is answered with User"),
        (list_strings, "but handler.ListAll is answered with list"),
        (row_names, r"returns str, but .* answered with User: AsyncIterator\[User\]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_function_that_cannot_answer_is_refused(function: Any, reason: str):
    """Where it is defined; the caller would get something else than it was promised."""
    with pytest.raises(HandlerDefinitionError, match=reason):
        Service("users").handle(function)


def test_request_has_one_handler():
    """Which of two would answer?"""
    service = Service("users")
    service.handle(fetch)

    with pytest.raises(HandlerDefinitionError, match=r"handler\.Fetch is answered by 'fetch'"):
        service.handle(fetch_postponed)
    assert list(service.handlers) == ["handler.Fetch"]
