"""The same for many keys, in one round trip for each server that has some of them; and all keys of a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from proxyfab.connectors.redis import changes
from proxyfab.connectors.redis.bulk import ask_range, chunks_of
from proxyfab.connectors.redis.header import Header, object_parts, unpack
from proxyfab.errors import IntegrityError
from proxyfab.resp.errors import ELSEWHERE
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import Link, pack
from proxyfab.resp.parser import Reply, checked
from proxyfab.wire.slot import SIZE


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
    return [checked(reply) for reply in link.calls(commands, lenient=True)]


def begin(name: bytes) -> bytes:
    """Asks for an object's header."""
    return ask_range(name, 0, SIZE)


def there(fleet: Fleet, names: Sequence[bytes], what: str) -> list[bool]:
    """Which of the keys there are."""
    return [bool(found) for (found,) in each(fleet, names, lambda name: (pack(b"EXISTS", name),), what)]


def renew(fleet: Fleet, names: Sequence[bytes], milliseconds: int | None) -> list[bool]:
    """Move the expiry of many objects; of one that lies in chunks all at once, so that these take their turns."""
    found = [raw for (raw,) in each(fleet, names, lambda name: (begin(name),), "renew")]
    whole = [name for name, raw in zip(names, found, strict=True) if raw and not chunks_of(name, raw)]
    moved = each(fleet, whole, lambda name: (changes.expire(name, milliseconds), begin(name)), "renew")
    now = dict(zip(names, found, strict=True)) | {name: raw for name, (_, raw) in zip(whole, moved, strict=True)}
    for name in [name for name, raw in now.items() if chunks_of(name, raw)]:
        work = partial(changes.renew, name=name, milliseconds=milliseconds)
        now[name] = fleet.run(name, work, "renew")
    return [bool(now[name]) for name in names]


def objects(fleet: Fleet, pattern: bytes) -> Iterator[tuple[str, str, Header, Reply]]:
    """Namespace, id, header and milliseconds left of all objects whose keys match."""
    for names in scan(fleet, pattern):
        replies = each(fleet, names, lambda name: (begin(name), pack(b"PTTL", name)), "scan")
        for name, (raw, left) in zip(names, replies, strict=True):
            found = object_parts(name)
            if found is None or not raw:
                continue
            try:
                yield *found, unpack(raw, None), left
            except IntegrityError:
                continue


def scan(fleet: Fleet, pattern: bytes) -> Iterator[list[bytes]]:
    """Keys that match, each once, some at a time; one that comes or goes meanwhile may be missed."""
    seen: set[bytes] = set()
    for address in fleet.masters():
        cursor = b"0"
        while True:
            cursor, names = fleet.run_at(address, partial(_page, cursor=cursor, pattern=pattern), "scan")
            new = [name for name in names if name not in seen]
            seen.update(new)
            if new:
                yield new
            if cursor == b"0":
                break


def _page(link: Link, cursor: bytes, pattern: bytes) -> tuple[bytes, list[bytes]]:
    """Where to go on, and some keys that match."""
    after, names = link.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
    return bytes(memoryview(after)), [bytes(memoryview(name)) for name in names]  # bytes(n) would be n zeros
