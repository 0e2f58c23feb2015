"""Taking back what ended processes left in a Redis: whole unnamed namespaces, and chunks that no object names.

What expired is the server's own business. Promises: nothing of a living owner is taken; what a dry run says is what a
run would do, while nobody else changes anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from proxyfab.abc import Reclaimed
from proxyfab.connectors.redis import bulk, header, owners
from proxyfab.errors import IntegrityError
from proxyfab.resp.errors import ELSEWHERE
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import Link, pack
from proxyfab.wire.slot import SIZE


def reap(fleet: Fleet, *, dry_run: bool, only_if_dead: bool = False) -> list[Reclaimed]:
    """Take back what is nobody's.

    Args:
        fleet: The place.
        dry_run: Only say what would be taken.
        only_if_dead: Look through the keys only if an owner is known to have ended; costs next to nothing otherwise.
    """
    if only_if_dead and all(owners.reason(owner) is None for owner in owners.known(fleet).values()):
        return []
    sizes: defaultdict[str, int] = defaultdict(int)
    strays: list[tuple[bytes, int]] = []
    for address in fleet.masters():
        found, alone = fleet.run_at(address, _look, "reap")
        for space, nbytes in found.items():
            sizes[space] += nbytes
        strays += alone
    # Behind the look, so that whoever came meanwhile is known before his namespace is judged.
    known = owners.known(fleet)
    reasons = {space: owners.reason(known.get(space)) for space in {*sizes, *known}}
    dead = {space: why for space, why in reasons.items() if why is not None}
    taken = [Reclaimed(f"{fleet.place.label} {space}", sizes.get(space, 0), why) for space, why in sorted(dead.items())]
    strays = [(name, nbytes) for name, nbytes in sorted(strays) if header.namespace_of(name) not in dead]
    why = "it is a piece of an object that is not there any more"
    taken += [Reclaimed(f"{fleet.place.label} {name.decode(errors='replace')}", nbytes, why) for name, nbytes in strays]
    if not dry_run:
        if dead:
            owners.remove(fleet, set(dead))
        for name, _ in strays:
            fleet.run(name, lambda link, name=name: link.call(b"UNLINK", name), "reap")  # type: ignore[misc]
    return taken


def _look(link: Link) -> tuple[dict[str, int], list[tuple[bytes, int]]]:
    """Bytes in each unnamed namespace of one server, and its chunks without an object and without a lease."""
    sizes: defaultdict[str, int] = defaultdict(int)
    strays: list[tuple[bytes, int]] = []
    for names in _scan(link, header.space_prefix("~*") + b"*"):
        lengths = link.calls([pack(b"STRLEN", name) for name in names], lenient=True)
        for name, nbytes in zip(names, lengths, strict=True):
            sizes[header.namespace_of(name)] += nbytes if isinstance(nbytes, int) else 0
    for names in _scan(link, header.ROOT + b"*:c:{*"):
        strays += [(name, nbytes) for name in names if (nbytes := _stray(link, name)) is not None]
    return dict(sizes), list(dict.fromkeys(strays))


def _stray(link: Link, name: bytes) -> int | None:
    """Bytes of a chunk that no object names; None where one does, or may soon, or where its slot is moving."""
    parts = header.chunk_parts(name)
    if parts is None:
        return None
    first, token = parts
    commands = [pack(b"PTTL", name), pack(b"STRLEN", name), bulk.ask_range(first, 0, SIZE)]
    left, nbytes, raw = link.calls(commands, lenient=True)
    if left != -1 or isinstance(raw, ELSEWHERE):  # it has a lease of its own, or is gone
        return None
    try:
        return None if header.unpack(raw or b"", None).token == token else int(nbytes)
    except IntegrityError:
        return int(nbytes)


def _scan(link: Link, pattern: bytes) -> Iterator[list[bytes]]:
    """Keys of one server that match, some at a time; one may come twice, and one that comes or goes may be missed."""
    cursor = b"0"
    while True:
        cursor, found = link.call(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000")
        yield [bytes(name) for name in found]
        if cursor == b"0":
            return
