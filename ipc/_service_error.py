"""Errors that a service answers with, and that arrive at the caller as what they are.

On the wire an error is the two headers of a NATS service, so that any client sees it, and a
body for those who know the class:

    Nats-Service-Error-Code: 404
    Nats-Service-Error: there is no user 7
    {"$type": "shop.errors.UserNotFoundError", "code": 404, "message": "…", "data": {"id": 7}}

Source: NATS ADR-32 (error handling).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, get_origin, get_type_hints

import msgspec

from ._codec import Codec
from ._envelope import NOT_DECODABLE
from ._errors import IpcError, TypeDefinitionError
from ._types import default_name

__all__ = [
    "BadRequestError",
    "ReplyTooLargeError",
    "ServiceBusyError",
    "ServiceError",
    "ServiceStoppedError",
    "error_in",
    "error_message",
    "too_large",
    "words_of",
]

CODE_HEADER = "Nats-Service-Error-Code"
TEXT_HEADER = "Nats-Service-Error"

MAX_TEXT = 1_000
"""Characters of a message in a header."""

MAX_MESSAGE = 10_000
"""Characters of it in a body: an exception may carry all that was worked on."""

INTERNAL = 500

# What every exception, or every error of a service, has already.
TAKEN = frozenset({"add_note", "args", "code", "data", "kind", "message", "type", "with_traceback"})

_by_name: dict[str, type[ServiceError]] = {}


class ServiceError(IpcError):
    """A service answered with an error. Subclass it to declare errors of your own:

        class UserNotFoundError(ServiceError, code=404):
            id: int

        raise UserNotFoundError("there is no user 7", id=7)

    What is annotated travels along. A caller that knows the class gets an instance of it;
    to any other it is a `ServiceError` with the same code and message.
    """

    code: int = INTERNAL
    """As in HTTP: below 500 the request is at fault, from 500 on the service."""
    type: ClassVar[str] = ""
    """What stands for the class on the wire."""

    def __init_subclass__(cls, *, code: int = INTERNAL, type: str | None = None) -> None:
        """Declare an error.

        Args:
            code: Of every error of this class.
            type: What stands for it on the wire; else its module and name.

        Raises:
            TypeDefinitionError: The name is another class's, or a field has one that is taken.
        """
        super().__init_subclass__()
        cls.code = code
        cls.type = type or default_name(cls.__module__, cls.__qualname__)
        if taken := TAKEN.intersection(inspect.get_annotations(cls)):
            raise TypeDefinitionError(
                cls.type, f"every error has {min(taken)!r}; name it otherwise"
            )
        known = _by_name.get(cls.type)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise TypeDefinitionError(cls.type, f"is the name of {known!r} already")
        _by_name[cls.type] = cls

    def __init__(self, message: str = "", /, **data: Any) -> None:
        """Make an error.

        Args:
            message: For people.
            data: Exactly what the class has annotated.

        Raises:
            TypeError: Something is missing, too much, or of another type.
        """
        super().__init__(message)
        if data or type(self) is not ServiceError:
            try:
                fields = msgspec.convert(data, _fields_of(type(self)))
            except msgspec.ValidationError as exc:
                raise TypeError(f"{type(self).__name__}: {exc}") from None
            self.fill(fields)

    @property
    def message(self) -> str:
        """What it says, for people."""
        return str(self.args[0]) if self.args else ""

    @property
    def kind(self) -> str:
        """What stands for it on the wire; of an exception that is no `ServiceError`, its name."""
        return self._kind or type(self).type

    _kind = ""

    def fill(self, fields: msgspec.Struct) -> None:
        """Take what is annotated over."""
        for name, value in msgspec.structs.asdict(fields).items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be copied without its `__init__`, which may take anything."""
        return _rebuilt, (type(self), self.message, self.__dict__)

    def data(self) -> dict[str, Any]:
        """Return what is annotated."""
        return {name: getattr(self, name) for name in _fields_of(type(self)).__struct_fields__}

    def __str__(self) -> str:
        return f"{self.message or self.kind} (code {self.code})"


