"""The types that go over the wire: events, and requests that know their reply.

Defining a class registers it under the name that stands in `$type`. What arrives is decoded
into registered types only: its name is looked up here, never imported.

A name is the class's module and name, or one that is given. It must not change as long as
anybody stores or sends it: a class that is renamed keeps its old names as `aliases`. A class
whose fields change in ways that defaults cannot bridge gets the next `version`, and a
function that makes its fields of those of the version before (`upcast`).
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import (
    Any,
    Generic,
    Literal,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from ._errors import TypeDefinitionError

__all__ = [
    "Event",
    "Fields",
    "MessageType",
    "Request",
    "event_type",
    "event_types",
    "find_type",
    "module_name",
    "registered_types",
    "request_type",
    "request_types",
    "type_of",
]

R_co = TypeVar("R_co", covariant=True)

Fields = dict[str, Any]
"""The fields of a message, as JSON has them."""

Upcast = Callable[[Fields], Fields]

# A part of digits only would be taken for a partition.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")

MAX_LENGTH = 200


class MessageType:
    """What is known of an event or request besides its fields."""

    def __init__(
        self,
        python: type[msgspec.Struct],
        name: str,
        version: int,
        aliases: tuple[str, ...],
        key: str | None,
    ) -> None:
        self.python = python
        """The class."""
        self.name = name
        """What stands in `$type`."""
        self.version = version
        """Counts from 1; stands in `$version` where it is more."""
        self.aliases = aliases
        """Names that it had before."""
        self.key = key
        """The field whose equal values are handled in the order they were published in."""
        self.kind: Literal["event", "request"] = "event" if issubclass(python, Event) else "request"
        """Whether it tells or asks."""
        self.upcasts: dict[int, Upcast] = {}
        """What makes the fields of the next version, by the version it takes."""

    @property
    def domain(self) -> str:
        """The first part of its name: whose events are stored together."""
        return self.name.partition(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The name that it has, and those it had."""
        return (self.name, *self.aliases)

    @cached_property
    def key_of(self) -> Callable[[Any], Any]:
        """Returns an event's key."""
        return attrgetter(self.key or "")

    @cached_property
    def reply(self) -> Any:
        """The type of what a request is answered with."""
        return _reply_of(self.python)

    def __repr__(self) -> str:
        return f"<{self.kind} type {self.name!r}>"


_by_name: dict[str, MessageType] = {}
_by_class: dict[type[msgspec.Struct], MessageType] = {}


def find_type(name: str) -> MessageType | None:
    """Return the type that has or had a name, or `None`."""
    return _by_name.get(name)


def type_of(python: type[msgspec.Struct]) -> MessageType:
    """Return what is known of an event's or request's class.

    Raises:
        TypeError: It is none.
    """
    try:
        return _by_class[python]
    except (KeyError, TypeError):
        raise TypeError(f"{python!r} is not a subclass of ipc.Event or ipc.Request") from None


def event_type(python: type[Any]) -> MessageType:
    """Return what is known of an event's class.

    Raises:
        TypeError: It is none.
    """
    kind = type_of(python)
    if kind.kind != "event":
        raise TypeError(f"{kind.name} is a request, which is asked, not published")
    return kind


def request_type(python: type[Any]) -> MessageType:
    """Return what is known of a request's class.

    Raises:
        TypeError: It is none.
    """
    kind = type_of(python)
    if kind.kind != "request":
        raise TypeError(f"{kind.name} is an event, which is published, not answered")
    return kind


def event_types(classes: Iterable[type[Any]]) -> tuple[MessageType, ...]:
    """Return what is known of events' classes; see `event_type`."""
    return tuple(map(event_type, classes))


def request_types(classes: Iterable[type[Any]]) -> tuple[MessageType, ...]:
    """Return what is known of requests' classes; see `request_type`."""
    return tuple(map(request_type, classes))


def registered_types() -> Iterator[MessageType]:
    """Return every type that is defined in this process."""
    return iter(tuple(_by_class.values()))


