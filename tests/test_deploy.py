"""The files in `deploy/` are accepted by a real server and give each role what it needs."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ipc import (
    JetStreamError,
    LocalServer,
    PermissionDeniedError,
    UnconfirmedError,
    find_server_binary,
)
from jetq import App, JobFailedError, LoginRefusedError, Reject, Retry, Task, current_job

DEPLOY = Path(__file__).parents[1] / "deploy"

# Seconds to wait for a refusal; it takes a millisecond.
SILENCE = 0.5


@pytest.fixture(autouse=True)
def passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every user the password `secret`."""
    for role in ("PRODUCER", "WORKER", "ADMIN"):
        monkeypatch.setenv(f"SHOP_{role}_PASSWORD", "secret")
    monkeypatch.setenv("CLUSTER_PASSWORD", "secret")
    monkeypatch.setenv("CLUSTER_ROUTES", "[nats://node:secret@jobs-1:6222]")
    monkeypatch.setenv("NODE_NAME", "jobs-1")


@pytest.fixture
async def server() -> AsyncIterator[LocalServer]:
    """A server with `permissions.conf`, and a second account that is no part of the shop."""
    permissions = (DEPLOY / "permissions.conf").read_text("utf-8")
    other = (
        'accounts { OTHER { jetstream: enabled, users: [{user: "other", password: "secret"}] } }'
    )
    # Two blocks of one name do not add up, so the other account moves into the first.
    inner = other.removeprefix("accounts {").removesuffix("}")
    config = permissions.replace("accounts {", "accounts {" + inner, 1)
    async with LocalServer(config=config) as running:
        yield running


def shop(server: LocalServer, user: str, *, declare: bool = False) -> App:
    """Return the app as one of its users sees it."""
    app = App("shop", servers=server.url.replace("//", f"//{user}:secret@"), declare=declare)

    @app.task(name="add", queue="mail")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task(name="fail_once", queue="mail", retry=Retry(base_delay=0.1))
    async def fail_once() -> int:
        if current_job().attempt == 1:
            raise ValueError("once")
        return current_job().attempt

    @app.task(name="reject", queue="mail")
    async def reject() -> None:
        raise Reject("no")

    _ = add, fail_once, reject
    return app


def task(app: App, name: str) -> Task[..., object]:
    return app.find_task(name)


async def apply_streams(server: LocalServer) -> None:
    """Do what the deploy guide has the admin do first."""
    async with shop(server, "shop-admin") as admin:
        await admin.declarations.apply(admin.queue_names)


