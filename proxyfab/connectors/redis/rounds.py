"""The same for many keys, in one round trip for each server that has some of them; and all keys of a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from proxyfab.connectors.redis.errors import ELSEWHERE
from proxyfab.connectors.redis.fleet import Fleet
from proxyfab.connectors.redis.link import Link
from proxyfab.connectors.redis.parser import Reply, checked


def each(
    fleet: Fleet,
    names: Sequence[bytes],
    commands: Callable[[bytes], tuple[bytes, ...]],
    what: str,
    *,
    again: bool = True,
) -> list[list[Reply]]:
    """The replies to as many commands for each name; None where one does not fit what lies there.

    Names whose slot has moved, or is moving, are asked for again, one by one, where they are.
    """
    found: list[list[Reply]] = [[] for _ in names]
    for name, places in fleet.groups(names):
        packed = [command for place in places for command in commands(names[place])]
        work = partial(Link.calls, commands=packed, lenient=True)
        replies = fleet.run(name, work, what, again=again)
        share = len(replies) // len(places)
        for position, place in enumerate(places):
            found[place] = replies[position * share : (position + 1) * share]
            if any(isinstance(reply, ELSEWHERE) for reply in found[place]):
                alone = partial(_alone, commands=commands(names[place]))
                found[place] = fleet.run(names[place], alone, what, again=again)
    return found


def _alone(link: Link, commands: Sequence[bytes]) -> list[Reply]:
    """The replies for one name, wherever it is."""
    replies = link.calls(commands, lenient=True)
    for reply in replies:
        checked(reply)
    return replies


def scan(fleet: Fleet, pattern: bytes) -> Iterator[list[bytes]]:
    """Keys that match, each once, some at a time; one that comes or goes meanwhile may be missed."""
    seen: set[bytes] = set()
    for address in fleet.masters():
        cursor = b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
            cursor, names = fleet.run_at(address, lambda link, c=command: link.call(*c), "scan")  # type: ignore[misc]
            new = [name for name in map(bytes, names) if name not in seen]
            seen.update(new)
            if new:
                yield new
            if cursor == b"0":
                break
