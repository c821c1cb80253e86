"""A service at work: takes requests, has them handled, answers them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Generator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from ._codec import JSON, codec_of
from ._connection import Message, Subscription
from ._context import Context, Scope
from ._durable import DurableConsumer
from ._envelope import NOT_DECODABLE, Meta, UnknownTypeError, read, read_meta
from ._errors import ConnectionLostError, MessageTooLargeError
from ._events import LiveHandler
from ._handler import RequestHandler, shown
from ._limiter import Limiter
from ._micro import (
    QUEUE_GROUP,
    VERBS,
    EndpointInfo,
    EndpointStats,
    Ping,
    ServiceInfo,
    ServiceStats,
    control_subjects,
)
from ._service import Service
from ._service_error import (
    MAX_TEXT,
    BadRequestError,
    ServiceBusyError,
    ServiceError,
    ServiceStoppedError,
    error_message,
    too_large,
    words_of,
)
from ._stream import send_stream
from ._trace import own_frames

if TYPE_CHECKING:
    from ._bus import Bus

__all__ = ["INSTANCE_HEADER", "Serving"]

log = structlog.stdlib.get_logger("ipc")

INSTANCE_HEADER = "Ipc-Instance"
"""Which instance has answered, where all are asked."""

# Seconds of silence after which a stream's caller is taken to give up, if it does not say; and
# the least that it may say: a sign of life costs more than nothing.
DEFAULT_SILENCE = 5.0
LEAST_SILENCE = 0.1

# Seconds that a handler may run on after its caller has given up.
SWEEP_INTERVAL = 0.05


class Endpoint:
    """One type of request, and how it has done."""

    def __init__(self, handler: RequestHandler, subject: str) -> None:
        self.handler = handler
        kind = handler.kind
        self.info = EndpointInfo(
            name=kind.name.rpartition(".")[2],
            subject=subject,
            metadata={
                "type": kind.name,
                "reply": shown(kind.reply),
                **({"streams": "true"} if handler.streams else {}),
            },
        )
        self.stats = EndpointStats(name=self.info.name, subject=subject)

    def count(self, started_ns: int, error: BaseException | None) -> None:
        """Add a request to the statistics."""
        stats = self.stats
        stats.num_requests += 1
        stats.processing_time += time.perf_counter_ns() - started_ns
        if error is not None:
            stats.num_errors += 1
            stats.last_error = words_of(error)[:MAX_TEXT] or type(error).__name__


class Serving:
    """One instance of a service, on a bus."""

    def __init__(self, bus: Bus, service: Service) -> None:
        self.service = service
        self.id = bus.new_id()
        self._bus = bus
        self._connection = bus.connection
        self._endpoints = {
            name: Endpoint(handler, bus.subjects.request(name))
            for name, handler in service.handlers.items()
        }
        self._requests = Limiter(service.concurrency, max_waiting=service.max_waiting)
        self._deadlines = Deadlines()
        self.working: list[LiveHandler | DurableConsumer] = []
        """What handles events."""
        self._subscriptions: list[Subscription] = []
        self._controls: list[Subscription] = []
        self._stack = AsyncExitStack()
        self.scope = Scope(None, service.middleware)
        """What its handlers share."""
        self.is_open = False
        """Whether it takes requests and events."""
        self._has_stopped = False
        self._started_at = datetime.now(UTC)

    def __len__(self) -> int:
        """Return how many requests and events it has been handed and not finished with."""
        return len(self._requests) + sum(map(len, self.working))

    async def open(self) -> None:
        """Enter the lifespan and begin to answer and to handle; returns once the server knows.

        Whatever it raises: `drain` ends what has begun.
        """
        service, connection = self.service, self._connection
        if service.lifespan is not None:
            state = await self._stack.enter_async_context(service.lifespan())
            self.scope = Scope(state, service.middleware)
        for endpoint in self._endpoints.values():
            kind, subjects = endpoint.handler.kind, self._bus.subjects
            for name in kind.names:
                one = partial(self._on_request, endpoint, {})
                every = partial(self._on_request, endpoint, {INSTANCE_HEADER: self.id})
                self._subscriptions += [
                    await connection.subscribe(subjects.request(name), one, queue=QUEUE_GROUP),
                    await connection.subscribe(subjects.gather(name), every),
                ]
        for verb in VERBS:
            for subject in control_subjects(verb, service.name, self.id):
                self._controls.append(await connection.subscribe(subject, self._on_control))
        await connection.confirm(self._subscriptions)
        for handler in service.event_handlers:
            await self._bus.open_handler(handler, self.scope, self.working)
        self.is_open = True
        log.info("service started", service=service.name, version=service.version, id=self.id)

    async def drain(self, grace: float) -> None:
        """Take no more requests and events, finish what has come, leave the lifespan."""
        self.is_open = False
        await self._connection.drain(self._subscriptions)
        events = asyncio.gather(*(one.drain(grace) for one in self.working))
        left = await self._requests.drain(grace)
        self._has_stopped = True
        for refused in left:
            await refused()
        await events
        await self._connection.drain(self._controls)
        await self._stack.aclose()
        log.info("service stopped", service=self.service.name, id=self.id)

    # -- the way of a request ------------------------------------------------------------

    def _on_request(self, endpoint: Endpoint, headers: dict[str, str], message: Message) -> None:
        work = partial(self._answer, endpoint, message, headers, asyncio.get_running_loop().time())
        if not self._requests.submit(work):
            busy = ServiceBusyError("too many requests wait already; ask again later")
            endpoint.count(time.perf_counter_ns(), busy)
            self._send_error(message, headers, busy)

    async def _answer(
        self, endpoint: Endpoint, message: Message, headers: dict[str, str], arrived: float
    ) -> None:
        """Have a request handled, and send what came of it."""
        started_ns, error = time.perf_counter_ns(), None
        try:
            await self._handle(endpoint.handler, message, headers, arrived)
        except DeadlineError as exc:
            # Nobody waits for an answer any more.
            error = exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                error = RuntimeError("what the handler waited for was cancelled")
                error.__cause__ = exc
                self._fail(endpoint.handler, message, headers, error)
                return
            # Who waits need not do so until its time is up.
            error = ServiceStoppedError("the service has stopped")
            self._send_error(message, headers, error)
            raise
        except Exception as exc:
            error = exc
            self._fail(endpoint.handler, message, headers, exc)
        finally:
            endpoint.count(started_ns, error)

    def _fail(
        self, handler: RequestHandler, message: Message, headers: dict[str, str], error: Exception
    ) -> None:
        """Tell the caller of an error, and the log, if nobody has declared it."""
        if not isinstance(error, ServiceError):
            log.error(
                "request handler failed",
                handler=handler.called.name,
                type=handler.kind.name,
                exc_info=(type(error), error, own_frames(error)),
            )
        self._send_error(message, headers, error)

    async def _handle(
        self, handler: RequestHandler, message: Message, headers: dict[str, str], arrived: float
    ) -> None:
        if self._has_stopped:
            raise ServiceBusyError("the service has stopped")
        meta = read_meta(message.data)
        if (meta.credit > 0) != handler.streams:
            asked = "bus.stream" if handler.streams else "bus.request"
            raise BadRequestError(f"{handler.kind.name} is asked with {asked}")
        try:
            request = read(handler.kind, message.data)
        except UnknownTypeError as exc:
            raise BadRequestError(f"expected {handler.kind.name}, got {exc.name}") from None
        except NOT_DECODABLE as exc:
            raise BadRequestError(f"not a {handler.kind.name}: {exc}") from exc
        context = Context(self._bus, message, self.scope)
        if handler.streams:
            silence = max(time_in(meta) or DEFAULT_SILENCE, LEAST_SILENCE)
            if arrived + silence < asyncio.get_running_loop().time():
                # It waited for its turn for longer than its caller waits for a sign of life.
                raise DeadlineError
            await self._stream(handler, request, message, context, meta.credit, silence)
            return
        timeout = time_in(meta)
        if timeout is None:
            result = await self._bus.invoke(handler.called.call, request, context)
        else:
            context.deadline = arrived + timeout
            with self._deadlines.watch(context.deadline):
                result = await self._bus.invoke(handler.called.call, request, context)
            # What the handler has begun and left running may take its own time.
            context.deadline = None
        data = codec_of(message.data).encode(result)
        if not message.reply:
            return
        try:
            await self._connection.publish(message.reply, data, headers=headers or None)
        except MessageTooLargeError as exc:
            raise too_large(data, exc.limit_bytes) from exc

    async def _stream(
        self,
        handler: RequestHandler,
        request: Any,
        message: Message,
        context: Context,
        credit: int,
        silence: float,
    ) -> None:
        async def send(request: Any, context: Context) -> None:
            await send_stream(
                self._connection,
                message,
                handler.called.call(request, context),
                codec_of(message.data),
                credit=credit,
                silence=silence,
            )

        await self._bus.invoke(send, request, context)

    def _send_error(self, message: Message, headers: dict[str, str], error: Exception) -> None:
        said, body = error_message(error, codec_of(message.data))
        if not message.reply:
            return
        try:
            self._connection.send(message.reply, body, headers={**said, **headers})
        except (ConnectionLostError, MessageTooLargeError) as exc:
            log.warning("error could not be answered", error=str(error), reason=str(exc))

    # -- what every NATS service answers ---------------------------------------------------

    def _on_control(self, message: Message) -> None:
        verb = message.subject.split(".")[1]
        answer = {"PING": self.ping, "INFO": self.info, "STATS": self.stats}[verb]
        if message.reply:
            self._connection.send(message.reply, JSON.encode(answer()))

    def ping(self) -> Ping:
        """Return that this instance is there."""
        service = self.service
        return Ping(
            name=service.name, id=self.id, version=service.version, metadata=service.metadata
        )

    def info(self) -> ServiceInfo:
        """Return what this instance answers."""
        service = self.service
        return ServiceInfo(
            name=service.name,
            id=self.id,
            version=service.version,
            metadata=service.metadata,
            description=service.description,
            endpoints=[endpoint.info for endpoint in self._endpoints.values()],
        )

    def stats(self) -> ServiceStats:
        """Return how this instance has done."""
        service = self.service
        for endpoint in self._endpoints.values():
            stats = endpoint.stats
            stats.average_processing_time = stats.processing_time // (stats.num_requests or 1)
        return ServiceStats(
            name=service.name,
            id=self.id,
            version=service.version,
            metadata=service.metadata,
            started=self._started_at.isoformat().replace("+00:00", "Z"),
            endpoints=[endpoint.stats for endpoint in self._endpoints.values()],
        )


def time_in(meta: Meta) -> float | None:
    """Return how long the sender of a request waits, if it says so and it makes sense."""
    seconds = meta.timeout
    return seconds if seconds is not None and 0 < seconds < math.inf else None


class DeadlineError(Exception):
    """The caller has given up."""

    def __str__(self) -> str:
        return "cancelled: the caller's time is up"


class Deadlines:
    """Cancels the tasks whose time is up.

    One timer for all: cancelled ones, thousands a second, would stay in the event loop's heap
    until their time.
    """

    def __init__(self) -> None:
        self._waited_for: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._sweeping = False

    @contextlib.contextmanager
    def watch(self, deadline: float) -> Generator[None]:
        """Cancel what runs inside at a time of the event loop's clock.

        Raises:
            DeadlineError: That was done, or the time had come before.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        if loop.time() >= deadline:
            raise DeadlineError
        self._waited_for[task] = deadline
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_INTERVAL, self._sweep, loop)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise DeadlineError from None
            raise
        finally:
            del self._waited_for[task]
            self._late.discard(task)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, deadline in self._waited_for.items():
            if deadline <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._sweeping = bool(self._waited_for)
        if self._sweeping:
            loop.call_later(SWEEP_INTERVAL, self._sweep, loop)
