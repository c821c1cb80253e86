"""Types of messages: the names they go by, their versions, and what cannot be one."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import Event, IpcError, Request, TypeDefinitionError, module_name, type_of
from ipc._types import MAX_LENGTH, find_type, registered_types

T = TypeVar("T")
K = TypeVar("K")


class User(msgspec.Struct):
    name: str


class Made(Event):
    number: int


class Outer:
    class Inner(Event):
        number: int


class Asked(Request[User]):
    number: int


class Page(Request[list[T]], Generic[T], type="types.Page"):
    number: int = 0


class Lookup(Request[T], Generic[K, T], type="types.Lookup"):
    number: int = 0


def define(**options: Any) -> Any:
    """Define a type of event, always at the same place in this module."""

    class Thing(Event, **options):
        a: int = 0
        user: User | None = None

    return Thing


def define_elsewhere(**options: Any) -> Any:
    """Define a type of event at another place."""

    class Other(Event, **options):
        a: int = 0

    return Other


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("python", "name"),
    [(Made, "Made"), (Outer.Inner, "Outer.Inner"), (Asked, "Asked"), (define(), "define.Thing")],
)
def test_type_is_named_after_module_and_class(python: Any, name: str):
    """The name that stands in `$type` is the class's full name, if none is given."""
    assert type_of(python).name == f"{__name__}.{name}"


def test_name_stands_in_the_message():
    """Under `$type`, beside the fields."""
    assert msgspec.to_builtins(Made(number=1)) == {"$type": f"{__name__}.Made", "number": 1}


def test_name_can_be_given():
    """With `type=`, so that moving the class does not rename what is on the wire."""
    thing = define(type="types.Given")

    assert type_of(thing).name == "types.Given"
    assert msgspec.to_builtins(thing(a=1))["$type"] == "types.Given"


def test_type_is_found_by_all_its_names():
    """By the one that it has, and by those that it had."""
    thing = define(type="types.New", aliases=["types.Old", "types.Older"])

    kind = type_of(thing)
    assert kind.names == ("types.New", "types.Old", "types.Older")
    assert {find_type(name) for name in kind.names} == {kind}
    assert find_type("types.Unheard") is None


def test_domain_is_the_first_part_of_the_name():
    """What it is stored with."""
    assert type_of(define(type="depot.events.Shipped")).domain == "depot"


def test_types_are_listed():
    """All that are defined; the two base classes are none."""
    defined = {kind.python for kind in registered_types()}

    assert {Made, Outer.Inner, Asked} <= defined
    assert not {Event, Request} & defined


def test_events_and_requests_are_told_apart():
    """One tells, the other asks."""
    assert type_of(Made).kind == "event"
    assert type_of(Asked).kind == "request"


@pytest.mark.parametrize("python", [User, int, Event, Request, "types.Made", None, list[int]])
def test_other_classes_are_no_types(python: Any):
    """Asking for one says what it should have been."""
    with pytest.raises(TypeError, match=r"not a subclass of ipc\.Event or ipc\.Request"):
        type_of(python)


@pytest.mark.parametrize(
    "name",
    [
        "Single",
        ".shop",
        "shop.",
        "shop..Placed",
        "shop.9Placed",
        "9shop.Placed",
        "shop.0",
        "shop.*",
        "shop.>",
        "shop.a-b",
        "shop.a b",
        "shop.Placed\n",
        "shöp.Placed",
        "shop." + "x" * MAX_LENGTH,
    ],
)
def test_bad_name_is_refused(name: str):
    """As a name and as an alias: it could not be part of a subject, or not be told from one."""
    with pytest.raises(TypeDefinitionError, match="cannot be part of a subject"):
        define(type=name)
    with pytest.raises(TypeDefinitionError, match="cannot be part of a subject"):
        define(type="types.Good", aliases=[name])
    assert find_type(name) is None
    assert find_type("types.Good") is None


@given(st.text(min_size=1) | st.lists(st.text("ab_9*>-. ", max_size=3)).map(".".join))
def test_what_is_taken_as_a_name_is_a_subject(name: str):
    """Any text is refused, or is tokens of a subject none of which is a number or a wildcard."""
    try:
        define(type=name or ".")
    except TypeDefinitionError:
        return

    tokens = name.split(".")
    assert len(tokens) > 1
    assert all(token.isidentifier() and token.isascii() for token in tokens)


