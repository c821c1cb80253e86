"""`ipc durables`: who keeps events on the server, and what could not be handled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer

from ipc import Bus, DeadEvent, DurableInfo
from ipc.terminal import JsonOption, note, print_fields, print_json, print_table, say, since

from ._bus import PrefixOption, ServerOption, open_bus

__all__ = ["group"]

T = TypeVar("T")

group = typer.Typer(name="durables", help="See, remove and mend durables.", no_args_is_help=True)
dead = typer.Typer(
    name="dead", help="Events that a durable could not handle.", no_args_is_help=True
)
group.add_typer(dead)

DurableArgument = Annotated[str, typer.Argument(metavar="DURABLE", help="Its name.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `dead list` shows it.")]


def on_bus(server: str | None, prefix: str, ask: Callable[[Bus], Awaitable[T]]) -> T:
    """Ask something of an open bus."""

    async def opened() -> T:
        async with open_bus(server, prefix) as bus:
            return await ask(bus)

    return asyncio.run(opened())


@group.command("list")
def list_durables(
    server: ServerOption = None, prefix: PrefixOption = "ipc", json: JsonOption = False
) -> None:
    """List durables, and say which of them hold events back."""
    found = on_bus(server, prefix, lambda bus: bus.durables.list())
    if json:
        print_json([{**as_dict(one), "holds_back": one.holds_back} for one in found])
        return
    if not found:
        note("there is no durable")
        return
    print_table(
        ("DURABLE", "DOMAIN", "TAKES", "WAITING", "UNACKED", "ACTIVE", "WORKED ON"),
        [
            (
                one.durable,
                one.domain,
                ", ".join(one.takes),
                str(one.pending),
                str(one.unacknowledged),
                since(one.last_active) if one.last_active else "never",
                "yes" if one.waiting else "no",
            )
            for one in found
        ],
    )
    for one in found:
        if one.holds_back:
            note(
                f"{one.durable!r} holds back {one.pending + one.unacknowledged} events of "
                f"{one.domain!r}, and nobody works on it: run it, or `ipc durables remove "
                f"{one.durable}`",
                style="yellow",
            )


def as_dict(one: DurableInfo) -> dict[str, Any]:
    """Return the fields of a durable."""
    return {name: getattr(one, name) for name in one.__struct_fields__}


@group.command()
def remove(
    durable: DurableArgument,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Delete a durable; what is kept only for it goes."""
    domains = on_bus(server, prefix, lambda bus: bus.durables.remove(durable))
    if json:
        print_json({"durable": durable, "removed_from": domains})
    elif domains:
        say(f"removed {durable!r} from {', '.join(domains)}")
    if not domains:
        note(f"ipc: there is no durable {durable!r}", style="red")
        raise typer.Exit(1)


@group.command()
def forget(
    durable: DurableArgument,
    name: Annotated[str, typer.Argument(metavar="TYPE", help="Its name, as `list` shows it.")],
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Let a durable take no more events of a type; those that wait for it go."""
    did = on_bus(server, prefix, lambda bus: bus.durables.forget(durable, name))
    if json:
        print_json({"durable": durable, "type": name, "forgotten": did})
    elif did:
        say(f"{durable!r} takes no more {name}")
    if not did:
        note(f"ipc: durable {durable!r} takes no {name!r}", style="red")
        raise typer.Exit(1)


@dead.command("list")
def list_dead(
    durable: Annotated[str | None, typer.Argument(metavar="[DURABLE]")] = None,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """List the events that could not be handled."""

    async def ask(bus: Bus) -> list[DeadEvent]:
        return [letter async for letter in bus.dead_letters.list(durable)]

    found = on_bus(server, prefix, ask)
    if json:
        print_json([as_json(letter) for letter in found])
    elif not found:
        note("there is no dead letter")
    else:
        print_table(
            ("DURABLE", "ID", "TYPE", "DIED", "REASON"),
            [
                (
                    one.durable,
                    one.id,
                    one.type,
                    since(one.died_at) + " ago" if one.died_at else "",
                    one.reason,
                )
                for one in found
            ],
        )


def as_json(letter: DeadEvent) -> dict[str, Any]:
    """Return the fields of a dead letter, its body as text."""
    fields = {name: getattr(letter, name) for name in letter.__struct_fields__}
    return {**fields, "body": letter.body.decode(errors="replace")}


@dead.command()
def show(
    durable: DurableArgument,
    id: IdArgument,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Show one event that could not be handled, with the error."""
    letter = on_bus(server, prefix, lambda bus: bus.dead_letters.find(durable, id))
    if letter is None:
        note(f"ipc: no event {id!r} among the dead letters of {durable!r}", style="red")
        raise typer.Exit(1)
    if json:
        print_json(as_json(letter))
    else:
        print_fields([(name, str(value)) for name, value in as_json(letter).items()])


@dead.command()
def replay(
    durable: DurableArgument,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the durable's.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Give events to their durable once more, and to no other."""
    if (id is None) != every:
        raise typer.BadParameter("give an ID, or --all")

    async def ask(bus: Bus) -> int:
        ids = [id] if id else [one.id async for one in bus.dead_letters.list(durable)]
        for number, one in enumerate(ids, start=1):
            await bus.dead_letters.replay(durable, one)
            if number % 100 == 0:
                note(f"{number} of {len(ids)}")
        return len(ids)

    count = on_bus(server, prefix, ask)
    if json:
        print_json({"replayed": count})
    else:
        say(f"replayed {count} events to {durable!r}")


@dead.command()
def purge(
    durable: DurableArgument,
    id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this one.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the durable's.")] = False,
    server: ServerOption = None,
    prefix: PrefixOption = "ipc",
    json: JsonOption = False,
) -> None:
    """Throw dead letters away."""
    if (id is None) != every:
        raise typer.BadParameter("give an ID, or --all")
    count = on_bus(server, prefix, lambda bus: bus.dead_letters.purge(durable, id))
    if json:
        print_json({"purged": count})
    else:
        say(f"purged {count} dead letters of {durable!r}")
