"""From a frame in hand to the items that its consumer is given; and what becomes of those he is not.

Rules:
1. Whatever comes in, iteration goes on: what is no frame of events, or has been tried too often, or makes a filter
   fail, is buried; what cannot be buried now stays unsettled, and comes again.
2. ENDs, what a note says is done, copies, what replaced producers sent, and what a filter does not want are settled
   here, without a look at data.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import repeat

from proxyfab.errors import AccessDenied, IntegrityError, ProxyfabError
from proxyfab.patterns.raised import story_of, traceback_of
from proxyfab.patterns.stream.burying import Undertaker
from proxyfab.patterns.stream.continuity import Continuity
from proxyfab.patterns.stream.hand import Hand
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.letters import topic_of
from proxyfab.patterns.stream.settling import Desk
from proxyfab.patterns.stream.trials import Trial, Trials
from proxyfab.trace import Link, span
from proxyfab.wire.events import END, Frame, decode


class Burying:
    """What happens to an event that never will work: a dead letter, or a warning.

    Args:
        undertaker: None where nothing is kept of it.
        link: What observers are told it happened on.
    """

    def __init__(self, undertaker: Undertaker | None, link: Link) -> None:
        self._undertaker = undertaker
        self._link = link
        self.buried = 0
        self.dropped = 0

    def event(self, item: object, cause: str, trace: str) -> None:
        """Bury an item."""
        assert isinstance(item, Item)
        hand, index = item._hand, item._index
        if self._undertaker is None:
            self._drop(f"The event at {item.position} was dropped: {cause}.")
            return
        with self._allowed():
            self._undertaker.event(hand.frame, index, item.position, hand.tries(index), cause, trace)
        self.buried += 1

    def record(self, hand: Hand, cause: str) -> None:
        """Bury what is no frame."""
        if self._undertaker is None:
            self._drop(f"The record at {hand.delivery.position} was dropped: {cause}.")
            return
        with self._allowed():
            self._undertaker.record(hand.delivery, cause)
        self.buried += 1

    @contextlib.contextmanager
    def _allowed(self) -> Iterator[None]:
        """Say what a consumer that may not bury anything needs."""
        try:
            yield
        except AccessDenied as error:
            letters = topic_of(self._link.source)
            raise AccessDenied(
                f"No event of {self._link.source} can be buried here: dead letters go to {letters}, for which its "
                f"consumers need a grant of publish; or give them dead_letter=False. {error}"
            ) from error

    def _drop(self, story: str) -> None:
        self.dropped += 1
        warn("drop", self._link, story)


def warn(operation: str, link: Link, story: str) -> None:
    """Tell observers what they may want to know, as a step that failed."""
    with contextlib.suppress(IntegrityError), span(operation, link):
        raise IntegrityError(story)


class Unpacking:
    """Opens the frames of one consumer, one at a time.

    Args:
        desk: Where they are settled.
        burying: For what never will work.
        continuity: Knows copies and gaps.
        trials: None where nobody counts attempts.
        wanted: Whether an item is; None if all are.
    """

    def __init__(
        self,
        desk: Desk,
        burying: Burying,
        continuity: Continuity,
        trials: Trials | None,
        wanted: Callable[[Item], object] | None,
    ) -> None:
        self._desk = desk
        self._burying = burying
        self._trials = trials
        self._wanted = wanted
        self._lock = threading.Lock()
        self.continuity = continuity
        self._skip: dict[tuple[int, int], int] = {}
        self.ends = 0

    def open(self, hand: Hand) -> Iterator[Item] | None:
        """The items of a frame that was begun; None for none."""
        try:
            frame = decode(hand.delivery.body)
        except IntegrityError as error:
            self._foreign(hand, error)
            return None
        hand.begun(frame, self._settled(hand, frame))
        trial = None if self._trials is None else self._trials.trial(hand)
        left = [index for index in range(hand.total) if index not in hand.done] if hand.done else range(hand.total)
        counts = self._desk.counts
        counts["frames"] += 1
        counts["events"] += len(left)
        if trial is not None:
            left = self._tried(hand, left, trial)
        if self._wanted is not None:
            left = self._filtered(hand, left)
        if len(hand.done) == hand.total:
            hand.finish()
            return None
        return map(Item, repeat(hand), left) if trial is None else OneByOne(hand, iter(left), trial)

    def restart(self, skip: dict[tuple[int, int], int]) -> None:
        """Reading goes on elsewhere; `skip` says which event of a frame is the first that is wanted."""
        with self._lock:
            self.continuity.clear()
            self._skip = dict(skip)

    def _foreign(self, hand: Hand, error: IntegrityError) -> None:
        self._desk.counts["malformed"] += 1
        try:
            if not self._desk.observing:
                self._burying.record(hand, str(error))
        except ProxyfabError:
            return  # it comes again
        hand.finish()

    def _settled(self, hand: Hand, frame: Frame) -> list[int]:
        """Events that are nobody's business."""
        position = hand.delivery.position
        counts = self._desk.counts
        with self._lock:
            dropped = "stale" if self.continuity.is_stale(frame, position) else None
            if dropped is None and self.continuity.is_copy(frame, position):
                dropped = "duplicates"
            if dropped is not None:
                counts[dropped] += len(frame.events)
                return list(range(len(frame.events)))
            gap = self.continuity.follow(frame, position)
            done = self.continuity.copies(frame, position)
            first = self._skip.pop((position.partition, position.offset), 0)
        if gap is not None:
            counts["gaps"] += 1
            counts["missing"] += gap.missing
            self.continuity.report(gap)
        counts["duplicates"] += len(done)
        ends = [index for index, event in enumerate(frame.events) if event.kind == END]
        if ends:
            self.ends += len(ends)
            done += ends
        if first:
            done += range(min(first, len(frame.events)))
        return done

    def _tried(self, hand: Hand, left: range | list[int], trial: Trial) -> list[int]:
        """Without those that were tried too often."""
        innocent = []
        for index in left:
            if trial.guilty(index):
                self._bury(hand, index, f"delivered {hand.attempt - 1} times and never settled")
            else:
                innocent.append(index)
        return innocent

    def _filtered(self, hand: Hand, left: range | list[int]) -> list[int]:
        assert self._wanted is not None
        found = []
        for index in left:
            try:
                wanted = self._wanted(Item(hand, index))
            except Exception as error:  # noqa: BLE001 - a filter's, or of what it looked at: the event's end, not ours
                self._bury(hand, index, f"its filter failed: {story_of(error)}", traceback_of(error))
                continue
            if wanted:
                found.append(index)
            else:
                hand.done.add(index)
                self._desk.counts["filtered"] += 1
        return found

    def _bury(self, hand: Hand, index: int, cause: str, trace: str = "") -> None:
        try:
            if not self._desk.observing:
                self._burying.event(Item(hand, index), cause, trace)
        except ProxyfabError:
            return  # unsettled: it comes again
        hand.done.add(index)


class OneByOne:
    """Items of a frame whose consumers died: each is marked before it is handed out."""

    def __init__(self, hand: Hand, left: Iterator[int], trial: Trial) -> None:
        self._hand = hand
        self._left = left
        self._trial = trial

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        index = next(self._left)
        self._trial.mark(index, self._hand)
        return Item(self._hand, index)
