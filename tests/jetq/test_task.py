"""Defining tasks: what a decorated function becomes."""

import functools
import threading
from datetime import UTC, datetime, timedelta

import pytest

from jetq import (
    App,
    AppNotOpenError,
    InvalidNameError,
    OptionsError,
    Priority,
    Retry,
    RetryAfter,
    Snooze,
    TaskDefinitionError,
    UnknownTaskError,
)
from tests.conftest import AppFactory, working


@pytest.fixture
def app():
    """An app that is never opened: defining needs no server."""
    return App("shop")


async def test_task_is_still_the_plain_function(app: App):
    """Calling a task runs the function here and now, as if it were not decorated."""

    @app.task
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @app.task
    async def add_later(a: int, b: int) -> int:
        return a + b

    assert add(1, 2) == 3
    assert await add_later(1, 2) == 3
    assert add.__doc__ == "Add."


def test_task_is_named_after_module_and_function(app: App):
    """The name on the wire says where to find the function, unless `name` says otherwise."""

    @app.task
    def first(): ...

    @app.task(name="mail.send")
    def second(): ...

    assert first.name.startswith(f"{__name__}.")
    assert first.name.endswith(".first")
    assert second.name == "mail.send"
    assert app.find_task("mail.send") is second


def test_name_can_be_taken_only_once(app: App):
    """Two tasks of one name would leave open which one a job means."""
    app.task(name="mail.send")(lambda: None)

    with pytest.raises(TaskDefinitionError, match="the name is taken"):
        app.task(name="mail.send")(lambda: None)


def test_unknown_task_says_which_are_known(app: App):
    """Looking up a task that is not there shows those that are."""
    app.task(name="mail.send")(lambda: None)

    with pytest.raises(UnknownTaskError, match=r"'mail.sent'.* knows mail.send"):
        app.find_task("mail.sent")


def test_what_cannot_be_a_task(app: App):
    """Generators have no single result; a coroutine cannot run in a process."""

    def generator():
        yield 1

    async def async_generator():
        yield 1

    async def coroutine(): ...

    for function in (generator, async_generator):
        with pytest.raises(TaskDefinitionError, match="no single result"):
            app.task(function)
    with pytest.raises(TaskDefinitionError, match="process=True is for plain functions"):
        app.task(process=True)(coroutine)
    assert not app.tasks


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", ">", "ä", "x" * 129])
def test_queue_names_must_fit_into_subjects(app: App, name):
    """A queue's name becomes a token of subjects; the error says which characters may."""
    with pytest.raises(InvalidNameError, match="invalid queue"):
        app.task(queue=name)(lambda: None)


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"delay": 1, "eta": NOW}, "exclude each other"),
        ({"eta": NOW.replace(tzinfo=None)}, "eta needs a time zone"),
        ({"expires": NOW.replace(tzinfo=None)}, "expires needs a time zone"),
        ({"debounce": "k"}, "needs a delay"),
        ({"debounce": "k", "delay": 1, "unique": "k"}, "leave out unique and id"),
        ({"debounce": "k", "delay": 1, "id": "k"}, "leave out unique and id"),
        ({"timeout": 0}, "positive"),
        ({"timeout": float("nan")}, "positive"),
        ({"delay": float("nan")}, "delay is 0 to 100 years"),
        ({"delay": 1e20}, "delay is 0 to 100 years"),
        ({"expires": timedelta(days=100_000)}, "expires is 0 to 100 years"),
        ({"unique": ""}, "unique is a text"),
        ({"delay": -1}, "delay is 0"),
        ({"delay": "5"}, "delay is 0"),
        ({"headers": {"a": 1}}, "headers are texts"),
        ({"priority": "urgent"}, "priority is critical, high, normal or low"),
        ({"on_conflict": "ignore"}, "on_conflict is"),
        ({"prioritty": 1}, "prioritty"),
    ],
)
def test_options_that_contradict_each_other(app: App, options, problem):
    """They are refused before anything is sent, naming the task."""
    task = app.task(name="mail.send")(lambda: None)

    with pytest.raises(OptionsError, match=problem) as caught:
        task.using(**options)

    assert "mail.send" in str(caught.value)


