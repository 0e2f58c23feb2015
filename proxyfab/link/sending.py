"""The sender's side of a link: a queue of segments, of which each stream takes the next when it has room for it.

Whoever is fast takes more, so that one stream that lost a packet holds up the segments in its own pipe and no others.
No clock, no socket: the streams' threads say what happened.

Rules:
1. Every byte that is wanted is in exactly one place: in the queue, in the hand of one stream, or with the receiver.
2. A stream's bytes arrive in the order in which it took them, so the number of bytes that arrived tells which did.
3. What a stream had in hand when it broke goes to the front of the queue, but for what the receiver has of it.
4. Transfers take turns, a segment each, so that a small one does not wait behind a large one.

Not thread-safe: its owner has a lock, which no stream holds while it sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from proxyfab.errors import IntegrityError

SEGMENT = 256 << 10
"""Bytes of a segment at most: 2 ms of a link of 1 Gbit/s, so that a stream that stalls has little in hand."""


class Segment(NamedTuple):
    """Bytes of one transfer that go out together."""

    transfer: int
    offset: int
    length: int

    def rest(self, received: int) -> Segment:
        """What is left of it when its first `received` bytes are there."""
        return Segment(self.transfer, self.offset + received, self.length - received)


class _Hand:
    """What one stream took and nobody said that it arrived."""

    __slots__ = ("arrived", "segments", "taken")

    def __init__(self) -> None:
        self.segments: deque[Segment] = deque()
        self.taken = 0
        """Bytes in all, those before `segments` included."""
        self.arrived = 0
        """Bytes in all of which the receiver said that it has them, to the start of the first of `segments`."""

    def confirm(self, stream: int, received: int) -> int:
        """Forget what arrived. Returns how much of the first that is left did."""
        if not self.arrived <= received <= self.taken:
            carried = f"which carried {self.taken}, {self.arrived} of them for sure"
            raise IntegrityError(f"A receiver claims {received} bytes of stream {stream}, {carried}.")
        while self.segments and self.arrived + self.segments[0].length <= received:
            self.arrived += self.segments.popleft().length
        return received - self.arrived


class Sender:
    """What is to be sent to one site, and what is on its way.

    Args:
        segment: Bytes of a segment at most.
    """

    def __init__(self, segment: int = SEGMENT) -> None:
        self._segment = segment
        self._waiting: dict[int, deque[Segment]] = {}
        """Spans that no stream took, by transfer, in the order of their turns."""
        self._hands: dict[int, _Hand] = {}
        self.sent = 0
        """Bytes that streams took, those that were taken again included."""
        self.again = 0
        """Bytes that went back into the queue because a stream broke."""

    @property
    def waiting(self) -> int:
        """Bytes that no stream took yet."""
        return sum(each.length for spans in self._waiting.values() for each in spans)

    @property
    def under_way(self) -> int:
        """Bytes in the hands of streams, as far as the receiver said what it has."""
        return sum(each.length for hand in self._hands.values() for each in hand.segments)

    def offer(self, transfer: int, wanted: Iterable[tuple[int, int]]) -> None:
        """Put the parts of an object that its receiver asked for into the queue.

        Args:
            transfer: The number by which both sides know it.
            wanted: First byte and end of each part.
        """
        spans = deque(Segment(transfer, first, end - first) for first, end in wanted if end > first)
        if spans:
            self._waiting.setdefault(transfer, deque()).extend(spans)

    def withdraw(self, transfer: int) -> None:
        """Send no more of an object. What streams have in hand goes on."""
        self._waiting.pop(transfer, None)

    def join(self, stream: int) -> None:
        """A stream is there. Its number is new: none is used twice on one link."""
        if stream in self._hands:
            raise ValueError(f"Stream {stream} of this link is there already.")
        self._hands[stream] = _Hand()

    def take(self, stream: int) -> Segment | None:
        """The next segment, for a stream that has room; None when nothing waits."""
        hand = self._hands[stream]
        if not self._waiting:
            return None
        transfer = next(iter(self._waiting))
        spans = self._waiting.pop(transfer)
        whole = spans.popleft()
        segment = whole._replace(length=min(whole.length, self._segment - whole.offset % self._segment))
        if segment.length < whole.length:
            spans.appendleft(whole.rest(segment.length))
        if spans:
            self._waiting[transfer] = spans  # behind the others: its next turn
        hand.segments.append(segment)
        hand.taken += segment.length
        self.sent += segment.length
        return segment

    def confirm(self, stream: int, received: int) -> None:
        """The receiver has the first `received` bytes that a stream carried.

        Raises:
            IntegrityError: It claims more than the stream carried, or less than it claimed before.
        """
        hand = self._hands.get(stream)
        if hand is not None:  # else a word that was late: how the stream ended is known
            hand.confirm(stream, received)

    def leave(self, stream: int, received: int) -> None:
        """A stream broke when the receiver had the first `received` bytes that it carried.

        Raises:
            IntegrityError: As for `confirm`; what the stream had in hand is then sent once more.
        """
        hand = self._hands.pop(stream, None)
        if hand is None:
            return
        begun = 0
        try:
            begun = hand.confirm(stream, received)
        finally:
            self._return([each.rest(begun if not number else 0) for number, each in enumerate(hand.segments)])

    def _return(self, segments: list[Segment]) -> None:
        for segment in reversed(segments):
            self.again += segment.length
            spans = self._waiting.pop(segment.transfer, None) or deque()
            spans.appendleft(segment)
            self._waiting = {segment.transfer: spans, **self._waiting}
