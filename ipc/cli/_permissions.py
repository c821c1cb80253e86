"""`ipc permissions`: what a service has to be allowed on the server."""

from __future__ import annotations

from typing import Annotated

import typer

from ipc._permissions import permissions as needed_by
from ipc._subjects import Subjects
from ipc.terminal import JsonOption, print_json, say

from ._bus import PrefixOption
from ._schema import find_surface

__all__ = ["permissions"]


def permissions(
    place: Annotated[
        str,
        typer.Argument(metavar="MODULE:NAME", help="A Service or Bus, as shop.users:users."),
    ],
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Print the NATS permissions that a service needs, for nats-server's configuration."""
    found = needed_by(find_surface(place), Subjects(prefix))
    if json:
        print_json({"publish": list(found.publish), "subscribe": list(found.subscribe)})
    else:
        say(str(found))
