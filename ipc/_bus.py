"""A bus: where a process publishes events, asks services, and offers both itself."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload
from weakref import WeakSet

import anyio
import structlog

from ._codec import CODECS, Codec, CodecName
from ._connection import Connection, Message
from ._context import Context, Origin, Scope, current_origin
from ._domain import Domain
from ._durable import DurableConsumer
from ._envelope import NOT_DECODABLE, Meta, UnknownEvent, write
from ._errors import (
    BusNotOpenError,
    ConnectionLostError,
    NoResponderError,
    ReplyTimeoutError,
    ServerUnavailableError,
    UnconfirmedError,
    UnreadableError,
)
from ._event_dead import EventDeadLetters
from ._event_streams import Durables, EventStreams
from ._events import Events, LiveHandler, Reader, Unknown
from ._gathering import Gathered, gather
from ._handler import EventHandler, OnDecorator, OnOptions, check_durable, event_handler
from ._jetstream import JetStream, Storage
from ._limiter import LAST_WORDS
from ._micro import ServiceInfo, ServiceStats, read_answer
from ._middleware import Middleware, wrap
from ._names import check_name
from ._registry import Registry
from ._service import Service
from ._service_error import error_in
from ._serving import Serving
from ._session import Outlet, Session, Working
from ._settings import Settings
from ._stream import CREDIT, read_stream
from ._subjects import Subjects, part_of_key
from ._types import (
    Event,
    MessageType,
    Request,
    event_type,
    event_types,
    registered_types,
    request_type,
    request_types,
    type_of,
)

__all__ = ["Bus"]

log = structlog.stdlib.get_logger("ipc")

E = TypeVar("E", bound=Event)
R = TypeVar("R")
T = TypeVar("T")

# Seconds between the tries of a durable publish that was not acknowledged, and for each of them:
# a cluster that elects a leader leaves requests unanswered, and has to be asked again.
PAUSE = 0.1
TRY = 2.0

# Seconds without a further answer after which no other service is expected to answer.
DISCOVERY_STALL = 0.3

# A type's name in which a part may be `*`, and the end `>`; or `>` alone.
PATTERN = re.compile(r">|((\*|[A-Za-z_]\w*)\.)+(\*|>|[A-Za-z_]\w*)", re.ASCII)


class Bus:
    """The connection of one process, or part of one, to all others.

    `async with Bus("shop") as bus:` connects. Handlers that were registered before begin with it,
    and are drained at its end.
    """

    def __init__(
        self,
        name: str,
        *,
        servers: str | Sequence[str] | None = None,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        connection: Connection | None = None,
        codec: CodecName = "json",
        prefix: str = "ipc",
        domains: Iterable[Domain] = (),
        storage: Storage = "file",
        replicas: int = 1,
        declare: bool = True,
        timeout: float = 5.0,
        grace: float = 30.0,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        publishes: Iterable[type[Event]] = (),
        requests: Iterable[type[Request[Any]]] = (),
    ) -> None:
        """Describe a bus; nothing is connected yet.

        Args:
            name: Stands as `$source` in all that it sends.
            servers: URLs; else `NATS_URL`, else `nats://127.0.0.1:4222`.
            credentials: A `.creds` file; else `NATS_CREDS`.
            connection: An open connection to share instead; it is left open.
            codec: How what it sends is written; it reads both, and answers as it was asked.
            prefix: What every subject, stream and bucket begins with; another one is another
                world.
            domains: How events of some domains are kept, where that differs from:
            storage: `file` or `memory`, of streams that are created.
            replicas: How many servers of a cluster hold those: 1, 3 or 5.
            declare: Create missing streams; with `False` none is ever created.
            timeout: Seconds that requests and durable publishes take at most, where they say
                nothing else; connecting too.
            grace: Seconds that running handlers get to finish at the end.
            lifespan: Called when it is opened; what it yields is `ctx.state` of its handlers.
            publishes: The events that are published on it, and
            requests: the requests that are made: for its permissions and its documents.

        Raises:
            InvalidNameError: `name` or `prefix` cannot be part of a subject.
            TypeError: `publishes` or `requests` has a type of another kind.
            ValueError: A setting is out of its range.
        """
        self.name = check_name("bus", name)
        self.subjects = Subjects(prefix)
        self.settings = (
            connection.settings
            if connection is not None
            else Settings.load(
                servers,
                credentials=credentials,
                tls=tls,
                name=f"ipc {name}",
                inbox=f"_INBOX.{name}",
                connect_timeout=timeout,
            )
        )
        if codec not in CODECS:
            raise ValueError(f"bus {name!r}: codec is {' or '.join(map(repr, CODECS))}")
        # Not the other way round: `nan` is neither.
        if not (timeout > 0 and grace >= 0):
            raise ValueError(f"bus {name!r}: timeout is above 0 seconds, grace not below")
        # A domain checks its settings; the bus's are those of an unnamed one.
        Domain("default", storage=storage, replicas=replicas)
        described = tuple(domains)
        self.domains: Mapping[str, Domain] = {domain.name: domain for domain in described}
        if len(self.domains) < len(described):
            raise ValueError(f"bus {name!r}: a domain is described twice")
        self.storage: Storage = storage
        self.replicas = replicas
        self.declare = declare
        self.timeout = timeout
        self.grace = grace
        self.lifespan = lifespan
        self.publishes = event_types(publishes)
        self.requests = request_types(requests)
        self.middleware: list[Middleware[Context]] = []
        """Wrapped around every handler of events, the first one outermost."""
        self.handlers: list[EventHandler] = []
        """What `on` has registered."""
        self._shared = connection
        self._codec: Codec = CODECS[codec]
        self._session: Session | None = None

    def __repr__(self) -> str:
        return f"<Bus {self.name!r}>"

    @property
    def id(self) -> str:
        """Of this bus among those of the same name: another one whenever it is opened."""
        return "" if self._session is None else self._session.id

    # -- events ----------------------------------------------------------------------------

    async def publish(self, event: Event, *, durable: bool = False, id: str = "") -> None:
        """Publish an event to whoever listens, and to every durable of its type.

        Args:
            durable: Wait until the server has stored it for the durables, and try again until
                then. Without, it is sent, and nothing says whether it arrived.
            id: Of your own, `durable` only: an event of the same type and id is stored once
                within two minutes, as long as the server is not restarted meanwhile.

        Raises:
            EventStreamMissingError: Nothing stores it, and nothing may be created.
            UnconfirmedError: Whether it was stored is unknown: not acknowledged in time.
            ServerUnavailableError: It was not stored: no server could be reached in time.
            MessageTooLargeError: It is over the server's limit.
            TypeError: A field cannot be encoded.
        """
        session = self._open_session
        if durable:
            id = id or self.new_id()
            subject, data, headers = self._written(session, event, id)
            await self._store(type_of(type(event)), subject, data, headers, id)
            return
        if id:
            raise ValueError("an id of your own is for durable=True, by which it is checked")
        subject, data, headers = self._written(session, event)
        connection = session.connection
        try:
            is_much = connection.send(subject, data, headers=headers)
        except ConnectionLostError:
            await connection.publish(subject, data, headers=headers)
        else:
            if is_much:
                await connection.flushed()

    def publish_nowait(self, event: Event) -> None:
        """Publish an event without waiting for anything, not even for the connection.

        Raises:
            ConnectionLostError: The connection is away, and what can be buffered is.
            MessageTooLargeError: It is over the server's limit.
            TypeError: A field cannot be encoded.
        """
        session = self._open_session
        subject, data, headers = self._written(session, event)
        session.connection.send(subject, data, headers=headers)

    @overload
    def subscribe(
        self,
        *what: type[E],
        unknown: Literal["skip", "error"] = "skip",
        group: str = "",
    ) -> Events[E]: ...
    @overload
    def subscribe(
        self, *what: type[E], unknown: Literal["keep"], group: str = ""
    ) -> Events[E | UnknownEvent]: ...
    @overload
    def subscribe(
        self,
        *what: type[Event] | str,
        unknown: Literal["skip", "error"] = "skip",
        group: str = "",
    ) -> Events[Event]: ...
    @overload
    def subscribe(
        self, *what: type[Event] | str, unknown: Literal["keep"], group: str = ""
    ) -> Events[Event | UnknownEvent]: ...

    def subscribe(
        self, *what: type[Event] | str, unknown: Unknown = "skip", group: str = ""
    ) -> Events[Any]:
        """Return what is published from now on: `async for event in bus.subscribe(UserCreated)`.

        Args:
            what: Types of events; or names with wildcards, `shop.events.*` for one part,
                `shop.>` for all that begin so: of those come all types that are defined here.
            unknown: What becomes of an event whose `$type` is none of these: `skip` it,
                `keep` it as `UnknownEvent`, or raise an `error` in its place.
            group: Subscribers of one group share the events.

        Raises:
            TypeError: A type is no event.
            ValueError: A name, or the group's, cannot be part of a subject.
        """
        if unknown not in ("skip", "keep", "error"):
            raise ValueError(f"unknown is 'skip', 'keep' or 'error', not {unknown!r}")
        if group:
            check_name("group", group)
        if not what:
            raise ValueError("subscribe takes types of events, or names with wildcards")
        asked: list[str] = []
        kinds: dict[str, MessageType] = {}
        for one in what:
            if isinstance(one, str):
                if not PATTERN.fullmatch(one):
                    raise ValueError(
                        f"subscribe takes types' names, or such as 'shop.>', not {one!r}"
                    )
                asked.append(one)
                found = [kind for kind in registered_types() if kind.kind == "event"]
            else:
                found = [event_type(one)]
                asked += found[0].names
            kinds |= {name: kind for kind in found for name in kind.names}
        reader = Reader(self.subjects, kinds, unknown)
        return Events(self, tuple(dict.fromkeys(asked)), group, reader)

    def on(self, *types: type[E], **options: Unpack[OnOptions]) -> OnDecorator[E]:
        """Handle events of some types, from when the bus is open until it is drained.

            @bus.on(UserCreated, durable="mailer", concurrency=20)
            async def welcome(event: UserCreated) -> None: ...

        A parameter annotated `ipc.Context` gets what is known of the event. If the bus is
        open already, `await bus.ready()` returns once the handler listens.

        Raises:
            HandlerDefinitionError: The function cannot handle events, or the options are out
                of their range.
        """

        def add(function: Any) -> Any:
            handler = event_handler(function, types, options)
            check_durable(handler, self.handlers)
            self.handlers.append(handler)
            if self._session is not None:
                self._start(handler)
            return function

        return add

    # -- requests --------------------------------------------------------------------------

    async def request(self, request: Request[R], *, timeout: float | None = None) -> R:
        """Ask a service and return what it answers.

        Args:
            timeout: Seconds to wait, else the bus's. Inside a handler that somebody waits for,
                no longer than they do.

        Raises:
            NoResponderError: No service answers such requests.
            ReplyTimeoutError: None did in time; it may still have acted.
            ConnectionLostError: The connection went away; it may have acted.
            ServiceError: It answered with an error: of its own class if that is known here.
            UnreadableError: It answered with something else than the request's type of reply.
            MessageTooLargeError: The request is over the server's limit.
        """
        kind = request_type(type(request))
        seconds = self._time_for(kind, timeout)
        data, headers = self._asked(kind, request, timeout=seconds)
        subject = self.subjects.request(kind.name)
        message = await self.connection.request(subject, data, headers=headers, timeout=seconds)
        return self._reply(kind, message)

    async def gather(
        self, request: Request[R], *, timeout: float | None = None, first: int | None = None
    ) -> Gathered[R]:
        """Ask every instance of a service; return when all that are known to run have answered.

        Known are the instances in the registry, as every bus is. Others' answers count if they
        come by then. Where none is known, without JetStream for one, it takes the whole time.

        Args:
            timeout: Seconds to wait, else the bus's; who stays silent is told.
            first: Return with the first so many answers.

        Raises:
            NoResponderError: No service answers such requests.
            UnreadableError: An answer is not of the request's type of reply.
            ValueError: `first` is below 1.
        """
        kind = request_type(type(request))
        seconds = self._time_for(kind, timeout)
        data, headers = self._asked(kind, request, timeout=seconds)
        return await gather(
            self.connection,
            self.subjects.gather(kind.name),
            data,
            headers,
            codec=self._codec,
            decode=partial(self._decoded, kind),
            expected=partial(self.registry.answering, kind.name),
            first=first,
            timeout=seconds,
        )

    async def stream(
        self, request: Request[R], *, timeout: float | None = None
    ) -> AsyncGenerator[R]:
        """Ask a service and yield the items that it answers, as they are taken.

        `async for row in bus.stream(Query()):` Leaving the loop tells the service to stop.

        Args:
            timeout: Seconds for which there may be no sign of life, else the bus's.

        Raises:
            NoResponderError: No service answers such requests.
            ReplyTimeoutError: The service fell silent.
            ConnectionLostError: The connection went away meanwhile.
            StreamBrokenError: Some items were lost.
            ServiceError: The service answered with an error, perhaps after some items.
            UnreadableError: An item is not of the request's type of reply.
        """
        kind = request_type(type(request))
        silence = self.timeout if timeout is None else timeout
        data, headers = self._asked(kind, request, timeout=silence, credit=CREDIT)
        items = read_stream(
            self.connection,
            self.subjects.request(kind.name),
            data,
            headers,
            codec=self._codec,
            decode=partial(self._decoded, kind),
            silence=silence,
        )
        async with aclosing(items):
            async for item in items:
                yield item

    async def services(self, name: str | None = None) -> list[ServiceInfo]:
        """Return the instances of services that answer now, of any language (NATS ADR-32).

        Args:
            name: Only of this service.
        """
        return await self._discover("INFO", name, ServiceInfo)

    async def service_stats(self, name: str | None = None) -> list[ServiceStats]:
        """Return how the instances of services that answer now have done (NATS ADR-32).

        Args:
            name: Only of this service.
        """
        return await self._discover("STATS", name, ServiceStats)

    async def _discover(self, verb: str, name: str | None, wanted: type[T]) -> list[T]:
        """Ask all services, until no further answer comes for a while."""
        if name is not None:
            check_name("service", name)
        subject = f"$SRV.{verb}" if name is None else f"$SRV.{verb}.{name}"
        found: list[T] = []
        replies = self.connection.request_many(subject, timeout=DISCOVERY_STALL)
        try:
            async for message in replies:
                try:
                    found.append(read_answer(message.data, wanted))
                except NOT_DECODABLE as exc:
                    log.warning("service skipped, its answer is malformed", error=str(exc))
        except (ReplyTimeoutError, NoResponderError):
            pass
        return found

    # -- declaring -------------------------------------------------------------------------

    async def apply(self, *services: Service) -> list[str]:
        """Create what is missing on the server for the bus and for services, and handle nothing.

        For programs that run with `declare=False`, under permissions that do not allow it.

        Returns:
            The names of the streams and durables that are there now.

        Raises:
            DurableConflictError: A durable is there, and something else.
        """
        handlers = [*self.handlers, *(one for each in services for one in each.event_handlers)]
        publishes = [*self.publishes, *(kind for each in services for kind in each.publishes)]
        there = [self.streams.bucket().name]
        # This once, whatever is said for everyday.
        everyday, self.declare = self.declare, True
        try:
            await self.streams.ensure_bucket()
            for domain in dict.fromkeys(kind.domain for kind in publishes):
                await self.streams.ensure(domain)
                there.append(self.subjects.stream(domain))
            for handler in handlers:
                if handler.options.durable is not None:
                    there += await DurableConsumer(self, handler, self.scope).declare()
        finally:
            self.declare = everyday
        return list(dict.fromkeys(there))

    # -- serving ---------------------------------------------------------------------------

    async def serve(self, *services: Service) -> None:
        """Offer services, and handle events, until cancelled or until `drain` is called.

        Raises:
            HandlerDefinitionError: Two handlers have the same durable.
            IpcError: A handler could not begin, or cannot go on.
        """
        session = self._open_session
        handlers = list(self.handlers)
        for handler in (one for service in services for one in service.event_handlers):
            check_durable(handler, handlers)
            handlers.append(handler)
        if not handlers and not any(service.handlers for service in services):
            log.warning("there is nothing to serve: no request or event has a handler")
        serving = [Serving(self, service) for service in services]
        try:
            for one in serving:
                session.serving[one] = None
                await one.open()
                self.registry.serves(one)
            await self.ready()
            await self.registry.write()
            log.info("bus serves", bus=self.name, id=self.id, event_handlers=len(handlers))
            stopped = asyncio.ensure_future(session.stopping.wait())
            try:
                done, _ = await asyncio.wait(
                    {stopped, session.failed}, return_when=asyncio.FIRST_COMPLETED
                )
                if session.failed in done:
                    session.failed.result()
            finally:
                stopped.cancel()
        finally:
            grace = self.grace if session.stopping.is_set() else 0
            with anyio.move_on_after(grace + LAST_WORDS, shield=True):
                ended = await asyncio.gather(
                    *(self._end(one, grace) for one in serving), return_exceptions=True
                )
                for failed in ended:
                    # The others have ended in order all the same.
                    if isinstance(failed, BaseException):
                        raise failed

    async def _end(self, serving: Serving, grace: float) -> None:
        """Let a service end, if it has not; return when it has, whoever has begun that."""
        session = self._open_session
        if serving not in session.serving:
            return
        ending = session.serving[serving]
        if ending is None:
            ending = asyncio.create_task(self._end_now(serving, grace))
            session.serving[serving] = ending
        await asyncio.shield(ending)

    async def _end_now(self, serving: Serving, grace: float) -> None:
        session = self._open_session
        try:
            await self.registry.serves_no_more(serving)
            await serving.drain(grace)
        finally:
            del session.serving[serving]

    async def ready(self) -> None:
        """Return once every handler listens.

        Raises:
            IpcError: One cannot.
        """
        session = self._open_session
        for task in tuple(session.starting):
            # Whoever waits may be cancelled; the handler begins all the same.
            await asyncio.wait({task})
            if not (task.cancelled() and session.stopping.is_set()):
                task.result()
        session.starting = [task for task in session.starting if not has_begun(task)]

    async def drain(self) -> None:
        """Stop taking events and requests, finish what was begun, let `serve` return.

        What does not finish within the bus's `grace` is cancelled; durable events among
        it are delivered again. Publishing and asking still work.
        """
        session = self._open_session
        session.stopping.set()
        await self._stop_all(self.grace)

    def stop(self) -> None:
        """Let `serve` return, as `drain` does, without waiting for it."""
        if self._session is not None:
            self._session.stopping.set()

    @property
    def serving(self) -> Sequence[Serving]:
        """The services that it serves now."""
        return tuple(self._open_session.serving)

    @property
    def is_ready(self) -> bool:
        """Whether it takes events and requests now: open, connected, not told to stop."""
        session = self._session
        return (
            session is not None
            and session.connection.is_connected
            and not session.stopping.is_set()
            and not session.failed.done()
            and all(has_begun(task) for task in session.starting)
            and all(one.is_open for one in session.serving)
        )

    @property
    def is_live(self) -> bool:
        """Whether everything that it has begun can go on."""
        return self._session is None or not self._session.failed.done()

    @property
    def running(self) -> int:
        """How many events and requests it has been handed and not finished with."""
        session = self._session
        if session is None:
            return 0
        return sum(len(one) for one in (*session.working, *session.serving))

    def health(self) -> dict[str, Any]:
        """Return what a health check is told beside `is_live` and `is_ready`."""
        session = self._session
        return {
            "connected": session is not None and session.connection.is_connected,
            "running": self.running,
            "services": [] if session is None else [one.ping() for one in session.serving],
        }

    # -- opening and closing ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, and begin to handle events; see `Connection.open` for what can go wrong."""
        if self._session is not None:
            raise RuntimeError(f"bus {self.name!r} is open already")
        async with AsyncExitStack() as stack:
            connection = self._shared
            if connection is None:
                connection = Connection(self.settings)
                await connection.open()
                stack.push_async_callback(connection.close)
            session = Session(self, connection, stack)
            self._session = session
            stack.callback(self._forget_session)
            session.streams = EventStreams(self)
            session.registry = Registry(self)
            if self.lifespan is not None:
                state = await stack.enter_async_context(self.lifespan())
                session.scope = Scope(state, self.middleware)
            self._spawn(self.registry.run(), "registry")
            for handler in self.handlers:
                self._start(handler)
            try:
                await self.ready()
            except BaseException:
                await self._stop_all(0)
                raise
            session.stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish what was begun, and disconnect. After an exception nothing is waited for."""
        session = self._open_session
        session.stopping.set()
        grace = self.grace if error is None else 0
        try:
            with anyio.move_on_after(grace + LAST_WORDS, shield=True):
                await self._stop_all(grace)
                for events in tuple(session.listening):
                    await events.close()
                await self.registry.leave()
        finally:
            await session.stack.aclose()

    def _forget_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            for events in session.listening:
                events.stop()
            for task in session.tasks:
                task.cancel()

    # -- handlers --------------------------------------------------------------------------

    def _start(self, handler: EventHandler) -> None:
        session = self._open_session
        work = self.open_handler(handler, session.scope, session.working)
        session.starting.append(asyncio.create_task(work))

    async def open_handler(
        self, handler: EventHandler, scope: Scope, working: list[Working]
    ) -> None:
        """Begin to handle events; what has to be drained in the end is added to `working`.

        Raises:
            IpcError: That cannot be.
        """
        check_durable(handler, (one.handler for one in self._working))
        if handler.options.durable is None:
            live = LiveHandler(self, handler, scope)
            working.append(live)
            await live.open()
        else:
            consumer = DurableConsumer(self, handler, scope)
            working.append(consumer)
            await consumer.open()
            self.registry.has_durable(handler.options.durable)
            self._spawn(consumer.run(), handler.options.durable)
        for kind in handler.kinds:
            self.registry.subscribes(kind)

    @property
    def _working(self) -> list[Working]:
        """What handles events now, of the bus itself and of what it serves."""
        session = self._open_session
        return [*session.working, *(one for each in session.serving for one in each.working)]

    async def _stop_all(self, grace: float) -> None:
        """Stop everything that handles anything, and let it finish what it has begun."""
        session = self._open_session
        for task in session.starting:
            task.cancel()
        working, session.working = session.working, []
        await asyncio.gather(
            *(one.drain(grace) for one in working),
            *(self._end(one, grace) for one in tuple(session.serving)),
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something for as long as the bus is open; that it failed is `serve`'s to say."""
        session = self._open_session

        def ended(task: asyncio.Task[None]) -> None:
            session.tasks.discard(task)
            if task.cancelled() or (error := task.exception()) is None:
                return
            log.error("cannot go on", what=name, exc_info=error)
            if not session.failed.done():
                session.failed.set_exception(error)
                # Told in the log, if nobody serves.
                session.failed.exception()

        task = asyncio.get_running_loop().create_task(work)
        session.tasks.add(task)
        task.add_done_callback(ended)

    def invoke(
        self, function: Callable[[Any, Context], Awaitable[Any]], message: Any, context: Context
    ) -> Awaitable[Any]:
        """Call a handler, with the middleware of its bus or service around it.

        For a task of its own: what it sends from now on follows from the message.
        """
        current_origin.set(context)
        call = partial(function, message, context)
        return wrap(call, context, context.scope.middleware)()

    # -- what it has while open ----------------------------------------------------------------

    @property
    def _open_session(self) -> Session:
        if self._session is None:
            raise BusNotOpenError(self.name)
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        return self._session is not None

    @property
    def connection(self) -> Connection:
        """The connection, while open."""
        return self._open_session.connection

    @property
    def jetstream(self) -> JetStream:
        """JetStream, while open."""
        return self._open_session.jetstream

    @property
    def streams(self) -> EventStreams:
        """The streams that keep events, while open."""
        return self._open_session.streams

    @property
    def registry(self) -> Registry:
        """Who runs and which types they speak, while open."""
        return self._open_session.registry

    @property
    def listening(self) -> WeakSet[Events[Any]]:
        """The subscriptions that are to end with it, while open."""
        return self._open_session.listening

    @property
    def scope(self) -> Scope:
        """What its handlers share, while open."""
        return self._open_session.scope

    @property
    def state(self) -> Any:
        """What its `lifespan` yielded, while open."""
        return self._open_session.scope.state

    @property
    def durables(self) -> Durables:
        """The durables of all domains, while open."""
        return Durables(self)

    @property
    def dead_letters(self) -> EventDeadLetters:
        """The events that no attempt could handle, while open."""
        return EventDeadLetters(self)

    # -- messages --------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return an id that no other message has."""
        session = self._open_session
        return f"{session.id}-{next(session.numbers)}"

    def _written(
        self, session: Session, event: Event, id: str = ""
    ) -> tuple[str, bytes, dict[str, str] | None]:
        """Return an event's subject, its bytes and its headers."""
        outlet = session.outlets.get(type(event))
        if outlet is None:
            kind = event_type(type(event))
            session.registry.publishes(kind)
            outlet = Outlet(kind, self.subjects.event(kind.name))
            session.outlets[type(event)] = outlet
        kind, subject = outlet.kind, outlet.subject
        if kind.key is not None:
            subject = self.subjects.event(kind.name, part_of_key(kind.key_of(event)))
        id = id or f"{session.id}-{next(session.numbers)}"
        origin = current_origin.get()
        if origin is None:
            now = session.clock.now()
            meta = Meta(id=id, time=now, source=self.name, version=kind.version)
            return subject, write(event, meta, self._codec), None
        meta = self._meta(kind, id, origin)
        return subject, write(event, meta, self._codec), trace_headers(origin)

    def _asked(
        self, kind: MessageType, request: Request[Any], *, timeout: float, credit: int = 0
    ) -> tuple[bytes, dict[str, str] | None]:
        """Return a request's bytes and its headers."""
        origin = current_origin.get()
        meta = self._meta(kind, self.new_id(), origin, timeout=timeout, credit=credit)
        data = write(request, meta, self._codec)
        return data, None if origin is None else trace_headers(origin)

    def _meta(
        self,
        kind: MessageType,
        id: str,
        origin: Origin | None,
        *,
        timeout: float | None = None,
        credit: int = 0,
    ) -> Meta:
        """Return what a message that is sent now says of itself."""
        return Meta(
            id=id,
            time=self._open_session.clock.now(),
            source=self.name,
            version=kind.version,
            correlation="" if origin is None else origin.correlation_id,
            causation="" if origin is None else origin.id,
            timeout=timeout,
            credit=credit,
        )

    def _time_for(self, kind: MessageType, timeout: float | None) -> float:
        """Return how long to wait for an answer."""
        seconds = self.timeout if timeout is None else timeout
        origin = current_origin.get()
        if origin is not None and origin.deadline is not None:
            left = origin.deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise ReplyTimeoutError(self.subjects.request(kind.name), 0)
            return min(seconds, left)
        return seconds

    def _reply(self, kind: MessageType, message: Message) -> Any:
        if message.headers is not None:
            error = error_in(message.headers, message.data, self._codec)
            if error is not None:
                raise error
        return self._decoded(kind, message)

    def _decoded(self, kind: MessageType, message: Message) -> Any:
        try:
            return self._codec.decoder_for(kind.reply)(message.data)
        except NOT_DECODABLE as exc:
            raise UnreadableError(
                self.subjects.request(kind.name), f"the answer is not as declared: {exc}"
            ) from exc

    async def _store(
        self,
        kind: MessageType,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None,
        id: str,
    ) -> None:
        """Have an event stored. The server knows its id, so repeating it is safe."""
        session = self._open_session
        deadline = time.monotonic() + self.timeout
        said = {"Nats-Msg-Id": f"{kind.name}.{id}", **(headers or {})}
        anew, unconfirmed = False, None
        while True:
            left = min(max(deadline - time.monotonic(), 0.01), TRY)
            try:
                async with asyncio.timeout(left):
                    await self.streams.ensure(kind.domain, anew=anew)
                await session.jetstream.publish(subject, data, headers=said, timeout=left)
                return
            except NoResponderError as exc:
                # The stream is gone: a server with streams in memory was restarted.
                anew, error = True, unconfirmed or exc
            except UnconfirmedError as exc:
                error = unconfirmed = exc
            except ServerUnavailableError as exc:
                # It may have been stored before, by a try that was not acknowledged.
                error = unconfirmed or exc
            except TimeoutError:
                error = unconfirmed or ReplyTimeoutError(subject, self.timeout)
            if time.monotonic() + PAUSE > deadline:
                raise error
            await asyncio.sleep(PAUSE)


def trace_headers(origin: Origin) -> dict[str, str] | None:
    """Return the headers that keep a trace together, if there is one."""
    trace = origin.traceparent
    # It may have come from anywhere, and a line break in it would begin another header.
    return {"traceparent": trace} if trace and trace.isprintable() else None


def has_begun(task: asyncio.Task[None]) -> bool:
    """Return whether a handler's start is over, and went well."""
    return task.done() and not task.cancelled() and task.exception() is None
