"""An app: its tasks, its queues, and the connection they use."""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from ipc import (
    DEFAULT_RETRY,
    MAX_DELAY,
    NO_RETRY,
    Bus,
    Connection,
    Event,
    JetStream,
    Middleware,
    Request,
    Retry,
    Settings,
    Start,
    Storage,
    module_name,
    type_of,
)

from ._bridge import UNTIL_STORED, Reaction, asking, durable_name
from ._context import JobContext
from ._dead_letter import DeadLetters
from ._declare import Declarations
from ._enqueue import Enqueuer, Placed
from ._errors import AppNotOpenError, TaskDefinitionError, UnknownTaskError
from ._job import Job
from ._layout import JobId, Layout, Priority
from ._lifecycle import ALL_JOB_EVENTS, JobEnqueued, JobEvent, Lifecycle
from ._queue import Queue
from ._results import Outcomes
from ._task import AsyncTask, BoundTask, Call, SyncTask, Task
from ._worker import Worker

__all__ = ["App"]

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Event)

DEFAULT_RESULT_TTL = 3600.0


class TaskDecorator(Protocol):
    """Makes a task of a function, keeping its parameters and its return type."""

    # The second overload takes what the first takes too: a coroutine function also returns
    # something. The first that fits is used, so the order decides.
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


class Session:
    """What an app has while it is open."""

    def __init__(self, app: App) -> None:
        self.connection = Connection(app.settings)
        self.jetstream = JetStream(self.connection)
        self.bus = app.new_bus(self.connection)
        self.lifecycle = Lifecycle(self.bus, app.name, app.events)
        self.outcomes = Outcomes(self.connection, self.jetstream, app.layout)
        self.declarations = Declarations(
            self.jetstream,
            app.layout,
            app.queues,
            storage=app.storage,
            replicas=app.replicas,
            allowed=app.declare,
        )
        self.dead_letters = DeadLetters(
            self.jetstream, app.layout, self.outcomes, self.declarations
        )
        self.enqueuer = Enqueuer(
            self.connection,
            self.jetstream,
            app.layout,
            self.declarations.ensure_queue,
            app.timeout,
        )


