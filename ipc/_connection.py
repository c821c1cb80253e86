"""The connection to NATS; with `_client`, the only module that knows the client library.

What it adds to the client:

- opening that fails with a reason (wrong login, too old, nobody there) instead of
  trying for ever, and that never gives up afterwards: when the client closes itself,
  because the server told it to go away, a new one takes over the subscriptions;
- requests that fail at once when the connection is lost, so that their callers decide
  what to do instead of waiting out a time-out;
- publishing that waits for a lost connection instead of filling a buffer whose
  content is sent much later, after the caller was told it failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from nats.errors import (
    BadSubjectError,
    ConnectionClosedError,
    MaxPayloadError,
    OutboundBufferLimitError,
)
from nats.errors import Error as NatsError

from ._client import Client, Listener, Message, header_block
from ._errors import (
    ConnectionLostError,
    IpcError,
    LoginRefusedError,
    MessageTooLargeError,
    NoResponderError,
    PermissionDeniedError,
    ReplyTimeoutError,
    ServerTooOldError,
    ServerUnavailableError,
)
from ._settings import Settings

__all__ = ["REQUIRED_SERVER", "Channel", "Connection", "Message", "Subscription"]

REQUIRED_SERVER = (2, 14, 0)
"""Message schedules with roll-up and fast-ingest batches came with 2.14 (ADR-50, ADR-51)."""

# Found out after three missed pings, so half a minute: a cable that was pulled.
PING_INTERVAL = 10
RECONNECT_WAIT = 0.25

# Any request that the server answers, if only with "nobody listens".
FENCE = "$JS.API.INFO"
FENCE_TIMEOUT = 1.0
# Bytes; above that `publish` waits for the server to read on.
MAX_UNSENT = 1024 * 1024

# Seconds that a request may overrun its time-out.
SWEEP_INTERVAL = 0.1

_PERMISSION = re.compile(
    r"permissions violation for (?P<what>publish|subscription) to \"(?P<subject>[^\"]+)\"", re.I
)

log = structlog.stdlib.get_logger("ipc")


class PendingReply(msgspec.Struct, frozen=True, gc=False):
    """A request that was sent and not answered yet."""

    subject: str
    timeout: float
    expires_at: float
    """By the event loop's clock."""
    future: asyncio.Future[Message]

    def fail(self, error: Exception) -> None:
        """Let the request raise `error`, if it has no answer."""
        if not self.future.done():
            self.future.set_exception(error)


class Channel(msgspec.Struct, frozen=True):
    """A subject on which one conversation goes on."""

    subject: str
    close: Callable[[], object]
    """What still comes is dropped."""


class Subscription:
    """Interest in a subject that outlives reconnects and replaced clients."""

    def __init__(
        self, connection: Connection, subject: str, queue: str, receive: Callable[[Message], None]
    ) -> None:
        self.subject = subject
        self.queue = queue
        self.is_denied = False
        """Whether the server does not allow it."""
        self._connection = connection
        self._receive = receive
        self._listener: Listener | None = None
        self._client: Client | None = None

    async def attach(self, client: Client) -> None:
        """Subscribe on `client`; called by the connection whenever it has a new one."""
        self._client = client
        self._listener = await client.listen(self.subject, self.queue, self._receive)

    async def drain(self) -> None:
        """End the interest, then handle what the server had already sent."""
        await self._connection.drain([self])

    async def close(self) -> None:
        """End the interest; what still comes is dropped."""
        self.drop()
        await self.end()

    async def end(self) -> None:
        """Tell the server to send nothing more."""
        self._connection.forget(self)
        if self._client is not None and self._listener is not None:
            with contextlib.suppress(NatsError):
                await self._client.end(self._listener)

    def drop(self) -> None:
        """Drop what still comes."""
        if self._client is not None and self._listener is not None:
            self._client.forget(self._listener)


