"""Nearby: copies of objects that lie farther away, in a connector of its own, within a limit.

Promises: a copy never outlives its object's time to live, nor `keep` seconds; the least recently used goes when there
is no room; whatever goes wrong with a copy, only the copy is missing. What has no end is no copy and stays: another
process brings it home, or somebody gave copies a namespace that has other things in it. No lock is held while bytes
move.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

from proxyfab.abc import SupportsLease, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ProxyfabError
from proxyfab.flight import SingleFlight
from proxyfab.keys import Key
from proxyfab.ledger import Ledger, Room
from proxyfab.spec import nbytes

_MARGIN = 0.005
"""Seconds by which a copy expires before its object, whose time began a little earlier."""


class Nearby:
    """Copies in `child`. Thread-safe and fork-safe as the child is.

    Args:
        child: A connector that can `scan`, in a namespace that holds nothing but copies.
        limit: Bytes of copies, as a number or `"1 GiB"`.
        keep: Seconds that a copy is kept.
    """

    def __init__(self, child: Any, limit: int | str, keep: float) -> None:
        self.child: Any = child
        if not isinstance(child, SupportsScan):
            raise ConfigurationError(f"{self.child.spec} cannot list what it holds, so its copies cannot be bounded.")
        self.limit = nbytes(limit)
        self.keep = keep
        self._pinned: set[str] = set()
        self._ledger: Ledger | None = None
        self._opening: SingleFlight[Ledger] = SingleFlight("the copies that lie nearby")

    def get(self, ids: Sequence[str]) -> dict[str, Frames]:
        """Those copies that are there."""
        with contextlib.suppress(ProxyfabError):
            book = self._book()
            found = zip(ids, self.child.get_many([Key(id) for id in ids]), strict=True)
            here = {id: frames for id, frames in found if frames is not None}
            book.touch({id: frames.nbytes for id, frames in here.items()})
            return here
        return {}

    def is_held_here(self) -> bool:
        """Whether this very thread holds the lock of the book of copies; see `Ledger.is_held_here`."""
        return self._ledger is not None and self._ledger.is_held_here()

    def get_range(self, id: str, offset: int, length: int) -> Frames | None:
        """A part of a copy, if it is there."""
        with contextlib.suppress(ProxyfabError):
            return self.child.get_range(Key(id), offset, length)  # type: ignore[no-any-return]
        return None

    def add(self, id: str, frames: Frames, expires: float | None, *, pinned: bool = False) -> bool:
        """Keep a copy, if room can be made; whether it is there. What is `pinned` stays until it expires, is added anew
        or is dropped.

        Args:
            id: Of the object's key.
            frames: Its bytes.
            expires: When the object does, in seconds since the epoch; None for never.
            pinned: Whether the copy must not go to make room, nor after `keep` seconds.
        """
        with contextlib.suppress(ProxyfabError):
            book = self._book()
            room = Room(frames.nbytes)
            left = None if expires is None else _left(expires)
            try:
                if (left is not None and left <= 0) or not self._enter(book, room):
                    return False
                (self._pinned.add if pinned else self._pinned.discard)(id)
                ttl = left if pinned else self.keep if left is None else min(self.keep, left)
                self.child.put(frames, key=Key(id), ttl=ttl, replace=True)
                book.settle(id, room)
                late = expires is not None and left is not None and left - _left(expires) > _MARGIN
                return not late or self._in_time(id, expires or 0.0, pinned)
            finally:
                book.end(room)
        return False

    def _in_time(self, id: str, expires: float, pinned: bool) -> bool:
        """Whether a copy that was put is there and ends in time: a thread that stands still between reckoning a time to
        live and storing it makes it too long.
        """
        key = Key(id)
        while True:
            stat = self.child.stat(key)
            if stat is None or stat.expires is None or stat.expires <= expires:
                return stat is not None
            left = _left(expires)
            if left <= 0 or not pinned:
                self.drop([id])
                return False
            if not isinstance(self.child, SupportsLease):
                return True
            self.child.renew(key, left)

    def drop(self, ids: Sequence[str]) -> None:
        """Forget copies.

        Raises:
            ProxyfabError: A copy may still be there, and would be read.
        """
        book = self._book()
        self.child.evict_many([Key(id) for id in ids])
        for id in ids:
            self._pinned.discard(id)
            book.note(id, fast=None, slow=None)

    def clear(self) -> None:
        """Forget all copies."""
        book = self._book()
        known = book.known()
        self.child.clear()
        book.found({}, {}, known)

    def _enter(self, book: Ledger, room: Room) -> bool:
        spared = set(self._pinned)
        while room.nbytes <= self.limit:
            if book.enter(room):
                return True
            victim = book.victim(spared)
            if victim is None:
                break
            stat = self.child.stat(Key(victim))
            if stat is not None and stat.expires is None:
                spared.add(victim)
                continue
            self.child.evict(Key(victim))
            book.note(victim, fast=None, slow=None)
        return False

    def _book(self) -> Ledger:
        return self._opening.do("", self._open) if self._ledger is None else self._ledger

    def _open(self) -> Ledger:
        if self._ledger is None:
            book = Ledger(self.limit, None)
            stats = sorted(self.child.scan(), key=lambda stat: stat.created)
            book.found({stat.key.id: stat.nbytes for stat in stats}, {}, ((), ()))
            self._ledger = book
        return self._ledger


def _left(expires: float) -> float:
    """Seconds that a copy may have from now on."""
    return expires - time.time() - _MARGIN
