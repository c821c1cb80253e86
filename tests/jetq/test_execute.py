"""Running a task's function: where it belongs, within its time, with its job at hand."""

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import msgspec
import pytest

from jetq import App, JobFailedError, Reject, Retry, current_job
from tests.conftest import AppFactory, until, working


async def test_timeout_cancels_an_async_task(app: App):
    """A task that takes too long is cancelled where it awaits, and cleans up after itself."""
    seen = []

    @app.task(timeout=0.1, retry=False)
    async def endless():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("cleaned up")

    async with working(app):
        with pytest.raises(JobFailedError, match=r"ran longer than its timeout of 0\.1 s") as error:
            await (await endless.enqueue()).result(5)

    assert error.value.kind == "builtins.TimeoutError"
    assert seen == ["cancelled", "cleaned up"]


async def test_timeout_is_a_failure_like_others(app: App):
    """A job that ran out of time is retried, as its policy says."""
    attempts = []

    @app.task(timeout=0.1, retry=Retry(max_attempts=2, base_delay=0.01))
    async def slow_at_first() -> str:
        attempts.append(current_job().attempt)
        if len(attempts) == 1:
            await asyncio.sleep(3600)
        return "in time"

    async with working(app):
        assert await (await slow_at_first.enqueue()).result(5) == "in time"
        assert attempts == [1, 2]


async def test_timeout_of_one_job_replaces_the_tasks(app: App):
    """`using(timeout=…)` is for this job only."""

    @app.task(retry=False)
    async def endless():
        await asyncio.sleep(3600)

    async with working(app):
        with pytest.raises(JobFailedError, match=r"timeout of 0\.1 s"):
            await (await endless.using(timeout=0.1).enqueue()).result(5)


async def test_slot_of_a_timed_out_thread_is_free(app: App):
    """A thread cannot be stopped, but the worker does not wait for it."""
    release = threading.Event()

    @app.task(timeout=0.1, retry=False)
    def stuck():
        release.wait(30)

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app, concurrency=1):
        try:
            with pytest.raises(JobFailedError, match="timeout"):
                await (await stuck.enqueue()).result(5)
            assert await (await fine.enqueue()).result(5) == "ran"
        finally:
            release.set()


async def test_event_loop_goes_on_while_a_plain_function_blocks(app: App):
    """A blocking function runs in a thread: coroutines go on meanwhile."""
    release = threading.Event()

    @app.task
    def blocking() -> bool:
        return release.wait(10)

    @app.task
    async def unblock():
        release.set()

    async with working(app):
        job = await blocking.enqueue()
        await unblock.enqueue()

        assert await job.result(5)


async def test_error_of_the_task_is_kept_with_its_traceback(app: App):
    """Who asks later sees what was raised, and where."""

    @app.task(retry=False)
    def divide(a: int, b: int) -> float:
        return a / b

    async with working(app):
        job = await divide.enqueue(1, 0)
        with pytest.raises(JobFailedError, match="division by zero"):
            await job.result(5)

        info = await job.info()
        assert info.status == "failed"
        assert info.error is not None
        assert info.error.kind == "builtins.ZeroDivisionError"
        assert "return a / b" in info.error.traceback


async def test_rejected_job_is_dead_at_once(app: App):
    """A task that knows it cannot succeed says so, whatever attempts are left."""

    @app.task(retry=Retry(max_attempts=10))
    async def send(to: str):
        raise Reject(f"{to} is no address")

    async with working(app):
        job = await send.enqueue("nobody")
        with pytest.raises(JobFailedError, match="nobody is no address"):
            await job.result(5)

        letter = await app.dead_letters.find(job.id)
        assert letter is not None
        assert letter.reason == "nobody is no address"
        assert letter.attempts == 1


async def test_wrong_result_is_the_tasks_failure(app: App):
    """What is stored always has the type the task promises."""

    @app.task(retry=False)
    async def count() -> int:
        return "many"  # type: ignore[return-value]

    async with working(app):
        with pytest.raises(JobFailedError, match="Expected `int`, got `str`"):
            await (await count.enqueue()).result(5)


async def test_exit_inside_a_task_ends_the_job_not_the_worker(app: App):
    """sys.exit in a task is a failure of the task."""

    @app.task(retry=False)
    async def leave():
        raise SystemExit(3)

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app):
        with pytest.raises(JobFailedError, match="3"):
            await (await leave.enqueue()).result(5)
        assert await (await fine.enqueue()).result(5) == "ran"


async def test_cancelled_error_of_something_else_is_a_failure(app: App):
    """A task that awaits what somebody cancelled fails; nobody cancelled the task itself."""

    @app.task(retry=False)
    async def await_cancelled():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with working(app):
        with pytest.raises(JobFailedError, match="CancelledError"):
            await (await await_cancelled.enqueue()).result(5)


# -- what a task can know ----------------------------------------------------------------


class Facts(msgspec.Struct):
    id: str
    task: str
    queue: str
    attempt: int
    headers: dict[str, str]


def facts() -> Facts:
    """Return what the job that runs here knows of itself."""
    job = current_job()
    assert job.enqueued_at is not None
    return Facts(job.id, job.task, job.queue, job.attempt, dict(job.headers))


async def test_task_knows_its_job(app: App):
    """current_job() works in coroutines, in what they start, and in threads."""

    @app.task(name="in_loop", queue="mail")
    async def in_loop() -> Facts:
        return await asyncio.create_task(asyncio.to_thread(facts))

    @app.task(name="in_thread", queue="mail")
    def in_thread() -> Facts:
        return facts()

    async with working(app):
        for task in (in_loop, in_thread):
            job = await task.using(headers={"trace": "abc"}).enqueue()
            assert await job.result(5) == Facts(job.id, task.name, "mail", 1, {"trace": "abc"})


