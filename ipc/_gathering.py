"""One request to all instances of a service, and the answers of all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from ._codec import Codec
from ._connection import Connection, Message
from ._errors import NoResponderError
from ._service_error import ServiceError, error_in
from ._serving import INSTANCE_HEADER

__all__ = ["Answer", "Gathered", "gather"]

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

    def __iter__(self) -> Iterator[R]:
        return (answer.reply for answer in self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def is_complete(self) -> bool:
        """Whether all have answered, and none with an error."""
        return not self.silent and not self.errors


async def gather(
    connection: Connection,
    subject: str,
    data: bytes,
    headers: Mapping[str, str] | None,
    *,
    codec: Codec,
    decode: Callable[[Message], Any],
    expected: Collection[str] | None,
    first: int | None,
    timeout: float,
) -> Gathered[Any]:
    """Ask all, and return when all that are expected have answered, or when time is up.

    Args:
        expected: Ids of those who are known to run; `None` where nobody knows.
        first: Return with so many answers already.

    Raises:
        NoResponderError: None runs.
        UnreadableError: An answer is not of the type it should be.
    """
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    gathered: Gathered[Any] = Gathered([], {}, [])
    missing = set(expected or ())
    channel = connection.open_channel(arrived.put_nowait)
    try:
        async with asyncio.timeout(timeout):
            await connection.publish(subject, data, reply=channel.subject, headers=headers)
            while missing or expected is None or not (gathered.answers or gathered.errors):
                message = await arrived.get()
                if message.status == "503":
                    if not missing:
                        raise NoResponderError(subject)
                    break
                said = message.headers or {}
                instance = said.get(INSTANCE_HEADER, "")
                missing.discard(instance)
                if (error := error_in(said, message.data, codec)) is not None:
                    gathered.errors[instance] = error
                else:
                    gathered.answers.append(Answer(instance, decode(message)))
                if first is not None and len(gathered.answers) >= first:
                    # The others were not given the time.
                    missing.clear()
                    break
    except TimeoutError:
        pass
    finally:
        channel.close()
    gathered.silent.extend(sorted(missing))
    return gathered
