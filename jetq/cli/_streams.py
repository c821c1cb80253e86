"""`jetq streams`: what an app needs on the server, and what is there."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import typer

from ipc.terminal import JsonOption, LogLevel, configure_logging, print_json, say
from jetq._app import App
from jetq._layout import PRIORITIES

from ._load import load_app
from ._options import AppOption

__all__ = ["group"]

group = typer.Typer(name="streams", help="Compare the server with what an app needs, and adapt it.")


class Difference(msgspec.Struct, frozen=True):
    """A setting that is not as wanted."""

    has: Any
    wants: Any


class Report(msgspec.Struct, frozen=True):
    """A stream or consumer and how it is on the server."""

    stream: str
    status: Literal["ok", "missing", "differs"]
    consumer: str | None = None
    """Of which consumer of the stream this speaks, if not of the stream itself."""
    differences: dict[str, Difference] = {}

    @property
    def name(self) -> str:
        """The name for people."""
        return self.stream if self.consumer is None else f"{self.stream} consumer {self.consumer}"


@group.callback(no_args_is_help=True)
def prepare() -> None:
    """Compare the server with what an app needs, and adapt it."""
    configure_logging(LogLevel.ERROR)


@group.command()
def show(app: AppOption, json: JsonOption = False) -> None:
    """Show what is missing on the server or differs there; nothing is changed."""

    async def ask() -> list[Report]:
        async with load_app(app) as opened:
            return await compare(opened)

    reports = asyncio.run(ask())
    if json:
        print_json(reports)
        return
    print_reports(reports)
    if any(report.status != "ok" for report in reports):
        say("\n`jetq streams apply` makes it so")


@group.command()
def apply(app: AppOption, json: JsonOption = False) -> None:
    """Create what is missing and change what differs; show what that was."""

    async def ask() -> list[Report]:
        async with load_app(app) as opened:
            reports = await compare(opened)
            await opened.declarations.apply(opened.queue_names)
            return reports

    changed = [report for report in asyncio.run(ask()) if report.status != "ok"]
    if json:
        print_json(changed)
    elif changed:
        print_reports(changed, done=True)
    else:
        say("everything was as wanted")


async def compare(app: App) -> list[Report]:
    """Compare the server with what an app needs, stream by stream."""
    declarations = app.declarations
    reports: list[Report] = []
    for config in declarations.streams(app.queue_names):
        drift = await declarations.compare(config)
        if drift is None:
            reports.append(Report(config.name, "ok"))
        elif not drift.exists:
            reports.append(Report(config.name, "missing"))
        else:
            differences = {
                setting: Difference(has, wants)
                for setting, (has, wants) in drift.differences.items()
            }
            reports.append(Report(config.name, "differs", differences=differences))
    for queue in app.queue_names:
        reports += await compare_consumers(app, queue)
    return reports


async def compare_consumers(app: App, queue: str) -> list[Report]:
    """Compare the consumers of one queue."""
    stream = app.layout.queue_stream_name(queue)
    reports: list[Report] = []
    for priority in PRIORITIES:
        wanted = app.layout.consumer(app.declarations.queue(queue), priority)
        found = await app.jetstream.find_consumer(stream, wanted.durable_name)
        if found is None:
            reports.append(Report(stream, "missing", wanted.durable_name))
            continue
        has = found.config.get("ack_wait")
        if has == wanted.ack_wait:
            reports.append(Report(stream, "ok", wanted.durable_name))
        else:
            differences = {"ack_wait": Difference(has, wanted.ack_wait)}
            reports.append(Report(stream, "differs", wanted.durable_name, differences))
    return reports


def print_reports(reports: list[Report], *, done: bool = False) -> None:
    """Print reports like a diff: `+` is missing, `~` differs."""
    signs = {"ok": " ", "missing": "+", "differs": "~"}
    words = {"missing": "created", "differs": "changed"} if done else {}
    for report in reports:
        status = words.get(report.status, report.status)
        say(f"{signs[report.status]} {report.name}: {status}")
        for setting, difference in report.differences.items():
            has, wants = shown(difference.has), shown(difference.wants)
            say(f"    {setting}: {has} -> {wants}")


def shown(value: Any) -> str:
    """Return a setting as it is written in JSON."""
    return msgspec.json.encode(value).decode()
