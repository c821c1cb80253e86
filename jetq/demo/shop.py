"""A small shop: the demo's app and its tasks, written as any service would write them.

What they do takes as long as the real thing might, and goes wrong as often.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time

from jetq import App, Priority, Queue, Reject, Retry

from ._runs import bug_is_fixed, note_run, noting

__all__ = ["app"]

QUEUES = ("payments", "mail", "media", "shipping", "search")

app = App(
    "shop",
    storage="file",
    replicas=1,
    # Short, so that the jobs of a killed worker come back while one is still watching.
    queues=[Queue(name, lease=2) for name in QUEUES],
    timeout=30,
    lifespan=noting,
)
app.middleware.append(note_run)

NETWORK = Retry(max_attempts=6, base_delay=0.2, max_delay=1)


class BankUnreachableError(Exception):
    """The bank did not answer."""


@app.task(queue="payments", priority=Priority.CRITICAL, retry=NETWORK, timeout=10)
async def charge_card(order: int) -> str:
    """Charge an order; the bank is unreachable now and then, and some cards are stolen."""
    await asyncio.sleep(random.uniform(0.005, 0.02))
    if order % 400 == 13:
        raise Reject("the card is reported stolen")
    if random.random() < 0.07:
        raise BankUnreachableError("the bank did not answer")
    return f"charge-{order}"


@app.task(queue="mail", priority=Priority.HIGH, timeout=10)
async def send_receipt(order: int) -> str:
    """Send a receipt; it overtakes the newsletters that wait in the same queue."""
    await asyncio.sleep(random.uniform(0.005, 0.02))
    return f"receipt-{order}"


@app.task(queue="mail", priority=Priority.LOW, timeout=10)
async def send_newsletter(customer: int) -> str:
    """Send a newsletter; it has time."""
    await asyncio.sleep(random.uniform(0.02, 0.04))
    return f"newsletter-{customer}"


@app.task(queue="mail", priority=Priority.LOW, timeout=10)
async def send_offer(customer: int) -> str:
    """Send an offer that is worth nothing once it is late."""
    await asyncio.sleep(random.uniform(0.01, 0.02))
    return f"offer-{customer}"


@app.task(queue="mail", timeout=10)
async def remind_cart(customer: int) -> str:
    """Remind a customer of a full cart, some time after they left."""
    await asyncio.sleep(random.uniform(0.005, 0.02))
    return f"reminder-{customer}"


@app.task(queue="media", timeout=10)
def resize_photo(photo: int) -> str:
    """Make a photo smaller; a plain function, so it runs in a thread."""
    time.sleep(random.uniform(0.01, 0.02))
    return hashlib.sha256(photo.to_bytes(8, "big") * 10_000).hexdigest()


@app.task(queue="media", priority=Priority.LOW)
async def yearly_report(year: int) -> int:
    """Add up a year; takes too long, so somebody cancels it while it runs."""
    await asyncio.sleep(3600)
    return year


@app.task(queue="shipping", priority=Priority.HIGH, retry=Retry(max_attempts=2, base_delay=0.2))
async def book_parcel(order: int) -> str:
    """Book a parcel; fails for an address without a house number, until that is fixed."""
    await asyncio.sleep(random.uniform(0.005, 0.02))
    if order % 10 == 3 and not bug_is_fixed():
        raise ValueError("the address has no house number")
    return f"parcel-{order}"


@app.task(queue="search")
async def index_product(product: int, revision: int) -> int:
    """Make a product's last revision searchable; debounced, as editors save often."""
    await asyncio.sleep(random.uniform(0.01, 0.03))
    return revision


@app.task(queue="search")
async def count_shelf(shelf: int) -> int:
    """Count a shelf; unique, so that nobody counts it a second time meanwhile."""
    await asyncio.sleep(random.uniform(0.2, 0.4))
    return shelf * 10
