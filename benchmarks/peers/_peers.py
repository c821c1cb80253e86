"""The peers: how each is set to be fast, and what becomes of a job whose worker is killed.

What is said of a killed worker is what the peer documents for these settings.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["JETQ_DURABILITY", "JETQ_SETTINGS", "PEERS", "SERVERS", "Peer"]

SERVERS = {
    "nats": "NATS, JetStream with file storage",
    "redis": "Redis in memory, no AOF, no snapshots: a restart loses all jobs",
}

JETQ_SETTINGS = "async task; 100 slots; enqueue_many"
JETQ_DURABILITY = "acked after its run, and after its result is stored; delivered again"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A job queue that jetq is compared with."""

    name: str
    """Of its app, its requirements and its environment."""
    title: str
    server: Literal["nats", "redis"]
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    """What its app runs in; asyncio also for an app that is not async, where it means nothing."""
    settings: str
    durability: str

    @property
    def app(self) -> str:
        """The module of its app, which its environment imports."""
        return f"benchmarks.peers.apps._{self.name}"


PEERS = (
    Peer(
        name="taskiq_nats",
        title="taskiq, NATS",
        server="nats",
        settings="async task; pull broker, fetches 100, prefetches 100; orjson; enqueues 200 at a "
        "time; results in an object store, read every ms until there",
        durability="acked after its run and its result; delivered again after 30 s",
    ),
    Peer(
        name="taskiq_redis",
        title="taskiq, Redis",
        server="redis",
        settings="async task; stream broker, reads 100, prefetches 100; orjson; enqueues 200 at a "
        "time; result asked for every ms",
        durability="acked after its run and its result; claimed by another worker after 10 min",
    ),
    Peer(
        name="faststream",
        title="FastStream, NATS",
        server="nats",
        settings="async handler; pull subscriber, batches of 100, each run at once; no type "
        "checks; publishes 200 at a time; results go to a stream, and as a reply",
        durability="acked after its run; delivered again after 30 s",
    ),
    Peer(
        name="saq",
        title="SAQ",
        server="redis",
        settings="async task; 100 slots, no time limit; enqueues 100 at a time; result asked for "
        "every ms",
        durability="stays on the list of active jobs; without a time limit nobody takes it up",
    ),
    Peer(
        name="arq",
        title="arq",
        server="redis",
        settings="async task; 100 slots; looks for jobs and results every 5 ms (default 500); "
        "enqueues 200 at a time",
        durability="stays in the queue; run again when its time limit of 5 min is over",
    ),
    Peer(
        name="streaq",
        title="streaQ",
        server="redis",
        settings="async task; 100 slots, prefetches 100; coredis without checks; enqueue_many; "
        "result(), which takes 0.1 s to unsubscribe",
        durability="acked after its run; claimed by another worker after 60 s",
    ),
    Peer(
        name="docket",
        title="docket",
        server="redis",
        settings="async task; 100 slots, looks for free ones every 2 ms (default 250); 200 "
        "connections; add_many",
        durability="acked after its run; delivered again after 5 min",
    ),
    Peer(
        name="celery",
        title="Celery",
        server="redis",
        loop="asyncio",
        settings="function; 100 threads, prefetches 64 for each; no gossip, mingle, heartbeat or "
        "remote control; enqueues as a group",
        durability="acked before its run, so lost; the prefetched are restored after an hour",
    ),
    Peer(
        name="rq",
        title="RQ",
        server="redis",
        loop="asyncio",
        settings="function; SimpleWorker, no fork, one job at a time (it has no other pool within "
        "a process); JSON; enqueue_many",
        durability="set aside as failed when its heartbeat is overdue; not run again",
    ),
    Peer(
        name="dramatiq",
        title="Dramatiq",
        server="redis",
        loop="asyncio",
        settings="function; 100 threads, prefetches 200; no middleware but for results; enqueues "
        "one after the other",
        durability="acked after its run; queued again after 60 s without a heartbeat",
    ),
    Peer(
        name="huey",
        title="Huey",
        server="redis",
        loop="asyncio",
        settings="function; 100 greenlets; results notify; enqueues one after the other (map)",
        durability="taken off the list before its run, so lost",
    ),
)
