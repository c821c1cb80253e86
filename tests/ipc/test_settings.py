"""Where the server is: arguments first, environment second; passwords are never shown."""

from pathlib import Path

import pytest

from ipc import DEFAULT_SERVER, Settings, redact


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing is set outside."""
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.delenv("NATS_CREDS", raising=False)


def test_default_is_the_local_server():
    """Without any word about it, the server is on this machine."""
    assert Settings.load().servers == (DEFAULT_SERVER,) == ("nats://127.0.0.1:4222",)


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        ("nats://a:1", ("nats://a:1",)),
        ("nats://a:1, nats://b:2", ("nats://a:1", "nats://b:2")),
        (["nats://a:1", "nats://b:2"], ("nats://a:1", "nats://b:2")),
        ("", (DEFAULT_SERVER,)),
    ],
)
def test_servers_may_be_one_or_several(servers, found):
    """One URL, several separated by commas, or a sequence."""
    assert Settings.load(servers).servers == found


def test_environment_counts_where_nothing_is_given(monkeypatch):
    """NATS_URL and NATS_CREDS are for what the code leaves open."""
    monkeypatch.setenv("NATS_URL", "nats://env:1")
    monkeypatch.setenv("NATS_CREDS", "/env.creds")

    assert Settings.load().servers == ("nats://env:1",)
    assert Settings.load().credentials == Path("/env.creds")
    assert Settings.load("nats://arg:1", credentials="/arg.creds").servers == ("nats://arg:1",)
    assert Settings.load(credentials="/arg.creds").credentials == Path("/arg.creds")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://ada:secret@host:4222", "nats://***@host:4222"),
        ("nats://token@host", "nats://***@host"),
        ("ada:secret@host", "nats://***@host"),
        ("nats://a:p@ss@host", "nats://***@host"),
        ("nats://ada:se/secret@host:4222", "nats://***@host:4222"),
        ("nats://ada:se#secret@host", "nats://***@host"),
        ("nats://ada:se?secret@host", "nats://***@host"),
        ("nats://host:4222", "nats://host:4222"),
        ("tls://ada:secret@[::1]:4222", "tls://***@[::1]:4222"),
    ],
)
def test_passwords_are_not_shown(url, shown):
    """Logs and errors show where, not who."""
    assert redact(url) == shown
    assert "secret" not in repr(Settings.load(url))
