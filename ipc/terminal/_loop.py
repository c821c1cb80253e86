"""The event loop that programs run in."""

from __future__ import annotations

import asyncio

__all__ = ["fast_event_loop"]


def fast_event_loop() -> type[asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
