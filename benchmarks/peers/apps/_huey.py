"""Huey: functions in greenlets, a Redis list."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from huey import RedisHuey  # noqa: E402

from benchmarks._workload import CONCURRENCY, TEXT  # noqa: E402
from benchmarks.peers._job import RESULTS, URL, count  # noqa: E402

huey = RedisHuey("bench", url=URL, results=RESULTS, notify_result=RESULTS)


@huey.task()
def job(number: int, text: str) -> int | None:
    return count(number)


def connect() -> None:
    """Nothing to do: connections are opened where they are used."""


def fill(client: None, numbers: range) -> None:
    job.map([(number, TEXT) for number in numbers])


def send(client: None, number: int) -> None:
    job(number, TEXT)


def ask(client: None, number: int) -> int | None:
    return job(number, TEXT).get(blocking=True, timeout=10)


def work() -> None:
    huey.create_consumer(workers=CONCURRENCY, worker_type="greenlet", periodic=False).run()
