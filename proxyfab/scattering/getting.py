"""Getting: the pieces of an object from the members that have its shards.

Rules:
1. Data are asked for first, of members that do well. A shard that is missing, late, broken or another's is replaced by
   the next. What is late is learned (`members.Pace`), and only a share of all answers is asked for twice for that; but
   what is far later is asked of everybody, and the whole ends with the patience.
2. What comes back was checked: each shard against its digest in the locator, and what had to be made against its own.
3. Who moved a shard left a note in its place, or another shard of the piece; then, and where a member cannot be asked,
   those that the locator does not name are, too. Nothing where shards should be means that the object is gone, unless
   the others have them: those are asked, but not waited for.
4. Of a range whole shards are read where they are small; of larger ones only the range, which is checked for being of
   that shard, not for its bytes. Where that fails the object is read as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import DIGEST, HEADER, Shape, content_of, digest_of, header_of
from proxyfab.errors import ConnectorError, IntegrityError, KeyNotFound, ResolveTimeout
from proxyfab.keys import Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.means import Means

UNKNOWN = bytes(DIGEST)
_MOVED = b"PFEC moved to "
_HANGS = 4.0
"""Times of a late answer, or of a quarter of a second, for which who hangs has answered nothing."""
_WHOLE = 1 << 20
"""Bytes of the largest shard that is read as a whole for a range of it."""


class Found(NamedTuple):
    """What came of asking for shards."""

    good: dict[int, Frames]
    at: dict[int, int]
    """By number of a good shard: the member that has it."""
    missing: list[int]
    """Numbers of shards that are not where they should be."""
    broken: list[tuple[int, int]]
    """Members that have something else, and the number of what they should have."""
    failures: list[str]
    moved: list[int]
    """Numbers of shards that lie elsewhere."""
    nowhere: list[int]
    """Members that have none, and should not."""


class Getting:
    """Gets pieces. Thread-safe and fork-safe as the members are.

    Args:
        means: What is shared.
        noticed: Is told of pieces with shards that are broken or missing, with what was found.
    """

    def __init__(self, means: Means, noticed: Callable[[Locator, Found], object]) -> None:
        self._means = means
        self._noticed = noticed

    def get(self, locator: Locator) -> Frames | None:
        """A piece; None where it is not any more.

        Raises:
            ConnectorError: Too few of the members that have it answer.
            IntegrityError: Too few of its shards are what was written.
        """
        shape = locator.shape
        found = self.gather(locator, shape.k)
        if len(found.good) >= shape.k:
            if found.missing and self._means.is_gone(shape):
                self._means.evict_later(shape)
                return None
            if found.broken or found.missing:
                self._noticed(locator, found)
            return self._decoded(locator, found.good)
        stored = sum(bool(lying.child) for lying in locator.shards)
        gone = len(found.missing)
        if len(found.nowhere) + self._means.named(locator) >= len(self._means.members):  # nor is it where notes lead
            gone += len({*found.moved} - found.good.keys() - {-1})
        if gone > stored - shape.k or self._means.may_be_there(locator, gone, len(found.nowhere)) < shape.k:
            return None
        kind = IntegrityError if found.broken else ConnectorError
        raise kind(
            f"Of {shape.id.hex()} only {len(found.good)} shards can be read, and {shape.k} are needed: "
            f"{'; '.join(dict.fromkeys(found.failures))}."
        )

    def _decoded(self, locator: Locator, good: dict[int, Frames]) -> Frames:
        shape = locator.shape
        code = self._means.code(shape.k, shape.m)
        missing = [number for number in range(shape.k) if number not in good]
        if missing:
            for number, made in zip(missing, code.rebuild(good, shape.size, missing), strict=True):
                self._check_made(locator, number, made)
                good = {**good, number: made}
        return code.decode(good, shape.size)

    def _check_made(self, locator: Locator, number: int, made: Frames) -> None:
        known = locator.shards[number].digest
        if known != UNKNOWN and digest_of(locator.shape.digest, made) != known:
            raise IntegrityError(
                f"{locator.shape.id.hex()} is not what was written, although its shards are; was its key damaged?"
            )

    # -- shards ----------------------------------------------------------------------------------------------------

    def gather(self, locator: Locator, wanted: int, without: int | None = None) -> Found:
        """So many good shards, or all there are; of a member that is to be left out none."""
        shape = locator.shape
        found = Found({}, {}, [], [], self._means.lost(locator), [], [])
        order, others = self._order(locator, without)
        late = self._means.pace.late(shape.length)
        patience, came = self._means.patience, True
        now = began = time.monotonic()
        next_one, hurry = now + late, now + self._means.pace.far_too_late(shape.length, patience / 2)
        ends = float("inf")
        race: Race[Frames | None] = Race()
        try:
            while len(found.good) < wanted and (order or race.pending or (others and _elsewhere(found, shape.k))):
                if now >= ends:
                    self._give_up(race, found, locator)
                    break
                more = wanted - race.pending - len(found.good)
                unsaid = not (order or race.pending) and not _elsewhere(found)
                if unsaid:  # they may have what was restored while another one was away; it is not waited for long
                    ends = min(ends, self._means.soon(began))
                if now >= hurry or not (order or race.pending):
                    order, others = order + others, []
                if unsaid:
                    more = len(order)
                elif now >= hurry:
                    more, ends = len(order), min(ends, max(began + patience, now + patience / 2))
                elif not came and order and now >= next_one:
                    more += sum(self._means.pace.spend() for _ in range(min(race.pending, len(order))))
                    next_one = now + late / 2
                asked, order = order[: max(more, 0)], order[max(more, 0) :]
                for member, number in asked:
                    self._fetch(race, member, number, locator)
                until = min(hurry if now < hurry else ends, next_one if order else ends)
                answer = race.next(until - time.monotonic())
                came = answer is not None
                if answer is not None:
                    self._take(found, answer, locator)
                now = time.monotonic()
        finally:
            race.close()
        return found

    def _give_up(self, race: Race[Frames | None], found: Found, locator: Locator) -> None:
        for one in race.give_up():
            if one.error is None:
                self._take(found, one, locator)
            else:
                self._means.members[one.child].ill(one.error)
                self._means.members[one.child].warn("A shard was not used", one.error)
                found.failures.append(self._means.why(one))

    def _order(self, locator: Locator, without: int | None) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Members and the numbers of the shards that they should have; and others, who should have none (-1)."""
        members, labels = self._means.members, self._means.members.by_label
        named = [(labels[lying.child], number) for number, lying in enumerate(locator.shards) if lying.child in labels]
        others = [(member, -1) for member in range(len(members)) if member not in {at for at, _ in named}]
        others.sort(key=lambda one: members[one[0]].resting)
        named.sort(key=lambda one: self._rank(one[0], locator.shape.length))
        return [one for one in named if one[0] != without], [one for one in others if one[0] != without]

    def _rank(self, member: int, nbytes: int) -> int:
        """Who rests or hangs is last; who takes three times as long as others before him; else data before parity."""
        one = self._means.members[member]
        if one.silent > self._means.patience:
            one.warn("A child hangs", ResolveTimeout(f"It has not answered for {one.silent:.0f} s."))
        late = self._means.pace.late(nbytes)
        if one.resting or one.hangs(min(_HANGS * max(late, 0.25), self._means.patience)):
            return 2
        mine = self._means.members[member].seconds("get", nbytes)
        return int(mine is not None and late < self._means.pace.first and mine > 3 * late)

    def _fetch(self, race: Race[Frames | None], member: int, number: int, locator: Locator) -> None:
        pace, length = self._means.pace, locator.shape.length

        def fetch(key: Key, child: Any) -> Frames | None:
            began = time.monotonic()
            value: Frames | None = child.get(key)
            if value is not None and number >= 0:
                pace.add(length, time.monotonic() - began)
            return value

        self._means.ask(race, member, number, "get", self._means.at(self._means.key_at(locator, member), fetch))

    def _take(self, found: Found, answer: Answer[Frames | None], locator: Locator) -> None:
        member, number = answer.child, answer.number
        if answer.value is None:
            if answer.error is not None:
                self._tell(locator, answer, answer.error)
                found.failures.append(self._means.why(answer))
                if isinstance(answer.error, IntegrityError):
                    found.broken.append((member, number))
            elif number >= 0:
                found.missing.append(number)
                found.failures.append(self._means.why(answer))
            else:
                found.nowhere.append(member)
            return
        try:
            if is_note(answer.value):
                found.moved.append(number)
                return
            if number < 0:
                number = header_of(answer.value).number
                if number in found.good:
                    return
            known = locator.shards[number].digest
            content = content_of(answer.value, locator.shape, number, None if known == UNKNOWN else known)
        except (IntegrityError, IndexError) as error:
            if number >= 0 and _is_another(answer.value, locator, number):
                found.moved.append(number)  # it had to lie elsewhere, and then this one had to lie here
                self._take(found, answer._replace(number=-1), locator)
                return
            found.broken.append((member, answer.number))
            found.failures.append(f"{self._means.members[member].spec}: {error}")
            self._tell(locator, answer, error)
        else:
            found.good[number], found.at[number] = content, member

    def _tell(self, locator: Locator, answer: Answer[Any], error: BaseException) -> None:
        self._means.members[answer.child].warn(f"A shard of {locator.shape.id.hex()} was not used", error)

    # -- parts -------------------------------------------------------------------------------------------------------

    def get_range(self, locator: Locator, offset: int, length: int) -> Frames | None:
        """A part of a piece, cut at its end like a slice; None where it is not any more."""
        shape = locator.shape
        end = min(offset + length, shape.size)
        if shape.length > _WHOLE and 0 <= offset < end:
            parts = self._parts(locator, offset, end)
            if parts is not None:
                return parts
        whole = self.get(locator)
        return None if whole is None else whole.slice(offset, length)

    def _parts(self, locator: Locator, offset: int, end: int) -> Frames | None:
        """The range from the shards it lies in; None where one of them cannot be had so."""
        shape, labels = locator.shape, self._means.members.by_label
        first, last = offset // shape.length, (end - 1) // shape.length
        race: Race[Frames] = Race()
        try:
            for number in range(first, last + 1):
                member = labels.get(locator.shards[number].child)
                if member is None or self._means.members[member].resting:
                    return None
                low = max(offset - number * shape.length, 0)
                high = min(end - number * shape.length, shape.length)
                key = self._means.key_at(locator, member)
                self._means.ask(race, member, number, "range", partial(_part, key, shape, number, low, high - low))
            answers = self._means.answers(race, lambda found: any(one.value is None for one in found))
        finally:
            race.close()
        found = {one.number: one.value for one in answers if one.value is not None}
        if len(found) < last - first + 1:
            return None
        return Frames([view for number in sorted(found) for view in found[number]])