def test_name_belongs_to_one_class():
    """Who defines a second one is told whose it is."""
    define(type="types.Taken", aliases=["types.TakenBefore"])

    for options in (
        {"type": "types.Taken"},
        {"type": "types.TakenBefore"},
        {"type": "types.Other", "aliases": ["types.Taken"]},
        {"type": "types.Other", "aliases": ["types.TakenBefore"]},
    ):
        with pytest.raises(TypeDefinitionError, match=r"define\.<locals>\.Thing already"):
            define_elsewhere(**options)


def test_refused_class_leaves_no_trace():
    """Its names are free, and what it clashed with is still there."""
    first = define(type="types.First")

    with pytest.raises(TypeDefinitionError):
        define_elsewhere(type="types.Second", aliases=["types.First"])

    assert find_type("types.Second") is None
    assert find_type("types.First") is type_of(first)


def test_definition_error_is_an_error_of_ipc_and_of_types():
    """Whoever catches either gets it, with the name as a fact."""
    with pytest.raises(TypeDefinitionError) as caught:
        define(type="types.Version", version=0)

    assert isinstance(caught.value, IpcError)
    assert isinstance(caught.value, TypeError)
    assert caught.value.name == "types.Version"
    assert str(caught.value) == "type 'types.Version': version counts from 1"


# -- where a module comes from -------------------------------------------------------------

SCRIPT = """
import ipc

class Placed(ipc.Event):
    number: int

if __name__ == "__main__":
    print(ipc.type_of(Placed).name)
"""


def run(directory: Path, *arguments: str) -> str:
    """Run Python in a directory and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_type_of_a_script_has_the_name_by_which_others_import_it(tmp_path: Path):
    """The script's file instead of `__main__`, so that both speak of the same type."""
    (tmp_path / "shop.py").write_text(SCRIPT)

    assert run(tmp_path, "shop.py") == "shop.Placed"
    assert run(tmp_path, "-m", "shop") == "shop.Placed"


def test_type_of_a_package_that_is_run_has_the_packages_name(tmp_path: Path):
    """`python -m shop` runs `shop/__main__.py`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__main__.py").write_text(SCRIPT)

    assert run(tmp_path, "-m", "shop") == "shop.Placed"


def test_script_that_is_imported_too_defines_its_types_once(tmp_path: Path):
    """A module that the script imports may import the script: both are one type."""
    (tmp_path / "shop.py").write_text(SCRIPT + "\n    import worker\n")
    (tmp_path / "worker.py").write_text("from shop import Placed\n")

    assert run(tmp_path, "shop.py") == "shop.Placed"


def test_other_modules_keep_their_names():
    """Only `__main__` is looked up."""
    assert module_name("shop.events") == "shop.events"


@pytest.fixture
def shop_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with an event that has two versions."""
    (tmp_path / "reloaded_shop.py").write_text(
        "import ipc\n"
        "class Placed(ipc.Event, version=2, aliases=('reloaded_shop.Old',)):\n"
        "    number: int\n"
        "@Placed.upcast(1)\n"
        "def _(fields):\n"
        "    return fields\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reloaded_shop", raising=False)
    return importlib.import_module("reloaded_shop")


def test_module_can_be_loaded_again(shop_module: ModuleType):
    """Its classes take the place of those before, which still can be used."""
    before = shop_module.Placed

    after = importlib.reload(shop_module).Placed

    assert after is not before
    assert find_type("reloaded_shop.Placed") is find_type("reloaded_shop.Old") is type_of(after)
    assert type_of(before).name == "reloaded_shop.Placed"


# -- fields --------------------------------------------------------------------------------


def test_messages_cannot_be_changed():
    """What was published is as it was, whoever still has it."""
    made = Made(number=1)

    with pytest.raises(AttributeError, match="immutable"):
        made.number = 2  # pyright: ignore[reportAttributeAccessIssue]


def test_options_of_structs_can_be_given():
    """`frozen=False` too, or other names on the wire."""
    thing = define(type="types.Loose", frozen=False, rename="upper", omit_defaults=True)

    one = thing(a=1)
    one.a = 2

    assert msgspec.to_builtins(one) == {"$type": "types.Loose", "A": 2}


def test_tag_is_ours():
    """Whatever else a class says, `$type` is where everybody looks for the name."""
    thing = define(type="types.Tagged", tag_field="kind", tag="other")

    assert msgspec.to_builtins(thing())["$type"] == "types.Tagged"
    assert "kind" not in msgspec.to_builtins(thing())


def test_message_is_an_object():
    """An array would have no place for `$type`."""
    with pytest.raises(TypeDefinitionError, match="array_like"):
        define(type="types.Array", array_like=True)


