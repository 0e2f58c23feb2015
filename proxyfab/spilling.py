"""Spilling: two places, a fast one with a limit and a slow one behind it, and objects that move between them.

Rules:
1. An object moves by being put there first and evicted here then. Whoever finds it in neither place looks once more in
   both, and again for as long as something moved meanwhile.
2. Who changes what lies under a key has the key's turn, among all processes of the machine that use these two places;
   a drawn key that nobody has yet needs none. Who moves one object to make room for another asks for the turn and never
   waits for it, and room is made before the own turn is taken: so nobody waits in a circle.
3. Room is made before it is taken, and taken before anything is put.
4. Of an object that lies in both places, because who moved or replaced it was killed in between, the fast copy counts.
5. Who was told by a reference from elsewhere which two places these are moves nothing from one to the other: the writer
   of that reference could have named one that is ours, and one that is theirs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from proxyfab.abc import Stat
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError
from proxyfab.keys import Fresh, Key
from proxyfab.ledger import Ledger, Room
from proxyfab.opening import open_connector
from proxyfab.osio.shared import default_root
from proxyfab.osio.turns import turns_at

R = TypeVar("R")
_ROUNDS = 10


class Spilling:
    """Two connectors and the ledger of what lies in them. Thread-safe; makes itself known to nobody after a fork.

    Args:
        fast: Where objects are put.
        slow: Where they go when there is no room.
        tag: Names the two places in turns.
        book: An empty ledger; `open` fills it.
        moving: Whether objects that lie there are moved; rule 5.
    """

    def __init__(self, fast: Any, slow: Any, tag: str, book: Ledger, *, moving: bool = True) -> None:
        self.fast = fast
        self.slow = slow
        self.book = book
        self._moving = moving
        self.counts: dict[str, float] = dict.fromkeys(("spilled", "spilled_bytes", "promoted", "promoted_bytes"), 0.0)
        self._tag = tag
        self._turns = turns_at(default_root())
        # A connector whose URL names its namespace does not list its neighbours.
        self._own: list[Any] = [open_connector(child.spec) for child in (fast, slow)]
        self._counter = itertools.count(1)
        self._moves = 0
        self._cleared = 0

    def open(self) -> Spilling:
        """Find what lies there."""
        self.look()
        for id in set(self.book.fast) & set(self.book.slow) if self._moving else ():  # rule 4
            with self.turn(id):
                if self.fast.exists(Key(id)) and self.slow.evict(Key(id)):
                    self.book.note(id, fast=self.book.fast.get(id), slow=None)
        return self

    def close(self) -> None:
        """Close what this has opened, which are not the two connectors."""
        for connector in self._own:
            connector.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def first(self, id: str, look: Callable[[Any, Key], R | None]) -> tuple[R | None, Any]:
        """What `look` finds, and the child in which; None where it is in neither (rule 1)."""
        key, moves = Key(id), -1
        for round in range(_ROUNDS):
            if round > 1 and self._moves == moves:
                break
            moves = self._moves
            for child in (self.fast, self.slow):
                found = look(child, key)
                if found is not None:
                    return found, child
        return None, None

    def holds(self, id: str) -> bool:
        """Whether an object lies in one of the places."""
        return self.first(id, lambda child, key: child.exists(key) or None)[0] is not None

    def stats(self) -> Iterator[Stat]:
        """Every object once."""
        seen = set()
        fast, slow = self._own
        for child in (fast, slow, fast):  # the last look is for what came back meanwhile
            for stat in child.scan():
                if stat.key.id not in seen:
                    seen.add(stat.key.id)
                    yield stat

    def look(self) -> None:
        """Correct the ledger by what lies there."""
        known = self.book.known()
        fast, slow = (sorted(child.scan(), key=lambda stat: stat.created) for child in self._own)
        self.book.found({stat.key.id: stat.nbytes for stat in fast}, {stat.key.id: stat.nbytes for stat in slow}, known)

    # -- changing ------------------------------------------------------------------------------------------------

    def turn(self, id: str) -> AbstractContextManager[None]:
        """The turn of a key."""
        return self._turns.take(f"{self._tag} {id}")

    @contextmanager
    def room(self, size: int, id: str | None = None) -> Iterator[Room]:
        """Room for `size` bytes inside the block, what lies under `id` being replaced.

        Raises:
            CapacityError: They are beyond the quota.
        """
        room = Room(size)
        try:
            self._claim(room, id)
            self._enter(room)
            yield room
        finally:
            self.book.end(room)

    def grant(self, size: int) -> Room | None:
        """Room in the fast place that whoever asks keeps until it is settled or ended; None where none can be made.

        Raises:
            CapacityError: So many bytes are beyond the quota.
        """
        room = Room(size)
        try:
            self._claim(room, None)
            if self._enter(room):
                return room
        except BaseException:
            self.book.end(room)
            raise
        self.book.end(room)
        return None

    def store(self, room: Room, id: str, frames: Frames, ttl: float | None, *, alone: bool) -> None:
        """Put what has its room, in its turn; unless it is `alone`, take away what lay under the key elsewhere."""
        child, other = (self.fast, self.slow) if room.fast else (self.slow, self.fast)
        child.put(frames, key=Fresh(id) if alone else Key(id), ttl=ttl, replace=not alone)
        if not alone:
            self._moves = next(self._counter)
            other.evict(Key(id))
        self.book.settle(id, room)

    def remove(self, id: str) -> bool:
        """Evict, in its turn; whether there was an object."""
        gone = [child.evict(Key(id)) for child in (self.slow, self.fast)]
        self.book.note(id, fast=None, slow=None)
        return any(gone)

    def clear(self) -> int:
        """Clear both places; what is on the move goes, too."""
        self._cleared += 1
        known = self.book.known()
        count = int(self.fast.clear() + self.slow.clear())
        self.book.found({}, {}, known)
        return count

    def promote(self, id: str) -> None:
        """Bring an object back to the fast place, unless it is on the move or no room can be made."""
        room = Room(self.book.slow.get(id, 0))
        try:
            if not self._moving or not self._enter(room):
                return
            with self._turns.try_take(f"{self._tag} {id}") as mine:
                if mine and not self.fast.exists(Key(id)) and self._carry(id, self.slow, self.fast, room.nbytes):
                    self.book.settle(id, room)
                    self._count("promoted", room.nbytes)
        finally:
            self.book.end(room)

    # -- room ----------------------------------------------------------------------------------------------------

    def _claim(self, room: Room, id: str | None) -> None:
        book = self.book
        if book.claim(room, id):
            return
        self.look()  # some of it may have expired, or been evicted by others
        if not book.claim(room, id):
            raise CapacityError(
                f"{self.fast.spec} and {self.slow.spec} hold {book.fast_bytes + book.slow_bytes} of the {book.quota} "
                f"bytes of their quota; {room.nbytes} more do not fit. Evict objects, give them a time to live, or "
                "raise it."
            )

    def _enter(self, room: Room) -> bool:
        """Take room in the fast place, making it there; False where that cannot be."""
        skip: set[str] = set()
        while room.nbytes <= self.book.limit:
            if self.book.enter(room):
                return True
            victim = self.book.victim(skip) if self._moving else None
            if victim is None:
                break
            skip.add(victim)
            self._spill(victim)
        return False

    def _spill(self, id: str) -> None:
        """Move an object to the slow place; where somebody else has its turn it stays."""
        cleared, size = self._cleared, self.book.fast.get(id, 0)
        with self._turns.try_take(f"{self._tag} {id}") as mine:
            if not mine:
                return
            if self._carry(id, self.fast, self.slow):
                self.book.note(id, fast=None, slow=size)
                self._count("spilled", size)
            else:  # expired, or evicted behind our back
                self.fast.evict(Key(id))
                self.book.note(id, fast=None, slow=self.book.slow.get(id))
            if self._cleared != cleared:
                self.remove(id)

    def _carry(self, id: str, source: Any, target: Any, size: int | None = None) -> bool:
        """Rule 1; False where there is nothing to carry, or it has not that size."""
        key = Key(id)
        stat = source.stat(key)
        frames = source.get(key) if stat is not None else None
        left = None if stat is None or stat.expires is None else stat.expires - time.time()
        if frames is None or size not in (None, frames.nbytes) or (left is not None and left <= 0):
            return False
        target.put(frames, key=key, ttl=left, replace=True)
        self._moves = next(self._counter)
        source.evict(key)
        return True

    def _count(self, what: str, size: int) -> None:
        self.counts[what] += 1
        self.counts[f"{what}_bytes"] += size