def _elsewhere(found: Found, least: int = 0) -> bool:
    """Whether shards may lie where the locator does not say; or fewer than so many where it does."""
    return bool(found.moved) or len(found.failures) > len(found.missing) or len(found.good) < least


def _is_another(stored: Frames, locator: Locator, number: int) -> bool:
    """Whether this says that it is a shard of the piece, with another number."""
    try:
        said = header_of(stored)
    except IntegrityError:
        return False
    return said.shape == locator.shape and said.number != number


def note(label: bytes) -> Frames:
    """What is left in the place of a shard that was moved to the member of that label."""
    return Frames([_MOVED, label])


def is_note(stored: Frames) -> bool:
    """Whether this lies in the place of a shard that was moved."""
    return stored.nbytes < HEADER and stored.slice(0, len(_MOVED)).tobytes() == _MOVED


def _part(key: Key, shape: Shape, number: int, low: int, length: int, child: Any) -> Frames:
    """A part of a shard's content, if the shard is the one that is meant."""
    head: Frames | None = child.get_range(key, 0, HEADER)
    if head is None:
        raise KeyNotFound("It has the shard no more.")
    said = header_of(head, whole=False)
    if said.shape != shape or said.number != number:
        raise IntegrityError("A shard of another object lies there.")
    found: Frames | None = child.get_range(key, HEADER + low, length)
    if found is None or found.nbytes != length:
        raise IntegrityError(f"Shard {number} was cut.")
    return found