class Connection:
    """One connection to a NATS server or cluster.

    Opened once and used by everything in the process; safe to use from any task
    of the event loop it was opened in.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client = Client()
        self.epoch = 0
        """How often the connection was lost."""
        self._connected = asyncio.Event()
        self._closing = False
        self._subscriptions: list[Subscription] = []
        self._listeners: list[Callable[[], Awaitable[None]]] = []
        self._losers: list[Callable[[], None]] = []
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._replies: dict[str, PendingReply] = {}
        self._channels: dict[str, tuple[Callable[[Message], None], str]] = {}
        self._sweeping = False
        self._last_error: Exception | None = None
        self._refused: asyncio.Future[str] | None = None
        self._background: set[asyncio.Task[None]] = set()

    # -- opening and closing ----------------------------------------------------

    async def open(self) -> None:
        """Connect, and check that the server can do what is needed.

        Raises:
            LoginRefusedError: The credentials are wrong.
            ServerUnavailableError: No server answered within `connect_timeout`.
            ServerTooOldError: It is older than `REQUIRED_SERVER`.
        """
        await self._connect()
        try:
            self._check_server()
        except Exception:
            await self.close()
            raise
        self._inbox = self._client.new_inbox() + "."
        await self.subscribe(self._inbox + "*", self._on_reply)

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        self._closing = True
        self._fail_replies()
        for task in self._background:
            task.cancel()
        # There may be nobody left to say goodbye to.
        with contextlib.suppress(NatsError, OSError):
            await self._client.close()
        # Whoever waits to publish learns that it is over.
        self._connected.set()

    @property
    def is_connected(self) -> bool:
        """Whether the server can be reached now, as far as is known."""
        return self._connected.is_set() and not self._closing

    @property
    def max_payload(self) -> int:
        """The largest message the server takes, in bytes."""
        return self._client.max_payload

    async def wait_connected(self, timeout: float) -> None:
        """Return once the server can be reached.

        Raises:
            ServerUnavailableError: It could not within `timeout` seconds.
        """
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError:
            raise self._unavailable(timeout) from self._last_error

    def on_reconnect(self, listener: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Call `listener` after every reconnect; returns what takes it off again."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_lost(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when the connection is lost; returns what takes it off again."""
        self._losers.append(listener)
        return lambda: self._losers.remove(listener)

    # -- talking ----------------------------------------------------------------

    def send(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Send a message without waiting for anything; nothing says whether it arrived.

        While the connection is away, a little is buffered and sent afterwards. Returns whether so
        much waits to be sent that `flushed` should be awaited.

        Raises:
            ConnectionLostError: The connection is away, and the buffer full.
            MessageTooLargeError: It is over the server's `max_payload`.
            ValueError: `subject` has a space or is empty, or a header has a line break.
        """
        try:
            return self._client.send(subject, data, reply, headers) > MAX_UNSENT
        except BadSubjectError as exc:
            raise ValueError(f"{subject!r} is not a subject: it is empty or has spaces") from exc
        except MaxPayloadError as exc:
            size = len(data) + len(header_block(headers or {}))
            raise MessageTooLargeError(subject, size, self._client.max_payload) from exc
        except (OutboundBufferLimitError, ConnectionClosedError) as exc:
            raise ConnectionLostError(self.settings.shown_servers) from exc

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message as soon as the server takes it; nothing says whether it arrived.

        Raises:
            ConnectionLostError: The connection is closed.
            MessageTooLargeError: It is over the server's `max_payload`.
        """
        while True:
            try:
                is_much = self.send(subject, data, reply=reply, headers=headers)
                break
            except ConnectionLostError:
                if self._closing:
                    raise
                self._connected.clear()
                await self._connected.wait()
        if is_much:
            await self.flushed()

    async def flushed(self) -> None:
        """Return once the server takes what waits to be sent, or after 10 seconds."""
        await self._client.flushed()

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 5.0,
    ) -> Message:
        """Send a message and return the one reply.

        Args:
            timeout: Seconds until the reply must be here, sending included.

        Raises:
            ConnectionLostError: The connection went away; whether the server acted is unknown.
            NoResponderError: Nobody listens on `subject`.
            PermissionDeniedError: The server does not let us publish there.
            ReplyTimeoutError: No reply in time; whether the server acted is unknown.
            ServerUnavailableError: There was no connection to send it on in that time.
        """
        loop = asyncio.get_running_loop()
        expires_at = loop.time() + timeout
        if not self._connected.is_set():
            await self.wait_connected(timeout)
        token = str(next(self._tokens))
        pending = PendingReply(subject, timeout, expires_at, loop.create_future())
        self._replies[token] = pending
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_INTERVAL, self._sweep, loop)
        try:
            self.send(subject, data, reply=self._inbox + token, headers=headers)
            message = await pending.future
        finally:
            self._replies.pop(token, None)
        if message.headers is not None and message.status == "503":
            raise NoResponderError(subject)
        return message

    async def confirm(self, subscriptions: Iterable[Subscription] = ()) -> None:
        """Return once the server has acted on what was sent, and what it sent has arrived.

        It answers in order; subscriptions are known to it, messages handed on.

        Raises:
            PermissionDeniedError: It does not allow one of these subscriptions.
            ReplyTimeoutError: It did not answer in time.
        """
        with contextlib.suppress(NoResponderError, PermissionDeniedError):
            await self.request(FENCE, timeout=FENCE_TIMEOUT)
        for subscription in subscriptions:
            if subscription.is_denied:
                raise PermissionDeniedError(subscription.subject, "subscribe")

    async def drain(self, subscriptions: Sequence[Subscription]) -> None:
        """End the interest of several, then handle what the server had already sent."""
        for subscription in subscriptions:
            await subscription.end()
        if self.is_connected:
            with contextlib.suppress(IpcError):
                await self.confirm()
        for subscription in subscriptions:
            subscription.drop()

    async def request_many(
        self, subject: str, data: bytes = b"", *, timeout: float = 5.0
    ) -> AsyncIterator[Message]:
        """Send a message and yield its replies until the caller stops asking.

        Raises:
            ReplyTimeoutError: The next reply did not come within `timeout` seconds.
        """
        replies: asyncio.Queue[Message] = asyncio.Queue()
        inbox = self._client.new_inbox()
        await self.wait_connected(timeout)
        subscription = await self.subscribe(inbox, replies.put_nowait)
        try:
            await self.publish(subject, data, reply=inbox)
            while True:
                try:
                    async with asyncio.timeout(timeout):
                        message = await replies.get()
                except TimeoutError:
                    raise ReplyTimeoutError(subject, timeout) from None
                if message.headers is not None and message.status == "503":
                    raise NoResponderError(subject)
                yield message
        finally:
            await subscription.close()

    async def subscribe(
        self, subject: str, receive: Callable[[Message], None], *, queue: str = ""
    ) -> Subscription:
        """Hand every message on `subject` to `receive`, in order, also after reconnects.

        Args:
            receive: Must not block. An exception it raises is logged.
            queue: Members of one queue group share the messages.

        Raises:
            ConnectionLostError: The connection is closed.
            ValueError: `subject` or `queue` is none.
        """
        subscription = Subscription(self, subject, queue, receive)
        try:
            await subscription.attach(self._client)
        except BadSubjectError as exc:
            raise ValueError(f"nobody can subscribe to {subject!r} as {queue!r}") from exc
        except ConnectionClosedError as exc:
            raise ConnectionLostError(self.settings.shown_servers) from exc
        self._subscriptions.append(subscription)
        return subscription

    def open_channel(self, receive: Callable[[Message], None], *, asked: str = "") -> Channel:
        """Return a subject of this connection's own, whose messages go to `receive`.

        Costs the server nothing: every channel is part of the one inbox for replies.

        Args:
            asked: Where is asked for answers to it: if the server does not allow that, a message
                with status "403" comes.
        """
        token = str(next(self._tokens))
        self._channels[token] = receive, asked
        return Channel(self._inbox + token, lambda: self._channels.pop(token, None))

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        return self._client.new_inbox()

    def forget(self, subscription: Subscription) -> None:
        """Do not bring `subscription` over to the next client."""
        with contextlib.suppress(ValueError):
            self._subscriptions.remove(subscription)

    # -- the client's life --------------------------------------------------------

    async def _connect(self) -> None:
        """Connect a client within `connect_timeout`, whatever it takes."""
        settings = self.settings
        self._refused = asyncio.get_running_loop().create_future()
        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": settings.name,
            "inbox_prefix": settings.inbox.encode(),
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_WAIT,
            "connect_timeout": 2,
            "ping_interval": PING_INTERVAL,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }
        if settings.credentials is not None:
            options["user_credentials"] = self._checked_credentials(settings.credentials)
        if settings.tls is not None:
            options["tls"] = settings.tls
        connecting = asyncio.ensure_future(self._client.connect(**options))
        try:
            await asyncio.wait(
                {connecting, self._refused},
                timeout=settings.connect_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._refused.done():
                raise LoginRefusedError(settings.shown_servers, self._refused.result())
            if not connecting.done():
                raise self._unavailable(settings.connect_timeout)
            try:
                await connecting
            except (NatsError, OSError, ValueError) as exc:
                raise self._unavailable(settings.connect_timeout, exc) from exc
        finally:
            self._refused = None
            connecting.cancel()
        self._connected.set()

    def _checked_credentials(self, path: Path) -> Path:
        """Return the path of a credentials file that the client can read to its end."""
        try:
            text = path.read_text(errors="replace")
        except OSError as exc:
            reason = f"credentials file {str(path)!r} cannot be read: {exc.strerror}"
            raise LoginRefusedError(self.settings.shown_servers, reason) from exc
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            # The client would look for these lines for ever.
            reason = f"{str(path)!r} is not a credentials file: it lacks a user JWT or a seed"
            raise LoginRefusedError(self.settings.shown_servers, reason)
        return path

    def _check_server(self) -> None:
        version = self._client.connected_server_version
        found = (version.major, version.minor, version.patch)
        if found < REQUIRED_SERVER:
            raise ServerTooOldError(self.settings.shown_servers, found, REQUIRED_SERVER)

    async def _on_error(self, exc: Exception) -> None:
        self._last_error = exc
        if self._refused is not None and not self._refused.done() and _is_refusal(exc):
            self._refused.set_result(str(exc))
        if not isinstance(exc, (NatsError, OSError, TimeoutError)):
            # Not of the connection: a receiver's own.
            log.error("a message could not be handled", exc_info=exc)
        if (violation := _PERMISSION.search(str(exc))) is not None:
            self._deny(violation["what"].lower(), violation["subject"])
            return

    async def _on_disconnected(self) -> None:
        if self._connected.is_set() and not self._closing:
            log.warning("connection lost", servers=self.settings.shown_servers)
        self.epoch += 1
        self._connected.clear()
        self._fail_replies()
        for listener in tuple(self._losers):
            listener()

    async def _on_reconnected(self) -> None:
        self._connected.set()
        log.info("connection restored", servers=self.settings.shown_servers)
        self._spawn(self._tell_listeners())

    async def _on_closed(self) -> None:
        """Go on with a new client: the old one was told to leave and never returns."""
        if not self._closing and self._refused is None:
            self._spawn(self._replace_client())

    async def _replace_client(self) -> None:
        while True:
            self._client = Client()
            try:
                await self._connect()
                break
            except (LoginRefusedError, ServerUnavailableError) as exc:
                log.error("connection refused, trying again", error=str(exc))
                await asyncio.sleep(1)
        for subscription in tuple(self._subscriptions):
            await subscription.attach(self._client)
        await self._on_reconnected()

    async def _tell_listeners(self) -> None:
        for listener in tuple(self._listeners):
            try:
                await listener()
            except Exception:
                log.exception("reconnect listener failed")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- replies ------------------------------------------------------------------

    def _on_reply(self, message: Message) -> None:
        # A reply comes on the inbox it was sent to; what it answers is the last token.
        token = message.subject.rpartition(".")[2]
        pending = self._replies.get(token)
        if pending is not None:
            if not pending.future.done():
                pending.future.set_result(message)
            return
        # Who sends many messages may number them: behind a dash.
        channel = self._channels.get(token.partition("-")[0])
        if channel is not None:
            channel[0](message)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fail the requests whose time is up, and look again as long as there are any.

        One timer for all of them: cancelled ones, thousands a second, would stay in the
        event loop's heap until their time.
        """
        now = loop.time()
        for pending in self._replies.values():
            if pending.expires_at <= now:
                pending.fail(ReplyTimeoutError(pending.subject, pending.timeout))
        self._sweeping = bool(self._replies)
        if self._sweeping:
            loop.call_later(SWEEP_INTERVAL, self._sweep, loop)

    def _fail_replies(self) -> None:
        for pending in self._replies.values():
            pending.fail(ConnectionLostError(self.settings.shown_servers))
        self._replies.clear()

    def _deny(self, what: str, subject: str) -> None:
        """Fail the requests on a subject that the server does not let us use."""
        # Once the server has said so, it says nothing more: without this, a time-out.
        log.warning("permission denied by the server", action=what, subject=subject)
        for pending in self._replies.values():
            # The client hands errors on in lower case.
            if what == "publish" and pending.subject.lower() == subject:
                pending.fail(PermissionDeniedError(pending.subject, what))
        for subscription in self._subscriptions:
            if what == "subscription" and subscription.subject.lower() == subject:
                subscription.is_denied = True
        for receive, asked in tuple(self._channels.values()):
            if what == "publish" and asked.lower() == subject:
                receive(Message(asked, b"", header_block=b"NATS/1.0 403\r\n\r\n"))

    def _unavailable(self, waited: float, cause: Exception | None = None) -> ServerUnavailableError:
        reason = cause or self._last_error
        shown = "no answer" if reason is None else str(reason) or type(reason).__name__
        return ServerUnavailableError(self.settings.shown_servers, waited, shown)


def _is_refusal(exc: Exception) -> bool:
    text = str(exc).lower()
    return "authorization" in text or "authentication" in text
