"""Celery: functions in threads, Redis lists."""

from __future__ import annotations

from celery import Celery, group

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count

app = Celery("bench", broker=URL, backend=URL if RESULTS else None)
app.conf.update(
    task_ignore_result=not RESULTS,
    worker_prefetch_multiplier=64,
    worker_enable_remote_control=False,
    task_create_missing_queues=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="job")
def job(number: int, text: str) -> int | None:
    return count(number)


def connect() -> None:
    """Nothing to do: connections are opened where they are used."""


def fill(client: None, numbers: range) -> None:
    group(job.s(number, TEXT) for number in numbers).apply_async()


def send(client: None, number: int) -> None:
    job.delay(number, TEXT)


def ask(client: None, number: int) -> int | None:
    return job.delay(number, TEXT).get(timeout=10)


def work() -> None:
    worker = app.Worker(
        pool="threads",
        concurrency=CONCURRENCY,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
