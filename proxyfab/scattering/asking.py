"""Asking: whether a piece of an object is there, what is known of it, and letting it go, without moving it.

Rules:
1. What is not known is not guessed: that it is there k members with shards must say; that it is not, so many without
   that k cannot have theirs. Anything else is an error that says of each member why.
2. An evict asks every member, as shards may have been moved. Who cannot be reached is told as soon as he can be.
3. Where so few shards are enough as may be away, an evict that took long, or met who lacked his shard, asks twice: one
   may have been restored where the evict had been already (`restoring`, rule 2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from proxyfab.abc import Stat
from proxyfab.buffers import Frames
from proxyfab.erasure.locator import Locator, Lying
from proxyfab.erasure.shard import HEADER, Shape, header_of
from proxyfab.errors import ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.getting import UNKNOWN, is_note
from proxyfab.scattering.means import Means, nothing

T = TypeVar("T")
_SPAN = 0.25
"""Seconds from which on an evict took long."""


class Asking:
    """Asks of pieces. Thread-safe and fork-safe as the members are.

    Args:
        means: What is shared.
        most: How many members may be away.
    """

    def __init__(self, means: Means, most: int) -> None:
        self._means = means
        self._most = most

    def there(self, locator: Locator) -> bool:
        """Whether a piece can be read.

        Raises:
            ConnectorError: Too few members answer to tell.
        """
        return self._told(locator, "exists", lambda key, child: bool(child.exists(key))) is not None

    def state(self, locator: Locator) -> Stat | None:
        """What is known of a piece, under a key of its own; None where it is not there."""
        call: Callable[[Key, Any], Stat | None] = lambda key, child: child.stat(key)  # noqa: E731
        found = [stat for stat in self._told(locator, "stat", call) or () if stat is not None]
        if not found:
            return None
        ends = sorted((stat.expires for stat in found), key=lambda end: -(end or float("inf")))
        return found[0]._replace(
            nbytes=locator.shape.nbytes,
            created=min(stat.created for stat in found),
            expires=ends[locator.shape.k - 1],  # it can be read as long as k of them are there
        )

    def renew(self, locator: Locator, ttl: float | None) -> bool:
        """Move a piece's expiry; whether it was there."""
        call: Callable[[Key, Any], bool] = lambda key, child: bool(child.renew(key, ttl))  # noqa: E731
        return self._told(locator, "renew", call, all=True) is not None

    def _told(self, locator: Locator, what: str, call: Callable[[Key, Any], T], *, all: bool = False) -> list[T] | None:
        """What those who have shards say, k of them at least; None where it is gone."""
        k = locator.shape.k
        named = self._named(locator)
        stored = sum(bool(lying.child) for lying in locator.shards)
        well = [member for member in named if all or not self._means.members[member].resting]
        rest = [member for member in named if member not in well]
        others = [member for member in range(len(self._means.members)) if member not in named]
        answers: list[Answer[T]] = []
        gone: list[Answer[T]] = []

        def enough(found: list[Answer[T]]) -> bool:
            said = [one for one in answers + found if one.error is None]
            there = sum(bool(one.value) for one in said)
            return there >= k or len([one for one in said if one.child in named]) - there > stored - k

        for asked in (well, rest, others):
            if len(gone) > stored - k:
                return self._elsewhere(locator, others, what, call)
            answers += self._all(locator, asked, what, call, enough, wait=all)
            there = [one.value for one in answers if one.value]
            gone = [one for one in answers if one.error is None and not one.value and one.child in named]
            if len(there) >= k:
                return there
        if len(gone) > stored - k:
            return None
        nowhere = [one for one in answers if one.error is None and not one.value and one.child in others]
        if self._means.may_be_there(locator, len(gone), len(nowhere)) < k:
            return None
        id = locator.shape.id.hex()
        raise ConnectorError(f"Whether {id} exists cannot be told: {self._whys(locator, answers)}.")

    def _elsewhere(
        self, locator: Locator, others: Sequence[int], what: str, call: Callable[[Key, Any], T]
    ) -> list[T] | None:
        """What others say, who are not waited for, of a piece that is not where it should be: they may have it."""
        answers = self._all(locator, others, what, call, lambda _: True, wait=True)
        there = [one.value for one in answers if one.value]
        if not there or self._means.is_gone(locator.shape):
            return None
        return there * locator.shape.k if self.find(locator.shape.name, locator.shape.id) is not None else None

    def _whys(self, locator: Locator, answers: Sequence[Answer[Any]]) -> str:
        return "; ".join([*filter(None, [self._means.whys(answers)]), *self._means.lost(locator)])

    def drop(self, locator: Locator) -> bool:
        """Evict a piece; whether it was there, which only one of several who do it at once is told.

        Raises:
            ConnectorError: So few members answer that it may still be read.
        """
        everybody = list(range(len(self._means.members)))
        shape, began = locator.shape, time.monotonic()
        call: Callable[[Key, Any], bool] = lambda key, child: bool(child.evict(key))  # noqa: E731
        answers = self._all(locator, everybody, "evict", call, self._evicted(locator), wait=True)
        silent = [one for one in answers if one.error is not None]
        self._means.owe([(one.child, self._means.key_at(locator, one.child)) for one in silent])
        had = sum(one.value is True for one in answers)
        whole = had >= shape.k + shape.m and time.monotonic() - began <= _SPAN
        if shape.k <= shape.m and had and not whole:  # who restored meanwhile put it behind us
            self._all(locator, [one.child for one in answers if one.error is None], "evict", call, nothing, wait=True)
        named = self._named(locator)
        asked = [one for one in silent if one.child in named]
        unknown = self._means.unknown(locator)
        if len(asked) + unknown >= max(shape.k, shape.m + 1):
            raise ConnectorError(f"{shape.id.hex()} may still be read: {self._whys(locator, asked)}.")
        if shape.k <= shape.m and len(silent) + unknown >= shape.k:
            self._means.mark_gone(shape.name, [one.child for one in answers if one.error is None])
        for one in asked:
            self._means.members[one.child].warn(f"A shard of {shape.id.hex()} is evicted later", one.error or "")
        return had >= shape.k

    def _evicted(self, locator: Locator) -> Callable[[list[Answer[bool]]], bool]:
        """Whether those who did not answer yet could give the object back no more."""
        named = set(self._named(locator))
        least = max(locator.shape.k, locator.shape.m + 1)
        return lambda found: len(named - {one.child for one in found if one.error is None}) < least

    # -- by name -------------------------------------------------------------------------------------------------------

    def find(self, name: str, id: bytes) -> Locator | None:
        """Where a piece lies of which only the name is known; None where it does not.

        Raises:
            ConnectorError: Too few members answer to tell.
        """
        everybody = range(len(self._means.members))
        race: Race[Frames | None] = Race()
        try:
            for member in everybody:
                self._means.ask(race, member, member, "head", partial(_head, Key(name)))
            answers = self._means.answers(race, nothing)
        finally:
            race.close()
        shards: dict[Shape, dict[int, int]] = {}
        torn = 0
        for one in answers:
            if one.error is None and one.value is not None and not is_note(one.value):
                try:
                    said = header_of(one.value, whole=False)
                except IntegrityError:
                    torn += 1
                    continue
                if said.shape.id == id:
                    shards.setdefault(said.shape, {})[said.number] = one.child
        whole = {shape: len(at) - shape.k - shape.m for shape, at in shards.items() if len(at) >= shape.k}
        if whole:  # of a put that was planned again and killed there may be two
            shape = max(whole, key=lambda one: (whole[one], one))
            return self._located(shape, shards[shape])
        silent = [one for one in answers if one.error is not None]
        most = max((len(at) + len(silent) - shape.k for shape, at in shards.items()), default=-1)
        if most >= 0 or (silent and len(silent) + torn > self._most):
            raise ConnectorError(f"Whether {name} exists cannot be told: {self._means.whys(silent)}.")
        return None

    def _located(self, shape: Shape, at: dict[int, int]) -> Locator:
        labels = {number: self._means.members[member].label for number, member in at.items()}
        lying = [Lying(labels.get(number, b""), "", UNKNOWN) for number in range(shape.k + shape.m)]
        return Locator(shape, UNKNOWN, tuple(lying))

    # -- inside --------------------------------------------------------------------------------------------------------

    def _named(self, locator: Locator) -> list[int]:
        labels = self._means.members.by_label
        return [labels[lying.child] for lying in locator.shards if lying.child in labels]

    def _all(
        self,
        locator: Locator,
        asked: Sequence[int],
        what: str,
        call: Callable[[Key, Any], T],
        enough: Callable[[list[Answer[T]]], bool],
        *,
        wait: bool,
    ) -> list[Answer[T]]:
        race: Race[T] = Race()
        try:
            for member in asked:
                run = self._means.at(self._means.key_at(locator, member), call)
                self._means.ask(race, member, member, what, run, 0)
            return self._means.answers(race, enough, all=wait)
        finally:
            race.close()


def _head(key: Key, child: Any) -> Frames | None:
    found: Frames | None = child.get_range(key, 0, HEADER)
    return found
