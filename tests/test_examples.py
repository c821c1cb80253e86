"""The programs in `examples/` run as they stand."""

import os
import re
import signal
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

SHOP = [
    "users  | Ada is user 1",
    "worker | mail to ada@example.com: welcome, Ada",
    "shop   | send_welcome has completed",
    "orders | order 1: a teapot for Ada",
    "worker | mail to ada@example.com: receipt for order 1",
    "orders | the teapot is on its way to Ada",
    "shop   | send_receipt has completed",
    "shop   | shop.ShipOrder has completed",
    "shop   | SoldOutError: there is no teapot left (code 409)",
    "shop   | UserNotFoundError: there is no user 99 (code 404)",
]


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


def open_shop() -> subprocess.Popen[str]:
    """Start the shop, which brings a server of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.shop"],
        cwd=EXAMPLES.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_shop_opens_sells_and_closes():
    """Two services and a worker talk to each other, and nothing of them goes wrong or stays."""
    # Whatever stayed would hold the other ends of our pipes, so that this would not return.
    shop = open_shop()
    said, logged = shop.communicate(timeout=50)

    assert shop.returncode == 0, logged
    assert logged == ""
    for line in SHOP:
        assert line in said.splitlines()


def test_shop_closes_on_ctrl_c():
    """In the middle of everything it stops all that it started, and says nothing more of it."""
    shop = open_shop()
    assert shop.stdout is not None
    assert shop.stdout.readline() == "shop   | open\n"
    shop.send_signal(signal.SIGINT)
    _, logged = shop.communicate(timeout=20)

    assert shop.returncode == 130
    assert logged == ""


def test_every_example_is_run_and_listed():
    """No example is left out of these tests or of the list in `examples/README.md`."""
    files = {path.name for path in EXAMPLES.glob("*.py")}
    of_the_shop = {f"shop/{path.name}" for path in EXAMPLES.glob("shop/*.py")}
    listed = set(re.findall(r"\(([\w/]+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8")))

    assert files == SHOWN.keys()
    assert files | of_the_shop - {"shop/__init__.py"} == listed
