"""Whether a producer's events come without gaps and once: numbers that were skipped, and frames that came before.

Rules:
1. Where numbering begins for a consumer is where it meets a producer first; what was skipped after that is reported,
   once. What comes later than its successors (given back, or given up by another) is no gap.
2. A frame that comes again from its own place was not settled: it is delivered. One that lies at two places was
   published twice: the second is dropped. The same holds for events whose producer gave them ids.
3. A frame that lies behind one of a later epoch of its producer was published by somebody who had been replaced: it
   was acknowledged to nobody, and is dropped.
4. Only the last `WINDOW` frames, and as many given ids, are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from proxyfab.events.model import Position
from proxyfab.wire.events import Event, Frame

K = TypeVar("K")
WINDOW = 16384
_PRODUCERS = 4096
_REPLAYED = "~"


class Gap(NamedTuple):
    """Events that were never seen.

    Attributes:
        producer: Whose; "" for records, of whomever, that went before their group had read them.
        epoch: The producer's.
        partition: Where.
        first: The first number that was skipped; of such records the first offset.
        missing: How many; of records, at most.
        position: Where the next one lies that there is.
    """

    producer: str
    epoch: int
    partition: int
    first: int
    missing: int
    position: Position


class Continuity:
    """What one consumer has seen. Used under its consumer's care: one thread at a time.

    Args:
        on_gap: Is told of each gap; None where others take what seems to be missing.
        replaced: Whether an epoch of a producer is over for sure.
    """

    def __init__(
        self, on_gap: Callable[[Gap], None] | None, replaced: Callable[[str, int], bool] = lambda *_: False
    ) -> None:
        self._on_gap = on_gap
        self._replaced = replaced
        self.clear()

    def clear(self) -> None:
        """Begin anew: reading goes on elsewhere."""
        self._next: OrderedDict[tuple[str, int, int], int] = OrderedDict()
        self._latest: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()
        self._frames: OrderedDict[tuple[str, int, int, int], Position] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], Position] = OrderedDict()

    def is_stale(self, frame: Frame, position: Position) -> bool:
        """Whether its producer had been replaced when it was published, by what was seen; remembers it."""
        key = frame.producer, position.partition
        epoch, offset = self._latest.get(key, (-1, 0))
        if frame.epoch > epoch or (frame.epoch == epoch and position.offset < offset):
            self._latest[key] = frame.epoch, position.offset
            if len(self._latest) > _PRODUCERS:
                self._latest.popitem(last=False)
            return False
        return frame.epoch < epoch and position.offset > offset and self._replaced(frame.producer, frame.epoch)

    def is_copy(self, frame: Frame, position: Position) -> bool:
        """Whether this frame was published a second time, by what was seen; remembers it."""
        if not frame.events:
            return False
        key = frame.producer, frame.epoch, frame.partition, frame.first
        return _known(self._frames, key, position) != position

    def copies(self, frame: Frame, position: Position) -> list[int]:
        """Which events have ids that were seen in other places; remembers them."""
        found = []
        for index, event in enumerate(frame.events):
            if event.attributes is not None:
                given = _given(event)
                if given and _known(self._ids, (frame.source, given), at := position._replace(event=index)) != at:
                    found.append(index)
        return found

    def follow(self, frame: Frame, position: Position) -> Gap | None:
        """The gap before this frame, to be told with `report`; None for none, and where nobody wants to know."""
        if frame.producer.startswith(_REPLAYED):
            return None
        key = frame.producer, frame.epoch, frame.partition
        expected = self._next.get(key)
        after = frame.first + len(frame.events)
        if expected is None or after > expected:
            self._next[key] = after
            if len(self._next) > _PRODUCERS:
                self._next.popitem(last=False)
        if expected is None or frame.first <= expected or self._on_gap is None:
            return None
        return Gap(*key, expected, frame.first - expected, position)

    def report(self, gap: Gap) -> None:
        """Tell of a gap; under nobody's lock, as whoever is told may do anything."""
        if self._on_gap is not None:
            self._on_gap(gap)


def _given(event: Event) -> str | None:
    return event.attributes.get("id") if event.attributes else None


def _known(seen: OrderedDict[K, Position], key: K, position: Position) -> Position:
    found = seen.setdefault(key, position)
    if len(seen) > WINDOW:
        seen.popitem(last=False)
    return found
