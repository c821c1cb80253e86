"""Where the server is and how to log in: arguments first, environment second."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import msgspec

__all__ = ["DEFAULT_SERVER", "Settings", "redact"]

DEFAULT_SERVER = "nats://127.0.0.1:4222"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach NATS. Never shows passwords when printed."""

    servers: tuple[str, ...]
    """URLs of any nodes of one cluster; the others are discovered."""
    credentials: Path | None = None
    """A `.creds` file (JWT and seed), as `nsc` writes it."""
    tls: ssl.SSLContext | None = None
    name: str = "ipc"
    """Shown by the server's monitoring beside the connection."""
    inbox: str = "_INBOX"
    """What the subjects begin with on which answers come: `_INBOX`, or one of its own, which
    permissions can tell from others' (NATS documentation, "inbox prefix")."""
    connect_timeout: float = 10.0
    """Seconds that opening may take, over all servers and tries."""

    @classmethod
    def load(
        cls,
        servers: str | Sequence[str] | None = None,
        *,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "ipc",
        inbox: str = "_INBOX",
        connect_timeout: float = 10.0,
    ) -> Settings:
        """Return settings from arguments, else `NATS_URL` and `NATS_CREDS`, else localhost.

        Args:
            servers: One URL, several separated by commas, or a sequence.
        """
        found = servers if servers is not None else os.environ.get("NATS_URL", DEFAULT_SERVER)
        urls = found.split(",") if isinstance(found, str) else found
        creds = credentials if credentials is not None else os.environ.get("NATS_CREDS")
        return cls(
            servers=tuple(url.strip() for url in urls if url.strip()) or (DEFAULT_SERVER,),
            credentials=Path(creds) if creds else None,
            tls=tls,
            name=name,
            inbox=inbox,
            connect_timeout=connect_timeout,
        )

    @property
    def shown_servers(self) -> str:
        """The URLs for people and logs, without passwords."""
        return ", ".join(redact(url) for url in self.servers)

    def __repr__(self) -> str:
        return f"Settings(servers={self.shown_servers!r}, name={self.name!r})"


def redact(url: str) -> str:
    """Return `url` with user name, password or token replaced by `***`."""
    # Not taken apart as a URL: a password with "/" or "#" would end up in its path.
    scheme, _, rest = url.rpartition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme or 'nats'}://***@{host}" if at else url
