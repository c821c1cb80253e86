"""A task that blocks the event loop is noticed and named."""

import time

from structlog.testing import capture_logs

from jetq import App
from tests.conftest import until, working


async def test_task_that_blocks_the_event_loop_is_named(app: App):
    """The log says which task and which job blocked, and where it stood."""

    @app.task(name="blocker")
    async def blocker():
        time.sleep(1.6)  # noqa: ASYNC251

    with capture_logs() as logs:
        async with working(app):
            job = await blocker.enqueue()
            await job.result(10)
            await until(lambda: any("blocked" in log["event"] for log in logs), "it is logged")

    (warning,) = [log for log in logs if "blocked" in log["event"]]
    assert warning["task"] == "blocker"
    assert warning["job_id"] == job.id
    assert warning["blocked_for"] >= 1
    assert "time.sleep(1.6)" in warning["stack"]


async def test_plain_functions_may_block(app: App):
    """What runs in a thread does not hold up the event loop, and is not complained about."""

    @app.task
    def blocker():
        time.sleep(1.4)

    with capture_logs() as logs:
        async with working(app) as worker:
            await (await blocker.enqueue()).result(10)
            assert worker.is_live

    assert not [log for log in logs if "blocked" in log["event"]]