@pytest.mark.parametrize("id", ["", "a.b", "a b", "*", ">"])
def test_own_ids_must_fit_into_subjects(app: App, id):
    """An id of one's own is a token of the job's subject."""
    task = app.task(lambda: None)

    with pytest.raises(InvalidNameError, match="invalid job id"):
        task.using(id=id)


def test_options_are_checked_for_their_ranges(app: App):
    """Settings out of range are refused where they are written."""
    with pytest.raises(ValueError, match="at least 1"):
        Retry(max_attempts=0)
    with pytest.raises(ValueError, match="100 years"):
        Retry(max_delay=1e20)
    with pytest.raises(ValueError, match="100 years"):
        Retry(base_delay=float("nan"))
    with pytest.raises(ValueError, match="100 years"):
        Snooze(1e20)
    with pytest.raises(ValueError, match="from 0"):
        RetryAfter(-1)
    with pytest.raises(ValueError, match="not negative"):
        Retry(base_delay=-1)
    with pytest.raises(ValueError, match="not a valid Priority"):
        app.task(priority="urgent")(lambda: None)  # pyright: ignore[reportArgumentType]
    app.task(priority="high")(lambda: None)  # pyright: ignore[reportArgumentType]
    assert [task.priority for task in app.tasks.values()] == [Priority.HIGH]


async def test_enqueueing_needs_an_open_app(app: App):
    """Without a connection the error says what is missing."""
    task = app.task(lambda: None)

    with pytest.raises(AppNotOpenError, match="inside `async with app:`"):
        await task.enqueue()


async def test_plain_functions_run_in_threads(new_app: AppFactory):
    """Sync functions run beside the event loop, several at once."""
    app = new_app()
    both = threading.Barrier(2, timeout=5)

    @app.task
    def meet() -> bool:
        both.wait()
        return threading.current_thread() is not threading.main_thread()

    async with working(app):
        first, second = await meet.enqueue(), await meet.enqueue()

        assert await first.result(5)
        assert await second.result(5)


async def test_defaults_are_the_workers(new_app: AppFactory):
    """What the caller leaves out is filled in where the function runs."""
    app = new_app()

    @app.task
    async def greet(name: str, *, greeting: str = "hello", times: int = 1) -> str:
        return f"{greeting} {name}" * times

    async with working(app):
        assert await (await greet.enqueue("ada")).result(5) == "hello ada"
        assert await (await greet.enqueue(name="ada", greeting="hi")).result(5) == "hi ada"


async def test_wrapped_functions_keep_their_parameters(new_app: AppFactory):
    """A decorator that uses functools.wraps does not hide the types below it."""
    app = new_app()

    def loud(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return (await function(*args, **kwargs)).upper()

        return wrapper

    @app.task
    @loud
    async def greet(name: str) -> str:
        return f"hello {name}"

    async with working(app):
        assert await (await greet.enqueue("ada")).result(5) == "HELLO ADA"


def test_delays_may_be_timedeltas(app: App):
    """Seconds and timedelta mean the same."""
    task = app.task(lambda: None)

    assert task.using(delay=timedelta(minutes=1)).options.delay == timedelta(seconds=60)


@pytest.mark.parametrize(
    "options",
    [{"timeout": -1}, {"timeout": "a"}, {"result_ttl": 0}, {"retry": 5}],
)
def test_task_options_are_checked_where_the_task_is_defined(app: App, options):
    """A wrong timeout, time to live or policy is found out before any job is enqueued."""
    with pytest.raises(TaskDefinitionError):
        app.task(**options)(lambda: None)

    assert not app.tasks


async def test_many_wants_calls_not_tasks(new_app):
    """A task without arguments is not a call; the error says how to make one."""
    app = new_app()
    task = app.task(name="mail.send")(lambda: None)

    async with app:
        with pytest.raises(TypeError, match=r"task\.call"):
            await app.enqueue_many([task])
