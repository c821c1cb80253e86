"""What is seen while the show goes on: a live picture on a terminal, else plain lines."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ._progress import Progress, label

__all__ = ["Display", "Lines", "Picture", "display_on"]

BAR = 26
BLOCKS = "▁▂▃▄▅▆▇█"
# Lines of the picture that are not events, with one to spare for the cursor.
REST_OF_PICTURE = 18
SECONDS_A_LINE = 2.0

WORKER_STYLES = {"starting": "yellow", "working": "green", "killed": "bold red", "gone": "dim"}


class Display(Protocol):
    """Something that shows progress, as often as it is told to."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def show(self, progress: Progress) -> None:
        """Show how things are now."""
        ...


def display_on(console: Console) -> Display:
    """Return what the console can show."""
    moving = console.is_terminal and not console.is_dumb_terminal
    return Picture(console) if moving else Lines(console)


class Lines:
    """Events as they come, and every other second how far it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._events = 0
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, progress: Progress) -> None:
        """Print what is new."""
        for event in progress.events[self._events :]:
            self._print(event.at, event.text)
        self._events = len(progress.events)
        if progress.seconds >= self._next:
            self._next = progress.seconds + SECONDS_A_LINE
            ended = progress.ended.total()
            enqueued = sum(progress.known(task) for task in progress.planned)
            waiting = sum(progress.waiting.values())
            self._print(
                progress.seconds,
                f"- {ended:,} of {enqueued:,} jobs ended, {progress.rate:,.0f}/s, "
                f"{waiting:,} in the queues",
            )

    def _print(self, at: float, text: str) -> None:
        self._console.print(f"{at:5.1f} s  {text}", highlight=False, soft_wrap=True)


class Picture:
    """A picture that is drawn anew; the last one stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Draw it."""
        num_events = min(max(self._console.height - REST_OF_PICTURE, 4), 10)
        self._live.update(picture(progress, num_events), refresh=True)


def picture(progress: Progress, num_events: int) -> RenderableType:
    """Return everything worth seeing, in fewer than 80 columns."""
    events = [
        Text.assemble((f"{event.at:5.1f} s  ", "dim"), event.text, overflow="ellipsis")
        for event in progress.events[-num_events:]
    ]
    for event in events:
        event.no_wrap = True
    blank = [Text()] * (num_events - len(events))
    return Group(bars(progress), Text(), queues(progress), workers(progress), *events, *blank)


def bars(progress: Progress) -> Table:
    """Return how far each task's jobs are."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for task in progress.app.tasks.values():
        name = label(task.name)
        ended, enqueued = progress.ended[name], progress.known(name)
        table.add_row(
            Text(name, "bold"),
            Text(task.priority, "dim"),
            bar(ended, enqueued, max(progress.planned.get(name, 0), enqueued, 1)),
            f"{ended:,} / {enqueued:,}",
        )
    total = Text.assemble((f"{progress.rate:,.0f}", "bold"), " jobs/s")
    table.add_row(Text(f"{progress.seconds:.0f} s", "bold"), "", sparkline(progress), total)
    return table


def bar(ended: int, enqueued: int, planned: int) -> Text:
    """Return a bar: ended, enqueued, still to come."""
    done = BAR * ended // planned
    known = max(-(-BAR * enqueued // planned), done)
    return Text.assemble(
        ("━" * done, "green"),
        ("━" * (known - done), "yellow"),
        ("━" * (BAR - known), "bright_black"),
    )


def sparkline(progress: Progress) -> Text:
    """Return the last rates as a line of blocks, relative to the highest."""
    rates = list(progress.rates)[-BAR:]
    top = max([*progress.rates, 1.0])
    return Text("".join(BLOCKS[int(rate / top * 7.999)] for rate in rates), "cyan")


def queues(progress: Progress) -> Text:
    """Return how long the queues are."""
    text = Text("queues   ", no_wrap=True, overflow="ellipsis")
    for queue, length in progress.waiting.items():
        text.append(f"{queue} ")
        text.append(f"{length:,}  ", "bold yellow" if length else "dim")
    return text


def workers(progress: Progress) -> Text:
    """Return who works."""
    text = Text("workers  ", no_wrap=True, overflow="ellipsis")
    for worker in progress.crew.members:
        text.append(f"{worker.number} ")
        text.append(f"{worker.state}  ", WORKER_STYLES[worker.state])
    return text
