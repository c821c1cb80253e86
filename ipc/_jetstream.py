"""JetStream in the few requests that are needed: declare, publish, look up, remove.

Spoken as JSON to the server's API rather than through the client library's classes,
which know neither message schedules nor batches nor counters.

Sources: NATS ADR-15 (subjects and streams), ADR-31 (direct get), ADR-43 (message TTL),
ADR-50 (batches), ADR-51 (schedules); error numbers from nats-server's errors.json.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from ._client import parse_headers
from ._codec import decoder, encode
from ._connection import Connection, Message
from ._errors import (
    JetStreamDisabledError,
    JetStreamError,
    NoResponderError,
    SubjectTakenError,
    TemporarilyUnavailableError,
    UnconfirmedError,
)

__all__ = [
    "ConsumerConfig",
    "ConsumerInfo",
    "JetStream",
    "PubAck",
    "Storage",
    "StoredMessage",
    "StreamConfig",
    "StreamInfo",
    "StreamState",
]

T = TypeVar("T")

NANOSECONDS = 1_000_000_000
"""In a second; what JetStream counts time in."""

Storage = Literal["file", "memory"]

# What the server answers when an expectation on a subject does not hold: on one
# replica, on three replicas with a racing publish, and for an atomic batch with a message
# id that was seen before.
TAKEN = {10071, 10164, 10201}
# "One message a subject" does not hold, or the stream is full: only the words tell.
STORE_FAILED, PER_SUBJECT = 10077, "maximum messages per subject exceeded"
NOT_FOUND = {10014, 10037, 10043, 10059}  # consumer, message, sequence, stream
DISABLED = {10039, 10076}  # for this account, for this server


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stream should be; only what is set here is compared with the server's."""

    name: str
    subjects: tuple[str, ...]
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    storage: Storage = "file"
    num_replicas: int = 1
    max_msgs_per_subject: int = -1
    discard: Literal["old", "new"] = "old"
    discard_new_per_subject: bool = False
    max_age: int = 0
    """Nanoseconds; 0 without limit."""
    max_bytes: int = -1
    republish: dict[str, str] | None = None
    allow_rollup_hdrs: bool = False
    allow_direct: bool = False
    allow_atomic: bool = False
    allow_batched: bool = False
    allow_msg_ttl: bool = False
    allow_msg_schedules: bool = False


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_subjects: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as the server has it."""

    config: dict[str, Any]
    state: StreamState
    created: datetime
    """By the server's clock."""


class ConsumerConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a durable pull consumer should be."""

    durable_name: str
    filter_subject: str | None = None
    filter_subjects: tuple[str, ...] = ()
    ack_wait: int
    """Nanoseconds."""
    deliver_policy: Literal["all", "new", "by_start_time"] = "all"
    opt_start_time: str | None = None
    metadata: dict[str, str] = {}
    ack_policy: Literal["explicit"] | None = None
    max_ack_pending: int = 1000
    max_waiting: int = 512
    max_deliver: int = -1


class Delivered(msgspec.Struct, frozen=True):
    consumer_seq: int = 0
    stream_seq: int = 0
    last_active: datetime | None = None


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer as the server has it."""

    config: dict[str, Any]
    name: str = ""
    delivered: Delivered = Delivered()
    ack_floor: Delivered = Delivered()
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0
    num_pending: int = 0


class ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class ErrorReply(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class PubAck(msgspec.Struct, frozen=True):
    """The server's word that a message is stored."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as a stream holds it."""

    subject: str
    seq: int
    data: bytes
    stored_at: datetime
    headers: Mapping[str, str] | None = None


class RawStored(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: datetime
    data: bytes = b""
    hdrs: bytes = b""


class MessageReply(msgspec.Struct, frozen=True):
    message: RawStored


decode_ack = decoder(PubAck)
decode_error = decoder(ErrorReply)


class JetStream:
    """Requests to JetStream over one connection."""

    def __init__(self, connection: Connection, *, timeout: float = 5.0) -> None:
        self.connection = connection
        self.timeout = timeout

    # -- the server -----------------------------------------------------------------

    async def check(self) -> None:
        """Return once JetStream answers; a cluster may first have to elect a leader.

        Raises:
            JetStreamDisabledError: The server or the account has none.
            UnconfirmedError: It did not answer within the settings' `connect_timeout`.
        """
        deadline = time.monotonic() + self.connection.settings.connect_timeout
        while True:
            try:
                await self._ask("INFO", None, ErrorReply)
                return
            except NoResponderError as exc:
                raise JetStreamDisabledError(self.connection.settings.shown_servers) from exc
            except JetStreamError as exc:
                if exc.err_code not in DISABLED:
                    raise
                raise JetStreamDisabledError(self.connection.settings.shown_servers) from exc
            except UnconfirmedError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(0.1)

    # -- streams and consumers ----------------------------------------------------------

    async def find_stream(self, name: str) -> StreamInfo | None:
        """Return what the server has under `name`, or `None`."""
        return await self._find(f"STREAM.INFO.{name}", StreamInfo)

    async def create_stream(self, config: StreamConfig) -> StreamInfo:
        """Create a stream; the same again changes nothing."""
        return await self._ask(f"STREAM.CREATE.{config.name}", config, StreamInfo)

    async def update_stream(self, config: Mapping[str, Any]) -> StreamInfo:
        """Change a stream's configuration to `config`, which must be complete."""
        return await self._ask(f"STREAM.UPDATE.{config['name']}", config, StreamInfo)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream and all it holds."""
        await self._ask(f"STREAM.DELETE.{name}", None, ErrorReply)

    async def list_streams(self, subject: str) -> list[StreamInfo]:
        """Return the streams that store anything matching `subject`."""

        class Page(msgspec.Struct):
            total: int
            streams: list[StreamInfo] | None = None

        found: list[StreamInfo] = []
        while True:
            body = {"subject": subject, "offset": len(found)}
            page = await self._ask("STREAM.LIST", body, Page)
            found.extend(page.streams or ())
            if not page.streams or len(found) >= page.total:
                return found

    async def find_consumer(self, stream: str, name: str) -> ConsumerInfo | None:
        """Return what the server has under `name` on `stream`, or `None`."""
        return await self._find(f"CONSUMER.INFO.{stream}.{name}", ConsumerInfo)

    async def create_consumer(
        self, stream: str, config: ConsumerConfig, *, new: bool = False
    ) -> ConsumerInfo:
        """Create or update a durable consumer.

        Args:
            new: Refuse to update one that is there.
        """
        explicit = msgspec.structs.replace(config, ack_policy="explicit")
        action = {"action": "create"} if new else {}
        body = {"stream_name": stream, "config": explicit, **action}
        subject = f"CONSUMER.CREATE.{stream}.{config.durable_name}"
        if config.filter_subject is not None:
            subject += f".{config.filter_subject}"
        return await self._ask(subject, body, ConsumerInfo)

    async def delete_consumer(self, stream: str, name: str) -> bool:
        """Delete a consumer; return whether it was there."""
        return await self._find(f"CONSUMER.DELETE.{stream}.{name}", ErrorReply) is not None

    async def list_consumers(self, stream: str) -> list[ConsumerInfo]:
        """Return the consumers of a stream."""

        class Page(msgspec.Struct):
            total: int
            consumers: list[ConsumerInfo] | None = None

        found: list[ConsumerInfo] = []
        while True:
            page = await self._ask(f"CONSUMER.LIST.{stream}", {"offset": len(found)}, Page)
            found.extend(page.consumers or ())
            if not page.consumers or len(found) >= page.total:
                return found

    # -- messages -------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> PubAck:
        """Store a message and return the server's acknowledgement.

        Raises:
            SubjectTakenError: An expectation on the subject did not hold.
            NoResponderError: No stream stores the subject.
            UnconfirmedError: Whether it was stored is unknown.
            JetStreamError: The server refused it for another reason.
        """
        reply = await self.connection.request(
            subject, data, headers=headers, timeout=timeout or self.timeout
        )
        ack = decode_ack(reply.data)
        if ack.error is not None:
            raise error_for(subject, ack.error)
        return ack

    async def find_last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message on `subject` (wildcards allowed), or `None`.

        Asks the stream's leader, so what was acknowledged before is seen.
        """
        reply = await self._find(
            f"STREAM.MSG.GET.{stream}", MessageReply, {"last_by_subj": subject}
        )
        if reply is None:
            return None
        raw = reply.message
        return StoredMessage(
            raw.subject, raw.seq, raw.data, raw.time, parse_headers(raw.hdrs) if raw.hdrs else None
        )

    async def peek_last(self, stream: str, subject: str) -> StoredMessage | None:
        """Return the newest message on `subject` from any replica, or `None`.

        Faster than `find_last`; on several replicas it may miss what is newest.

        Source: NATS ADR-31, "read-after-write coherency".
        """
        reply = await self.connection.request(
            f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout=self.timeout
        )
        return _stored(reply) if "Nats-Sequence" in (reply.headers or {}) else None

    async def scan(
        self, stream: str, subject: str, *, first_seq: int = 1, page: int = 1000
    ) -> AsyncIterator[StoredMessage]:
        """Yield the messages on `subject`, oldest first, from `first_seq` on."""
        while True:
            request = {"seq": first_seq, "next_by_subj": subject, "batch": page}
            replies = self.connection.request_many(
                f"$JS.API.DIRECT.GET.{stream}", encode(request), timeout=self.timeout
            )
            last, more = first_seq - 1, False
            try:
                async for reply in replies:
                    headers = reply.headers or {}
                    if "Nats-Sequence" not in headers:
                        more = headers.get("Nats-Num-Pending", "0") != "0"
                        break
                    message = _stored(reply)
                    last = message.seq
                    yield message
            finally:
                await replies.aclose()  # type: ignore[attr-defined]
            if not more or last < first_seq:
                return
            first_seq = last + 1

    async def purge(self, stream: str, subject: str, *, up_to_seq: int | None = None) -> int:
        """Remove the messages on `subject` (wildcards allowed); return how many.

        Args:
            up_to_seq: Only those stored up to this number, itself included.
        """

        class Purged(msgspec.Struct):
            purged: int = 0

        body: dict[str, Any] = {"filter": subject}
        if up_to_seq is not None:
            body["seq"] = up_to_seq + 1
        reply = await self._ask(f"STREAM.PURGE.{stream}", body, Purged)
        return reply.purged

    async def delete_message(self, stream: str, seq: int) -> bool:
        """Remove one message; return whether it was there."""
        body = {"seq": seq, "no_erase": True}
        return await self._find(f"STREAM.MSG.DELETE.{stream}", ErrorReply, body) is not None

    # -- one request ------------------------------------------------------------------

    async def _find(self, request: str, reply: type[T], body: Any = None) -> T | None:
        try:
            return await self._ask(request, body, reply)
        except JetStreamError as exc:
            if exc.err_code in NOT_FOUND:
                return None
            raise

    async def _ask(self, request: str, body: Any, reply: type[T]) -> T:
        data = b"" if body is None else encode(body)
        message = await self.connection.request(f"$JS.API.{request}", data, timeout=self.timeout)
        error = decode_error(message.data).error
        if error is not None:
            raise error_for(request, error)
        return msgspec.json.decode(message.data, type=reply)


def error_for(request: str, error: ApiError) -> JetStreamError | TemporarilyUnavailableError:
    """Return the exception that says what the server answered."""
    full = error.err_code == STORE_FAILED and error.description == PER_SUBJECT
    if full or error.err_code in TAKEN:
        return SubjectTakenError(request, error.code, error.err_code, error.description)
    if error.code == 503 and error.err_code not in DISABLED:
        return TemporarilyUnavailableError(request, error.description)
    return JetStreamError(request, error.code, error.err_code, error.description)


def _stored(reply: Message) -> StoredMessage:
    headers = reply.headers or {}
    return StoredMessage(
        headers["Nats-Subject"],
        int(headers["Nats-Sequence"]),
        reply.data,
        datetime.fromisoformat(headers["Nats-Time-Stamp"]),
        headers,
    )


def stream_differences(found: StreamInfo, wanted: StreamConfig) -> dict[str, tuple[Any, Any]]:
    """Return what differs: setting to what the server has and what is wanted."""
    settings: dict[str, Any] = msgspec.to_builtins(wanted)
    return {
        setting: (found.config.get(setting), value)
        for setting, value in settings.items()
        if _plain(found.config.get(setting)) != _plain(value)
    }


def _plain(value: Any) -> Any:
    """Return a setting in a form that compares: order of subjects means nothing."""
    if isinstance(value, list | tuple):
        return sorted(str(one) for one in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value
