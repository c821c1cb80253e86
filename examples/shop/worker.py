"""What is done behind the scenes, as jobs: `jetq worker examples.shop.worker:app`."""

from functools import partial

from jetq import App, JobCompleted

from .messages import OrderPlaced, ShipOrder, UserCreated

# Tells everybody who listens when a job has completed.
app = App("shop", events=[JobCompleted])

say = partial(print, "worker |", flush=True)

# Its jobs ask the service that answers `ShipOrder`, again and again while that is away.
ship_order = app.forward(ShipOrder)


@app.task(name="send_welcome")
async def send_welcome(event: UserCreated) -> None:
    say(f"mail to {event.user.email}: welcome, {event.user.name}")


@app.task(name="send_receipt")
async def send_receipt(event: OrderPlaced) -> None:
    say(f"mail to {event.order.user.email}: receipt for order {event.order.id}")
    await ship_order.enqueue(ShipOrder(order_id=event.order.id))


# Each event becomes a job, also one that is published while no worker runs.
app.enqueue_on(UserCreated, send_welcome)
app.enqueue_on(OrderPlaced, send_receipt)
