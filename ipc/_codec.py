"""How bodies are written and read: JSON or MessagePack, by types that are known beforehand.

Nothing that arrives is imported, evaluated or unpickled by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar

import msgspec

__all__ = ["CODECS", "Codec", "CodecName", "codec_of", "decoder", "encode"]

T = TypeVar("T")

CodecName = Literal["json", "msgpack"]

encode = msgspec.json.Encoder().encode
"""Return a value as JSON.

Raises:
    TypeError: It has a type that JSON cannot carry.
"""


def decoder(wanted: type[T] | Any) -> Callable[[bytes | msgspec.Raw], T]:
    """Return a function that reads JSON into `wanted`, for repeated use.

    What it returns raises `msgspec.ValidationError` for another type than `wanted`, and
    `msgspec.DecodeError` for what is not JSON.

    Raises:
        TypeError: JSON cannot carry `wanted`.
    """
    return msgspec.json.Decoder(wanted).decode


class Codec:
    """One way to write values."""

    def __init__(
        self,
        name: CodecName,
        encode: Callable[[Any], bytes],
        new_decoder: Callable[[Any], Callable[[bytes], Any]],
        join: Callable[[bytes, bytes], bytes],
    ) -> None:
        self.name: CodecName = name
        self.encode = encode
        """Return a value as bytes. Raises `TypeError` for what cannot be carried."""
        self.decoder_for = cache(new_decoder)
        """Return a function that reads bytes into a type; made once for each type."""
        self.join = join
        """Return two encoded objects as one that has the fields of both."""


def _join_json(first: bytes, second: bytes) -> bytes:
    if len(first) > 2 and len(second) > 2:
        return first[:-1] + b"," + second[1:]
    # One of them is `{}`.
    return second if len(first) == 2 else first


def _join_msgpack(first: bytes, second: bytes) -> bytes:
    (size, start), (more, rest) = _map_header(first), _map_header(second)
    size += more
    if size < 16:
        header = bytes((0x80 | size,))
    elif size < 65_536:
        header = b"\xde" + size.to_bytes(2, "big")
    else:
        header = b"\xdf" + size.to_bytes(4, "big")
    return header + first[start:] + second[rest:]


def _map_header(data: bytes) -> tuple[int, int]:
    """Return how many pairs a MessagePack map has, and where the first begins.

    Source: the MessagePack specification, "map format family".
    """
    if data[0] == 0xDE:
        return int.from_bytes(data[1:3], "big"), 3
    if data[0] == 0xDF:
        return int.from_bytes(data[1:5], "big"), 5
    return data[0] & 0x0F, 1


def _json_decoder(wanted: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(wanted).decode


def _msgpack_decoder(wanted: Any) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(wanted).decode


JSON = Codec("json", encode, _json_decoder, _join_json)
MSGPACK = Codec("msgpack", msgspec.msgpack.Encoder().encode, _msgpack_decoder, _join_msgpack)

CODECS: dict[str, Codec] = {codec.name: codec for codec in (JSON, MSGPACK)}


def codec_of(data: bytes) -> Codec:
    """Return what an object is written in, which its first byte says.

    A MessagePack map begins with 0x80 to 0x8f, 0xde or 0xdf; JSON text never does.
    """
    return MSGPACK if data[:1] >= b"\x80" else JSON
