"""The receiver's side of a link: what of each object is there, and what each stream brought. No clock, no socket.

Rules:
1. A byte counts as there only after `landed` said so; an object is complete once every byte was there.
2. The same bytes may come twice, and count once: after a break both sides ask rather for too much than for too little.
3. Nothing is written outside of an object: a segment that is not within it is an IntegrityError, before any byte of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.link.sending import SEGMENT, Segment
from proxyfab.spans import Spans


class _Arrival:
    """One object on its way here."""

    __slots__ = ("here", "left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        self.here = Spans()


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
        self.landed_bytes = 0
        """Bytes of objects that came."""
        self.doubled = 0
        """Bytes that came although they were here."""

    def expect(self, transfer: int, size: int, missing: Sequence[tuple[int, int]] | None = None) -> bool:
        """An object is on its way. Returns whether it is complete at once, as an empty one is.

        Args:
            transfer: Its number.
            size: Its bytes.
            missing: First byte and end of each part that is not here yet; None for all of it.
        """
        if transfer in self._arrivals:
            raise ValueError(f"Transfer {transfer} of this link is there already.")
        if size > 0:
            arrival = self._arrivals[transfer] = _Arrival(size)
            if missing is not None:
                holes = Spans([(first, end - 1) for first, end in missing])
                arrival.here = Spans(holes.gaps(0, size - 1))
                arrival.left = sum(last - first + 1 for first, last in holes)
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
        self.landed_bytes += segment.length
        arrival = self._arrivals.get(segment.transfer)
        if arrival is None:
            return Landed(0, False)
        last = segment.offset + segment.length - 1
        fresh = sum(high - low + 1 for low, high in arrival.here.gaps(segment.offset, last))
        arrival.here.add(segment.offset, last)
        self.doubled += segment.length - fresh
        arrival.left -= fresh
        if arrival.left == 0:
            del self._arrivals[segment.transfer]
        return Landed(fresh, arrival.left == 0)

    def read(self, stream: int, length: int) -> None:
        """A letter of `length` bytes came whole."""
        self._streams[stream] += length

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
        return [(low, high + 1) for low, high in arrival.here.gaps(0, arrival.size - 1)]
