"""Upkeep: shards that are lost, broken or to lie elsewhere; contents that nobody means; and what is known of members.

Rules:
1. A shard is restored where the locator says that it lies, under the key that it had there: keys in flight never
   change. Where that member is away or leaving, another one takes it, which readers find (`getting`, rule 3).
2. Before a shard is moved away its copy is there and was read again; in its place a note stays.
3. What was restored is taken back if the object is gone by then: an evict was at work.
4. Contents that no name means, and segments that no list names, go after an hour: a put may be under way.
5. Who belongs to the members changes by one at a time, and from a whole state only: adding begins by having most of
   them know what names mean, draining by restoring every shard besides; what is on the way stops where that fails, or
   where the members are not those on the roll (`scattering.roll`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import SEGMENT, packed
from proxyfab.errors import CapacityError, ConnectorError, ProxyfabError
from proxyfab.exit import Drain
from proxyfab.keys import Key
from proxyfab.scattering import roll
from proxyfab.scattering.getting import Found, is_note, note
from proxyfab.scattering.listing import Held, Listing, listed, registered, strays
from proxyfab.scattering.names import locators
from proxyfab.scattering.registers import Registers
from proxyfab.scattering.scattering import Scattering

OLD = 3600.0
"""Seconds after which what nobody means is a stray."""
_PAUSE = 1.0
"""Seconds before a piece that a get found bad is looked at again: an evict may be at work."""
_SOON = 10.0
_ROUNDS = 8
_WAITING = 1000


class Report(NamedTuple):
    """What upkeep saw and did."""

    pieces: int = 0
    """Objects, or segments of large ones."""
    shards: int = 0
    missing: int = 0
    """Shards that should be there."""
    broken: int = 0
    restored: int = 0
    unrestored: int = 0
    """Shards that lack still, of what can be read."""
    moved: int = 0
    strays: int = 0
    """Contents that nobody means."""
    lost: tuple[str, ...] = ()
    """Ids of pieces with fewer than k shards."""
    failures: tuple[str, ...] = ()

    def plus(self, other: Report) -> Report:
        """Both together."""
        summed = {name: getattr(self, name) + getattr(other, name) for name in self._fields}
        return Report(**summed)


Progress = Callable[[Iterable[Any], int], Iterable[Any]]


def quietly(items: Iterable[Any], _: int) -> Iterable[Any]:
    """No progress shown."""
    return items


class Upkeep:
    """Looks after what a scattering holds. One at a time is enough; more do no harm.

    Args:
        scattering: Whose members.
        registers: What names mean there.
        progress: Wraps what is gone through, for a bar: given items and their number.
    """

    def __init__(self, scattering: Scattering, registers: Registers, progress: Progress = quietly) -> None:
        self._scattering = scattering
        self._registers = registers
        self._progress = progress

    @property
    def _listed(self) -> Listing:
        return listed(self._scattering.means, self._scattering.planner.m)

    # -- one piece ---------------------------------------------------------------------------------------------------

    def check(self, held: Held, *, repair: bool) -> Report:
        """Read all shards of a piece, and restore those that are not well if that is wanted."""
        try:
            locator = self._scattering.find(held.id, held.kind)
        except ConnectorError as error:
            return Report(pieces=1, failures=(str(error),))
        if locator is None:
            return Report(pieces=1, lost=(held.name,)) if held.at else Report()
        return restore(self._scattering, locator) if repair else _seen(self._scattering, locator)[1]

    # -- all of them -------------------------------------------------------------------------------------------------

    def scrub(self, *, repair: bool = False) -> Report:
        """Read everything that is stored, and say (or restore) what is not well."""
        if repair:  # what is owed is evicted first, or it would take along what is put in its place
            self._scattering.means.flush(_SOON)
        found = self._listed
        report = Report(failures=tuple(map(str, found.away.values())))
        for held in self._progress(list(found.pieces.values()), len(found.pieces)):
            report = report.plus(self.check(held, repair=repair))
        for name in registered(self._scattering.means, found) if repair else ():
            self._registers.refresh(name)
        report = report.plus(self._sweep(found, repair=repair))
        if repair and not report.failures:
            self._outlive(report)
        return report

    def _outlive(self, report: Report) -> None:
        """Those on the roll that are no members any more are lost, and what could be restored without them was."""
        means = self._scattering.means
        labels, known = means.members.by_label.keys(), roll.latest(means)
        if known is not None and known.members > labels:
            few = len(known.members - labels) <= self._scattering.planner.m
            if few or not report.lost:  # else many others may be missing in the URL by mistake
                roll.call(means, labels)

    def settle(self) -> None:
        """Have most members keep what names mean, before there is one more.

        Raises:
            ConfigurationError: They are not those on the roll.
            ConnectorError: Too few of them answer.
        """
        roll.check(self._scattering.means)
        self._refresh()

    def joined(self) -> Report:
        """One member is new, and the others have settled: it is told what names mean, and all are put on the roll."""
        report = self._refresh()
        roll.call(self._scattering.means, self._scattering.members.by_label)
        return report

    def _refresh(self) -> Report:
        found = self._listed
        names = registered(self._scattering.means, found)
        for name in self._progress(names, len(names)):
            self._registers.refresh(name)
        return Report(failures=tuple(map(str, found.away.values())))

    def _sweep(self, found: Listing, *, repair: bool) -> Report:
        """Contents that no name means."""
        names = registered(self._scattering.means, found)
        meant = [one for name in names for one in locators(self._registers.read(name))]
        lists = [*meant, *(one for held in found.pieces.values() if (one := self._large(held)) is not None)]
        known = {one.shape.name for listing in lists if listing.shape.total for one in self._pieces(listing)}
        left = strays(found, meant)
        segments = [held for held in found.pieces.values() if held.kind == SEGMENT]
        left += [held for held in segments if held.name not in known]
        old = [held for held in left if time.time() - max(stat.created for stat in held.at.values()) > OLD]
        for held in old if repair else ():
            self._scattering.means.owe([(member, stat.key) for member, stat in held.at.items()])
        return Report(strays=len(old))

    def _large(self, held: Held) -> Locator | None:
        if held.kind == SEGMENT:
            return None
        with suppress(ProxyfabError):
            found = self._scattering.find(held.id, held.kind)
            return found if found is not None and found.shape.total else None
        return None

    def _pieces(self, listing: Locator) -> list[Locator]:
        with suppress(ProxyfabError):
            return self._scattering.pieces(listing)
        return []

    # -- moving ------------------------------------------------------------------------------------------------------

    def drain(self, member: int) -> Report:
        """Move all that a member holds to others, and put nothing there any more; it may be taken away then.

        What names mean is told to all others, too: of those that agreed on it one will be missing. What others put
        there meanwhile is moved as well, some times over; what comes later, the next drain or repair restores.

        Raises:
            ConfigurationError: The members are not those on the roll.
            ConnectorError: Not every shard is where it should be, and could not be restored: nothing was moved.
        """
        means = self._scattering.means
        roll.check(means)
        before = self.scrub(repair=True)
        if before.unrestored or before.failures:
            raise ConnectorError(
                f"{means.members[member].spec} is not drained while anything lacks: {before.unrestored} shards could "
                f"not be restored. Bring back children that are away, or take out what is lost and add others; "
                f"`proxyfab erasure repair` says what is not well. {'; '.join(before.failures[:3])}"
            )
        means.members[member].leaving = True
        report = Report()
        for _ in range(_ROUNDS):
            moved = self._empty(member)
            report = report.plus(moved)
            if not moved.moved or moved.failures:
                break
        if not report.failures:
            roll.call(means, [label for label, number in means.members.by_label.items() if number != member])
        return report

    def _empty(self, member: int) -> Report:
        found = self._listed
        mine = [held for held in found.pieces.values() if member in held.at]
        sizes = self._sizes(found)
        report = Report()
        for held in self._progress(mine, len(mine)):
            report = report.plus(self._move(held, member, self._free(held, sizes), sizes))
        for name in registered(self._scattering.means, found):
            self._registers.refresh(name)
        return report

    def rebalance(self) -> Report:
        """Move shards from the fullest members to the emptiest, as long as that makes them more alike.

        Raises:
            ConfigurationError: The members are not those on the roll.
        """
        roll.check(self._scattering.means)
        found = self._listed
        sizes = self._sizes(found)
        report = Report()
        for held in self._progress(list(found.pieces.values()), len(found.pieces)):
            fullest = max(held.at, key=sizes.__getitem__)
            free = self._free(held, sizes)
            if free and sizes[fullest] - sizes[free[0]] > held.at[fullest].nbytes:
                report = report.plus(self._move(held, fullest, free[:1], sizes))
        return report

    def _sizes(self, found: Listing) -> Counter[int]:
        sizes = Counter(dict.fromkeys(range(len(self._scattering.members)), 0))
        for held in found.pieces.values():
            for member, stat in held.at.items():
                sizes[member] += stat.nbytes
        return sizes

    def _free(self, held: Held, sizes: Counter[int]) -> list[int]:
        """Members that may take a shard of a piece, the emptiest first."""
        members = self._scattering.members
        free = [one for one in range(len(members)) if one not in held.at]
        free = [one for one in free if not (members[one].leaving or members[one].resting)]
        return sorted(free, key=sizes.__getitem__)

    def _move(self, held: Held, member: int, free: list[int], sizes: Counter[int]) -> Report:
        stat, means = held.at[member], self._scattering.means
        source = means.members[member].child
        shard: Frames | None = source.get(stat.key)
        if shard is None or shard.nbytes < stat.nbytes or is_note(shard):
            return Report()  # it is gone, or was moved before
        for target in free:
            child = means.members[target].child
            try:
                ttl = None if stat.expires is None else max(stat.expires - time.time(), 1.0)
                done = child.put(shard, key=Key(held.name), ttl=ttl, replace=True)
                if child.get(done) != shard:
                    raise ConnectorError(f"{means.members[target].spec} does not give back what it was given.")
                source.put(note(means.members[target].label), key=stat.key, ttl=ttl, replace=True)
            except (ConnectorError, CapacityError) as error:
                means.members[target].warn(f"A shard of {held.name} was not moved", error)
                continue
            sizes[member] -= stat.nbytes
            sizes[target] += stat.nbytes
            return Report(pieces=1, shards=1, moved=1)
        text = f"{held.name} has a shard at every other child that has room; add a child first."
        return Report(pieces=1, failures=(text,))


# -- restoring -------------------------------------------------------------------------------------------------------


def _seen(scattering: Scattering, locator: Locator) -> tuple[Found, Report]:
    """All shards of a piece that can be read, and what is not well."""
    shape = locator.shape
    count = shape.k + shape.m
    found = scattering.getting.gather(locator, count)
    gone = count - len(found.good) - len(found.broken)
    lost = (shape.name,) if len(found.good) < shape.k else ()
    return found, Report(1, len(found.good), max(gone, 0), len(found.broken), lost=lost)


def restore(scattering: Scattering, locator: Locator) -> Report:
    """Restore the shards of a piece that are missing or broken."""
    shape = locator.shape
    found, report = _seen(scattering, locator)
    bad = [number for number in range(shape.k + shape.m) if number not in found.good]
    if report.lost or not bad:
        return report
    if scattering.means.is_gone(shape):
        scattering.means.evict_later(shape)
        return Report(pieces=1, strays=1)
    state = scattering.state(locator)
    ttl = None if state is None or state.expires is None else max(state.expires - time.time(), 1.0)
    made = scattering.means.code(shape.k, shape.m).rebuild(found.good, shape.size, bad)
    done: list[tuple[int, Key]] = []
    failures = []
    for number, content in zip(bad, made, strict=True):
        taken = {*found.at.values(), *(member for member, _ in done)}
        shard = packed(shape, number, content)[0]
        for member in _homes(scattering, locator, number, taken):
            key = scattering.means.key_at(locator, member)
            put: Callable[[Any], object] = partial(_put, shard, key, ttl)
            try:
                scattering.members.timed(member, "put", put, shard.nbytes)()
            except ProxyfabError as error:
                failures.append(f"{scattering.members[member].spec}: {error}")
                continue
            done.append((member, key))
            break
    if done and not _still(scattering, locator, found):
        scattering.means.owe(done)
        return report
    left = len(bad) - len(done)
    return report._replace(restored=len(done), unrestored=left, failures=tuple(failures))


def _put(shard: Frames, key: Key, ttl: float | None, child: Any) -> object:
    try:
        return child.put(shard, key=key, ttl=ttl, replace=True)
    except ConnectorError:
        if not key.where:
            raise
        return child.put(shard, key=Key(key.id), ttl=ttl, replace=True)  # its place may have been made anew


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


def _still(scattering: Scattering, locator: Locator, found: Found) -> bool:
    """Whether the shards that a piece was restored from are still there."""
    there = 0
    for member in found.at.values():
        with suppress(ProxyfabError):
            there += bool(scattering.members[member].child.exists(scattering.means.key_at(locator, member)))
    return there >= locator.shape.k


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
        for due, locator in items:
            time.sleep(max(due - time.monotonic(), 0.0))
            if self._closed:
                return
            self._waiting.discard(locator.shape.name)
            with suppress(ProxyfabError):
                restore(self.scattering, locator)

    def flush(self, timeout: float) -> bool:
        """Whether what was noticed is mended within so many seconds."""
        return self._drain.flush(timeout)

    def close(self) -> None:
        """Mend no more."""
        self._closed = True
