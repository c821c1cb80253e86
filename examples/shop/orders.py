"""A service that takes orders and ships them: `ipc serve examples.shop.orders:orders`."""

from functools import partial

from ipc import Context, Service

from .messages import FetchUser, Order, OrderPlaced, PlaceOrder, ShipOrder, SoldOutError

orders = Service("orders", version="1.0.0", publishes=[OrderPlaced], requests=[FetchUser])

# Stand for a database.
stock = {"teapot": 1}
placed: dict[int, Order] = {}

say = partial(print, "orders |", flush=True)


@orders.handle
async def place_order(request: PlaceOrder, ctx: Context) -> Order:
    # If there is no such user, the error that `users` raises reaches our caller as well.
    user = await ctx.bus.request(FetchUser(id=request.user_id))
    if not stock.get(request.item):
        raise SoldOutError(f"there is no {request.item} left", item=request.item)
    stock[request.item] -= 1
    order = Order(id=len(placed) + 1, user=user, item=request.item)
    placed[order.id] = order
    say(f"order {order.id}: a {order.item} for {user.name}")
    await ctx.bus.publish(OrderPlaced(order=order), durable=True)
    return order


@orders.handle
async def ship_order(request: ShipOrder) -> str:
    order = placed[request.order_id]
    say(f"the {order.item} is on its way to {order.user.name}")
    return f"parcel-{order.id}"
