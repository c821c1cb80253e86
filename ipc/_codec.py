"""How bodies are written and read: JSON, by types that are known beforehand.

Nothing that arrives is imported, evaluated or unpickled by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

__all__ = ["decoder", "encode"]

T = TypeVar("T")

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
