"""A service that knows the users: `ipc serve examples.shop.users:users`."""

from functools import partial

from ipc import Context, Service

from .messages import FetchUser, SignUp, User, UserCreated, UserNotFoundError

users = Service("users", version="1.0.0", publishes=[UserCreated])

# Stands for a database.
known: dict[int, User] = {}

say = partial(print, "users  |", flush=True)


@users.handle
async def sign_up(request: SignUp, ctx: Context) -> User:
    user = User(id=len(known) + 1, name=request.name, email=request.email)
    known[user.id] = user
    say(f"{user.name} is user {user.id}")
    # Durable: the server keeps it until all who have to know of it have handled it.
    await ctx.bus.publish(UserCreated(user=user), durable=True)
    return user


@users.handle
async def fetch_user(request: FetchUser) -> User:
    say(f"somebody asks for user {request.id}")
    if request.id not in known:
        raise UserNotFoundError(f"there is no user {request.id}", id=request.id)
    return known[request.id]
