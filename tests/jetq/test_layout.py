"""Names on the server: an id leads to its subjects, and nothing can pretend to be another."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import InvalidNameError
from jetq import InvalidJobIdError, Priority
from jetq._layout import NO_KEY, PRIORITIES, JobId, Layout, key_token, new_token

names = st.from_regex(r"[A-Za-z0-9_=-]{1,128}", fullmatch=True)
keys = st.text(min_size=1)
job_ids = st.builds(JobId, names, st.just(NO_KEY) | keys.map(key_token), names)


@given(job_ids)
def test_ids_survive_being_text(job):
    """What is shown as an id is read back as the same job."""
    assert JobId.parse(str(job)) == job


@given(job_ids, st.sampled_from(PRIORITIES))
def test_subject_of_a_job_names_it(job, priority):
    """Waiting or scheduled, the subject alone says which job it is and how urgent."""
    layout = Layout("shop")

    assert Layout.parse(layout.task(job, priority)) == (job, priority)
    assert Layout.parse(layout.later(job, priority)) == (job, priority)


@given(keys)
def test_keys_of_any_text_fit_into_a_subject(key):
    """People's keys are addresses, paths, anything: the token has no dot, space or wildcard."""
    assert re.fullmatch(r"~?[A-Za-z0-9_=][A-Za-z0-9_=-]{0,63}", key_token(key))


@given(keys, keys)
def test_different_keys_have_different_tokens(one, other):
    """Two keys never stand for each other, nor for "no key"."""
    assert (key_token(one) == key_token(other)) == (one == other)
    assert key_token(one) != NO_KEY


def test_readable_keys_stay_readable():
    """What fits into a subject is shown as it is."""
    assert key_token("welcome-ada_7") == "welcome-ada_7"
    assert key_token("-") != NO_KEY
    assert key_token("welcome ada").startswith("~")


@given(st.text())
def test_no_text_passes_for_an_id_that_is_none(text):
    """Any text is either an id of exactly this spelling, or refused."""
    try:
        job = JobId.parse(text)
    except (InvalidJobIdError, InvalidNameError):
        return
    assert str(job) == text
    assert not set(text) & set(" *>\r\n\t")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "jetq.shop.task.mail.normal.-",
        "jetq.shop.task.mail.urgent.-.x",
        "jetq.shop.task.mail.normal.-.x.y",
        "jetq.shop.result.mail.-.x",
        "jetq.shop.task.mail.normal.-.*",
        "jetq.shop.task.mail.normal.-.>",
        "jetq.shop.task.mail.normal.*.x",
        "jetq.shop.task.*.normal.-.x",
        "jetq.shop.task.mail.normal.-.",
        "jetq.shop.task.mail.normal.-.\ufffd",
    ],
)
def test_other_subjects_are_no_jobs(subject):
    """What jetq did not write is told apart, not guessed at."""
    assert Layout.parse(subject) is None


@given(job_ids, job_ids, st.sampled_from(PRIORITIES))
def test_filter_of_a_job_matches_its_own_subjects_only(job, other, priority):
    """Looking for a job finds it anywhere, and never another one."""
    layout = Layout("shop")
    pattern = re.escape(layout.anywhere(job)).replace(r"\*", r"[^.]+")

    assert re.fullmatch(pattern, layout.task(job, priority))
    assert re.fullmatch(pattern, layout.later(job, priority))
    assert bool(re.fullmatch(pattern, layout.task(other, priority))) == (other == job)


def test_tokens_do_not_repeat():
    """A random token is long enough to be a job's alone, and fits into a subject."""
    tokens = {new_token() for _ in range(10_000)}

    assert len(tokens) == 10_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", token) for token in tokens)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", ">", "ä", "x" * 129])
def test_app_names_must_fit_into_subjects(name):
    """The error says what is wrong with which name."""
    with pytest.raises(InvalidNameError, match="invalid app"):
        Layout(name)


def test_priorities_are_four():
    """Most urgent first."""
    assert [str(priority) for priority in Priority] == ["critical", "high", "normal", "low"]
