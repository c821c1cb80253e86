"""The programs in `examples/` run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

SHOWN = {
    "hello.py": ["would send 'hi' to ada@example.com"],
    "embed.py": ["-> hello, Ada", "-> hello, Grace", "closing, 2 greetings were sent"],
    "steer.py": [
        "put off: label for o-1, attempt 1",
        "retried: 3",
        "cancelled: nobody will read it",
        "scheduled: scheduled -> cancelled: True",
        "rejected: card 4711 is not valid",
        "retried by hand: charged",
    ],
    "bulk.py": ["enqueued 20000 jobs", "completed 20000 jobs"],
    "processes.py": ["9592 primes below 100000", "counted in other processes: True"],
    "plain_client.py": ["stored in jetq-example-plain-queue-maths", "completed 5"],
}


@pytest.mark.parametrize("example", sorted(SHOWN))
def test_example_shows_what_it_is_for(example: str, server_url: str):
    """Each example runs against a server at `NATS_URL` and prints what it promises."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example],
        env={**os.environ, "NATS_URL": server_url},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr
    for line in SHOWN[example]:
        assert line in done.stdout


def test_every_example_is_run_and_listed():
    """No example is left out of these tests or of the list in `examples/README.md`."""
    files = {path.name for path in EXAMPLES.glob("*.py")}
    listed = set(re.findall(r"\((\w+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8")))

    assert files == SHOWN.keys() == listed
