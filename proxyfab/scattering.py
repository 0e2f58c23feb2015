"""Scattering: an object's shards to several children and back, any k of k + m of which are enough.

Rules:
1. A key says all: what the object is, which child has which shard, and the digest of each (`erasure.locator`). So
   nobody is asked where anything is, and nothing else could be lost.
2. A put needs a quorum of shards, each on a child of its own. A child that fails, or does not answer in time, is
   replaced by a spare one while there is one. Short of the quorum what was stored is evicted, and the error says of
   each child why. What nobody has a key for is evicted in the background as soon as its child can be reached.
3. A get asks for data first. A shard that is missing, late, broken or another's is replaced by the next; so is, for as
   long as a child is slow, what it was asked for. What comes back was checked against the key, or it is an error.
4. What is not known is not guessed: `exists` says True when k children have their shards, False when so many have not
   that k cannot be, and is an error otherwise.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from proxyfab.buffers import Frames
from proxyfab.erasure.codec import Code
from proxyfab.erasure.locator import LABEL, Locator, Lying
from proxyfab.erasure.shard import DIGEST, Shape, content_of, digest_of, packed
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.exit import Drain
from proxyfab.keys import Fresh, Key
from proxyfab.race import Answer, Race

T = TypeVar("T")
_log = logging.getLogger("proxyfab.erasure")
_NOWHERE = Lying(b"", "", bytes(DIGEST))


class _Put(NamedTuple):
    """An object on its way out."""

    id: bytes
    shards: list[Frames]
    ttl: float | None
    landed: dict[int, tuple[int, Key]]
    """By number of the shard: the child that has it, and its key there."""
    tried: list[tuple[int, Key]]
    """What children were asked to store, and may have."""
    failures: list[Answer[Key]]


class _Found(NamedTuple):
    """What came of asking for shards."""

    good: dict[int, Frames]
    missing: int
    failures: list[str]
    broken: bool


class Scattering:
    """Puts shards to children and gets them back. Thread-safe and fork-safe as the children are.

    Args:
        children: Connectors, at least as many as the code has shards; more are spares. They fail independently.
        code: k and m.
        quorum: Shards without which a put fails; k + max(1, m - 1) by default.
        patience: Seconds that a child has for its answer to a put, and all of them for a get.
        hedge: Seconds after which a get asks another child, too.
    """

    def __init__(
        self,
        children: Sequence[Any],
        code: Code,
        *,
        quorum: int | None = None,
        patience: float = 30.0,
        hedge: float = 0.5,
    ) -> None:
        self.children = list(children)
        self.code = code
        self.quorum = min(code.k + max(1, code.m - 1), code.n) if quorum is None else quorum
        self.patience = patience
        self.hedge = hedge
        specs = [str(child.spec) for child in self.children]
        if len(set(specs)) < max(len(specs), code.n):
            raise ConfigurationError(f"{code!r} needs {code.n} different children, not {', '.join(specs) or 'none'}.")
        if not code.k <= self.quorum <= code.n:
            raise ConfigurationError(f"A quorum of {code!r} is {code.k} to {code.n} shards, not {quorum!r}.")
        self._labels = [blake2b(spec.encode(), digest_size=LABEL).digest() for spec in specs]
        self._lost: Drain[tuple[int, Key]] = Drain(self._take_back, "taking back shards")

    # -- putting -----------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, ttl: float | None = None) -> Key:
        """Store an object under a key that is drawn for it.

        Raises:
            CapacityError: Too few children have room.
            ConnectorError: Too few shards could be stored.
        """
        id = os.urandom(DIGEST)
        shape = Shape(id, self.code.k, self.code.m, frames.nbytes)
        whole = digest_of(shape.digest, frames)
        stored = [packed(shape, number, content) for number, content in enumerate(self.code.encode(frames))]
        put = _Put(id, [shard for shard, _ in stored], ttl, {}, [], [])
        race: Race[Key] = Race(late=self._late)
        kept: set[int] = set()
        try:
            self._land(race, put)
            if len(put.landed) < self.quorum:
                raise self._refused(put)
            kept.update(child for child, _ in put.landed.values())
        finally:
            race.close()
            self._owe([(child, key) for child, key in put.tried if child not in kept])
        for failure in put.failures:
            _log.warning("A shard of %s was not stored: %s", id.hex(), self._why(failure))
        lying = [
            Lying(self._labels[put.landed[number][0]], put.landed[number][1].where, digest)
            if number in put.landed
            else _NOWHERE
            for number, (_, digest) in enumerate(stored)
        ]
        return Key(id.hex(), str(Locator(shape, whole, tuple(lying))))

    def _land(self, race: Race[Key], put: _Put) -> None:
        """Send each shard to a child of its own, and to a spare one where that fails."""
        first = put.id[0] % len(self.children)
        order = [*range(first, len(self.children)), *range(first)]
        for number in range(len(put.shards)):
            self._send(race, put, order.pop(0), number)
        while race.pending:
            answer = race.next(self.patience)
            for one in race.give_up() if answer is None else [answer]:
                if one.value is not None:
                    put.landed[one.number] = (one.child, one.value)
                    continue
                put.failures.append(one)
                if order:
                    self._send(race, put, order.pop(0), one.number)

    def _send(self, race: Race[Key], put: _Put, number: int, shard: int) -> None:
        child = self.children[number]

        def send() -> Key:
            drawn = Key(put.id.hex(), child.reserve().where)
            put.tried.append((number, drawn))  # first: the answer may be lost
            done: Key = child.put(put.shards[shard], key=Fresh.of(drawn), ttl=put.ttl)
            return done.plain()

        race.ask(number, shard, send, beside=_may_hang(child))

    def _refused(self, put: _Put) -> ProxyfabError:
        text = (
            f"Of {self.code.n} shards only {len(put.landed)} could be stored, and {self.quorum} are needed: "
            f"{'; '.join(map(self._why, put.failures))}. What was stored is taken back."
        )
        full = all(isinstance(one.error, CapacityError) for one in put.failures)
        return CapacityError(text) if full else ConnectorError(text)

    def _late(self, answer: Answer[Key]) -> None:
        """A shard that came to lie somewhere when nobody waited for it any more."""
        if answer.value is not None:
            self._owe([(answer.child, answer.value)])

    def _owe(self, lost: list[tuple[int, Key]]) -> None:
        """Evict this as soon as it can be."""
        if lost:  # a thread stands by for it
            self._lost.add(lost)

    def _take_back(self, lost: list[tuple[int, Key]]) -> None:
        for number in {number for number, _ in lost}:
            self.children[number].evict_many([key for child, key in lost if child == number])

    # -- getting -----------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Frames | None:
        """The object; None where it is not any more.

        Raises:
            ConnectorError: Too few of the children that have it answer.
            IntegrityError: Too few of its shards are what was written.
        """
        locator = self._locator(key)
        found = self._gather(key, locator)
        if len(found.good) >= self.code.k:
            for text in found.failures:
                _log.warning("A shard of %s was not used: %s", key.id, text)
            whole = self.code.decode(found.good, locator.shape.size)
            if digest_of(locator.shape.digest, whole) != locator.digest:
                raise IntegrityError(f"{key.id} is not what was written, although each of its shards is.")
            return whole
        if found.missing > self._spare(locator):
            return None
        kind = IntegrityError if found.broken else ConnectorError
        raise kind(
            f"Of {key.id} only {len(found.good)} shards can be read, and {self.code.k} are needed: "
            f"{'; '.join(found.failures)}."
        )

    def _gather(self, key: Key, locator: Locator) -> _Found:
        good: dict[int, Frames] = {}
        failures: list[str] = []
        missing, broken = 0, False
        order = [number for number, lying in enumerate(locator.shards) if lying.child]
        race: Race[Frames | None] = Race()
        left = self.patience
        try:
            while len(good) < self.code.k and (order or race.pending):
                while order and race.pending + len(good) < self.code.k:
                    self._ask(race, order.pop(0), key, locator, _fetched)
                answer = race.next(self.hedge if order else left)
                if answer is None:
                    left -= self.hedge
                    if not order or left <= 0:
                        failures += [self._why(one) for one in race.give_up()]
                        break
                    self._ask(race, order.pop(0), key, locator, _fetched)
                elif answer.error is not None:
                    failures.append(self._why(answer))
                elif answer.value is None:
                    missing += 1
                    failures.append(f"{self.children[answer.child].spec} has it no more")
                else:
                    try:
                        lying = locator.shards[answer.number]
                        good[answer.number] = content_of(answer.value, locator.shape, answer.number, lying.digest)
                    except IntegrityError as error:
                        broken = True
                        failures.append(f"{self.children[answer.child].spec}: {error}")
        finally:
            race.close()
        return _Found(good, missing, failures, broken)

    # -- knowing and letting go --------------------------------------------------------------------------------------

    def exists(self, key: Key) -> bool:
        """Whether it can be read.

        Raises:
            ConnectorError: Too few children answer to tell.
        """
        locator = self._locator(key)
        answers = self._all(key, locator, lambda child, inner: bool(child.exists(inner)))
        there = sum(one.value is True for one in answers)
        gone = sum(one.value is False for one in answers)
        if there >= self.code.k or gone > self._spare(locator):
            return there >= self.code.k
        raise ConnectorError(f"Whether {key.id} exists cannot be told: {self._whys(answers)}.")

    def evict(self, key: Key) -> bool:
        """Whether it was there; what children that cannot be reached hold of it goes as soon as they can be.

        Raises:
            ConnectorError: So few children answer that it may still be read.
        """
        locator = self._locator(key)
        answers = self._all(key, locator, lambda child, inner: bool(child.evict(inner)))
        if sum(one.value is not None for one in answers) <= self._spare(locator):
            raise ConnectorError(f"{key.id} may still be read: {self._whys(answers)}.")
        silent = [one for one in answers if one.value is None]
        self._owe([(one.child, Key(key.id, locator.shards[one.number].where)) for one in silent])
        for one in silent:
            _log.warning("A shard of %s is evicted later: %s", key.id, self._why(one))
        return any(one.value for one in answers)

    def _all(self, key: Key, locator: Locator, call: Callable[[Any, Key], bool]) -> list[Answer[bool]]:
        """What each child that has a shard says."""
        race: Race[bool] = Race()
        try:
            for number, lying in enumerate(locator.shards):
                if lying.child:
                    self._ask(race, number, key, locator, call)
            found = []
            while race.pending:
                answer = race.next(self.patience)
                found += race.give_up() if answer is None else [answer]
            return found
        finally:
            race.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _ask(self, race: Race[T], number: int, key: Key, locator: Locator, call: Callable[[Any, Key], T]) -> None:
        """Call the child that has a shard, with the key that it has there."""
        lying = locator.shards[number]
        at = self._labels.index(lying.child)
        child = self.children[at]
        race.ask(at, number, partial(call, child, Key(key.id, lying.where)), beside=_may_hang(child))

    def _locator(self, key: Key) -> Locator:
        locator = Locator.parse(key.where)
        known = {*self._labels, b""}
        same = (locator.shape.k, locator.shape.m) == (self.code.k, self.code.m)
        if not same or key.id != locator.shape.id.hex() or not known.issuperset([one.child for one in locator.shards]):
            raise ConfigurationError(f"{key.id} was not put with {self.code!r} to these children; open what it names.")
        return locator

    def _spare(self, locator: Locator) -> int:
        """How many of the shards that were stored may be missing."""
        return sum(bool(lying.child) for lying in locator.shards) - self.code.k

    def _why(self, answer: Answer[Any]) -> str:
        return f"{self.children[answer.child].spec}: {answer.error}"

    def _whys(self, answers: Sequence[Answer[Any]]) -> str:
        return "; ".join(self._why(one) for one in answers if one.error is not None)


def _fetched(child: Any, key: Key) -> Frames | None:
    found: Frames | None = child.get(key)
    return found


def _may_hang(child: Any) -> bool:
    """Whether a call may take long: its bytes leave memory, or this machine."""
    return bool(child.checksums or not child.local)