class BadRequestError(ServiceError, code=400, type="ipc.BadRequestError"):
    """The service could not read the request, or does not answer it in this way."""


class ReplyTooLargeError(ServiceError, code=413, type="ipc.ReplyTooLargeError"):
    """The service's answer is over the server's limit."""


class ServiceBusyError(ServiceError, code=503, type="ipc.ServiceBusyError"):
    """Too many requests wait at the service, or it stops; it did not begin with this one."""


class ServiceStoppedError(ServiceError, code=503, type="ipc.ServiceStoppedError"):
    """The service has stopped while it handled the request; it may have acted."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error on the wire."""

    type: str = msgspec.field(name="$type", default="")
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    """What the class has annotated."""


@cache
def _fields_of(error: type[ServiceError]) -> type[msgspec.Struct]:
    """Return a struct of what a class, and those it derives from, have annotated."""
    fields: dict[str, Any] = {}
    for base in reversed(error.__mro__[: error.__mro__.index(ServiceError)]):
        own = inspect.get_annotations(base)
        hints = get_type_hints(base)
        fields |= {
            name: hint
            for name, hint in hints.items()
            if name in own and get_origin(hint) is not ClassVar
        }
    return msgspec.defstruct(
        error.__name__,
        [
            (name, hint, getattr(error, name)) if hasattr(error, name) else (name, hint)
            for name, hint in fields.items()
        ],
        kw_only=True,
        forbid_unknown_fields=True,
    )


def error_message(error: Exception, codec: Codec) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body that tell a caller of an error."""
    if isinstance(error, ServiceError):
        kind, code, message, data = error.kind, error.code, error.message, error.data()
    else:
        python = type(error)
        kind, code, data = f"{python.__module__}.{python.__qualname__}", INTERNAL, {}
        message = words_of(error)
    message = message[:MAX_MESSAGE].encode(errors="replace").decode()
    body: dict[str, Any] = {"$type": kind, "code": code, "message": message}
    try:
        encoded = codec.encode({**body, "data": data} if data else body)
    except (TypeError, ValueError, OverflowError, RecursionError):
        # It has fields that cannot be sent: what it says counts all the same.
        encoded = codec.encode(body)
    text = " ".join((message or kind).split())[:MAX_TEXT]
    return {CODE_HEADER: str(code), TEXT_HEADER: text}, encoded


def too_large(data: bytes, limit_bytes: int) -> ReplyTooLargeError:
    """Return what a caller is told whose answer cannot be sent."""
    return ReplyTooLargeError(
        f"the answer has {len(data)} bytes, more than the server's limit of {limit_bytes}; "
        "answer with a stream, or less at a time"
    )


def words_of(error: BaseException) -> str:
    """Return what an exception says; "" if that fails too."""
    try:
        return str(error)
    except Exception:
        return ""


def error_in(headers: Mapping[str, str], data: bytes, codec: Codec) -> ServiceError | None:
    """Return the error that a reply tells of, if it does."""
    code = headers.get(CODE_HEADER)
    if code is None:
        return None
    try:
        body = codec.decoder_for(ErrorBody)(data)
    except NOT_DECODABLE:
        # Of a service that is not ours.
        body = ErrorBody()
    known = _by_name.get(body.type)
    if known is not None:
        try:
            fields = codec.decoder_for(_fields_of(known))(bytes(body.data) or codec.encode({}))
            error = _rebuilt(known, body.message, {})
            error.fill(fields)
            return error
        except NOT_DECODABLE:
            # Another version of the class; what it says counts all the same.
            pass
    message = body.message or headers.get(TEXT_HEADER, "")
    number = int(code) if code.isascii() and code.isdigit() and len(code) < 10 else INTERNAL
    return _rebuilt(ServiceError, message, {"_kind": body.type, "code": number})


def _rebuilt(
    python: type[ServiceError], message: str, attributes: Mapping[str, Any]
) -> ServiceError:
    """Return an error as it was, or as it was told, without its `__init__`."""
    error = python.__new__(python)
    error.args = (message,)
    error.__dict__.update(attributes)
    return error