@pytest.mark.parametrize("rename", [{"a": "$a"}, {"a": "$type"}, {"a": "$id"}])
def test_fields_with_a_dollar_are_refused(rename: dict[str, str]):
    """They are ipc's own."""
    # msgspec itself refuses the tag's own name.
    with pytest.raises((TypeDefinitionError, ValueError), match=r"\$"):
        define(type="types.Dollar", rename=rename)


def test_subclass_is_a_type_of_its_own():
    """It has the fields of its base, and a name of its own; aliases and versions stay behind."""

    class Base(Event, type="types.Base", version=3, aliases=["types.BaseBefore"]):
        a: int = 0

    class Derived(Base, type="types.Derived"):
        b: int = 0

    kind = type_of(Derived)
    assert kind.names == ("types.Derived",)
    assert kind.version == 1
    assert msgspec.to_builtins(Derived()) == {"$type": "types.Derived", "a": 0, "b": 0}


# -- keys ----------------------------------------------------------------------------------


def test_key_is_a_field_or_a_field_of_it():
    """By whose value the order is kept."""
    flat = type_of(define(type="types.Flat", key="a"))
    deep = type_of(define(type="types.Deep", key="user.name"))

    assert flat.key_of(flat.python(a=7)) == 7
    assert deep.key_of(deep.python(user=User("ada"))) == "ada"


@pytest.mark.parametrize("key", ["b", "", "b.a", "$id"])
def test_key_must_be_a_field(key: str):
    """A typing error is found where the class is defined."""
    with pytest.raises(TypeDefinitionError, match="none of its fields"):
        define(type="types.Keyed", key=key)


# -- versions ------------------------------------------------------------------------------


def test_version_is_1_if_none_is_given():
    """And what is given else."""
    assert type_of(Made).version == 1
    assert type_of(define(type="types.Third", version=3)).version == 3


@pytest.mark.parametrize("version", [0, -1])
def test_version_counts_from_1(version: int):
    """There is none before the first."""
    with pytest.raises(TypeDefinitionError, match="counts from 1"):
        define(type="types.Before", version=version)


def test_upcast_is_known_by_the_version_it_takes():
    """And is still a function that can be called."""
    thing = define(type="types.Upcast", version=3)

    @thing.upcast(2)
    def third(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "third": True}

    assert type_of(thing).upcasts == {2: third}
    assert third({}) == {"third": True}


def test_requests_have_upcasts_too():
    """As events do."""

    class Grown(Request[User], type="types.Grown", version=2):
        number: int

    @Grown.upcast(1)
    def second(fields: dict[str, Any]) -> dict[str, Any]:
        return fields

    assert type_of(Grown).upcasts == {1: second}


@pytest.mark.parametrize("version", [0, 2, 3, -1])
def test_upcast_leads_to_a_version_that_is_there(version: int):
    """Of a class with version 2 only version 1 can be lifted."""
    thing = define(type="types.Two", version=2)

    with pytest.raises(TypeDefinitionError, match=f"no upcast from version {version}"):
        thing.upcast(version)


def test_version_has_one_upcast():
    """A second one would be taken by chance."""
    thing = define(type="types.Once", version=2)
    thing.upcast(1)(dict)

    with pytest.raises(TypeDefinitionError, match="there is one"):
        thing.upcast(1)


# -- replies -------------------------------------------------------------------------------


def reply_of(base: Any) -> Any:
    """Return what a request with that base is answered with."""

    class Question(base, type="types.Question"):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        pass

    return type_of(Question).reply


@pytest.mark.parametrize(
    ("base", "reply"),
    [
        (Request[User], User),
        (Request[list[User]], list[User]),
        (Request[User | None], User | None),
        (Request[dict[str, int]], dict[str, int]),
        (Request[None], type(None)),
        (Request[Any], Any),
        (Asked, User),
        (Page[User], list[User]),
        (Page[int], list[int]),
        (Lookup[int, User], User),
    ],
)
def test_request_knows_its_reply(base: Any, reply: Any):
    """Also where a class stands between, generic or not."""
    assert reply_of(base) == reply


@pytest.mark.parametrize("base", [Request, Request[T]])  # pyright: ignore[reportGeneralTypeIssues]
def test_request_says_what_it_is_answered_with(base: Any):
    """Nothing could be decoded into nothing."""
    with pytest.raises(TypeDefinitionError, match=r"Request\[User\]"):
        reply_of(base)
