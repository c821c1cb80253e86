"""The play: what happens in the shop, and when.

Orders come in all the time. Meanwhile, one after the other, the scenes of `Play.scenes`
are played at their moments. When the last job has ended, the books are balanced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from ipc import LocalServer
from jetq import App, Call, Job
from jetq._message import OutcomeRecord, decode_outcome

from . import shop
from ._account import Account, Enqueued, account
from ._display import Display
from ._progress import Progress, label
from ._runs import fix_bug, read
from ._workers import Crew

__all__ = ["Plan", "play"]

WORKERS = 3
VICTIM = 2

# How the jobs are shared out among the tasks, in hundredths.
SHARES = {
    "charge_card": 20,
    "send_receipt": 20,
    "send_newsletter": 36,
    "send_offer": 4,
    "remind_cart": 3,
    "resize_photo": 12,
    "book_parcel": 5,
}
PRODUCTS, SHELVES = 8, 6
CALLS = 60
"""So often is indexing asked for, and counting: far more often than it is done."""

# Between two scenes, however late the machine is: what one begins is under way in the next.
MIN_PAUSE = 0.02

LOOK_EVERY = 0.25
TICK = 0.1
# Once the play is over, so long nothing may end before it is given up. Far above every
# delay in the shop, and what a busy machine adds to it.
PATIENCE = 30.0


class Plan(msgspec.Struct, frozen=True):
    """How much happens, and how fast."""

    jobs: int
    """About how many jobs."""
    seconds: float
    """How long the play is; what is left to do then, and the books, come on top."""

    def count(self, task: str) -> int:
        """Return how many jobs of a task there are to be."""
        return max(self.jobs * SHARES[task] // 100, 1)

    def counts(self) -> dict[str, int]:
        """Return about how many jobs each task has."""
        few = {"index_product": PRODUCTS, "count_shelf": SHELVES, "yearly_report": 1}
        return {task: self.count(task) for task in SHARES} | few


async def play(plan: Plan, folder: Path, display: Display) -> Account:
    """Play it all, with a server and workers of its own; nothing of them is left."""
    async with LocalServer(data_dir=folder / "server") as server, Crew(folder, server.url) as crew:
        for _ in range(WORKERS):
            crew.add()
        await crew.wait_ready()
        app = shop.app
        app.settings = msgspec.structs.replace(
            app.settings, servers=(server.url,), credentials=None
        )
        async with app:
            with display:
                performance = Play(plan, folder, Progress(app, crew, plan.counts()))
                await performance.run(display)
            await crew.stop()
            return await performance.balance()


class Play:
    """One performance."""

    def __init__(self, plan: Plan, folder: Path, progress: Progress) -> None:
        self.plan = plan
        self.folder = folder
        self.progress = progress
        self.app = progress.app
        self.crew = progress.crew
        self.replays: dict[str, float] = {}
        self.reminders: list[Job[Any]] = []
        self.report: Job[Any] | None = None

    def scenes(self) -> Sequence[tuple[float, Callable[[], Awaitable[None]]]]:
        """Return what happens when; 1 is the end of the play."""
        return (
            (0.03, self.plan_reminders),
            (0.08, self.mail_everybody),
            (0.20, self.edit_products),
            (0.25, self.start_report),
            (0.30, self.cancel_reminders),
            (0.45, self.mail_everybody),
            (0.47, self.kill_worker),
            (0.55, self.replace_worker),
            (0.62, self.count_shelves),
            (0.68, self.cancel_report),
            (0.76, self.fix_and_replay),
        )

    async def run(self, display: Display) -> None:
        """Play every scene while orders come in, until the last job has ended."""
        progress = self.progress
        announced = await self.app.connection.subscribe(
            self.app.layout.root + ".settled.>", progress.on_settled
        )
        progress.say(f"{WORKERS} workers and a nats-server run, each in a process of its own")
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._keep_looking, display)
            async with anyio.create_task_group() as playing:
                playing.start_soon(self.take_orders)
                for moment, scene in self.scenes():
                    pause = max(moment - progress.seconds / self.plan.seconds, MIN_PAUSE)
                    await anyio.sleep(pause * self.plan.seconds)
                    await scene()
            await self.wait_until_done()
            watching.cancel_scope.cancel()
        await announced.close()
        await progress.look()
        display.show(progress)

    async def _keep_looking(self, display: Display) -> None:
        while True:
            await self.progress.look()
            display.show(self.progress)
            await anyio.sleep(LOOK_EVERY)

    # -- what happens -------------------------------------------------------------------

    async def take_orders(self) -> None:
        """Enqueue what an order brings with it, evenly over most of the play."""
        makers: dict[str, Callable[[int], Call[Any]]] = {
            "charge_card": shop.charge_card.call,
            "send_receipt": shop.send_receipt.call,
            "resize_photo": shop.resize_photo.call,
            "book_parcel": shop.book_parcel.call,
        }
        end = 0.9 * self.plan.seconds
        sent = dict.fromkeys(makers, 0)
        while any(sent[task] < self.plan.count(task) for task in makers):
            part = min(self.progress.seconds / end, 1.0)
            calls: list[Call[Any]] = []
            for task, make in makers.items():
                due = round(self.plan.count(task) * part)
                calls.extend(make(number) for number in range(sent[task], due))
                sent[task] = due
            await self._enqueue(calls)
            await anyio.sleep(TICK)

    async def mail_everybody(self) -> None:
        """Let a great many unimportant jobs wait in front of important ones."""
        half = self.plan.count("send_newsletter") // 2
        await self._enqueue(shop.send_newsletter.call(number) for number in range(half))
        offers = self.plan.count("send_offer") // 2
        # Right behind the newsletters; how long they are worth something differs.
        await self._enqueue(
            shop.send_offer.using(expires=2 * number / offers).call(number)
            for number in range(offers)
        )
        self.progress.say(f"{half:,} newsletters enqueued, and {offers:,} offers that expire soon")

    async def plan_reminders(self) -> None:
        """Enqueue jobs that start later."""
        count = self.plan.count("remind_cart")
        delay = 0.4 * self.plan.seconds
        self.reminders = await self._enqueue(
            (shop.remind_cart.using(delay=delay).call(number) for number in range(count)), delay
        )
        self.progress.say(f"{count} reminders scheduled, to be sent in {delay:.0f} s")

    async def cancel_reminders(self) -> None:
        """Cancel some jobs that have not started."""
        some = self.reminders[::4]
        cancelled = sum([await job.cancel("the customer has ordered") for job in some])
        self.progress.say(f"{cancelled} of the reminders cancelled while they wait")

    async def edit_products(self) -> None:
        """Enqueue the same few jobs again and again; each runs once, with the last arguments."""
        delay = 0.5
        await self._enqueue(
            (
                shop.index_product.using(debounce=f"product-{number % PRODUCTS}", delay=delay).call(
                    number % PRODUCTS, number
                )
                for number in range(CALLS)
            ),
            delay,
        )
        jobs = self.progress.enqueued["index_product"]
        self.progress.say(f"{CALLS} edits of products debounced into {jobs} jobs")

    async def count_shelves(self) -> None:
        """Enqueue jobs that are waiting or running already, which changes nothing."""
        await self._enqueue(
            shop.count_shelf.using(unique=f"shelf-{number % SHELVES}").call(number % SHELVES)
            for number in range(CALLS)
        )
        jobs = self.progress.enqueued["count_shelf"]
        self.progress.say(f"{CALLS} calls to count a shelf became {jobs} unique jobs")

    async def start_report(self) -> None:
        """Enqueue a job that takes far too long."""
        (self.report,) = await self._enqueue([shop.yearly_report.call(1999)])
        self.progress.say("a report started that would take an hour")

    async def cancel_report(self) -> None:
        """Cancel a job while it runs."""
        if self.report is not None and await self.report.cancel("nobody needs it"):
            self.progress.say("the report cancelled while it runs")

    async def kill_worker(self) -> None:
        """Kill a worker amid its work, without a chance to say a word."""
        worker = self.crew.kill(VICTIM)
        self.progress.say(f"worker {VICTIM} (process {worker.pid}) killed with SIGKILL")

    async def replace_worker(self) -> None:
        """Start a worker where one was killed, as a supervisor would."""
        worker = self.crew.add()
        self.progress.say(f"worker {worker.number} started in place of worker {VICTIM}")

    async def fix_and_replay(self) -> None:
        """Fix the bug in `book_parcel` and replay what it has killed."""
        fix_bug(self.folder)
        letters = [letter async for letter in self.app.dead_letters.list("shipping")]
        for letter in letters:
            self.replays[letter.job_id] = time.time()
            await self.app.dead_letters.retry(letter.job_id)
        self.progress.say(f"the bug in book_parcel fixed, {len(letters)} dead letters replayed")

    async def _enqueue(self, calls: Iterable[Call[Any]], delay: float = 0.0) -> list[Job[Any]]:
        """Enqueue calls and enter their jobs in the books, once they are acknowledged."""
        every = list(calls)
        jobs = await self.app.enqueue_many(every)
        for call, job in zip(every, jobs, strict=True):
            self.progress.add(job.id, Enqueued(label(call.task.name), delay))
        return jobs

    # -- the end ------------------------------------------------------------------------

    async def wait_until_done(self) -> None:
        """Return once the queues are empty, or nothing moves any more."""
        progress = self.progress
        last, since = -1, time.monotonic()
        while time.monotonic() - since < PATIENCE and self.crew.any_running:
            if await waiting_in(self.app) == 0:
                progress.say("the last job has ended; asking the server what became of all")
                return
            if progress.ended.total() != last:
                last, since = progress.ended.total(), time.monotonic()
            await anyio.sleep(TICK)
        progress.say("nothing moves any more; jobs are left in the queues")

    async def balance(self) -> Account:
        """Ask the server what became of every job."""
        app = self.app
        order = [label(name) for name in app.tasks]
        jobs = sorted(self.progress.jobs.items(), key=lambda item: order.index(item[1].task))
        outcomes = await outcomes_of(app)
        dead = {letter.job_id async for letter in app.dead_letters.list()}
        waiting = await waiting_in(app)
        notes = await asyncio.to_thread(lambda: list(read(self.folder)))
        return account(dict(jobs), outcomes, dead, notes, self.replays, waiting)


async def outcomes_of(app: App) -> dict[str, OutcomeRecord]:
    """Return every recorded outcome, by job id."""
    layout = app.layout
    prefix = layout.root + ".result."
    return {
        stored.subject.removeprefix(prefix): decode_outcome(stored.data)
        async for stored in app.jetstream.scan(layout.results_stream, prefix + ">")
    }


async def waiting_in(app: App) -> int:
    """Return how many messages lie in the queues: waiting, scheduled or running jobs."""
    waiting = 0
    for queue in app.queue_names:
        stream = await app.jetstream.find_stream(app.layout.queue_stream_name(queue))
        waiting += stream.state.messages if stream else 0
    return waiting
