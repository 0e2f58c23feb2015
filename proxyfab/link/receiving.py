"""The receiver's side of a link: what of each object is there, and what each stream brought. No clock, no socket.

Rules:
1. A byte counts as there only after `landed` said so; an object is complete once every byte was there.
2. The same bytes may come twice, and count once: after a break both sides ask rather for too much than for too little.
3. Nothing is written outside of an object: a segment that is not within it is an IntegrityError, before any byte of it.
"""

from __future__ import annotations

from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.link.sending import SEGMENT, Segment


class _Arrival:
    """One object on its way here."""

    __slots__ = ("left", "partial", "size", "whole")

    def __init__(self, size: int, segment: int) -> None:
        self.size = size
        self.left = size
        self.whole = bytearray(-(-size // segment))
        """For each segment 1 if it is there."""
        self.partial: dict[int, list[tuple[int, int]]] = {}
        """Of segments that are there in part: first byte and end of each part, apart and in order."""


class Landed(NamedTuple):
    """What `landed` found: how many bytes are new, and whether the object is complete."""

    fresh: int
    complete: bool


class Receiver:
    """What one site was asked for, and what of it is here. Not thread-safe.

    Args:
        segment: The sender's.
    """

    def __init__(self, segment: int = SEGMENT) -> None:
        self._segment = segment
        self._arrivals: dict[int, _Arrival] = {}
        self._streams: dict[int, int] = {}
        self.doubled = 0
        """Bytes that came although they were here."""

    def expect(self, transfer: int, size: int) -> bool:
        """An object is on its way. Returns whether it is complete at once, as an empty one is."""
        if transfer in self._arrivals:
            raise ValueError(f"Transfer {transfer} of this link is there already.")
        if size > 0:
            self._arrivals[transfer] = _Arrival(size, self._segment)
        return size <= 0

    def forget(self, transfer: int) -> None:
        """Nobody wants an object any more. What still comes of it is read and dropped."""
        self._arrivals.pop(transfer, None)

    def join(self, stream: int) -> None:
        """A stream is there, with a number that none had before."""
        if stream in self._streams:
            raise ValueError(f"Stream {stream} of this link is there already.")
        self._streams[stream] = 0

    def check(self, segment: Segment) -> bool:
        """Whether a segment that is about to come is wanted; else its bytes are to be read and dropped.

        Raises:
            IntegrityError: It is not within its object, or longer than a segment.
        """
        arrival = self._arrivals.get(segment.transfer)
        end = segment.offset + segment.length
        if not 0 < segment.length <= self._segment or segment.offset < 0:
            raise IntegrityError(f"A segment of {segment.length} bytes from {segment.offset} is none.")
        if arrival is None:
            return False
        if end > arrival.size or segment.offset // self._segment != (end - 1) // self._segment:
            raise IntegrityError(
                f"Bytes {segment.offset} to {end} are no segment of an object of {arrival.size} bytes."
            )
        return True

    def landed(self, stream: int, segment: Segment) -> Landed:
        """Bytes are where they belong: a segment, or the first part of one that goes on coming."""
        self._streams[stream] += segment.length
        arrival = self._arrivals.get(segment.transfer)
        if arrival is None:
            return Landed(0, False)
        fresh = self._keep(arrival, segment.offset, segment.offset + segment.length)
        self.doubled += segment.length - fresh
        arrival.left -= fresh
        if arrival.left == 0:
            del self._arrivals[segment.transfer]
        return Landed(fresh, arrival.left == 0)

    def read(self, stream: int, length: int) -> None:
        """A letter of `length` bytes came whole."""
        self._streams[stream] += length

    def _keep(self, arrival: _Arrival, first: int, end: int) -> int:
        """Note that bytes are there. Returns how many were not."""
        number = first // self._segment
        if arrival.whole[number]:
            return 0
        start, stop = number * self._segment, min((number + 1) * self._segment, arrival.size)
        before = arrival.partial.get(number, [])
        apart = [(low, high) for low, high in before if high < first or low > end]
        joined = [(low, high) for low, high in before if not (high < first or low > end)]
        merged = (min([first, *(low for low, _ in joined)]), max([end, *(high for _, high in joined)]))
        fresh = merged[1] - merged[0] - sum(high - low for low, high in joined)
        if merged == (start, stop):
            arrival.whole[number] = 1
            arrival.partial.pop(number, None)
        else:
            arrival.partial[number] = sorted([*apart, merged])
        return fresh

    def received(self, stream: int) -> int:
        """Bytes that a stream brought so far, dropped ones included: what its sender confirms by."""
        return self._streams[stream]

    def leave(self, stream: int) -> int:
        """A stream broke. Returns what it brought, which its sender has to be told."""
        return self._streams.pop(stream)

    def missing(self, transfer: int) -> list[tuple[int, int]]:
        """First byte and end of each part of an object that is not here, whether it is on its way or not."""
        arrival = self._arrivals.get(transfer)
        if arrival is None:
            return []
        found: list[tuple[int, int]] = []
        for number, whole in enumerate(arrival.whole):
            if not whole:
                _add_gaps(
                    found,
                    number * self._segment,
                    min((number + 1) * self._segment, arrival.size),
                    arrival.partial.get(number, []),
                )
        return found


def _add_gaps(found: list[tuple[int, int]], start: int, stop: int, present: list[tuple[int, int]]) -> None:
    """Add what lies between `start` and `stop` and not in `present` to gaps, joined with the last where they touch."""
    for low, high in [*present, (stop, stop)]:
        if low > start:
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], low)
            else:
                found.append((start, low))
        start = high
