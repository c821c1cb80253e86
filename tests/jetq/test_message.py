"""What is on the wire: it reads back as it was written, and tolerates what newer versions add."""

import contextlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetq._message import (
    DeadLetter,
    ErrorInfo,
    JobMessage,
    OutcomeRecord,
    decode_job,
    decode_outcome,
)

encode = msgspec.json.encode

texts = st.text()
counts = st.integers(0, 10**9)
moments = st.datetimes(
    min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
)
raws = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).map(lambda value: msgspec.Raw(encode(value)))
errors = st.builds(ErrorInfo, texts, texts, texts)

jobs = st.builds(
    JobMessage,
    task=texts,
    args=raws,
    enqueued_at=st.none() | moments,
    attempt=st.integers(1, 2**53),
    expires_at=st.none() | moments,
    timeout=st.none() | st.floats(0, 1e9),
    headers=st.dictionaries(texts, texts, max_size=3),
    resent=st.booleans(),
    error=st.none() | errors,
)
outcomes = st.builds(
    OutcomeRecord,
    status=st.sampled_from(["completed", "failed", "cancelled", "expired"]),
    task=texts,
    attempt=counts,
    enqueued_at=st.none() | moments,
    started_at=st.none() | moments,
    finished_at=moments,
    worker=texts,
    result=raws | st.just(msgspec.UNSET),
    error=st.none() | errors,
)
letters = st.builds(
    DeadLetter,
    job_id=texts,
    queue=texts,
    priority=texts,
    task=texts,
    reason=texts,
    attempts=counts,
    died_at=moments,
    error=st.none() | errors,
    subject=texts,
    body=st.binary(),
)


@given(jobs)
def test_jobs_read_back_as_written(job):
    """Every field, whatever it holds."""
    assert decode_job(encode(job)) == job


@given(outcomes)
def test_outcomes_read_back_as_written(outcome):
    """Every field; a result that is null is not the same as none."""
    assert decode_outcome(encode(outcome)) == outcome


@given(letters)
def test_dead_letters_read_back_as_written(letter):
    """The body is kept byte for byte, whatever bytes it has."""
    assert DeadLetter.read(letter.headers(), letter.body) == letter


def test_errors_of_any_length_and_any_bytes_can_be_stored():
    """What an exception says never keeps its job from being settled."""
    error = ErrorInfo("caf\udce9" + "x" * 1_000_000)
    letter = DeadLetter(
        job_id="mail.-.x",
        queue="mail",
        priority="normal",
        reason="caf\udce9" + "ä" * 1_000_000,
        attempts=1,
        died_at=datetime.now(UTC),
        error=error,
        subject="",
    )

    assert len(encode(error)) < 10_000
    assert error.message.startswith("caf\\udce9x")
    assert sum(map(len, letter.headers().values())) < 20_000
    assert DeadLetter.read(letter.headers(), b"").reason.startswith("caf\\udce9ä")


@given(jobs, st.dictionaries(texts.map(lambda name: f"x_{name}"), texts))
def test_unknown_fields_are_ignored(job, extra):
    """A field that a newer version adds does not break an older worker."""
    fields = msgspec.json.decode(encode(job)) | extra

    assert decode_job(encode(fields)) == job


@given(st.binary())
def test_any_bytes_are_a_job_or_a_decode_error(data):
    """Nothing that arrives can raise anything else."""
    with contextlib.suppress(msgspec.DecodeError):
        decode_job(data)


def test_shortest_job_is_a_name():
    """All that a client in another language has to write is the task's name."""
    job = decode_job(b'{"$type":"mail.send"}')

    assert (job.task, bytes(job.args), job.attempt) == ("mail.send", b"{}", 1)
    assert job.enqueued_at is job.expires_at is job.error is job.timeout is None


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"$type":null}',
        b'{"$type":"t","attempt":"1"}',
        b'{"$type":"t","enqueued_at":"yesterday"}',
        b'{"$type":"t","headers":{"a":1}}',
        b'{"$type":"t","attempt":0}',
        b'{"$type":"t","attempt":-1000000000}',
        b'{"$type":"t","attempt":1000000000000000000000000000000}',
        b'{"$type":"t","expires_at":"2020-01-01T00:00:00"}',
        b'{"$type":"t","enqueued_at":"2020-01-01T00:00:00"}',
        b'{"$type":"t","timeout":1e999}',
        b'{"$type":"t"',
        b"null",
        b"",
    ],
)
def test_what_is_no_job_is_refused(body):
    """A wrong type anywhere in the envelope is an error."""
    with pytest.raises(msgspec.DecodeError):
        decode_job(body)
