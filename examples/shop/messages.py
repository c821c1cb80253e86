"""What the parts of the shop say to each other. Of one another they know nothing else.

Each type has a name of its own, so that it is the same wherever this module is moved.
"""

import msgspec

from ipc import Event, Request, ServiceError


class User(msgspec.Struct):
    id: int
    name: str
    email: str


class SignUp(Request[User], type="shop.SignUp"):
    """Answered with the new user."""

    name: str
    email: str


class FetchUser(Request[User], type="shop.FetchUser"):
    id: int


class UserCreated(Event, type="shop.UserCreated"):
    user: User


class UserNotFoundError(ServiceError, code=404, type="shop.UserNotFoundError"):
    id: int


class Order(msgspec.Struct):
    id: int
    user: User
    item: str


class PlaceOrder(Request[Order], type="shop.PlaceOrder"):
    """Answered with the order that it became."""

    user_id: int
    item: str


class ShipOrder(Request[str], type="shop.ShipOrder"):
    """Answered with the number of the parcel."""

    order_id: int


class OrderPlaced(Event, type="shop.OrderPlaced"):
    order: Order


class SoldOutError(ServiceError, code=409, type="shop.SoldOutError"):
    item: str
