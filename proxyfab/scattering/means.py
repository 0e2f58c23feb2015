"""What putting, getting and asking share: the members, how long they may take, codes, and what is owed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from proxyfab.buffers import Frames
from proxyfab.erasure.codec import Code, fresh
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import Shape
from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.exit import Drain
from proxyfab.keys import Key
from proxyfab.race import Answer, Race
from proxyfab.scattering.members import Members, Pace

T = TypeVar("T")
_SLACK = 3.0
_LARGE = 4 << 20
"""Bytes from which on a copy in memory takes long enough for another thread."""
GONE = ".x"
"""What is called so behind a piece's name says that it was evicted while some could not be reached."""
UPLOAD = ".u"
"""What is called so behind a large object's id says that its segments are on their way: nobody means them yet."""
_KEPT = 30 * 24 * 3600.0
AFTER = 1.0
"""Seconds after which an evict that was under way has passed, or looks twice."""
_NAP = 0.05
"""Seconds after which who waits to look sees that all is closed."""
_QUICK = 0.1
"""Seconds after which an error is that of a place that cannot be reached."""


class Means:
    """Shared by all parts of a scattering.

    Args:
        members: Who is asked.
        patience: Seconds after which an answer is not waited for any longer.
        hedge: Seconds after which an answer is late, before enough of them were seen, and at most.
        kernel: The codes'.
        memory: Where room for what codes make comes from.
    """

    def __init__(
        self,
        members: Members,
        *,
        patience: float = 30.0,
        hedge: float = 0.5,
        kernel: str = "",
        memory: Callable[[int], memoryview] = fresh,
    ) -> None:
        self.members = members
        self.patience = patience
        self.pace = Pace(hedge)
        self.closed = False
        self.former: Callable[[], frozenset[bytes]] = frozenset
        """Labels of those that were members and have given what they held to others."""
        self._kernel = kernel
        self._memory = memory
        self._codes: dict[tuple[int, int], Code] = {}
        self._lost: Drain[tuple[int, Key]] = Drain(self._take_back, "taking back shards")
        self._landed: Drain[tuple[float, Shape, int, Key]] = Drain(self._look, "looking after late shards")

    def code(self, k: int, m: int) -> Code:
        """The code of k and m."""
        found = self._codes.get((k, m))
        if found is None:
            found = self._codes[k, m] = Code(k, m, kernel=self._kernel, memory=self._memory)
        return found

    def ask(
        self, race: Race[T], member: int, number: int, what: str, call: Callable[[Any], T], nbytes: int | None = None
    ) -> None:
        """Begin a call to a member; its answer counts as that of shard `number`."""
        run = self.members.timed(member, what, call, nbytes)
        race.ask(member, number, run, beside=self.members[member].may_hang or (nbytes or 0) >= _LARGE)

    def answers(
        self,
        race: Race[T],
        enough: Callable[[list[Answer[T]]], bool],
        *,
        all: bool = False,
    ) -> list[Answer[T]]:
        """What those who were asked say, until it is enough.

        Args:
            race: The calls under way.
            enough: Whether these answers decide.
            all: Whether the others are to be waited for a little, too, as what they do matters.
        """
        began = time.monotonic()
        found: list[Answer[T]] = []
        until = began + self.patience
        decided = False
        while race.pending:
            if not decided and enough(found):
                decided = True
                if not all:
                    break
                until = min(until, self.soon(began))
            answer = race.next(until - time.monotonic())
            if answer is None:
                given_up = race.give_up()
                for one in given_up:
                    if one.error is not None:
                        self.members[one.child].ill(one.error)
                return found + given_up
            found.append(answer)
        return found

    def soon(self, began: float, least: float = 0.0) -> float:
        """Until when others are waited for when what is necessary is done."""
        now = time.monotonic()
        return now + max(self.pace.first, least, _SLACK * (now - began))

    def at(self, key: Key, call: Callable[[Key, Any], T]) -> Callable[[Any], T]:
        """A call for what a member knows by a key; where its place was made anew, and refuses the key, by name alone.

        Only what is found so counts: that a place does not know a name says nothing while its own key is refused.
        """

        def run(child: Any) -> T:
            began = time.monotonic()
            try:
                return call(key, child)
            except ProxyfabError:
                if not key.where or time.monotonic() - began > _QUICK:
                    raise
                with suppress(ProxyfabError):
                    found = call(Key(key.id), child)
                    if found:
                        return found
                raise

        return run

    def why(self, answer: Answer[Any]) -> str:
        """What went wrong at a member, for a message."""
        error = answer.error
        return f"{self.members[answer.child].spec}: {error if error is not None else 'has it no more'}"

    def whys(self, answers: Sequence[Answer[Any]]) -> str:
        """The same of all that failed."""
        return "; ".join(self.why(one) for one in answers if one.error is not None)

    def lost(self, locator: Locator) -> list[str]:
        """What is to be said of children that the object names and that are no members (any more)."""
        lost = sum(bool(lying.child) and lying.child not in self.members.by_label for lying in locator.shards)
        return [f"{lost} of its children are none of ours"] if lost else []

    def named(self, locator: Locator) -> int:
        """How many members a piece names."""
        return sum(lying.child in self.members.by_label for lying in locator.shards)

    def unknown(self, locator: Locator) -> int:
        """How many children an object names that are no members, and never gave others what they held."""
        away = {lying.child for lying in locator.shards if lying.child} - self.members.by_label.keys()
        return len(away - self.former()) if away else 0

    def may_be_there(self, locator: Locator, missing: int, nowhere: int) -> int:
        """How many shards may be there.

        Args:
            locator: Of the piece.
            missing: Members that say that they have not what they should have.
            nowhere: Other members that say that they have none.
        """
        stored = [lying.child for lying in locator.shards if lying.child]
        away = [child for child in stored if child not in self.members.by_label]
        former = self.former() if away else frozenset[bytes]()
        moved = sum(child in former for child in away)
        others = len(self.members) - (len(stored) - len(away))
        return len(stored) - moved - missing + min(moved, others - nowhere)

    def key_at(self, locator: Locator, member: int) -> Key:
        """What an object's shard is called at a member, whether or not the locator knows of it."""
        label = self.members[member].label
        where = next((lying.where for lying in locator.shards if lying.child == label), "")
        return Key(locator.shape.name, where)

    def mark_gone(self, name: str, members: Sequence[int]) -> None:
        """Have members remember that a piece was evicted, so that those who kept enough of it do not bring it back."""
        self._mark(Key(name + GONE), members, _KEPT)

    def mark_upload(self, id: bytes, seconds: float) -> None:
        """Have members remember for so long that an object's segments are on their way."""
        self._mark(Key(id.hex() + UPLOAD), range(len(self.members)), seconds)

    def _mark(self, key: Key, members: Sequence[int], seconds: float) -> None:
        race: Race[object] = Race()
        mark = Frames([key.id.encode()])
        put: Callable[[Any], object] = lambda child: child.put(mark, key=key, ttl=seconds, replace=True)  # noqa: E731
        try:
            for member in members:
                self.ask(race, member, member, "mark", put, 0)
            self.answers(race, nothing)
        finally:
            race.close()

    def is_gone(self, shape: Shape) -> bool:
        """Whether a member remembers that a piece was evicted: asked only where so few as may be away can have it."""
        if shape.k > shape.m:
            return False
        race: Race[bool] = Race()
        try:
            for member in range(len(self.members)):
                self.ask(race, member, member, "exists", lambda child: bool(child.exists(Key(shape.name + GONE))), 0)
            return any(one.value for one in self.answers(race, lambda found: any(one.value for one in found)))
        finally:
            race.close()

    def evict_later(self, shape: Shape) -> None:
        """Evict what anybody still has of a piece."""
        self.owe([(member, Key(shape.name)) for member in range(len(self.members))])

    def owe(self, lost: list[tuple[int, Key]]) -> None:
        """Evict this as soon as it can be."""
        if lost and not self.closed:  # a thread stands by for it
            self._lost.add(lost)

    def take_back(self, put: list[tuple[int, Key]]) -> None:
        """Evict this now, or as soon as it can be."""
        for member, key in put:
            try:
                self.members[member].child.evict(key)
            except ProxyfabError:
                self.owe([(member, key)])

    def _take_back(self, lost: list[tuple[int, Key]]) -> None:
        if self.closed:
            return
        failed = None
        for number in {number for number, _ in lost}:
            try:
                self.members[number].child.evict_many([key for member, key in lost if member == number])
            except ProxyfabError as error:
                failed = error
        if failed is not None:
            raise ConnectorError(str(failed)) from failed

    def look_later(self, shape: Shape, member: int, key: Key) -> None:
        """A shard came late: it goes if its piece is gone, now or when an evict that is under way has passed."""
        if not self.closed:
            now = time.monotonic()
            self._landed.add([(now, shape, member, key), (now + AFTER, shape, member, key)])

    def _look(self, landed: list[tuple[float, Shape, int, Key]]) -> None:
        for due, shape, member, key in sorted(landed, key=lambda one: one[0]):
            while not self.closed and (left := due - time.monotonic()) > 0:
                time.sleep(min(left, _NAP))
            if self.closed:
                return
            keys = {other: Key(shape.name) for other in range(len(self.members))}
            if self.still_there(keys, {member}, shape.k) is False:
                self.take_back([(member, key)])

    def still_there(self, keys: Mapping[int, Key], without: Collection[int], least: int) -> bool | None:
        """Whether so many members have anything of a piece, but for some; None where it cannot be told."""
        race: Race[bool] = Race()
        try:
            for member, key in keys.items():
                if member not in without:
                    self.ask(race, member, member, "exists", partial(_exists, key), 0)
            answers = self.answers(race, lambda found: sum(bool(one.value) for one in found) >= least)
        finally:
            race.close()
        there = sum(bool(one.value) for one in answers)
        unknown = sum(one.error is not None for one in answers)
        return True if there >= least else None if there + unknown >= least else False

    def flush(self, timeout: float) -> bool:
        """Whether all that is owed was done within so many seconds."""
        began = time.monotonic()
        landed = self._landed.flush(timeout)
        return self._lost.flush(max(timeout - (time.monotonic() - began), 0.0)) and landed


def _exists(key: Key, child: Any) -> bool:
    return bool(child.exists(key))


def nothing(_: Sequence[object]) -> bool:
    """Never enough: every answer counts."""
    return False


def size_of(frames: Frames | None) -> int:
    """Bytes, of nothing none."""
    return 0 if frames is None else frames.nbytes
