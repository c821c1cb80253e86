"""Arguments and results are checked against the function's annotations."""

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetq import TaskArgumentError, TaskDefinitionError
from jetq._signature import Signature


class Address(msgspec.Struct):
    to: str
    copies: int = 1


class Colour(Enum):
    RED = "red"


def round_trip(annotation: Any, value: Any) -> Any:
    """Return what a worker gets for an argument of that type."""

    def function(value): ...

    function.__annotations__ = {"value": annotation}
    signature = Signature("t", function)
    args, kwargs = signature.decode(signature.encode((value,), {}))
    assert args == []
    return kwargs["value"]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 1),
        (float, 0.5),
        (str | None, None),
        (bytes, b"\x00\xff"),
        (datetime, datetime(2030, 1, 2, tzinfo=UTC)),
        (date, date(2030, 1, 2)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (Colour, Colour.RED),
        (Literal["a", "b"], "b"),
        (list[Address], [Address("ada"), Address("bob", 2)]),
        (dict[str, tuple[int, ...]], {"a": (1, 2)}),
        (Annotated[int, msgspec.Meta(ge=1)], 1),
        (Any, {"anything": [1, "two", None]}),
    ],
)
def test_arguments_arrive_as_they_were_given(annotation, value):
    """What a task is called with has the type its parameter names."""
    assert round_trip(annotation, value) == value


@given(st.text(), st.integers(-(2**63), 2**63 - 1), st.binary())
def test_any_text_number_and_bytes_arrive(text, number, raw):
    """No text, number of 64 bits or byte string is changed on the way."""
    value = (text, number, raw)

    assert round_trip(tuple[str, int, bytes], value) == value


MANY: Any = "many"


def example(first: int, /, second: str = "two", *, third: Address | None = None): ...


def test_arguments_may_be_positional_keyword_or_left_out():
    """They are sent by name; what the caller leaves out is not sent."""
    signature = Signature("t", example)

    assert bytes(signature.encode((1,), {})) == b'{"first":1}'
    assert bytes(signature.encode((1, "b"), {})) == b'{"first":1,"second":"b"}'
    assert signature.decode(signature.encode((1,), {"second": "b", "third": Address("ada")})) == (
        [1],
        {"second": "b", "third": Address("ada")},
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "argument", "problem"),
    [
        (("one",), {}, "first", "Expected `int`, got `str`"),
        (
            (1,),
            {"third": Address("ada", MANY)},
            "third",
            "Expected `int`, got `str` at '.copies'",
        ),
        ((1, datetime(2030, 1, 1)), {}, "second", "Expected `str`, got `datetime"),
        ((), {}, None, "missing a required"),
        ((1, "b", "c"), {}, None, "too many positional"),
        ((1,), {"fourth": 4}, None, "unknown field `fourth`"),
        ((1, "b"), {"second": "c"}, None, "multiple values for argument 'second'"),
    ],
)
def test_wrong_argument_names_task_argument_and_type(args, kwargs, argument, problem):
    """The error says which argument of which task is wrong, and what was expected."""
    with pytest.raises(TaskArgumentError) as caught:
        Signature("mail.send", example).encode(args, kwargs)

    assert caught.value.argument == argument
    assert problem in str(caught.value)
    assert "task 'mail.send'" in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"first":"x"}', "argument 'first'"),
        (b'{"first":1,"unknown":2}', "unknown"),
        (b"{}", "first"),
        (b"[1]", "Expected `object`"),
        (b"nonsense", "task 't'"),
    ],
)
def test_arguments_are_checked_again_when_they_arrive(raw, problem):
    """Whoever wrote a job, its task is never called with what does not fit."""
    with pytest.raises(TaskArgumentError, match=problem):
        Signature("t", example).decode(raw)


def test_what_cannot_be_encoded_is_an_argument_error():
    """An object that has no form on the wire is refused at the call."""

    def function(value: Any): ...

    with pytest.raises(TaskArgumentError, match="cannot be encoded"):
        Signature("t", function).encode((object(),), {})


def test_result_must_be_what_the_function_promises():
    """A task that returns something else than it says has failed."""

    def function() -> Address: ...

    signature = Signature("t", function)

    assert signature.decode_result(signature.encode_result(Address("ada"))) == Address("ada")
    with pytest.raises(msgspec.ValidationError, match="Expected `object`, got `int`"):
        signature.encode_result(1)


def test_unannotated_parameters_take_anything_json_can_say():
    """Annotations are wanted, not forced."""

    def function(value): ...

    signature = Signature("t", function)

    assert signature.decode(signature.encode(({"a": [1]},), {})) == ([], {"value": {"a": [1]}})


def test_parameters_without_a_fixed_name_are_refused():
    """Arguments travel by name, so `*args` and `**kwargs` have none."""

    def stars(*args: int): ...

    def options(**kwargs: int): ...

    for function in (stars, options):
        with pytest.raises(TaskDefinitionError, match="take a list or a dict instead"):
            Signature("t", function)


def test_annotation_that_names_nothing_is_told_when_resolved():
    """A misspelt type is an error when the app opens, not when the first job comes."""

    def function(value: "Misspelt"): ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(TaskDefinitionError, match="Misspelt"):
        Signature("t", function).resolve()


def test_type_that_cannot_be_encoded_is_told_when_resolved():
    """So is a type that has no form on the wire."""

    def function(value: int | str | Address | dict[str, int]): ...

    with pytest.raises(TaskDefinitionError, match="cannot be encoded"):
        Signature("t", function).resolve()
