"""Restoring: shards that are missing or broken are made anew from those that are there.

Rules:
1. A shard is restored where the locator says that it lies, under the key that it had there: keys in flight never
   change. Where that member is away or leaving, another one takes it, which readers find (`getting`, rule 3), unless it
   has one of the piece already: somebody else may be restoring, or moving.
2. What was restored is taken back if the object is gone by then: an evict was at work. Where so few shards are enough
   as may be away, what cannot be told counts as gone, it is looked at a second later, too, and nothing is restored that
   was not found bad twice, a second apart (`Upkeep.scrub`, `Mending`): evicts that take longer, or meet who lacks a
   shard, look twice (`asking`, rule 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from proxyfab.abc import SupportsCompareAndSet
from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import HEADER, Shard, content_of, header_of, packed
from proxyfab.errors import ConnectorError, IntegrityError, KeyExists, ProxyfabError
from proxyfab.exit import Drain
from proxyfab.keys import Key
from proxyfab.scattering.getting import Found, is_note
from proxyfab.scattering.means import AFTER, Means
from proxyfab.scattering.report import Report
from proxyfab.scattering.scattering import Scattering

_PAUSE = 1.0
"""Seconds before a piece that a get found bad is looked at again: an evict may be at work."""
_AFTER = AFTER
_MOST = 30
"""Looks at what was moved while it cannot be told whether its object is there."""
_WAITING = 1000


class Later:
    """What was put where an evict that was under way may have passed by before: it is taken back if so.

    Args:
        means: Whose members.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._waiting: list[tuple[float, Callable[[], bool | None], list[tuple[int, Key]], int]] = []

    def add(self, still: Callable[[], bool | None], put: list[tuple[int, Key]], *, only: bool = False) -> None:
        """Take this back unless `still` says so in a second.

        Args:
            still: Whether the object is there; None where that cannot be told.
            put: What was put where.
            only: Whether it lies nowhere else, and stays as long as that cannot be told.
        """
        self._waiting.append((time.monotonic() + _AFTER, still, put, _MOST if only else 0))
        if len(self._waiting) >= _WAITING:
            self.settle()

    def settle(self) -> None:
        """Wait for that second, and look."""
        waiting, self._waiting = self._waiting, []
        for due, still, put, looks in waiting:
            time.sleep(max(due - time.monotonic(), 0.0))
            there = still()
            for _ in range(looks):
                if there is not None:
                    break
                time.sleep(_AFTER)
                there = still()
            if not (there or (there is None and looks)):
                self._means.take_back(put)


def seen(scattering: Scattering, locator: Locator) -> tuple[Found, Report]:
    """All shards of a piece that can be read, and what is not well."""
    shape = locator.shape
    count = shape.k + shape.m
    found = scattering.getting.gather(locator, count)
    gone = count - len(found.good) - len(found.broken)
    lost = (shape.name,) if len(found.good) < shape.k else ()
    return found, Report(1, len(found.good), max(gone, 0), len(found.broken), lost=lost)


def restore(scattering: Scattering, locator: Locator, later: Later) -> Report:
    """Restore the shards of a piece that are missing or broken."""
    shape = locator.shape
    found, report = seen(scattering, locator)
    bad = [number for number in range(shape.k + shape.m) if number not in found.good]
    if report.lost or not bad:
        return report
    if scattering.means.is_gone(shape):
        scattering.means.evict_later(shape)
        return Report(pieces=1, strays=1)
    state = scattering.state(locator)
    ttl = None if state is None or state.expires is None else max(state.expires - time.time(), 1.0)
    done, restored, failures = _made_anew(scattering, locator, found, bad, ttl)
    keys = {one: scattering.means.key_at(locator, one) for one in range(len(scattering.members))}
    still = partial(scattering.means.still_there, keys, {member for member, _ in done}, shape.k)
    there = still() if done else True
    if there is False or (there is None and shape.k <= shape.m):
        scattering.means.take_back(done)
        unsure = (f"Whether {shape.name} was evicted cannot be told: it is not restored.",) if there is None else ()
        return report._replace(unrestored=len(bad) if unsure else 0, failures=(*failures, *unsure))
    if done and shape.k <= shape.m:
        later.add(still, done)
    return report._replace(restored=restored, unrestored=len(bad) - restored, failures=tuple(failures))


