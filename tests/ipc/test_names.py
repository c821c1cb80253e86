"""Names that become part of NATS subjects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import MAX_NAME_LENGTH, InvalidNameError, check_name


@given(st.from_regex(r"[A-Za-z0-9_=-]{1,128}", fullmatch=True))
def test_letters_digits_and_a_few_signs_are_fine(name):
    """What is allowed is returned as it is."""
    assert check_name("queue", name) == name


@given(st.text().filter(lambda text: not text.isascii() or set(text) & set(".*> \t\r\n/\\\0")))
def test_what_means_something_in_subjects_is_refused(name):
    """Dots, wildcards, white space and path separators never get into a subject."""
    with pytest.raises(InvalidNameError):
        check_name("queue", name)


@pytest.mark.parametrize("name", ["", "mail\n", "x" * (MAX_NAME_LENGTH + 1)])
def test_error_says_what_is_named_and_what_is_allowed(name):
    """It shows the kind of thing, the name, and the characters that may be used."""
    with pytest.raises(InvalidNameError, match=r"invalid queue .* letters, digits") as caught:
        check_name("queue", name)

    assert (caught.value.kind, caught.value.name) == ("queue", name)
