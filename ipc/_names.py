"""Names that become part of NATS subjects, streams and consumers."""

from __future__ import annotations

import re

from ._errors import InvalidNameError

__all__ = ["MAX_NAME_LENGTH", "check_name"]

MAX_NAME_LENGTH = 100
"""Characters; two of them fit into a stream's name, which ends at 255 (a file name)."""

_ALLOWED = re.compile(r"[A-Za-z0-9_=-]+")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can stand as one token of a NATS subject.

    Dots separate tokens, `*` and `>` are wildcards, spaces end a subject; what
    remains is narrowed to letters, digits, `-`, `_` and `=`, because the same
    name also becomes a stream's and a file's.

    Args:
        kind: What is named, for the error: "queue", "app", "job id".

    Raises:
        InvalidNameError: The name is empty, too long or has other characters.

    Source: NATS ADR-6 (naming rules).
    """
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH or not _ALLOWED.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidNameError(kind, name)
    return name
