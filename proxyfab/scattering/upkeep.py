"""Upkeep: what is lost, broken or meant by nobody is found, members come and go, and what they hold is put right.

Rules:
1. Shards are restored (`scattering.restoring`) and moved (`scattering.moving`) so that keys in flight stay good.
2. Contents that no name means, and segments that no list names, go after an hour: a put may be under way; one that
   takes longer leaves a mark, and as long as there is one no segment goes that no list names. Where a name,
   or a list, cannot be read, nobody knows what they mean, and nothing goes.
3. Who belongs to the members changes by one at a time, and from a whole state only: adding begins by having most of
   them know what names mean, draining by restoring every shard besides; what is on the way stops where that fails, or
   where the members are not those on the roll (`scattering.roll`). Who is new has nothing of ours.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import HEADER, SEGMENT, header_of
from proxyfab.errors import ConfigurationError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.scattering import roll
from proxyfab.scattering.getting import is_note
from proxyfab.scattering.listing import Held, Listing, is_ours, listed, registered, strays
from proxyfab.scattering.means import AFTER
from proxyfab.scattering.members import label_of
from proxyfab.scattering.moving import Moving
from proxyfab.scattering.names import locators
from proxyfab.scattering.registers import Registers
from proxyfab.scattering.report import Progress, Report, quietly
from proxyfab.scattering.restoring import Later, restore, seen
from proxyfab.scattering.scattering import Scattering

__all__ = ["Report", "Upkeep", "quietly"]

OLD = 3600.0
"""Seconds after which what nobody means is a stray."""
_SOON = 10.0
_ROUNDS = 8
_LOOK = 1.0
"""Seconds after which who moves looks at the roll again."""


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
        self._later = Later(scattering.means)

    @property
    def _listed(self) -> Listing:
        return listed(self._scattering.means, self._scattering.planner.m)

    # -- one piece ---------------------------------------------------------------------------------------------------

    def check(self, held: Held, *, repair: bool, again: list[Held] | None = None) -> Report:
        """Read all shards of a piece, and restore those that are not well if that is wanted.

        Where an evict may be at work it is only put down in `again`, where that is given.
        """
        try:
            locator = self._scattering.find(held.id, held.kind)
            if locator is None:
                return self._left(held, repair=repair)
        except ConnectorError as error:
            return Report(pieces=1, failures=(str(error),))
        if not repair:
            return seen(self._scattering, locator)[1]
        if again is not None and locator.shape.k <= locator.shape.m:
            report = seen(self._scattering, locator)[1]
            if report.lost or not (report.missing or report.broken):
                return report
            again.append(held)
            return Report()
        return restore(self._scattering, locator, self._later)

    def _left(self, held: Held, *, repair: bool) -> Report:
        """Of a piece that cannot be read: it was evicted since, notes are left of it, or too few shards."""
        heads = self._heads(held)
        if not heads:
            return Report()
        if not all(map(is_note, heads)):
            return Report(pieces=1, lost=(held.name,))
        if repair and not any(member.failures for member in self._scattering.members.all):  # they may know of more
            self._scattering.means.take_back([(member, stat.key) for member, stat in held.at.items()])
        return Report(pieces=1, strays=1)

    def _heads(self, held: Held) -> list[Frames]:
        """How what members have of a piece begins.

        Raises:
            ConnectorError: One of them does not answer.
        """
        heads = []
        for member, stat in held.at.items():
            head = self._scattering.members.timed(member, "head", partial(_head, stat.key))()
            if head is not None:
                heads.append(head)
        return heads

    # -- all of them -------------------------------------------------------------------------------------------------

    def scrub(self, *, repair: bool = False) -> Report:
        """Read everything that is stored, and say (or restore) what is not well."""
        if repair:  # what is owed is evicted first, or it would take along what is put in its place
            self._scattering.means.flush(_SOON)
        began, found = time.time(), self._listed
        report = Report(failures=tuple(map(str, found.away.values())))
        again: list[Held] = []
        for held in self._progress(list(found.pieces.values()), len(found.pieces)):
            report = report.plus(self.check(held, repair=repair, again=again))
        if again:
            time.sleep(AFTER)
        for held in again:
            report = report.plus(self.check(held, repair=repair))
        for name in registered(self._scattering.means, found)[0] if repair else ():
            self._registers.refresh(name)
        report = report.plus(self._sweep(found, began, repair=repair))
        self._later.settle()
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

    def settle(self, joining: Any = None) -> None:
        """Have most members keep what names mean, before there is one more.

        Args:
            joining: The connector that is to come.

        Raises:
            ConfigurationError: They are not those on the roll, or the new one holds what it had before.
            ConnectorError: Too few of them answer, or the new one does not.
        """
        new = frozenset() if joining is None else frozenset([label_of(joining)])
        if not roll.check(self._scattering.means, new):
            held = sum(is_ours(stat.key.id) for stat in joining.scan()) if joining is not None else 0
            if held:
                raise ConfigurationError(
                    f"{joining.spec} holds {held} shards and names of before, and what was evicted since would come "
                    f"back with them. Empty it first, or give it another namespace."
                )
        self._refresh()

    def joined(self) -> Report:
        """One member is new, and the others have settled: all are put on the roll, and it is told what names mean."""
        roll.call(self._scattering.means, self._scattering.members.by_label)
        return self._refresh()

    def _refresh(self) -> Report:
        found = self._listed
        names, unread = registered(self._scattering.means, found)
        for name in self._progress(names, len(names)):
            self._registers.refresh(name)
        return Report(failures=(*map(str, found.away.values()), *unread))

    def _sweep(self, found: Listing, began: float, *, repair: bool) -> Report:
        """Contents that no name meant when it was listed: since then what was under way may have got its name."""
        names, unknown = registered(self._scattering.means, found)
        meant = [one for name in names for one in locators(self._registers.read(name))]
        lists, known = [one for one in meant if one.shape.total], set[str]()
        left = strays(found, meant)
        going = {held.name for held in left if _old(held, began)}  # a list that goes takes its segments along
        for held in found.pieces.values():
            if held.name in going:
                continue
            try:
                lists += self._large(held)
            except ProxyfabError as error:
                unknown.append(str(error))
        for listing in lists:
            try:
                known |= {one.shape.name for one in self._scattering.pieces(listing)}
            except ProxyfabError as error:
                unknown.append(str(error))
        segments = [held for held in found.pieces.values() if held.kind == SEGMENT and not found.uploads]
        left += [held for held in segments if held.name not in known]
        old = [held for held in left if _old(held, began)]
        if old and repair and (unknown or len(found.away) >= self._registers.majority):
            text = f"{len(old)} strays are left until all names and lists can be read: {'; '.join(unknown[:3])}"
            return Report(strays=len(old), failures=(text,))
        for held in old if repair else ():
            self._scattering.means.owe([(member, stat.key) for member, stat in held.at.items()])
        return Report(strays=len(old))

    def _large(self, held: Held) -> list[Locator]:
        """A piece, if it is a list of segments.

        Raises:
            ConnectorError: It may be one.
            IntegrityError: Likewise.
        """
        if held.kind == SEGMENT:
            return []
        found = self._scattering.find(held.id, held.kind)
        if found is None:
            heads = [header_of(head, whole=False) for head in self._heads(held) if not is_note(head)]
            if any(head.shape.total for head in heads):
                raise IntegrityError(f"Of {held.name}, a list of segments, too few shards are left.")
            return []
        return [found] if found.shape.total else []

    # -- moving ------------------------------------------------------------------------------------------------------

    def drain(self, member: int) -> Report:
        """Move all that a member holds to others, and put nothing there any more; it may be taken away then.

        What names mean is told to all others, too: of those that agreed on it one will be missing. What others put
        there meanwhile is moved as well, some times over; what comes later, the next drain or repair restores.

        Raises:
            ConfigurationError: The members are not those on the roll, or not any more: somebody else changed them.
            ConnectorError: Not every shard is where it should be, and could not be restored: nothing was moved.
        """
        means = self._scattering.means
        leaving = means.members[member].label
        roll.check(means, leaving=leaving)
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
            roll.check(means, leaving=leaving)
            roll.call(means, [label for label, number in means.members.by_label.items() if number != member])
        return report

    def _empty(self, member: int) -> Report:
        means = self._scattering.means
        leaving = means.members[member].label
        roll.check(means, leaving=leaving)  # nothing goes to whom somebody else has drained meanwhile
        found = self._listed
        mine = [held for held in found.pieces.values() if member in held.at]
        moving = Moving(self._scattering, found, self._later)
        report = Report()
        looked = time.monotonic()
        for held in self._progress(mine, len(mine)):
            if time.monotonic() - looked > _LOOK:
                roll.check(means, leaving=leaving)
                looked = time.monotonic()
            report = report.plus(moving.move(held, member))
        self._later.settle()
        names, unread = registered(means, found)
        for name in names:
            self._registers.refresh(name)
        return report._replace(failures=(*report.failures, *unread))

    def rebalance(self) -> Report:
        """Move shards from the fullest members to the emptiest, as long as that makes them more alike.

        Raises:
            ConfigurationError: The members are not those on the roll.
        """
        roll.check(self._scattering.means)
        found = self._listed
        moving = Moving(self._scattering, found, self._later)
        report = Report()
        for held in self._progress(list(found.pieces.values()), len(found.pieces)):
            fullest = max(held.at, key=moving.sizes.__getitem__)
            free = moving.free(held)
            if free and moving.sizes[fullest] - moving.sizes[free[0]] > held.at[fullest].nbytes:
                report = report.plus(moving.move(held, fullest, free[:1]))
        self._later.settle()
        return report


def _old(held: Held, now: float) -> bool:
    return now - max(stat.created for stat in held.at.values()) > OLD


def _head(key: Any, child: Any) -> Frames | None:
    found: Frames | None = child.get_range(key, 0, HEADER)
    return found
