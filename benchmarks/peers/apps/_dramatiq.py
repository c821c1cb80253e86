"""Dramatiq: functions in threads, Redis lists."""

from __future__ import annotations

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks._workload import CONCURRENCY, TEXT
from benchmarks.peers._job import RESULTS, URL, count

# None of the default middleware: time limits, retries, pipelines and so on.
broker = RedisBroker(url=URL, middleware=[])
if RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True) if RESULTS else dramatiq.actor
def job(number: int, text: str) -> int | None:
    return count(number)


def connect() -> None:
    """Nothing to do: connections are opened where they are used."""


def fill(client: None, numbers: range) -> None:
    for number in numbers:
        job.send(number, TEXT)


def send(client: None, number: int) -> None:
    job.send(number, TEXT)


def ask(client: None, number: int) -> int | None:
    return job.send(number, TEXT).get_result(block=True, timeout=10_000)


def work() -> None:
    worker = dramatiq.Worker(broker, worker_threads=CONCURRENCY)
    worker.start()
    while True:
        time.sleep(1)