@pytest.mark.parametrize("config", ["nats.conf", "cluster/node.conf"])
def test_server_accepts_the_configuration(config: str, tmp_path: Path):
    """A nats-server finds no fault with the files as they are."""
    for source in (DEPLOY / config, DEPLOY / "permissions.conf"):
        (tmp_path / source.name).write_text(source.read_text("utf-8"))

    checked = subprocess.run(
        [find_server_binary(), "--config", tmp_path / Path(config).name, "-t"],
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stderr


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def cluster_node(name: str, folder: Path, route: int) -> LocalServer:
    """Return a node as the cluster's guide has it, with ports and files of this test."""
    config = (DEPLOY / "cluster/node.conf").read_text("utf-8")
    for there, here in {
        'listen: "0.0.0.0:4222"': "",
        'http: "127.0.0.1:8222"': "",
        "0.0.0.0:6222": f"127.0.0.1:{route}",
        "/var/lib/nats": str(folder),
    }.items():
        assert there in config
        config = config.replace(there, here)
    folder.mkdir()
    (folder / "permissions.conf").write_text((DEPLOY / "permissions.conf").read_text("utf-8"))
    return LocalServer(name=name, data_dir=folder, config=config)


@pytest.mark.timeout(120)
async def test_three_nodes_form_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nodes started from one file find each other, and keep every job three times."""
    routes = free_ports(3)
    addresses = ", ".join(f"nats://node:secret@127.0.0.1:{route}" for route in routes)
    monkeypatch.setenv("CLUSTER_ROUTES", f"[{addresses}]")

    async with AsyncExitStack() as stack:
        urls: list[str] = []
        for number, route in enumerate(routes, start=1):
            monkeypatch.setenv("NODE_NAME", f"jobs-{number}")
            node = cluster_node(f"jobs-{number}", tmp_path / f"node{number}", route)
            await stack.enter_async_context(node)
            urls.append(node.url.replace("//", "//shop-admin:secret@"))
        app = App("shop", servers=urls, replicas=3)
        await stack.enter_async_context(open_once_there_is_a_leader(app))
        await apply_once_all_nodes_are_known(app, "mail")

        stream = await app.jetstream.find_stream("jetq-shop-queue-mail")

    assert stream is not None
    assert stream.config["num_replicas"] == 3


@asynccontextmanager
async def open_once_there_is_a_leader(app: App) -> AsyncIterator[None]:
    """Open the app; until the nodes have elected a leader, JetStream does not answer."""
    async with asyncio.timeout(40):
        while not app.is_open:
            try:
                await app.__aenter__()
            except UnconfirmedError:
                await asyncio.sleep(0.2)
    try:
        yield
    finally:
        await app.__aexit__(None, None, None)


async def apply_once_all_nodes_are_known(app: App, queue: str) -> None:
    """Create a queue's streams; a leader that knows two nodes only refuses three replicas."""
    async with asyncio.timeout(20):
        while True:
            try:
                await app.declarations.apply([queue])
                return
            except (JetStreamError, UnconfirmedError):
                await asyncio.sleep(0.2)


async def test_producer_and_worker_need_no_more_than_their_roles(server: LocalServer):
    """With streams made by the admin, jobs are enqueued, run, retried and buried."""
    await apply_streams(server)

    async with shop(server, "shop-producer") as app, shop(server, "shop-worker").worker() as worker:
        working = asyncio.create_task(worker.run())
        add = task(app, "add")
        assert await (await add.enqueue(1, 2)).result(timeout=5) == 3
        assert await (await add.using(delay=0.1, id="o-1").enqueue(1, 2)).result(timeout=5) == 3
        again = await add.using(id="o-1").enqueue(1, 2)
        assert not again.created
        assert (await again.info()).status == "completed"
        unique = await add.using(unique="o-1").enqueue(2, 2)
        assert await unique.result(timeout=5) == 4
        assert await (await task(app, "fail_once").enqueue()).result(timeout=5) == 2
        with pytest.raises(JobFailedError):
            await (await task(app, "reject").enqueue()).result(timeout=5)
        for atomic in (False, True):
            jobs = await app.enqueue_many([add.call(n, n) for n in range(100)], atomic=atomic)
            assert await jobs[-1].result(timeout=5) == 198
        worker.stop()
        await working


async def test_redelivered_job_is_settled_by_a_worker_with_its_role(server: LocalServer):
    """What a worker does for redeliveries only (look, count, purge) is allowed too."""
    await apply_streams(server)
    async with shop(server, "shop-producer") as app:
        job = await task(app, "add").enqueue(1, 2)
        async with shop(server, "shop-admin") as admin:
            await hand_over_and_give_back(admin, "mail")
        async with shop(server, "shop-worker").worker() as worker:
            working = asyncio.create_task(worker.run())

            assert await job.result(timeout=5) == 3

            worker.stop()
            await working
            assert worker.stats.completed == 1


async def hand_over_and_give_back(app: App, queue: str) -> None:
    """Take one job and nak it, so that its next delivery is the second."""
    stream = app.layout.queue_stream_name(queue)
    pulled = app.connection.request_many(
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.normal", b'{"batch": 1, "expires": 2000000000}'
    )
    async for message in pulled:
        await app.connection.publish(message.reply, b"-NAK")
        return


async def is_refused(app: App, subject: str) -> bool:
    """Return whether the server refuses a request to this user."""
    try:
        await app.connection.request(subject, b"{}", timeout=SILENCE)
    except PermissionDeniedError:
        return True
    return False


@pytest.mark.parametrize("user", ["shop-producer", "shop-worker"])
async def test_only_the_admin_changes_streams(server: LocalServer, user: str):
    """Producers and workers cannot create, change or delete streams and consumers."""
    await apply_streams(server)
    changes = [
        "$JS.API.STREAM.DELETE.jetq-shop-queue-mail",
        "$JS.API.STREAM.UPDATE.jetq-shop-queue-mail",
        "$JS.API.STREAM.CREATE.mine",
        "$JS.API.STREAM.MSG.DELETE.jetq-shop-queue-mail",
        "$JS.API.CONSUMER.DELETE.jetq-shop-queue-mail.normal",
    ]

    async with shop(server, user) as app:
        refused = await asyncio.gather(*(is_refused(app, subject) for subject in changes))

    assert dict(zip(changes, refused, strict=True)) == dict.fromkeys(changes, True)


async def test_producer_can_neither_take_nor_settle_jobs(server: LocalServer):
    """A producer cannot take jobs, forge outcomes, or write under another app's name."""
    await apply_streams(server)
    subjects = [
        "$JS.API.CONSUMER.MSG.NEXT.jetq-shop-queue-mail.normal",
        "$JS.API.STREAM.PURGE.jetq-shop-queue-mail",
        "$JS.ACK.jetq-shop-queue-mail.normal.1.1.1.1.0",
        "jetq.shop.result.mail.-.x",
        "jetq.shop.dead.mail.-.x",
        "jetq.other.task.mail.normal.-.x",
    ]

    async with shop(server, "shop-producer") as app:
        refused = await asyncio.gather(*(is_refused(app, subject) for subject in subjects))

    assert dict(zip(subjects, refused, strict=True)) == dict.fromkeys(subjects, True)


async def test_an_app_sees_nothing_of_another_account(server: LocalServer):
    """Streams and messages of another app's account do not exist for the shop, admin included."""
    await apply_streams(server)
    other = App("other", servers=server.url.replace("//", "//other:secret@"))
    heard: list[str] = []

    async with other, shop(server, "shop-admin") as admin:
        await admin.connection.subscribe(">", lambda message: heard.append(message.subject))
        await other.declarations.apply(["mail"])
        await other.jetstream.publish("jetq.other.task.mail.normal.-.x", b"{}")
        assert await admin.jetstream.find_stream("jetq-other-queue-mail") is None
        # Once this request is answered, whatever else was for us would have come before.
        with pytest.raises(JetStreamError):
            await admin.jetstream.delete_stream("jetq-other-queue-mail")

    assert not [subject for subject in heard if subject.startswith("jetq.other")]


async def test_nobody_gets_in_without_a_password(server: LocalServer):
    """Where there are accounts, an anonymous client is refused, with an error that says so."""
    app = App("shop", servers=server.url)

    with pytest.raises(LoginRefusedError):
        await app.__aenter__()
