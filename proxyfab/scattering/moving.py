"""Moving: shards go from one member to another, and a note stays in their place.

Rules:
1. A copy is where it is to be and was read again before the note takes the shard's place, which it does only while that
   is still there: of an object that was evicted meanwhile the copy is taken back.
2. A member takes a shard of a piece where it has none, or a note; or one that another member has, too, as happens
   where it was restored twice.
3. Who was killed in between, and begins anew, finds the copy: it is not made twice.
4. Nothing is moved of a piece that lacks a shard and can be read: to whom lost what he had of it would come another
   one, and both would be lost together. Upkeep restores before.
5. Only who leaves gives copies away: who does not know yet of a new member, and evicts, would leave a copy there.
6. Where no member can take it, what lies where is looked at anew: others may have restored or moved it meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.erasure.shard import HEADER, Shard, header_of
from proxyfab.errors import CapacityError, ConnectorError, IntegrityError, KeyExists, ProxyfabError
from proxyfab.keys import Key
from proxyfab.scattering.getting import is_note, note
from proxyfab.scattering.listing import Held, Listing
from proxyfab.scattering.report import Report
from proxyfab.scattering.restoring import Later, checked, lay, swapped
from proxyfab.scattering.scattering import Scattering

NOTE = 256
"""Bytes that a note takes at most, whatever a member adds."""


class Moving:
    """Moves shards of a scattering, after what was listed and what it moved since.

    Args:
        scattering: Whose members.
        found: What they hold.
        later: What is looked at again at the end.
    """

    def __init__(self, scattering: Scattering, found: Listing, later: Later) -> None:
        self._scattering = scattering
        self._means = scattering.means
        self._members = scattering.members
        self._later = later
        self.sizes = Counter(dict.fromkeys(range(len(scattering.members)), 0))
        """Bytes that each member holds."""
        for held in found.pieces.values():
            for member, stat in held.at.items():
                self.sizes[member] += stat.nbytes

    def free(self, held: Held) -> list[int]:
        """Members that may take a shard of a piece, the emptiest first."""
        everybody = range(len(self._members))
        free = [one for one in everybody if one not in held.at or self._has_note(held, one)]
        free = [one for one in free if not (self._members[one].leaving or self._members[one].resting)]
        return sorted(free, key=self.sizes.__getitem__)

    def _shards(self, held: Held) -> int:
        """How many members have a shard of a piece, and not a note."""
        return len(held.at) - sum(self._has_note(held, member) for member in held.at)

    def _has_note(self, held: Held, member: int) -> bool:
        if held.at[member].nbytes > NOTE:
            return False
        try:
            found = self._members[member].child.get(held.at[member].key)
        except ProxyfabError:
            return False
        return found is None or is_note(found)

    def move(self, held: Held, member: int, free: list[int] | None = None) -> Report:
        """Move what a member has of a piece to one of those that are free for it."""
        report = self._move(held, member, free)
        if not report.failures:
            return report
        now = self._looked(held)
        if member in now.at and now.at.keys() == held.at.keys():
            return report
        return self._move(now, member, None) if member in now.at and free is None else Report()

    def _looked(self, held: Held) -> Held:
        """Where a piece lies now; at whom cannot be asked as before."""
        at = {}
        for number, member in enumerate(self._members.all):
            before = held.at.get(number)
            key = Key(held.name) if before is None else before.key
            try:
                stat = member.child.stat(key)
            except ProxyfabError:
                stat = before
            if stat is not None:
                at[number] = stat._replace(key=key)
        return held._replace(at=at)

    def _move(self, held: Held, member: int, free: list[int] | None) -> Report:
        stat = held.at[member]
        source = self._members[member].child
        shard: Frames | None = source.get(stat.key)
        if shard is None or is_note(shard):
            return Report()  # it is gone, or was moved before
        said = checked(shard)
        if said is None:
            return Report(pieces=1, failures=(f"{held.name} is broken at {self._members[member].spec}; repair it.",))
        if free is not None and said.shape.k <= said.shape.m:
            return Report()  # rule 5
        if said.shape.k <= self._shards(held) < said.shape.k + said.shape.m:
            return Report(pieces=1, failures=(f"{held.name} lacks shards; repair it before it is moved.",))
        ttl = None if stat.expires is None else max(stat.expires - time.time(), 1.0)
        twin = self._twin(held, member, said, shard)
        if twin is not None:
            swapped(source, stat.key, shard, note(self._members[twin].label), ttl)
            return Report(pieces=1, shards=1, moved=1)
        targets = ((one, over) for over in (False, True) for one in self._targets(held, member, said, free, over))
        for target, over in targets:
            try:
                done = self._copied(shard, held, target, ttl, over)
            except KeyExists:
                continue  # of somebody else who moves, too
            except (ConnectorError, CapacityError) as error:
                self._members[target].warn(f"A shard of {held.name} was not moved", error)
                continue
            report = self._given(held, member, target, done, shard, said, ttl)
            if report is not None:
                return report
        text = f"{held.name} has a shard at every other child that has room; add a child first."
        return Report(pieces=1, failures=(text,))

    def _given(
        self, held: Held, member: int, target: int, done: Key, shard: Frames, said: Shard, ttl: float | None
    ) -> Report | None:
        """A note takes the place of a shard whose copy is at `target`; None where the copy is none any more."""
        source, key, left = self._members[member].child, held.at[member].key, note(self._members[target].label)
        if not swapped(source, key, shard, left, ttl) or not _exists(source, key):
            self._means.take_back([(target, done)])
            return Report()
        if not self._has(target, done, shard):  # who restored another shard there was in between, or it is lost
            swapped(source, key, left, shard, ttl)
            return None
        if said.shape.k <= said.shape.m:
            keys = {one: Key(held.name) for one in range(len(self._members))}
            keys |= {one: held.at[one].key for one in held.at}
            still = partial(self._means.still_there, keys, {target}, said.shape.k)
            self._later.add(still, [(target, done)], only=True)
        self.sizes[member] -= held.at[member].nbytes
        self.sizes[target] += held.at[member].nbytes
        return Report(pieces=1, shards=1, moved=1)

    def _has(self, member: int, key: Key, shard: Frames) -> bool:
        """Whether a member has this; of who cannot be asked nobody knows."""
        try:
            return bool(self._members[member].child.get(key) == shard)
        except ProxyfabError:
            return False

    def _targets(self, held: Held, member: int, said: Shard, free: list[int] | None, over: bool) -> list[int]:
        """Who may take a shard: those that are free for it, then those with one that another one has, too."""
        if not over:
            return self.free(held) if free is None else free
        if free is not None or len(held.at) <= said.shape.k + said.shape.m:
            return []
        by_number: dict[int, list[int]] = {}
        for other in held.at:
            if other != member and (found := self._whole(held, other)) is not None and found.shape == said.shape:
                by_number.setdefault(found.number, []).append(other)
        twice = [at for at in by_number.values() if len(at) > 1]
        return [one for at in twice for one in at[1:] if not (self._members[one].leaving or self._members[one].resting)]

    def _whole(self, held: Held, member: int) -> Shard | None:
        """What a shard says of itself that a member has whole."""
        try:
            found = self._members[member].child.get(held.at[member].key)
        except ProxyfabError:
            return None
        return None if found is None else checked(found)

    def _twin(self, held: Held, member: int, said: Shard, shard: Frames) -> int | None:
        """Who has the same shard, where there are more than there should be: a move was interrupted."""
        if len(held.at) <= said.shape.k + said.shape.m:
            return None
        for other, stat in held.at.items():
            if other == member or self._members[other].leaving or stat.nbytes != held.at[member].nbytes:
                continue
            child = self._members[other].child
            try:
                head = child.get_range(stat.key, 0, HEADER)
                if head is not None and header_of(head, whole=False) == said and child.get(stat.key) == shard:
                    return other
            except (ProxyfabError, IntegrityError):
                continue
        return None

    def _copied(self, shard: Frames, held: Held, target: int, ttl: float | None, over: bool) -> Key:
        child = self._members[target].child
        key = held.at[target].key if target in held.at else Key(held.name)
        done, mine = lay(child, key, shard, ttl, lambda _: over)
        if not mine:
            raise KeyExists(f"{done} is there: somebody else moves it, too.")
        if child.get(done) != shard:
            raise ConnectorError(f"{self._members[target].spec} does not give back what it was given.")
        return done


def _exists(child: Any, key: Key) -> bool:
    """Whether it is there; who cannot be asked has it."""
    try:
        return bool(child.exists(key))
    except ProxyfabError:
        return True
