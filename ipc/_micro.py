"""What every NATS service says of itself, so that any client can find and measure it.

nats-py has such services too (`nats.micro`), which handle one request after the other;
here many are handled at once, so only what goes over the wire is the same.

Source: NATS ADR-32.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

import msgspec

__all__ = [
    "VERBS",
    "EndpointInfo",
    "EndpointStats",
    "Ping",
    "ServiceInfo",
    "ServiceStats",
    "read_answer",
]

T = TypeVar("T")

QUEUE_GROUP = "q"
"""The group whose members share the requests: the same for all services (ADR-32)."""

VERBS = ("PING", "INFO", "STATS")

NAME = re.compile(r"[A-Za-z0-9_-]+")

# Source: semver.org, "suggested regular expression".
VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?"
)


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """That an instance of a service is there."""

    type: str = "io.nats.micro.v1.ping_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str] = {}


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a service answers."""

    name: str
    subject: str
    queue_group: str = QUEUE_GROUP
    metadata: dict[str, str] | None = None


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance of a service answers."""

    type: str = "io.nats.micro.v1.info_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str] | None = None
    description: str = ""
    endpoints: list[EndpointInfo] = []


class EndpointStats(msgspec.Struct, kw_only=True):
    """How one endpoint of an instance has done."""

    name: str
    subject: str
    queue_group: str = QUEUE_GROUP
    num_requests: int = 0
    num_errors: int = 0
    last_error: str | dict[str, Any] = ""
    """Some other libraries write an object."""
    processing_time: float = 0
    """Nanoseconds, of all requests."""
    average_processing_time: float = 0
    """Nanoseconds."""


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance of a service has done."""

    type: str = "io.nats.micro.v1.stats_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str] | None = None
    started: str
    endpoints: list[EndpointStats] = []


def read_answer(data: bytes, wanted: type[T]) -> T:
    """Return what a service says of itself; `null`, as some libraries write it, is nothing.

    Raises:
        msgspec.DecodeError: It is malformed.
    """
    return msgspec.convert(_without_nulls(msgspec.json.decode(data)), wanted)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value).items()
        return {name: _without_nulls(one) for name, one in fields if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in cast("list[Any]", value)]
    return value


def control_subjects(verb: str, name: str, id: str) -> tuple[str, str, str]:
    """Return where an instance is asked: all services, those of its name, itself."""
    return f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{id}"