def _made_anew(
    scattering: Scattering, locator: Locator, found: Found, bad: list[int], ttl: float | None
) -> tuple[list[tuple[int, Key]], int, list[str]]:
    """Make shards of a piece from those that were found, and put each where it belongs.

    Returns:
        What was put where, how many of them lie there now, also if somebody else had put them, and what failed.
    """
    shape = locator.shape
    made = scattering.means.code(shape.k, shape.m).rebuild(found.good, shape.size, bad)
    done: list[tuple[int, Key]] = []
    restored, failures = set[int](), []
    for number, content in zip(bad, made, strict=True):
        taken = {*found.at.values(), *restored}
        shard = packed(shape, number, content)[0]
        for member in _homes(scattering, locator, number, taken):
            key = scattering.means.key_at(locator, member)
            twice = partial(_elsewhere, scattering, locator, found)
            put: Callable[[Any], bool] = partial(_put, shard, key, ttl, twice)
            try:
                mine = scattering.members.timed(member, "put", put, shard.nbytes)()
            except KeyExists:
                continue
            except ProxyfabError as error:
                failures.append(f"{scattering.members[member].spec}: {error}")
                continue
            restored.add(member)
            done += [(member, key)] if mine else []
            break
    return done, len(restored), failures


def _put(shard: Frames, key: Key, ttl: float | None, twice: Callable[[Shard], bool], child: Any) -> bool:
    try:
        return lay(child, key, shard, ttl, twice)[1]
    except ConnectorError:
        if not key.where:
            raise
        return lay(child, Key(key.id), shard, ttl, twice)[1]  # its place may have been made anew


def _elsewhere(scattering: Scattering, locator: Locator, found: Found, said: Shard) -> bool:
    """Whether who had this shard has it still."""
    member = found.at.get(said.number)
    if member is None:
        return False
    try:
        head = scattering.members[member].child.get_range(scattering.means.key_at(locator, member), 0, HEADER)
        return head is not None and header_of(head, whole=False) == said
    except ProxyfabError:
        return False


def lay(
    child: Any, key: Key, shard: Frames, ttl: float | None, twice: Callable[[Shard], bool] = lambda _: False
) -> tuple[Key, bool]:
    """Put a shard where nothing lies, or nothing that is of any use, as shards are not that are elsewhere, too.

    Returns:
        Its key, and whether it was put now: False where somebody else had put the very same.

    Raises:
        KeyExists: Another good shard lies there, or somebody else has just put one.
    """
    try:
        return child.put(shard, key=key, ttl=ttl), True
    except KeyExists:
        lies = child.get(key)
        if lies == shard:
            return key, False
        said = None if lies is None or is_note(lies) else checked(lies)
        if said is not None and not twice(said):
            raise
        if not swapped(child, key, lies, shard, ttl):
            raise
        return key, True


def swapped(child: Any, key: Key, old: Frames | None, new: Frames, ttl: float | None) -> bool:
    """Whether `new` came to lie there in place of `old`; of who cannot compare and set, about so."""
    if isinstance(child, SupportsCompareAndSet):
        return child.compare_and_set(key, old, new, ttl=ttl)
    if child.get(key) != old:
        return False
    child.put(new, key=key, ttl=ttl, replace=True)
    return True


def checked(stored: Frames) -> Shard | None:
    """What a shard says of itself; None where it is none, or broken."""
    try:
        said = header_of(stored)
        content_of(stored, said.shape, said.number)
    except IntegrityError:
        return None
    return said


def _homes(scattering: Scattering, locator: Locator, number: int, taken: set[int]) -> Iterator[int]:
    """Members that may take a shard: the one that had it, then any that has none of the piece."""
    members = scattering.members
    home = members.by_label.get(locator.shards[number].child)
    named = {members.by_label.get(lying.child) for lying in locator.shards}
    others = [member for member in range(len(members)) if member not in named]
    order = ([] if home is None else [home]) + others + [one for one in named if one is not None and one != home]
    for member in order:
        if member not in taken and not members[member].leaving and not members[member].resting:
            yield member


class Mending:
    """Restores, in the background, pieces that a get found bad."""

    scattering: Scattering

    def __init__(self) -> None:
        self._closed = False
        self._waiting: set[str] = set()
        self._drain: Drain[tuple[float, Locator]] = Drain(self._mend, "mending")

    def noticed(self, locator: Locator, found: Found) -> None:
        """A piece has shards that are broken or missing; those of members that do not answer are left alone."""
        if (
            (found.broken or found.missing)
            and locator.shape.name not in self._waiting
            and len(self._waiting) < _WAITING
        ):
            self._waiting.add(locator.shape.name)
            self._drain.add([(time.monotonic() + _PAUSE, locator)])

    def _mend(self, items: list[tuple[float, Locator]]) -> None:
        later = Later(self.scattering.means)
        for due, locator in items:
            time.sleep(max(due - time.monotonic(), 0.0))
            if self._closed:
                return
            self._waiting.discard(locator.shape.name)
            with suppress(ProxyfabError):
                restore(self.scattering, locator, later)
        later.settle()

    def flush(self, timeout: float) -> bool:
        """Whether what was noticed is mended within so many seconds."""
        return self._drain.flush(timeout)

    def close(self) -> None:
        """Mend no more."""
        self._closed = True