def test_outside_of_a_job_there_is_none():
    """current_job() elsewhere is an error that says where it belongs."""
    with pytest.raises(LookupError, match="code that a worker runs"):
        current_job()


async def test_lifespan_gives_every_job_the_same_state(new_app: AppFactory):
    """What the lifespan yields is there for all jobs, and is put away when the worker stops."""
    seen = []

    @asynccontextmanager
    async def lifespan():
        seen.append("entered")
        yield {"pool": "of connections"}
        seen.append("left")

    app = new_app(lifespan=lifespan)

    @app.task
    async def use() -> str:
        return current_job().state["pool"]

    async with working(app):
        assert await (await use.enqueue()).result(5) == "of connections"
        assert await (await use.enqueue()).result(5) == "of connections"
        assert seen == ["entered"]

    assert seen == ["entered", "left"]


async def test_middleware_wraps_every_job_the_first_outermost(app: App):
    """Middleware sees the job before and after, and what it returned or raised."""
    seen = []

    async def outer(job, call_next):
        seen.append(f"outer before {job.task}")
        try:
            return await call_next()
        except ValueError as exc:
            seen.append(f"outer saw {exc}")
            raise

    async def inner(job, call_next):
        seen.append("inner before")
        return await call_next() * 10

    app.middleware += [outer, inner]

    @app.task(name="double")
    async def double(number: int) -> int:
        return number * 2

    @app.task(name="broken", retry=False)
    async def broken():
        raise ValueError("a failure")

    async with working(app):
        assert await (await double.enqueue(2)).result(5) == 40
        with pytest.raises(JobFailedError):
            await (await broken.enqueue()).result(5)

    assert seen == [
        "outer before double",
        "inner before",
        "outer before broken",
        "inner before",
        "outer saw a failure",
    ]


# -- processes -----------------------------------------------------------------------------


@pytest.fixture
def processes(server_url):
    """The app whose tasks run in processes, on the tests' server."""
    from tests.jetq.process_tasks import app

    app.settings = msgspec.structs.replace(app.settings, servers=(server_url,))
    return app


async def test_process_tasks_run_in_a_process_of_their_own(processes):
    """With process=True a function runs in another process; its errors come back whole."""
    from tests.jetq.process_tasks import fail_far_away, whose_pid

    async with working(processes, concurrency=1):
        assert await (await whose_pid.enqueue()).result(20) != os.getpid()
        with pytest.raises(JobFailedError, match="from far away") as caught:
            await (await fail_far_away.enqueue()).result(20)

    assert "in fail_far_away" in caught.value.traceback


async def test_timeout_kills_a_process(processes, tmp_path):
    """A process that takes too long is ended, not left behind."""
    from tests.jetq.process_tasks import write_late

    path, pid_path = tmp_path / "late", tmp_path / "pid"
    async with working(processes, concurrency=1):
        with pytest.raises(JobFailedError, match="timeout"):
            await (await write_late.using(timeout=3).enqueue(str(path), str(pid_path))).result(20)
        pid = int(pid_path.read_text())
        await until(lambda: not is_alive(pid), "the process should have been killed")

    assert not path.exists()


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_many_plain_functions_run_at_once(app: App):
    """Threads are as many as the worker's slots, not as few as a pool's default."""
    barrier = threading.Barrier(50, timeout=10)

    @app.task
    def meet() -> int:
        return barrier.wait()

    async with working(app, concurrency=50):
        jobs = await app.enqueue_many([meet.call() for _ in range(50)])
        results = [await job.result(10) for job in jobs]

    assert sorted(results) == list(range(50))


async def test_interrupt_inside_a_task_ends_the_job_not_the_worker(app: App):
    """A KeyboardInterrupt that a task raises is a failure of the task, like any other."""

    @app.task(retry=False)
    async def interrupt():
        raise KeyboardInterrupt

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app):
        with pytest.raises(JobFailedError) as caught:
            await (await interrupt.enqueue()).result(5)

        assert caught.value.kind == "builtins.KeyboardInterrupt"
        assert await (await fine.enqueue()).result(5) == "ran"


MARK: ContextVar[str] = ContextVar("mark", default="none")


async def test_context_variables_of_a_job_stay_its_own(app: App):
    """What one job sets in its context, the next one in the same slot does not see."""

    @app.task
    async def mark(text: str) -> str:
        before = MARK.get()
        MARK.set(text)
        return before

    async with working(app, concurrency=1):
        seen = [await (await mark.enqueue(text)).result(5) for text in ("a", "b", "c")]

        assert seen == ["none", "none", "none"]


async def test_task_that_cancels_itself_fails_alone(app: App):
    """A task that cancels the asyncio task it runs in fails its job, not the worker."""

    @app.task(retry=False)
    async def give_up():
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    @app.task
    async def fine() -> str:
        return "ran"

    async with working(app, concurrency=1):
        with pytest.raises(JobFailedError, match="CancelledError"):
            await (await give_up.enqueue()).result(5)

        assert await (await fine.enqueue()).result(5) == "ran"


async def test_error_without_words_is_a_failure_like_any_other(app: App):
    """An exception whose own text cannot be made still fails its job, once."""

    class SpeechlessError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    @app.task(retry=False)
    async def work():
        raise SpeechlessError

    async with working(app):
        with pytest.raises(JobFailedError, match="SpeechlessError"):
            await (await work.enqueue()).result(5)
