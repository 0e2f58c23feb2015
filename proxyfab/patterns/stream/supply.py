"""Where a consumer's items come from: what is begun, what waits, and then the broker.

Promises: items are handed out in the order in which frames came; whoever leaves a frame amid it leaves the rest to the
next one who asks. One thread at a time talks to the broker, and the others find what it has fetched.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.events.broker import Subscription
from proxyfab.events.model import Delivery, GroupInfo, Start
from proxyfab.exit import Drain, Hold
from proxyfab.patterns.stream.endings import Endings
from proxyfab.patterns.stream.fetching import Fetching, Pace
from proxyfab.patterns.stream.hand import Hand
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.releaser import Releaser
from proxyfab.patterns.stream.settling import LOST, Desk
from proxyfab.patterns.stream.unpacking import Unpacking

_PATIENCE = 5.0
_LONG = 2.0
"""Seconds for a frame from which on some are asked for ahead: nobody extends these."""


class Supply:
    """Of one consumer.

    Args:
        fetching: Talks to the broker.
        desk: Where frames are settled.
        unpacking: Opens them.
        endings: Knows when there are no more.
        pace: How many to fetch.
    """

    def __init__(self, fetching: Fetching, desk: Desk, unpacking: Unpacking, endings: Endings, pace: Pace) -> None:
        self.fetching = fetching
        self.desk = desk
        self.unpacking = unpacking
        self.endings = endings
        self.pace = pace
        self.over = False
        """Whether the stream was, when events were last asked for."""
        self._hold: Hold[_Leaving] | None = None
        self._releaser: Releaser | None = None
        self.after_fork()

    def after_fork(self) -> None:
        """A child has nothing."""
        self._waiting: deque[Hand] = deque()
        self._begun: deque[Iterator[Item]] = deque()
        self._turn = threading.Lock()
        self._ahead: float | None = None
        """When something was asked for ahead that was not fetched yet."""

    def put_back(self, items: Iterator[Item]) -> None:
        """What is left of a frame that was begun."""
        self._begun.appendleft(items)

    def ready(self) -> Iterator[Item] | None:
        """Items of what was fetched; None for none."""
        self.desk.asked = time.monotonic()
        try:
            return self._begun.popleft()
        except IndexError:
            pass
        while self._waiting:
            try:
                hand = self._waiting.popleft()
            except IndexError:  # another thread was here
                break
            if self.desk.lapsed(hand) or not hand.begin():  # given back meanwhile
                continue
            items = self.unpacking.open(hand)
            self.pace.opened(hand.total)
            if items is not None:
                return items
        return None

    def next(self, timeout: float | None, want: int = 1) -> Iterator[Item] | None:
        """Items of one frame; None when the stream is over.

        Args:
            timeout: Seconds to wait for it; None for as long as it takes.
            want: How many events are wanted at once.

        Raises:
            ResolveTimeout: None came in time.
            ConnectorError: The broker could not be reached for as long as there is patience.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (items := self.ready()) is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._refill(left, want):
                return None
            if left == 0.0 and not self._waits():
                raise ResolveTimeout(f"No event came to {self.who} for {timeout:g} s.")
        return items

    def stocked(self, timeout: float | None, want: int = 1) -> bool:
        """Whether there are items that are ready, once there are; False when the stream is over. Raises as `next`.

        For who may not be there any more when it returns: nothing is taken.
        """
        items = self.next(timeout, want)
        if items is not None:
            self.put_back(items)
        return items is not None

    @property
    def who(self) -> str:
        """Group and topic, for messages."""
        return f"{self.fetching.group or 'a reader'} of {self.fetching.topic.name}"

    def _refill(self, left: float | None, want: int) -> bool:
        """Fetch something, or wait a while for it; False when the stream is over."""
        with self._turn:  # held while talking: who waits here wants just what is fetched
            if self._waits():
                return True
            self._settle()
            pause = self.endings.pause()
            self.desk.asked = float("inf")
            found = self._fetched(want, pause if left is None else min(left, pause))
            self.desk.asked = time.monotonic()
            self.over = not found and self._is_over()
            return not self.over

    def _waits(self) -> bool:
        """Whether there is something to hand out, perhaps."""
        return bool(self._waiting)

    def _fetched(self, want: int, timeout: float) -> Sequence[Delivery]:
        since, self._ahead = self._ahead or time.monotonic() + timeout, None
        found = self.fetching.fetch(self.pace.most(want), timeout)
        late = time.monotonic() - since > max(self.desk.ack_wait, _LONG) / 2  # or this process stood still meanwhile
        if found and late and not self.desk.observing:
            self.bind()
            self.desk.give_back(self.desk.take(found))  # others may owe it by now; what we still do comes again
            return ()
        if found:
            self.bind()
            self.pace.came(found)
            self.endings.moved(found)
            self._waiting.extend(self.desk.take(found))
            more = self.pace.ahead(found) if self.desk.ack_wait > _LONG else 0
            if more:
                now = time.monotonic()
                self._ahead = now if self.fetching.ahead(more) else None
        return found

    def _settle(self) -> None:
        try:
            self.desk.flush()
        except LOST:  # fetching is told the same, and has patience
            pass

    def _is_over(self) -> bool:
        try:
            self.endings.seen = self.unpacking.ends > 0
            return self.endings.over(self.info, self.desk)
        except LOST:
            return False

    def open(self, patience: float | None = None) -> None:
        """Begin the subscription, within so many seconds; None for as long as there is patience."""
        self.fetching.open(patience)
        self.bind()

    def info(self) -> GroupInfo:
        """How far the group, or this reader, is."""
        return self.fetching.info()

    def bind(self) -> None:
        """What is owed to the subscription is owed by the desk, whoever forgets us."""
        subscription = self.fetching.subscription()
        if self.desk.subscription is not subscription:
            self.desk.subscription = subscription
            if self._hold is not None:
                self._hold.cancel()
            if self.fetching.group is not None and self._releaser is None:
                fetching = self.fetching
                self._releaser = Releaser(fetching.broker, fetching.topic, fetching.group, _confirming(fetching))
                self.desk.told = [self._releaser.told]
            self._hold = _leaving.hold(self.desk, _Leaving(subscription, self._releaser))

    def seek(self, start: Start, skip: dict[tuple[int, int], int]) -> None:
        """Go on from elsewhere; `skip` says which events amid a frame are not wanted."""
        subscription = self.fetching.subscription()
        with self._turn:
            self.desk.forget()
            self._waiting.clear()
            self._begun.clear()
            self.unpacking.restart(skip)
            self.endings.restart()
            self.over = False
            self._ahead = None
            subscription.seek(start)

    def close(self) -> None:
        """Tell what is settled, and give back at once what is not. Idempotent."""
        subscription = self.fetching.close()
        if subscription is None:
            return
        try:
            if self.desk.subscription is not None:
                if self._ahead is not None:
                    with contextlib.suppress(*LOST):  # they come again without a word
                        self._waiting.extend(self.desk.take(subscription.fetch(1, 0.0)))
                self.desk.close()
            if self._releaser is not None:
                subscription.flush()
                self._releaser.close()
        finally:
            self._waiting.clear()
            self._begun.clear()
            if self._hold is not None:
                self._hold.cancel()
            subscription.close()


class _Leaving(NamedTuple):
    """What is left to do for a consumer that nobody has any more. Does not refer to it."""

    subscription: Subscription
    releaser: Releaser | None


def _confirming(fetching: Fetching) -> Callable[[], None]:
    weak = weakref.ref(fetching)

    def confirm() -> None:
        there = weak()
        if there is not None:
            there.confirm()

    return confirm


def _end(leavings: list[_Leaving]) -> None:
    for subscription, releaser in leavings:
        if releaser is not None:
            with contextlib.suppress(ProxyfabError):  # a sweep finds what is left
                subscription.flush(_PATIENCE)
                releaser.close()
        subscription.close()


_leaving: Drain[_Leaving] = Drain(_end, "unsubscribing")
