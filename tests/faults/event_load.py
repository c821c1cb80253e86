"""Publishers and callers that go on whatever happens to the server."""

import asyncio
from typing import Any, Self

from ipc import Bus, IpcError
from tests.faults.accounts import until
from tests.faults.events import Answer, Double, Placed

# So many a second, about, that events are under way whenever something happens.
PAUSE = 0.005

# Seconds; long enough for any answer, short enough to wait for one that never comes.
PATIENCE = 2.0


class Publisher:
    """Publishes durably, several at once, until its block is left."""

    SIZE = 4

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._begun = 0
        self._stopping = False
        self._group = asyncio.TaskGroup()
        self.acknowledged: set[int] = set()
        """The numbers of those events whose `publish` has returned."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for _ in range(self.SIZE):
            self._group.create_task(self._publish())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stopping = True
        await self._group.__aexit__(*error)

    async def until_more(self, count: int) -> None:
        """Return once so many more events were acknowledged."""
        goal = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= goal, f"{count} more events published")

    async def until_all_wait(self) -> None:
        """Return once each publish that is begun waits for a server that does not answer."""
        await until(
            lambda: self._begun - len(self.acknowledged) == self.SIZE, "events on their way"
        )

    async def _publish(self) -> None:
        while not self._stopping:
            number, self._begun = self._begun, self._begun + 1
            await self._bus.publish(Placed(number=number), durable=True)
            self.acknowledged.add(number)
            await asyncio.sleep(PAUSE)


class Callers:
    """Ask one request after the other, several at once, until their block is left."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._stopping = False
        self._group = asyncio.TaskGroup()
        self.asked = 0
        self.answers: list[Answer] = []
        self.errors: list[IpcError] = []

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for _ in range(20):
            self._group.create_task(self._ask())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stopping = True
        await self._group.__aexit__(*error)

    def num_answered_by(self, pid: int) -> int:
        """Return how many answers have come from a process."""
        return sum(answer.pid == pid for answer in self.answers)

    async def until_more(self, count: int, pid: int) -> None:
        """Return once a process has given so many more answers."""
        goal = self.num_answered_by(pid) + count
        await until(lambda: self.num_answered_by(pid) >= goal, f"{count} more answers")

    async def _ask(self) -> None:
        while not self._stopping:
            number, self.asked = self.asked, self.asked + 1
            try:
                answer = await self._bus.request(Double(number=number), timeout=PATIENCE)
            except IpcError as exc:
                self.errors.append(exc)
                # Nobody there, or nobody to ask: not to be found out a thousand times.
                await asyncio.sleep(0.05)
            else:
                assert answer.number == 2 * number
                self.answers.append(answer)