def module_name(name: str) -> str:
    """Return what others import a module by, of its `__name__`.

    A script's is `__main__`, but whoever imports the script knows it by its file's name.
    """
    if name != "__main__":
        return name
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class MessageMeta(msgspec.StructMeta):
    """Makes tagged structs and registers them."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        type: str | None = None,
        version: int = 1,
        aliases: Iterable[str] = (),
        key: str | None = None,
        **config: Any,
    ) -> MessageMeta:
        """Define a class.

        Args:
            type: What stands in `$type`; else its module and name.
            version: Of its fields, from 1; see `upcast`.
            aliases: Names that it had before.
            key: Of an event: the field, or `field.of.it`, by which `ordered` durables keep the
                order.
            config: What `msgspec.Struct` takes; `frozen` is the default.

        Raises:
            TypeDefinitionError: The name is taken or cannot be part of a subject, or the
                class is not written as an object with fields.
        """
        if namespace["__module__"] == __name__:
            return super().__new__(mcls, class_name, bases, namespace, frozen=True, **config)
        name = type or default_name(namespace["__module__"], namespace["__qualname__"])
        config = {"frozen": True, **config, "tag_field": "$type", "tag": name}
        made = super().__new__(mcls, class_name, bases, namespace, **config)
        register(
            MessageType(
                cast("builtins.type[msgspec.Struct]", made), name, version, tuple(aliases), key
            )
        )
        return made


class Event(msgspec.Struct, metaclass=MessageMeta):
    """Something that happened. Subclass it, name it in the past tense, give it fields.

    `class UserCreated(Event, type="shop.UserCreated", version=2, aliases=("shop.UserMade",))`:
    all three are optional; what `msgspec.Struct` takes can be given too. Instances are
    frozen. Fields with defaults can be added at any time: old events still decode.
    """

    @classmethod
    def upcast(cls, version: int) -> Callable[[Upcast], Upcast]:
        """Make a decorator for the function that makes version + 1 of `version`.

        It takes and returns the message's fields as JSON has them, without those that
        begin with `$`.

        Raises:
            TypeDefinitionError: There is one already, or no version above it.
        """
        return _add_upcast(type_of(cls), version)


class Request(msgspec.Struct, Generic[R_co], metaclass=MessageMeta):
    """A question to a service, named in the imperative: `class FetchUser(Request[User])`.

    `Request[User]` says what it is answered with. Else as `Event`.
    """

    @classmethod
    def upcast(cls, version: int) -> Callable[[Upcast], Upcast]:
        """Make a decorator for the function that makes version + 1 of `version`.

        See `Event.upcast`.
        """
        return _add_upcast(type_of(cls), version)


def default_name(module: str, qualname: str) -> str:
    """Return the name of a class that is given none."""
    # A class may be defined in a function, as tests do it.
    return f"{module_name(module)}.{qualname}".replace(".<locals>", "")


def register(kind: MessageType) -> None:
    """Make a class known under its names."""
    python, name, version, aliases = kind.python, kind.name, kind.version, kind.aliases
    for one in (name, *aliases):
        if len(one) > MAX_LENGTH or not _NAME.fullmatch(one):
            raise TypeDefinitionError(
                name,
                f"{one!r} cannot be part of a subject: parts of letters, digits and '_', that "
                f"do not begin with a digit, at least two joined by dots, {MAX_LENGTH} "
                "characters in all",
            )
        known = _by_name.get(one)
        # A module that is loaded again defines its classes again.
        if known is not None and _place(known.python) != _place(python):
            raise TypeDefinitionError(
                name, f"{one!r} is the name of {'.'.join(_place(known.python))} already"
            )
    if version < 1:
        raise TypeDefinitionError(name, "version counts from 1")
    if python.__struct_config__.array_like:
        raise TypeDefinitionError(name, "array_like leaves no place for $type")
    for field in python.__struct_encode_fields__:
        if field.startswith("$"):
            raise TypeDefinitionError(name, f"field {field!r}: names with '$' are ipc's own")
    if kind.key is not None and kind.key.partition(".")[0] not in python.__struct_fields__:
        raise TypeDefinitionError(name, f"key {kind.key!r} is none of its fields")
    _by_class[python] = kind
    for one in (name, *aliases):
        _by_name[one] = kind


def _place(python: type) -> tuple[str, str]:
    # A script that others import too is the same module under two names.
    return module_name(python.__module__), python.__qualname__


def _add_upcast(kind: MessageType, version: int) -> Callable[[Upcast], Upcast]:
    if not 1 <= version < kind.version or version in kind.upcasts:
        raise TypeDefinitionError(
            kind.name,
            f"no upcast from version {version}: there is one, or the class is not "
            f"declared with version={version + 1} or more",
        )

    def add(function: Upcast) -> Upcast:
        kind.upcasts[version] = function
        return function

    return add


def _reply_of(python: type[msgspec.Struct]) -> Any:
    """Return what stands in `Request[…]` among a class's bases."""
    reply = _told_reply(python)
    if reply is None or isinstance(reply, TypeVar) or getattr(reply, "__parameters__", ()):
        raise TypeDefinitionError(
            type_of(python).name, "a request says what it is answered with: Request[User]"
        )
    return reply


def _told_reply(python: Any) -> Any:
    """Return what a class's bases say, perhaps with type variables; `None` if nothing."""
    bases: tuple[Any, ...] = python.__dict__.get("__orig_bases__", python.__bases__)
    for base in bases:
        origin: Any = get_origin(base) or base
        given = get_args(base)
        if origin is Request:
            return given[0] if given else None
        if isinstance(origin, type) and issubclass(origin, Request):
            reply = _told_reply(origin)
            # `Page[User]`, of `class Page(Request[list[T]], Generic[T])`, is `list[User]`.
            values: dict[Any, Any] = dict(
                zip(cast(Any, origin).__parameters__, given, strict=False)
            )
            if isinstance(reply, TypeVar):
                return values.get(reply, reply)
            wanted = getattr(reply, "__parameters__", ())
            return reply[tuple(values.get(one, one) for one in wanted)] if wanted else reply
    return None
