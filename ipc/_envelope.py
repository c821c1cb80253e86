"""What a message says of itself beside its own fields, and how both become one object.

    {"$type": "shop.events.UserCreated", "user": {…}, "$id": "…", "$time": "…", "$source": "shop"}

Whatever begins with `$` is ipc's, all else the message's own. Only `$type` has to be there:
a client in another language may leave out the rest. Read in two halves: the message by its
class, at once; what it says of itself only if somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ._codec import Codec, codec_of
from ._types import Fields, MessageType

__all__ = ["Meta", "UnknownEvent", "UnknownTypeError", "read", "read_any", "read_meta", "write"]

NOT_DECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError)
"""What decoding raises for bytes that are not what they should be. The last two: what a
user's own class raises when it is made."""


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a message says of itself."""

    type: str = msgspec.field(name="$type", default="")
    version: int = msgspec.field(name="$version", default=1)
    id: str = msgspec.field(name="$id", default="")
    time: datetime | None = msgspec.field(name="$time", default=None)
    """When it was sent, UTC, by the sender's clock."""
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
    return codec.join(codec.encode(message), codec.encode(meta))


def read_meta(data: bytes) -> Meta:
    """Return what a message says of itself; nothing, if that cannot be read."""
    try:
        return codec_of(data).decoder_for(Meta)(data)
    except NOT_DECODABLE:
        return Meta()


def read(kind: MessageType, data: bytes) -> Any:
    """Return a message of a type that is known, also of an older version of it.

    Raises:
        UnknownTypeError: Its `$type` is another one.
        NOT_DECODABLE: It is malformed.
    """
    codec = codec_of(data)
    if not kind.upcasts:
        try:
            return codec.decoder_for(kind.python)(data)
        except msgspec.ValidationError:
            if _name(data, codec, kind.name) == kind.name:
                raise
    return _read_slowly(kind, data, codec)


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
    codec = codec_of(data)
    name = _name(data, codec, hint)
    kind = kinds.get(name)
    if kind is None:
        raise UnknownTypeError(name, _fields(data, codec))
    return read(kind, data)


def _name(data: bytes, codec: Codec, otherwise: str) -> str:
    return codec.decoder_for(Meta)(data).type or otherwise


def _fields(data: bytes, codec: Codec) -> Fields:
    """Return a message's own fields."""
    fields: Fields = codec.decoder_for(Fields)(data)
    return {key: value for key, value in fields.items() if key[:1] != "$"}


def _read_slowly(kind: MessageType, data: bytes, codec: Codec) -> Any:
    """Return a message that has an old name or an old version."""
    meta = codec.decoder_for(Meta)(data)
    if meta.type not in ("", kind.name, *kind.aliases):
        raise UnknownTypeError(meta.type, {})
    fields = _fields(data, codec)
    for version in range(meta.version, kind.version):
        step = kind.upcasts.get(version)
        if step is not None:
            fields = step(fields)
    return msgspec.convert(fields, kind.python)
