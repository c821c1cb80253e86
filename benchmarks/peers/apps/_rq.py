"""RQ: functions, one after the other, in Redis."""

from __future__ import annotations

from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from benchmarks._workload import TEXT
from benchmarks.peers._job import RESULTS, URL, count

KEPT = 3600 if RESULTS else 0
"""Seconds that a finished job and its result are kept."""


def job(number: int, text: str) -> int | None:
    return count(number)


def connect() -> Queue:
    return Queue(connection=Redis.from_url(URL), serializer=JSONSerializer)


def fill(queue: Queue, numbers: range) -> None:
    queue.enqueue_many(
        [Queue.prepare_data(job, (number, TEXT), result_ttl=KEPT) for number in numbers]
    )


def send(queue: Queue, number: int) -> None:
    queue.enqueue(job, number, TEXT, result_ttl=KEPT)


def ask(queue: Queue, number: int) -> int | None:
    result = queue.enqueue(job, number, TEXT, result_ttl=KEPT).latest_result(timeout=10)
    assert result is not None
    return result.return_value


def work() -> None:
    queue = connect()
    worker = SimpleWorker(
        [queue], connection=queue.connection, serializer=JSONSerializer, log_job_description=False
    )
    worker.log_result_lifespan = False
    worker.work(logging_level="WARNING")
