"""One request to all instances of a service, and the answers of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from ._codec import Codec
from ._connection import Connection, Message
from ._errors import IpcError, NoResponderError, PermissionDeniedError
from ._service_error import ServiceError, error_in
from ._serving import INSTANCE_HEADER

__all__ = ["Answer", "Gathered", "gather"]

log = structlog.stdlib.get_logger("ipc")

R = TypeVar("R")


class Answer(msgspec.Struct, Generic[R], frozen=True):
    """What one instance has answered."""

    instance: str
    """Its id."""
    reply: R


class Gathered(msgspec.Struct, Generic[R], frozen=True):
    """What the instances of a service have answered. Iterating yields the replies."""

    answers: list[Answer[R]]
    """In the order they came."""
    errors: dict[str, ServiceError]
    """By the id of the instance that answered with one."""
    silent: list[str]
    """Ids of the instances that are known to run and did not answer in time."""
    is_known: bool
    """Whether it was known whom to wait for, or so many have answered as were asked for."""

    def __iter__(self) -> Iterator[R]:
        return (answer.reply for answer in self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def is_complete(self) -> bool:
        """Whether all that were to answer have, and none with an error."""
        return self.is_known and not self.silent and not self.errors


async def gather(
    connection: Connection,
    subject: str,
    data: bytes,
    headers: Mapping[str, str] | None,
    *,
    codec: Codec,
    decode: Callable[[Message], Any],
    expected: Callable[[], Awaitable[Collection[str]]],
    first: int | None,
    timeout: float,
) -> Gathered[Any]:
    """Ask all, and return when all that are expected have answered, or when time is up.

    Args:
        expected: Looks up the ids of those who are known to run; an `IpcError` means that
            nobody knows. Its time is part of `timeout`.
        first: Return with so many answers already.

    Raises:
        ValueError: `first` is below 1.
        NoResponderError: None runs.
        PermissionDeniedError: The server does not let us ask.
        UnreadableError: An answer is not of the type it should be.
    """
    if first is not None and first < 1:
        raise ValueError(f"first is 1 answer or more, not {first}")
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    answers: list[Answer[Any]] = []
    errors: dict[str, ServiceError] = {}
    channel = connection.open_channel(arrived.put_nowait, asked=subject)
    looking_up = asyncio.ensure_future(ids_or_none(expected))
    # Whoever waits for a message is woken when it is known whom to expect.
    looking_up.add_done_callback(lambda _: arrived.put_nowait(KNOWN))
    heard, known = set[str](), frozenset[str]()
    enough = False
    try:
        async with asyncio.timeout(timeout):
            await connection.publish(subject, data, reply=channel.subject, headers=headers)
            while not enough:
                message = await arrived.get()
                if message is KNOWN:
                    known = looking_up.result()
                elif message.status == "503":
                    known = await looking_up
                    if not known:
                        raise NoResponderError(subject)
                    break
                elif message.status == "403":
                    raise PermissionDeniedError(subject, "publish")
                else:
                    said = message.headers or {}
                    instance = said.get(INSTANCE_HEADER, "")
                    heard.add(instance)
                    if (error := error_in(said, message.data, codec)) is not None:
                        errors[instance] = error
                    else:
                        answers.append(Answer(instance, decode(message)))
                    enough = len(answers) == first
                enough = enough or (bool(known) and known <= heard)
    except TimeoutError:
        pass
    finally:
        looking_up.cancel()
        channel.close()
    silent = [] if enough else sorted(known - heard)
    return Gathered(answers, errors, silent, enough or bool(known))


KNOWN = Message("", b"")


async def ids_or_none(expected: Callable[[], Awaitable[Collection[str]]]) -> frozenset[str]:
    """Return whom to expect; nobody, where that is not known."""
    try:
        return frozenset(await expected())
    except IpcError as exc:
        log.debug("nobody knows whom to expect", reason=str(exc))
        return frozenset()
