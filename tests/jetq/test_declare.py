"""Streams and consumers: made where missing, never changed silently, or not touched at all."""

import pytest
from structlog.testing import capture_logs

from jetq import App, Queue, QueueMissingError
from tests.conftest import AppFactory, working


def with_task(app: App) -> App:
    """Return the app with one task on its default queue."""

    @app.task(name="work")
    async def work(number: int = 0) -> int:
        return number

    return app


async def streams(app: App) -> dict[str, str]:
    """Return the app's streams on the server, and where each is stored."""
    found = [
        *await app.jetstream.list_streams(f"jetq.{app.name}.>"),
        *await app.jetstream.list_streams(f"$KV.jetq-{app.name}.>"),
    ]
    return {info.config["name"]: info.config["storage"] for info in found}


async def test_opening_an_app_makes_nothing(new_app: AppFactory):
    """Streams appear with the first job or the first worker, not with a look."""
    app = with_task(new_app())
    async with app:
        assert await streams(app) == {}

        await app.tasks["work"].enqueue()
        assert set(await streams(app)) == {
            f"jetq-{app.name}-queue-default",
            f"jetq-{app.name}-results",
            f"jetq-{app.name}-dead",
            f"KV_jetq-{app.name}",
        }


@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_storage_is_a_setting(new_app: AppFactory, storage):
    """All streams of an app are kept as it says; a queue may differ."""
    other = "file" if storage == "memory" else "memory"
    app = with_task(new_app(storage=storage, queues=[Queue("special", storage=other)]))

    @app.task(queue="special")
    async def special(): ...

    async with app:
        await app.tasks["work"].enqueue()
        await special.enqueue()
        infos = await streams(app)

    assert infos.pop(f"jetq-{app.name}-queue-special") == other
    assert set(infos.values()) == {storage}


def test_settings_come_from_the_environment(monkeypatch):
    """JETQ_STORAGE and JETQ_REPLICAS say what the code leaves open."""
    monkeypatch.setenv("JETQ_STORAGE", "memory")
    monkeypatch.setenv("JETQ_REPLICAS", "3")

    assert (App("shop").storage, App("shop").replicas) == ("memory", 3)
    assert (App("shop", storage="file", replicas=1).storage, App("shop", replicas=1).replicas) == (
        "file",
        1,
    )


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("JETQ_STORAGE", "tape", "storage is 'file' or 'memory'"),
        ("JETQ_REPLICAS", "2", "replicas is 1, 3 or 5"),
        ("JETQ_REPLICAS", "many", "many"),
    ],
)
def test_settings_out_of_range_are_refused(monkeypatch, setting, value, problem):
    """A value that makes no sense is an error where the app is made."""
    monkeypatch.setenv(setting, value)

    with pytest.raises(ValueError, match=problem):
        App("shop")


def test_lease_has_a_lower_bound():
    """A lease shorter than a second could not be renewed in time."""
    with pytest.raises(ValueError, match="lease is at least 1 second"):
        Queue("mail", lease=0.5)


async def test_without_declare_nothing_is_made(new_app: AppFactory):
    """declare=False on a server without the streams: an error that names what is missing."""
    app = with_task(new_app(declare=False))
    async with app:
        with pytest.raises(QueueMissingError, match=r"jetq streams apply") as caught:
            await app.tasks["work"].enqueue()
        with pytest.raises(QueueMissingError):
            await app.enqueue_many([app.tasks["work"].call()])
        with pytest.raises(QueueMissingError):
            await app.worker().__aenter__()

        assert caught.value.queue == "default"
        assert await streams(app) == {}


async def test_worker_of_many_queues_names_the_missing_one(new_app: AppFactory):
    """Several are looked for at a time; the error is still that of one queue."""
    maker = new_app(queues=[Queue(f"queue-{number}") for number in range(20)])
    async with maker:
        await maker.declarations.apply(maker.queue_names)
        await maker.jetstream.delete_stream(maker.layout.queue_stream_name("queue-13"))

    app = new_app(declare=False, queues=maker.queues.values())
    async with app:
        with pytest.raises(QueueMissingError) as caught:
            await app.worker().__aenter__()

    assert caught.value.queue == "queue-13"


async def test_without_declare_existing_streams_are_used(new_app: AppFactory):
    """Where the streams are there, declare=False works like any other app."""
    maker = with_task(new_app())
    async with maker:
        await maker.declarations.apply(["default"])
        app = with_task(new_app(declare=False))

        async with working(app):
            assert await (await app.tasks["work"].enqueue(7)).result(5) == 7


async def test_difference_is_warned_of_and_left_alone(new_app: AppFactory, client):
    """A stream that somebody changed stays as it is; the log says what differs."""
    first = with_task(new_app())
    async with first:
        await first.tasks["work"].enqueue()
    name = f"jetq-{first.name}-results"
    config = (await client.jetstream().stream_info(name)).config
    config.allow_rollup_hdrs = False
    await client.jetstream().update_stream(config)

    second = with_task(new_app())
    with capture_logs() as logs:
        async with second:
            await second.tasks["work"].enqueue()
            await second.tasks["work"].enqueue()

    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [log["stream"] for log in warnings] == [name]
    assert warnings[0]["differences"] == {"allow_rollup_hdrs": (False, True)}
    assert not (await client.jetstream().stream_info(name)).config.allow_rollup_hdrs


async def test_differences_are_applied_on_request(new_app: AppFactory, client):
    """`apply` makes it all as wanted, and says what it was not; a second time nothing is left."""
    app = with_task(new_app())
    async with app:
        await app.tasks["work"].enqueue()
        name = f"jetq-{app.name}-results"
        config = (await client.jetstream().stream_info(name)).config
        config.allow_rollup_hdrs = False
        await client.jetstream().update_stream(config)

        drifts = await app.declarations.apply(["default"])
        assert [(drift.stream, drift.exists) for drift in drifts] == [(name, True)]
        assert await app.declarations.apply(["default"]) == []
        assert (await client.jetstream().stream_info(name)).config.allow_rollup_hdrs


async def test_two_apps_may_make_the_same_streams_at_once(new_app: AppFactory):
    """A race between two processes that start together is no error."""
    import asyncio

    apps = [with_task(new_app()) for _ in range(5)]

    async def start(app: App):
        async with app:
            return await app.tasks["work"].enqueue()

    jobs = await asyncio.gather(*(start(app) for app in apps))

    assert len(set(jobs)) == 5
