"""Values as a log of attempts: who comes first with the right expectation wins. Pure, the same for all who read it.

    attempt    [0, nonce, name, expected or None, value or None, ttl in ms or None]
    snapshot   [1, as of, nonce, part, parts, [[name, value, revision, ends or None], ...]]

Rules:
1. A value's revision is the offset of the attempt that set it, from 1. An attempt whose expectation does not hold when
   its turn comes changes nothing. Time is that of the log's records, so that all agree on what had ended.
2. The log is cut only behind offset `as of` + 1 of a whole snapshot that lies in what is left. Who finds a log that
   begins later than 0 sets attempts aside until it has that snapshot, and then takes up from there.

The log must not be compacted by key: the last attempt of a name may be one that lost, and compaction would keep that.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import msgspec

from proxyfab.errors import IntegrityError
from proxyfab.events.model import Kept

PART = 400 << 10
"""Bytes of values in one part of a snapshot, about."""
_encoder = msgspec.msgpack.Encoder()
_attempt = msgspec.msgpack.Decoder(tuple[int, bytes, str, int | None, bytes | None, int | None])
_snapshot = msgspec.msgpack.Decoder(tuple[int, int, bytes, int, int, list[tuple[str, bytes, int, int | None]]])
_EVER = 1 << 62


class Outcome(NamedTuple):
    """What came of an attempt.

    Attributes:
        accepted: Whether its expectation held.
        before: The revision that there was, 0 for none.
        revision: The revision that there is since; 0 for none.
    """

    accepted: bool
    before: int
    revision: int


def attempt(name: str, value: bytes | None, expected: int | None, ttl: float | None) -> tuple[bytes, bytes]:
    """A nonce, and the record of an attempt; no value deletes."""
    nonce = os.urandom(8)
    ends = None if ttl is None else max(1, round(1000 * ttl))
    return nonce, _encoder.encode((0, nonce, name, expected, value, ends))


class Fold:
    """What a log has come to. Not thread-safe.

    Args:
        first: The offset that the log begins at.
    """

    def __init__(self, first: int = 0) -> None:
        self.position = first
        """The offset of the next record to read."""
        self.ready = first == 0
        self.size = 0
        """Records since the beginning, or the last snapshot."""
        self.watched: dict[bytes, Outcome | None] = {}
        self._first = first
        self._values: dict[str, tuple[Kept, int]] = {}
        self._aside: list[tuple[int, int, tuple[Any, ...]]] = []
        self._parts: dict[bytes, dict[int, list[tuple[str, bytes, int, int | None]]]] = {}

    def read(self, offset: int, stamp: int, body: bytes) -> None:
        """Take the next record; `stamp` is its time, in ms since 1970."""
        if offset < self.position:
            return
        self.position = offset + 1
        self.size += 1
        try:
            if body[1:2] == b"\x00":
                found = _attempt.decode(body)
                if self.ready:
                    self._try(offset, stamp, found)
                else:
                    self._aside.append((offset, stamp, found))
            else:
                self._take(_snapshot.decode(body))
        except msgspec.MsgspecError as error:
            raise IntegrityError(f"Record {offset} of a log of values is malformed: {error}.") from error

    def get(self, name: str, now: float) -> Kept | None:
        """A value; `now` in seconds since 1970."""
        self._check()
        kept, ends = self._values.get(name, (None, 0))
        return kept if ends > now * 1000 else None

    def items(self, now: float) -> dict[str, Kept]:
        """All values."""
        self._check()
        return {name: kept for name, (kept, ends) in sorted(self._values.items()) if ends > now * 1000}

    def snapshot(self) -> list[bytes]:
        """Records of a snapshot as of now; the log may be cut at `position` when they are there."""
        self._check()
        parts: list[list[tuple[str, bytes, int, int | None]]] = [[]]
        size = 0
        for name, (kept, ends) in self._values.items():
            if size and size + len(kept.value) > PART:
                parts.append([])
                size = 0
            parts[-1].append((name, kept.value, kept.revision, None if ends == _EVER else ends))
            size += len(kept.value) + len(name) + 20
        nonce, asof = os.urandom(8), self.position - 1
        return [_encoder.encode((1, asof, nonce, place, len(parts), part)) for place, part in enumerate(parts)]

    def _try(self, offset: int, stamp: int, found: tuple[Any, ...]) -> None:
        _, nonce, name, expected, value, ttl = found
        known, ends = self._values.get(name, (None, 0))
        before = known.revision if known is not None and ends > stamp else 0
        accepted = expected is None or expected == before
        revision = before
        if accepted:
            revision = 0 if value is None else offset + 1
            self._values.pop(name, None)
            if value is not None:
                self._values[name] = Kept(value, revision), _EVER if ttl is None else stamp + ttl
        if nonce in self.watched:
            self.watched[nonce] = Outcome(accepted, before, revision)

    def _take(self, found: tuple[Any, ...]) -> None:
        _, asof, nonce, place, count, values = found
        if self.ready or asof != self._first - 1:
            return
        parts = self._parts.setdefault(nonce, {})
        parts[place] = values
        if len(parts) < count:
            return
        for part in parts.values():
            for name, value, revision, ends in part:
                self._values[name] = Kept(value, revision), _EVER if ends is None else ends
        self.ready = True
        self.size = len(self._aside)
        for offset, stamp, each in self._aside:
            self._try(offset, stamp, each)
        self._aside, self._parts = [], {}

    def _check(self) -> None:
        if not self.ready:
            raise IntegrityError(
                f"A log of values begins at {self._first}, and no snapshot in it says what was before: its topic lost "
                "records to a retention that it must not have."
            )