class App:
    """A namespace of tasks and queues on one NATS server or cluster.

    Opening it (`async with app:`) connects; a worker opens it by itself. It may be
    opened several times at once: the connection is shared and closed by the last.
    """

    def __init__(
        self,
        name: str,
        *,
        servers: str | Sequence[str] | None = None,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        queues: Iterable[Queue] = (),
        declare: bool = True,
        timeout: float = 10.0,
        result_ttl: float = DEFAULT_RESULT_TTL,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        events: bool | Iterable[type[JobEvent]] = False,
        bus_prefix: str = "ipc",
    ) -> None:
        """Describe an app; nothing is connected yet.

        Args:
            name: Part of every subject and stream: one app never sees another's jobs.
            servers: URLs; else `NATS_URL`, else `nats://127.0.0.1:4222`.
            credentials: A `.creds` file; else `NATS_CREDS`.
            storage: `file` or `memory`; else `JETQ_STORAGE`, else `file`.
            replicas: 1, 3 or 5; else `JETQ_REPLICAS`, else 1.
            queues: Queues that differ from these settings.
            declare: Create missing streams; with `False` the server is never changed.
            timeout: Seconds that `enqueue` waits for the server, connecting included.
            result_ttl: Seconds that outcomes are kept, where a task says nothing else.
            lifespan: Called once a worker starts; what it yields is every job's
                `current_job().state`, and it is left when the worker stops.
            events: Publish what happens to jobs as `ipc` events: all of them, or
                those given, such as `(JobCompleted, JobFailed)`.
            bus_prefix: The `prefix` of the app's bus; see `ipc.Bus`.

        Raises:
            InvalidNameError: `name` cannot be part of a subject.
            ValueError: A setting is out of its range.
        """
        self.layout = Layout(name)
        self.name = name
        self.settings = Settings.load(
            servers, credentials=credentials, tls=tls, name=f"jetq {name}", connect_timeout=timeout
        )
        # A queue checks its settings; the app's are those of an unnamed one.
        checked = Queue(
            "default",
            storage=cast(Storage, storage or os.environ.get("JETQ_STORAGE") or "file"),
            replicas=replicas or int(os.environ.get("JETQ_REPLICAS") or 1),
        )
        self.storage: Storage = checked.storage or "file"
        self.replicas = checked.replicas or 1
        self.queues: Mapping[str, Queue] = {queue.name: queue for queue in queues}
        self.declare = declare
        self.timeout = timeout
        self.result_ttl = result_ttl
        self.lifespan = lifespan
        every = ALL_JOB_EVENTS if events is True else ()
        self.bus_prefix = bus_prefix
        self.events = frozenset(every if isinstance(events, bool) else events)
        self.tasks: dict[str, Task[..., Any]] = {}
        """By name, in the order they were defined."""
        self.middleware: list[Middleware[JobContext]] = []
        """Wrapped around every job, the first one outermost."""
        self.reactions: list[Reaction] = []
        """What `enqueue_on` has registered."""
        self._session: Session | None = None
        self._opened = 0
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<App {self.name!r} with {len(self.tasks)} tasks>"

    # -- define -------------------------------------------------------------------------

    @overload
    def task(  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: Priority = Priority.NORMAL,
        retry: Retry | Literal[False] = DEFAULT_RETRY,
        timeout: float | None = None,
        result: bool = True,
        result_ttl: float | None = None,
        process: bool = False,
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: Priority = Priority.NORMAL,
        retry: Retry | Literal[False] = DEFAULT_RETRY,
        timeout: float | None = None,
        result: bool = True,
        result_ttl: float | None = None,
        process: bool = False,
    ) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(queue="mail", …)`.

        Args:
            name: What the jobs on the wire call it; else its module and function.
            queue: Where its jobs wait.
            priority: What starts first among the jobs of a queue.
            retry: When to run a failed job again; `False` for never.
            timeout: Seconds a run may take, then it is cancelled and counts as failed.
            result: Whether to store what it returns.
            result_ttl: Seconds to keep its outcomes; else the app's.
            process: Run a plain function in a process instead of a thread.

        Raises:
            TaskDefinitionError: The function cannot be a task, or the name is taken.
            InvalidNameError: `queue` cannot be part of a subject.
        """

        def define(function: Callable[..., Any]) -> Task[..., Any]:
            is_async = inspect.iscoroutinefunction(function)
            task_name = name or f"{module_name(function.__module__)}.{function.__qualname__}"
            ttl = self.result_ttl if result_ttl is None else result_ttl
            if not is_seconds(ttl) or not (timeout is None or is_seconds(timeout)):
                raise TaskDefinitionError(task_name, "timeout and result_ttl are seconds above 0")
            if not (retry is False or isinstance(retry, Retry)):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TaskDefinitionError(task_name, "retry is a Retry(…), or False")
            if task_name in self.tasks:
                raise TaskDefinitionError(task_name, "the name is taken; give it name=…")
            if is_async and process:
                raise TaskDefinitionError(task_name, "process=True is for plain functions")
            if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
                raise TaskDefinitionError(task_name, "a generator has no single result")
            task = (AsyncTask if is_async else SyncTask)[..., Any](
                self,
                function,
                name=task_name,
                queue=queue,
                priority=priority,
                retry=retry or NO_RETRY,
                timeout=timeout,
                store_result=result,
                result_ttl=ttl,
                process=process,
            )
            self.tasks[task_name] = task
            return task

        return define if function is None else define(function)

    def forward(
        self,
        request: type[Request[R]],
        *,
        name: str | None = None,
        queue: str = "default",
        priority: Priority = Priority.NORMAL,
        retry: Retry | Literal[False] = DEFAULT_RETRY,
        timeout: float = 30.0,
        result: bool = True,
        result_ttl: float | None = None,
    ) -> AsyncTask[[Request[R]], R]:
        """Make a task that asks a service, and whose result is what the service answers.

        `fetch = app.forward(FetchUser)`, then `await fetch.enqueue(FetchUser(id=7))`: the service
        gets the request until it has answered, and need not know of jobs. While it is away,
        or fails with a code of 500 and above, the job is retried; an answer below 500 says that
        the request is at fault, and makes it a dead letter.

        Args:
            name: What the jobs on the wire call it; else the request's type.
            timeout: Seconds that the service has for an attempt.
            queue: And all other: as of `task`.

        Raises:
            TaskDefinitionError: The name is taken.
            TypeError: `request` is no type of request.
        """
        kind = type_of(request)
        if kind.kind != "request":
            raise TypeError(
                f"{kind.name} is an event, which nobody answers; forward takes requests"
            )
        task_name = name or kind.name
        define = self.task(
            name=task_name,
            queue=queue,
            priority=priority,
            retry=retry,
            result=result,
            result_ttl=result_ttl,
        )
        return cast(Any, define)(asking(request, kind.reply, task_name, timeout))

    def enqueue_on(
        self,
        event: type[E],
        task: BoundTask[[E], Any],
        *,
        durable: str | None = None,
        start: Start = "new",
    ) -> None:
        """Enqueue a job of a task for every event of a type; the event is its argument.

        `app.enqueue_on(UserCreated, send_welcome)`. Done by the app's workers, which share a
        durable: no event is lost while none runs, and an event that comes again is the same job.

        Args:
            task: With options, if wanted: `send_welcome.using(priority=…)`.
            durable: Its name; else made of the app's, the task's and the event's.
            start: Where the durable begins when it is new.

        Raises:
            TaskDefinitionError: The durable is taken.
        """
        name = durable or durable_name(self.name, task.task.name, type_of(event).name)
        for other in self.reactions:
            if other.durable == name:
                raise TaskDefinitionError(
                    task.task.name,
                    f"durable {name!r} enqueues jobs of {other.task.task.name!r} for "
                    f"{type_of(other.event).name} already; give this one durable=…",
                )
        self.reactions.append(Reaction(event, task, name, start))

    # -- enqueue ------------------------------------------------------------------------

    async def enqueue(self, call: Call[R]) -> Job[R]:
        """Enqueue one prepared call; see `Task.enqueue`."""
        job = self._job(call, await self._open_session.enqueuer.enqueue(call))
        self._tell([job], [call])
        return job

    async def enqueue_many(self, calls: Iterable[Call[R]], *, atomic: bool = False) -> list[Job[R]]:
        """Enqueue calls together, in the fastest way the server has; returns jobs in order.

        Args:
            atomic: All of them or none: at most 1000, all on one queue, and slower.

        Raises:
            EnqueueManyError: Some were not acknowledged; says which were.
            OptionsError: The calls cannot be one atomic batch.
        """
        every, enqueuer = list(calls), self._open_session.enqueuer
        for one in every:
            if not isinstance(one, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"enqueue_many takes what `task.call(…)` returns, not {one!r}")
        placed = await (
            enqueuer.enqueue_all_or_none(every) if atomic else enqueuer.enqueue_many(every)
        )
        jobs = [self._job(call, one) for call, one in zip(every, placed, strict=True)]
        self._tell(jobs, every)
        return jobs

    def _tell(self, jobs: Sequence[Job[R]], calls: Sequence[Call[R]]) -> None:
        """Publish that jobs are stored, if the app asks for that."""
        if JobEnqueued in self.events:
            for job, call in zip(jobs, calls, strict=True):
                if job.created:
                    self.lifecycle.enqueued(job.id, call.task.name, call.task.queue)

    # -- know and steer -----------------------------------------------------------------

    def job(self, id: str) -> Job[Any]:
        """Return the job with an id; nothing is asked of the server yet.

        Raises:
            InvalidJobIdError: It is not the id of a job.
        """
        return Job(self, JobId.parse(id), None)

    def job_of(self, task: Task[..., R], job: JobId) -> Job[R]:
        """Return a job whose task is known, so that its result has a type."""
        return Job(self, job, task)

    def find_task(self, name: str) -> Task[..., Any]:
        """Return a task by its name.

        Raises:
            UnknownTaskError: This app has none of that name.
        """
        try:
            return self.tasks[name]
        except KeyError:
            raise UnknownTaskError(name, tuple(self.tasks)) from None

    def ttl_of(self, task: str) -> float:
        """Return how long a task's outcomes are kept, in seconds."""
        known = self.tasks.get(task)
        return self.result_ttl if known is None else known.result_ttl

    @property
    def queue_names(self) -> tuple[str, ...]:
        """Every queue that a task uses or that was described."""
        names = [*self.queues, *(task.queue for task in self.tasks.values())]
        return tuple(dict.fromkeys(names))

    # -- work ---------------------------------------------------------------------------

    def worker(
        self,
        *,
        queues: Sequence[str] | Mapping[str, float] | None = None,
        concurrency: int = 100,
        grace: float = 30.0,
        name: str | None = None,
    ) -> Worker:
        """Return a worker for this app: `async with app.worker() as worker: await worker.run()`.

        Args:
            queues: Which queues to work on, all of the app's if not given; a mapping
                gives each a weight: its share of the slots while others wait too.
            concurrency: How many jobs run at once.
            grace: Seconds that running jobs get to finish when it is told to stop.
            name: Shown in outcomes and logs; else host and process id.
        """
        return Worker(self, queues=queues, concurrency=concurrency, grace=grace, name=name)

    # -- the open session -----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect; see `ipc.Connection.open` for what can go wrong."""
        async with self._opening:
            if self._session is None:
                self._session = await self._connect()
            self._opened += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect, if nobody else has the app open."""
        self._opened -= 1
        if self._opened == 0 and self._session is not None:
            session, self._session = self._session, None
            await session.bus.__aexit__(None, None, None)
            await session.connection.close()

    def new_bus(self, connection: Connection) -> Bus:
        """Return a bus with the app's name and settings, not open yet."""
        return Bus(
            self.name,
            connection=connection,
            prefix=self.bus_prefix,
            storage=self.storage,
            replicas=self.replicas,
            declare=self.declare,
            timeout=self.timeout,
        )

    def reacting_bus(self) -> Bus:
        """Return a bus on which events enqueue jobs, for a worker to open."""
        bus = self.new_bus(self.connection)
        for reaction in self.reactions:
            bus.on(
                reaction.event,
                durable=reaction.durable,
                start=reaction.start,
                retry=UNTIL_STORED,
            )(reaction.react)
        return bus

    async def _connect(self) -> Session:
        for task in self.tasks.values():
            task.signature.resolve()
        session = Session(self)
        await session.connection.open()
        try:
            await session.jetstream.check()
            await session.bus.__aenter__()
        except BaseException:
            await session.connection.close()
            raise
        return session

    @property
    def is_open(self) -> bool:
        """Whether the app can be used now."""
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
    def bus(self) -> Bus:
        """The bus, while open: for events and requests over the app's connection."""
        return self._open_session.bus

    @property
    def lifecycle(self) -> Lifecycle:
        """What publishes the events of jobs, while open."""
        return self._open_session.lifecycle

    @property
    def outcomes(self) -> Outcomes:
        """The recorded outcomes, while open."""
        return self._open_session.outcomes

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters, while open."""
        return self._open_session.dead_letters

    @property
    def declarations(self) -> Declarations:
        """What should be on the server, while open."""
        return self._open_session.declarations

    @property
    def _open_session(self) -> Session:
        if self._session is None:
            raise AppNotOpenError(self.name)
        return self._session

    def _job(self, call: Call[R], placed: Placed) -> Job[R]:
        return Job(self, placed.job, call.task, created=placed.created)


def is_seconds(value: Any) -> bool:
    """Return whether a value is a time that something may take."""
    return isinstance(value, int | float) and 0 < value <= MAX_DELAY
