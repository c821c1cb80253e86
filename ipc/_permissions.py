"""What a program has to be allowed on the server, and nothing else.

Replies go where the asker says: `allow_responses` lets a service publish there, and only
there; and lets who asks for a stream give credit for more. The inbox is the program's own, so
that nobody reads what is not for him.

Source: NATS documentation, "Authorization" (permissions, allow_responses).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ._event_streams import PARTS_OF_DURABLE
from ._micro import VERBS
from ._subjects import PARTS, Subjects
from ._surface import Surface

__all__ = ["Permissions", "permissions"]

# A streaming answer is as many replies as it has items.
MAX_RESPONSES = 1_000_000
RESPONSE_TIME = "10m"

Grant = tuple[str, str]
"""A subject, and why."""


class Permissions(msgspec.Struct, frozen=True):
    """Subjects with the reason for each."""

    name: str
    publish: dict[str, str]
    subscribe: dict[str, str]
    responds: bool
    """Whether it answers requests, or streams that it asks for."""

    def __str__(self) -> str:
        """Return the block for nats-server's configuration."""
        lines = [f"# What {self.name} needs, and nothing else.", "permissions: {"]
        for what, subjects in (("publish", self.publish), ("subscribe", self.subscribe)):
            width = max((len(subject) for subject in subjects), default=0) + 2
            lines.append(f"  {what}: {{")
            lines.append("    allow: [")
            lines += [
                f"      {quoted(subject):{width}}  # {why}" for subject, why in subjects.items()
            ]
            lines += ["    ]", "  }"]
        if self.responds:
            lines.append("  # Answers, to whoever asked; a stream is as many as it has items.")
            lines.append(
                f'  allow_responses: {{ max: {MAX_RESPONSES}, expires: "{RESPONSE_TIME}" }}'
            )
        return "\n".join([*lines, "}"])


def permissions(surface: Surface, subjects: Subjects | None = None) -> Permissions:
    """Return what a program needs that finds its streams and durables declared."""
    subjects = subjects or Subjects()
    publish = dict(publishing(surface, subjects))
    subscribe = dict(subscribing(surface, subjects))
    responds = bool(surface.answers or surface.asks)
    return Permissions(surface.name, publish, subscribe, responds)


def publishing(surface: Surface, subjects: Subjects) -> Iterator[Grant]:
    """Yield what it publishes to, and why."""
    bucket = subjects.bucket_stream
    yield "$JS.API.INFO", "is the server there?"
    for kind in surface.publishes:
        whole = subjects.event(kind.name)
        yield whole if kind.key is None else subjects.events(kind.name), "publishes"
        yield f"$JS.API.STREAM.INFO.{subjects.stream(kind.domain)}", "is its stream there?"
    for kind in surface.asks:
        yield subjects.request(kind.name), "asks"
        yield subjects.gather(kind.name), "asks all"
        yield f"$JS.API.DIRECT.GET.{bucket}", "asks all: who runs?"
    for durable, kinds in surface.durables.items():
        ordered = durable in surface.ordered
        for domain in dict.fromkeys(name.partition(".")[0] for k in kinds for name in k.names):
            stream = subjects.stream(domain)
            yield f"$JS.API.STREAM.INFO.{stream}", "is its stream there?"
            other = durable if ordered else PARTS_OF_DURABLE.format(durable=durable, part=0)
            yield f"$JS.API.CONSUMER.INFO.{stream}.{other}", f"is {durable} something else?"
            consumers = [durable]
            if ordered:
                parts = range(PARTS)
                consumers = [PARTS_OF_DURABLE.format(durable=durable, part=part) for part in parts]
            for consumer in consumers:
                yield f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", f"durable {durable}"
                yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", f"durable {durable}"
                yield f"$JS.ACK.{stream}.{consumer}.>", f"durable {durable}"
            yield f"$JS.API.STREAM.INFO.{subjects.dead_stream(domain)}", "dead letters"
            yield subjects.dead(domain, durable, "*"), "dead letters"
            yield subjects.tries_key(domain, durable, "*"), "counts what fails"
        yield f"$JS.API.STREAM.MSG.GET.{bucket}", "counts what fails"
    yield f"$JS.API.STREAM.INFO.{bucket}", "registers"
    yield f"$JS.API.STREAM.MSG.GET.{bucket}", "registers its types"
    for kind in surface.types:
        yield subjects.type_key(kind.name), "registers its types"
    yield subjects.instance_key(surface.name, "*"), "says that it runs"


def subscribing(surface: Surface, subjects: Subjects) -> Iterator[Grant]:
    """Yield what it subscribes to, and why."""
    yield f"_INBOX.{surface.name}.>", "answers to it"
    for kind in surface.handles:
        for name in kind.names:
            yield subjects.events(name), "handles"
    if not surface.is_service:
        return
    for kind in surface.answers:
        for name in kind.names:
            yield subjects.request(name), "answers"
            yield subjects.gather(name), "answers, when all are asked"
    for verb in VERBS:
        yield f"$SRV.{verb}", "is found"
        yield f"$SRV.{verb}.{surface.name}", "is found"
        yield f"$SRV.{verb}.{surface.name}.*", "is found"


def quoted(subject: str) -> str:
    """Return a subject as nats-server reads it."""
    return f'"{subject}"'
