"""The events and requests that faults are tried on, the same in the test and in its processes.

The bus connects to `NATS_URL`. What is handled leaves notes in `NOTES_FILE`.
"""

import asyncio
import os

import msgspec

from ipc import Bus, Event, Request, Service
from tests.faults.notes import leave_note

LEASE = 1.0
"""Seconds until the events of a process that fell silent are delivered again."""

MOMENT = 0.02
"""Seconds that a handler takes."""


class Placed(Event, type="faults.Placed"):
    """An order, of which every durable hears."""

    number: int


class Moved(Event, type="faults.Moved", key="account"):
    """A movement on an account; those of one account are booked in order."""

    account: str
    number: int


class Answer(msgspec.Struct):
    """A number, and the process that it comes from."""

    number: int
    pid: int


class Double(Request[Answer], type="faults.Double"):
    """Asks for twice a number."""

    number: int


def new_bus() -> Bus:
    """Return a bus with the settings that all processes have, not open yet."""
    return Bus("faults")


def noting(durable: str) -> Service:
    """Return a service that notes every order, under a durable of its own."""
    service = Service(durable)

    @service.on(Placed, durable=durable, lease=LEASE, concurrency=20)
    async def note(event: Placed) -> None:
        leave_note("begun", durable, event.number)
        await asyncio.sleep(MOMENT)
        leave_note("done", durable, event.number)

    return service


ledger = Service("ledger")


@ledger.on(Moved, durable="ledger", lease=LEASE, ordered=True)
async def book(event: Moved) -> None:
    """Note every movement, those of one account one after the other."""
    leave_note("begun", "ledger", event.number, event.account)
    await asyncio.sleep(MOMENT)
    leave_note("done", "ledger", event.number, event.account)


doubler = Service("doubler")


@doubler.handle
async def double(request: Double) -> Answer:
    """Answer after a moment."""
    await asyncio.sleep(MOMENT)
    return Answer(2 * request.number, os.getpid())


SERVICES = {
    service.name: service
    for service in (noting("mailer"), noting("stock"), noting("audit"), ledger, doubler)
}
