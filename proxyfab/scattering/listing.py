"""Listing: what lies at the members, put together to objects.

Promises: what is listed can be read, as far as is known; who may be away (m members) is left out, and more is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from proxyfab.abc import Reclaimed, Stat
from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import DRAWN, HEADER, KINDS, NAMED, Shard, header_of
from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.race import Race
from proxyfab.scattering.means import GONE, UPLOAD, Means, nothing
from proxyfab.scattering.registers import SUFFIX, Registers, unpack

_SHARD = re.compile(r"([0-9a-f]{32})(|\.n|\.s)")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


class Held(NamedTuple):
    """A piece, as members list it."""

    id: bytes
    kind: int
    at: dict[int, Stat]
    """By member."""

    @property
    def name(self) -> str:
        """What its shards are called."""
        return self.id.hex() + KINDS[self.kind]


class Listing(NamedTuple):
    """What members list."""

    pieces: dict[str, Held]
    """By name."""
    registers: dict[str, dict[int, Stat]]
    """By the name of the record: by member."""
    gone: set[str]
    """Names of pieces that were evicted while some could not be reached."""
    uploads: set[str]
    """Ids of large objects whose segments are on their way."""
    away: dict[int, BaseException]
    """Members that did not answer, and why."""


class Entry(NamedTuple):
    """An object."""

    id: str
    stat: Stat
    locator: Locator | None
    """Of a named one."""


def listed(means: Means, most: int) -> Listing:
    """What lies where.

    Args:
        means: Whom to ask.
        most: How many members may be away.

    Raises:
        ConnectorError: More are.
    """
    race: Race[list[Stat]] = Race()
    try:
        for member in range(len(means.members)):
            means.ask(race, member, member, "scan", lambda child: list(child.scan()), 0)
        answers = means.answers(race, nothing)
    finally:
        race.close()
    found = Listing({}, {}, set(), set(), {one.child: one.error for one in answers if one.error is not None})
    if len(found.away) > most:
        raise ConnectorError(f"What is stored cannot be listed: {means.whys(answers)}.")
    for one in answers:
        for stat in one.value or ():
            _sort(found, one.child, stat)
    return found


def _sort(found: Listing, member: int, stat: Stat) -> None:
    id = stat.key.id
    match = _SHARD.fullmatch(id)
    if match is not None:
        kind = next(kind for kind, text in KINDS.items() if text == match[2])
        found.pieces.setdefault(id, Held(bytes.fromhex(match[1]), kind, {})).at[member] = stat
    elif id.endswith(GONE):
        found.gone.add(id.removesuffix(GONE))
    elif id.endswith(UPLOAD):
        found.uploads.add(id.removesuffix(UPLOAD))
    elif id.endswith(SUFFIX):
        found.registers.setdefault(id, {})[member] = stat


def entries(means: Means, registers: Registers, most: int) -> Iterator[Entry]:
    """Every object that is there."""
    found = listed(means, most)
    for held in found.pieces.values():
        if held.kind == DRAWN and held.name not in found.gone:
            head = head_of(means, held)
            if head is not None and len(held.at) >= head.shape.k:
                yield Entry(held.id.hex(), _stat(held, held.id.hex(), head.shape.nbytes), None)
    for name in registered(means, found)[0]:
        value = registers.read(name)
        if value:
            locator = Locator.parse(value.decode("ascii"))
            there = found.pieces.get(locator.shape.name)
            if there is not None and len(there.at) >= locator.shape.k:
                yield Entry(name, _stat(there, name, locator.shape.nbytes), locator)


def _stat(held: Held, id: str, nbytes: int) -> Stat:
    stats = list(held.at.values())
    ends = [stat.expires for stat in stats]
    return stats[0]._replace(
        key=Key(id),
        nbytes=nbytes,
        created=min(stat.created for stat in stats),
        expires=None if None in ends else min(end for end in ends if end is not None),
    )


def head_of(means: Means, held: Held) -> Shard | None:
    """What one of a piece's shards says of it; None where none can be read any more."""
    for member, stat in held.at.items():
        try:
            head = means.members.timed(member, "head", partial(_head, stat.key))()
            if head is not None:
                return header_of(head, whole=False)
        except (IntegrityError, ConnectorError):
            continue
    return None


def _head(key: Key, child: Any) -> Frames | None:
    found: Frames | None = child.get_range(key, 0, HEADER)
    return found


def registered(means: Means, found: Listing) -> tuple[list[str], list[str]]:
    """The names of all registers, and what is to be said of those that nobody can read."""
    names, unread = [], []
    for at in found.registers.values():
        failed = ""
        for member, stat in at.items():
            try:
                record = means.members.timed(member, "register", partial(_record, stat.key))()
                if record is not None:
                    names.append(unpack(record).name)
                    break
            except ProxyfabError as error:
                failed = f"{stat.key.id}, what a name means, is not read: {means.members[member].spec}: {error}"
        else:
            unread += [failed] if failed else []
    return names, unread


def is_ours(id: str) -> bool:
    """Whether what is called so belongs to objects in shards: a shard, a record of a name, or a mark."""
    return _SHARD.fullmatch(id) is not None or id.endswith((SUFFIX, GONE, UPLOAD))


def _record(key: Key, child: Any) -> Frames | None:
    found: Frames | None = child.get(key)
    return found


def strays(found: Listing, meant: Sequence[Locator]) -> list[Held]:
    """Contents of named objects that no name means; what killed writers left, or what is just being written."""
    known = {locator.shape.name for locator in meant}
    return [held for held in found.pieces.values() if held.kind == NAMED and held.name not in known]


def merged(reports: Sequence[Sequence[Reclaimed]]) -> list[Reclaimed]:
    """What members took back, one line an object; of what is no object one line each."""
    objects: dict[str, Reclaimed] = {}
    others = []
    for one in {one.what: one for report in reports for one in report}.values():  # members may share a directory
        ids = _ID.findall(one.what.rpartition("/")[2])
        if not ids:
            others.append(one)
        elif not one.what.endswith((SUFFIX, GONE, UPLOAD)):
            before = objects.get(ids[-1])
            objects[ids[-1]] = Reclaimed(ids[-1], one.nbytes + (before.nbytes if before else 0), one.reason)
    return [*objects.values(), *others]
