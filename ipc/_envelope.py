"""What a message says of itself beside its own fields, and how both become one object.

    {"$type": "shop.events.UserCreated", "user": {…}, "$id": "…", "$time": "…", "$source": "shop"}

Whatever begins with `$` is ipc's, all else the message's own. Only `$type` has to be there:
a client in another language may leave out the rest. Read in two halves: the message by its
class, at once; what it says of itself only if somebody asks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec

from ._codec import Codec, codec_of
from ._types import Fields, MessageType

__all__ = ["Meta", "UnknownEvent", "UnknownTypeError", "read", "read_any", "read_meta", "write"]

NOT_DECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError)
"""What decoding raises for bytes that are not what they should be. The last two: what a
user's own class raises when it is made."""


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a message says of itself."""

    type: str = msgspec.field(name="$type", default="")
    version: int = msgspec.field(name="$version", default=1)
    id: str = msgspec.field(name="$id", default="")
    time: Moment | None = msgspec.field(name="$time", default=None)
    """When it was sent, by the sender's clock."""
    source: str = msgspec.field(name="$source", default="")
    """The sender's name."""
    correlation: str = msgspec.field(name="$correlation", default="")
    """Id of the message that began it all; "" if that is this one."""
    causation: str = msgspec.field(name="$causation", default="")
    """Id of the message that was handled when this one was sent."""
    timeout: float | None = msgspec.field(name="$timeout", default=None)
    """Of a request: seconds that the sender waits."""
    credit: int = msgspec.field(name="$credit", default=0)
    """Of a request for a stream: how many items may be on their way unasked."""


class UnknownEvent(msgspec.Struct, frozen=True):
    """An event of a type that is not registered here."""

    type: str
    fields: Fields
    """As JSON has them."""


class UnknownTypeError(Exception):
    """The `$type` of a message is not among those that are expected."""

    def __init__(self, name: str, fields: Fields) -> None:
        super().__init__(name, fields)
        self.name = name
        self.fields = fields


def write(message: msgspec.Struct, meta: Meta, codec: Codec) -> bytes:
    """Return a message as bytes.

    Raises:
        TypeError: A field has a type that cannot be encoded.
    """
    try:
        return codec.join(codec.encode(message), codec.encode(meta))
    except (ValueError, OverflowError, RecursionError) as exc:
        # Half a surrogate, a number of more than 64 bits, an object within itself.
        raise TypeError(f"{type(message).__name__} cannot be encoded: {exc}") from exc


def read_meta(data: bytes) -> Meta:
    """Return what a message says of itself; what cannot be read counts as not said."""
    codec = codec_of(data)
    try:
        return codec.decoder_for(Meta)(data)
    except NOT_DECODABLE:
        pass
    try:
        # Other clients may write `null` for what they do not say.
        return _what_fits(codec.decoder_for(Any)(data))
    except NOT_DECODABLE:
        return Meta()


def _what_fits(message: Any) -> Meta:
    """Return what can be read of what a message says of itself."""
    said: dict[str, Any] = {}
    if isinstance(message, dict):
        fields = cast(Fields, message)
        for field in msgspec.structs.fields(Meta):
            with contextlib.suppress(KeyError, msgspec.ValidationError):
                value = fields[field.encode_name]
                said[field.name] = msgspec.convert(value, field.type)
    return Meta(**said)


def read(kind: MessageType, data: bytes) -> Any:
    """Return a message of a type that is known, also of an older version of it.

    Raises:
        UnknownTypeError: Its `$type` is another one.
        NOT_DECODABLE: It is malformed.
    """
    codec = codec_of(data)
    if not kind.upcasts and not kind.python.__struct_config__.forbid_unknown_fields:
        try:
            return _decoded(kind, data, codec)
        except msgspec.ValidationError:
            if read_meta(data).type == kind.name:
                raise
    return _read_slowly(kind, data, codec)


def _decoded(kind: MessageType, data: bytes, codec: Codec) -> Any:
    try:
        return codec.decoder_for(kind.python)(data)
    except NOT_DECODABLE:
        raise
    except Exception as exc:
        # Raised by the class's own code, when an instance is made.
        raise _refused(exc) from exc


def _refused(error: Exception) -> msgspec.ValidationError:
    return msgspec.ValidationError(f"{type(error).__name__}: {error}")


def read_any(kinds: Mapping[str, MessageType], hint: str, data: bytes) -> Any:
    """Return a message of one of several types; its `$type` decides.

    Args:
        kinds: By every name that they have or had.
        hint: What the subject says, for messages without a `$type`.

    Raises:
        UnknownTypeError: It is none of them.
        NOT_DECODABLE: It is malformed.
    """
    kind = kinds.get(hint)
    if kind is not None:
        try:
            return read(kind, data)
        except UnknownTypeError:
            pass
    name = _name(data, hint)
    kind = kinds.get(name)
    if kind is None:
        raise UnknownTypeError(name, _fields(data, codec_of(data)))
    return read(kind, data)


def _name(data: bytes, otherwise: str) -> str:
    return read_meta(data).type or otherwise


def _fields(data: bytes, codec: Codec) -> Fields:
    """Return a message's own fields."""
    fields: Fields = codec.decoder_for(Fields)(data)
    return {key: value for key, value in fields.items() if key[:1] != "$"}


def _read_slowly(kind: MessageType, data: bytes, codec: Codec) -> Any:
    """Return a message that has an old name or version, or fields that its class forbids."""
    meta = read_meta(data)
    if meta.type not in ("", kind.name, *kind.aliases):
        raise UnknownTypeError(meta.type, {})
    fields = _fields(data, codec)
    try:
        for version in sorted(kind.upcasts):
            if version >= meta.version:
                fields = kind.upcasts[version](fields)
        # Through bytes once more, as keys of mappings, for one, are other values in Python.
        data = codec.encode(fields)
    except Exception as exc:
        raise _refused(exc) from exc
    return _decoded(kind, data, codec)
