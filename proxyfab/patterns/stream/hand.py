"""A frame in a consumer's hand, whose events are counted down until all are settled.

Promises: settling an event takes no lock; beginning a frame, finishing it and owing nothing more for it each happen
once, whoever comes at the same time. An event's first verdict counts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from proxyfab.errors import ConfigurationError
from proxyfab.events.model import Delivery
from proxyfab.patterns.raised import story_of, traceback_of
from proxyfab.patterns.stream.selecting import Choice
from proxyfab.wire.events import Frame

_NOTE = 900
"""Bytes of a note at most, about; a broker takes 1 KiB."""
_FAILURE = 8
"""Bytes of one event's failures in it, at most."""
_NOBODY = Frame("", 0, 0, 0, "", [], [])


class Note(msgspec.Struct, array_like=True):
    """What who gives a frame back tells the next one.

    Attributes:
        done: A bitmap of the events that are settled.
        unused: How many of its deliveries were no attempts: it was given back untouched.
        failed: How often each event was given back by who had it, where that is not 0.
        at: Which delivery it was given back from; those behind it ended without a word. 0 where nobody said.
    """

    done: bytes = b""
    unused: int = 0
    failed: dict[int, int] = {}
    at: int = 0


_notes = msgspec.msgpack.Decoder(Note)


class Table(Protocol):
    """Where frames are settled: a `settling.Desk`."""

    ack_wait: float
    attempts: int
    observing: bool
    counts: Counter[str]
    retry: Callable[[object, float], bool] | None
    choice: Choice | None
    bury: Callable[[object, str, str], None]

    def finished(self, hand: Hand) -> None:
        """A frame is settled."""

    def extend(self, hands: list[Hand]) -> None:
        """They are worked on."""


class Hand:
    """A frame that a consumer has."""

    __slots__ = (
        "__weakref__",
        "_begin",
        "_finish",
        "after",
        "again",
        "attempt",
        "back",
        "choice",
        "deadline",
        "delivery",
        "desk",
        "done",
        "failed",
        "frame",
        "mark",
        "moved",
        "replaced",
        "retried",
        "silent",
        "total",
        "unused",
    )

    def __init__(self, delivery: Delivery, desk: Table, now: float) -> None:
        self.delivery = delivery
        self.desk = desk
        self.choice = desk.choice
        """What is wanted of its objects; None for all, as it comes."""
        self.frame = _NOBODY
        self.done: set[int] = set()
        self.back: dict[int, float] = {}
        self.total = -1
        self._begin = [True]
        self._finish = [True]
        self.deadline = now + desk.ack_wait
        self.moved = now
        """When something was last settled, or the work on it extended; of what waits, when it was fetched."""
        self.mark = 0
        """How many events were settled when the keeper looked last."""
        self.unused = 0
        self.again: Hand | None = None
        """The same frame, come again while this one is worked on."""
        self.replaced = False
        """Whether it is not to be handed out, as another one of the same frame is or was."""
        self.after: Callable[[], None] | None = None
        """Called when the broker knows that it is settled."""
        self.failed: dict[int, int] = {}
        """How often events did not work: others of their frame are not to blame."""
        self.retried: dict[int, int] = {}
        """How often events were handed out again of this delivery."""
        self.attempt = delivery.attempt
        self.silent = delivery.attempt - 1
        """How many deliveries ended without a word since somebody gave it back."""
        if delivery.note:
            self._read(delivery.note)

    def _read(self, packed: bytes) -> None:
        try:
            note = _notes.decode(packed)
        except msgspec.MsgspecError:  # not ours: everything is done once more
            return
        bits = int.from_bytes(note.done[:_NOTE], "little")
        self.done.update([number for number in range(bits.bit_length()) if bits >> number & 1])
        self.unused = max(0, min(note.unused, self.delivery.attempt - 1))
        self.attempt = self.delivery.attempt - self.unused
        self.failed.update([(index, times) for index, times in note.failed.items() if times > 0])
        self.silent = max(0, self.delivery.attempt - 1 - note.at) if note.at > 0 else 0

    def note(self, *, touched: bool) -> bytes:
        """For the next one who gets it."""
        bits = 0
        for index in self.done:
            if index not in self.back:
                bits |= 1 << index
        packed = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
        packed = packed if len(packed) <= _NOTE else b""
        left = [each for each in self.failed.items() if not bits >> each[0] & 1]
        worst = sorted(left, key=lambda each: -each[1])[: (_NOTE - len(packed)) // _FAILURE]
        return msgspec.msgpack.encode(Note(packed, self.unused + (not touched), dict(worst), self.delivery.attempt))

    def tries(self, index: int) -> int:
        """How often an event was handed out, as far as anybody can tell: this is one."""
        here = self.retried.get(index, 0)
        return max(self.attempt, self.failed.get(index, 0) - here + 1) + here

    @property
    def waits(self) -> bool:
        """Whether nothing of it was handed out."""
        return bool(self._begin)

    @property
    def over(self) -> bool:
        """Whether it needs nothing more."""
        return not self._finish

    def begin(self) -> bool:
        """Whether it is the caller's to hand out, or to give back."""
        return _once(self._begin)

    def drop(self) -> bool:
        """Owe nothing for it any more; whether it was owed."""
        return _once(self._finish)

    def begun(self, frame: Frame, settled: Iterable[int]) -> None:
        """It was opened: this is in it, and so much of it is nobody's business."""
        self.frame = frame
        self.total = total = len(frame.events)
        self.done = {index for index in self.done if index < total}
        self.done.update(settled)
        self.moved = time.monotonic()
        self.mark = len(self.done)

    def settle(self, index: int) -> None:
        """One event more is settled."""
        done = self.done
        done.add(index)
        if len(done) == self.total:
            self.finish()

    def finish(self) -> None:
        """All of it is settled."""
        if _once(self._finish):
            self.desk.finished(self)

    def give_back(self, item: object, index: int, delay: float, error: BaseException | None = None) -> None:
        """An event did not work this time."""
        if not delay >= 0:
            raise ConfigurationError(f"An event comes again after some seconds, 0 or more, not {delay!r}.")
        if index in self.done:
            return
        desk = self.desk
        if error is None or isinstance(error, Exception):  # an interrupt is no fault of the event
            failed = self.failed.get(index, 0) + 1
            if failed >= desk.attempts:
                cause = f"given back at attempt {self.tries(index)}"
                self.bury(item, index, cause + (f": {story_of(error)}" if error is not None else ""), error)
                return
            self.failed[index] = failed
        if desk.retry is not None and desk.retry(item, delay):
            return
        desk.counts["nacked"] += not desk.observing
        if not desk.observing:
            self.back[index] = delay
        self.settle(index)

    def bury(self, item: object, index: int, cause: str, error: BaseException | None = None) -> None:
        """An event never will work."""
        if index not in self.done:
            if not self.desk.observing:
                self.desk.bury(item, cause, "" if error is None else traceback_of(error))
            self.settle(index)

    def extend(self) -> None:
        """The time begins anew."""
        self.moved = now = time.monotonic()
        if not self.desk.observing and not self.over and self.deadline - now < self.desk.ack_wait * 2 / 3:
            self.desk.extend([self])


def _once(token: list[bool]) -> bool:
    try:
        return token.pop()
    except IndexError:  # somebody has it
        return False


def spot_of(hand: Hand) -> tuple[int, int]:
    """Partition and offset."""
    return hand.delivery.position.partition, hand.delivery.position.offset
