"""The sender's side of a link: a queue of segments, of which each stream takes the next when it has room for it.

Whoever is fast takes more, so that one stream that lost a packet holds up the segments in its own pipe and no others.
No clock, no socket: the streams' threads say what happened.

Rules:
1. Every byte that is wanted is in exactly one place: in the queue, in the hand of one stream, or with the receiver.
2. A stream's bytes arrive in the order in which it took them, so the number of bytes that arrived tells which did.
3. What a stream had in hand when it broke goes to the front of the queue, but for what the receiver has of it.
4. Transfers take turns, a segment each, so that a small one does not wait behind a large one.
   Segments of the last bytes that wait are smaller, so that all streams carry a part of what is little, be it an object
   or the end of one: a stream that begins slowly, or lost a packet, then holds up little. A stream may ask for less.
5. Letters go before all segments, each whole and once, like these in the order in which they were written.

Not thread-safe: its owner has a lock, which no stream holds while it sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from proxyfab.errors import IntegrityError

SEGMENT = 256 << 10
"""Bytes of a segment at most: 2 ms of a link of 1 Gbit/s, so that a stream that stalls has little in hand."""
LEAST = 32 << 10
"""Bytes of a segment that is not smaller for the sake of other streams."""


class Segment(NamedTuple):
    """Bytes of one transfer that go out together."""

    transfer: int
    offset: int
    length: int

    def rest(self, received: int) -> Segment:
        """What is left of it when its first `received` bytes are there."""
        return Segment(self.transfer, self.offset + received, self.length - received)


class Letter(NamedTuple):
    """Words of one side to the other, between the segments."""

    text: bytes
    fleeting: bool = False
    """Whether it says how things stand now, so that it is not worth to be sent again."""

    @property
    def length(self) -> int:
        """Bytes that it counts for."""
        return len(self.text)


Item: TypeAlias = Segment | Letter


class _Hand:
    """What one stream took and nobody said that it arrived."""

    __slots__ = ("arrived", "items", "taken", "words")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.taken = 0
        """Bytes in all, those before `items` included."""
        self.arrived = 0
        """Bytes in all of which the receiver said that it has them, to the start of the first of `items`."""
        self.words = 0
        """Bytes of the letters in `items`."""

    def confirm(self, stream: int, received: int) -> int:
        """Forget what arrived. Returns how much of the first that is left did."""
        if not self.arrived <= received <= self.taken:
            carried = f"which carried {self.taken}, {self.arrived} of them for sure"
            raise IntegrityError(f"A receiver claims {received} bytes of stream {stream}, {carried}.")
        while self.items and self.arrived + self.items[0].length <= received:
            item = self.items.popleft()
            self.arrived += item.length
            self.words -= item.length if isinstance(item, Letter) else 0
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
        self._left = 0
        """Their bytes."""
        self._letters: deque[Letter] = deque()
        self.words = 0
        """Bytes of letters that no stream took yet."""
        self._offered: set[int] = set()
        self._hands: dict[int, _Hand] = {}
        self.sent = 0
        """Bytes that streams took, those that were taken again included."""
        self.again = 0
        """Bytes that went back into the queue because a stream broke."""

    @property
    def waiting(self) -> int:
        """Bytes that no stream took yet."""
        return self._left

    @property
    def idle(self) -> bool:
        """Whether nothing is to be sent."""
        return not self._letters and not self._waiting

    @property
    def ample(self) -> bool:
        """Whether there is enough for all streams, so that none needs to leave something to others."""
        return len(self._hands) < 2 or self._left + self.words >= len(self._hands) * self._segment

    @property
    def under_way(self) -> int:
        """Bytes in the hands of streams, as far as the receiver said what it has."""
        return sum(each.length for hand in self._hands.values() for each in hand.items)

    @property
    def unheard(self) -> int:
        """Bytes of letters of which the receiver did not say that it has them, whether a stream took them or not."""
        return self.words + sum(hand.words for hand in self._hands.values())

    def tell(self, text: bytes, *, fleeting: bool = False) -> None:
        """Put a letter into the queue."""
        self._letters.append(Letter(text, fleeting))
        self.words += len(text)

    def offer(self, transfer: int, wanted: Iterable[tuple[int, int]]) -> None:
        """Put the parts of an object that its receiver asked for into the queue.

        Args:
            transfer: The number by which both sides know it.
            wanted: First byte and end of each part.
        """
        spans = deque(Segment(transfer, first, end - first) for first, end in wanted if end > first)
        self._offered.add(transfer)
        if spans:
            self._waiting.setdefault(transfer, deque()).extend(spans)
            self._left += sum(each.length for each in spans)

    def withdraw(self, transfer: int) -> None:
        """Send no more of an object, because it arrived or nobody wants it; what streams have in hand goes on."""
        self._offered.discard(transfer)
        self._left -= sum(each.length for each in self._waiting.pop(transfer, ()))

    def join(self, stream: int) -> None:
        """A stream is there. Its number is new: none is used twice on one link."""
        if stream in self._hands:
            raise ValueError(f"Stream {stream} of this link is there already.")
        self._hands[stream] = _Hand()

    def take(self, stream: int, most: int = SEGMENT) -> Item | None:
        """The next letter or segment, for a stream that has room; None when nothing waits, or the stream has ended.

        Args:
            stream: Its number.
            most: Bytes of a segment at most: `SEGMENT`, or a half of it, or of that.
        """
        hand = self._hands.get(stream)
        if hand is None:
            return None
        if self._letters:
            item: Item = self._letters.popleft()
            self.words -= item.length
            hand.words += item.length
        elif self._waiting:
            item = self._cut(most)
            self.sent += item.length
        else:
            return None
        hand.items.append(item)
        hand.taken += item.length
        return item

    def _cut(self, most: int) -> Segment:
        """The next segment of the transfer whose turn it is."""
        transfer = next(iter(self._waiting))
        spans = self._waiting.pop(transfer)
        whole = spans.popleft()
        size = min(self._size(), most)
        segment = whole._replace(length=min(whole.length, size - whole.offset % size))
        self._left -= segment.length
        if segment.length < whole.length:
            spans.appendleft(whole.rest(segment.length))
        if spans:
            self._waiting[transfer] = spans  # behind the others: its next turn
        return segment

    def _size(self) -> int:
        """Bytes of the next segment at most: halves of the largest, so that none lies across two of those."""
        size, share = self._segment, self._left // len(self._hands)
        while size > share and size // 2 >= LEAST:
            size //= 2
        return size

    def confirm(self, stream: int, received: int) -> None:
        """The receiver has the first `received` bytes that a stream carried.

        Raises:
            IntegrityError: It claims more than the stream carried.
        """
        hand = self._hands.get(stream)
        if hand is not None and received > hand.arrived:  # else a word that was late
            hand.confirm(stream, received)

    def leave(self, stream: int, received: int) -> None:
        """A stream broke when the receiver had the first `received` bytes that it carried.

        Raises:
            IntegrityError: It claims more than the stream carried, or less than it claimed before; what the stream had
                in hand is then sent once more.
        """
        hand = self._hands.pop(stream, None)
        if hand is None:
            return
        begun = 0
        try:
            begun = hand.confirm(stream, received)
        finally:
            self._return(hand.items, begun)

    def _return(self, items: Iterable[Item], begun: int) -> None:
        """Put what a stream had in hand back, but for the first `begun` bytes: a letter counts when it is whole."""
        segments: list[Segment] = []
        letters: list[Letter] = []
        for number, item in enumerate(items):
            if isinstance(item, Letter):
                if not item.fleeting:
                    letters.append(item)
            elif item.transfer in self._offered:
                segments.append(item if number else item.rest(begun))
        self._letters.extendleft(reversed(letters))
        self.words += sum(each.length for each in letters)
        for segment in reversed(segments):
            self.again += segment.length
            self._left += segment.length
            spans = self._waiting.pop(segment.transfer, None) or deque()
            spans.appendleft(segment)
            self._waiting = {segment.transfer: spans, **self._waiting}
