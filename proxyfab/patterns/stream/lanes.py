"""Items in the order of their partitions, for members of an ordered group.

Rules:
1. Of a partition nothing is handed out before what came before it was; an event that is given back comes again here,
   before all others of its partition, which wait for it.
2. What another member left behind comes again when the broker knows of its death. Until it is here, or nobody owes
   anything any more, or for a minute (or `ack_wait` and a half), later frames of a partition that was taken over wait.
3. Partitions change hands between frames: frames that were begun are handed out first, and settled.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import ACK_WAIT
from proxyfab.events.model import Delivery, GroupInfo, Start
from proxyfab.patterns.stream.claiming import Claims
from proxyfab.patterns.stream.endings import Endings
from proxyfab.patterns.stream.fetching import Fetching, Pace
from proxyfab.patterns.stream.hand import Hand
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.settling import LOST, Desk
from proxyfab.patterns.stream.supply import Supply
from proxyfab.patterns.stream.unpacking import Unpacking

_STEP = 0.05
"""Seconds between two looks whether what is under way is settled, before partitions change hands."""
_LONGEST = 2 * ACK_WAIT
_order = itertools.count()


class Lane:
    """One partition's frames."""

    def __init__(self, expected: int, barrier: float) -> None:
        self.waiting: list[tuple[int, int, Hand]] = []
        self.again: list[tuple[tuple[int, int], float, Item]] = []
        self.items: Iterator[Item] = iter(())
        self.head: Item | None = None
        self.expected = expected
        self.barrier = barrier

    def begun(self) -> bool:
        """Whether there are more items of the frame that was opened last."""
        if self.head is None:
            self.head = next(self.items, None)
        return self.head is not None

    def blocked(self, now: float) -> bool:
        """Whether what waits here has to wait for something else."""
        if self.again:
            return self.again[0][1] > now
        return bool(self.waiting) and self.waiting[0][0] > self.expected and now < self.barrier

    def due(self, now: float) -> float:
        """Seconds until something that is given back may come."""
        return max(0.0, self.again[0][1] - now) if self.again else float("inf")


class _Run:
    """Items of one lane, as long as none of them is given back."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        lane = self._lane
        if lane.again:
            raise StopIteration
        head, lane.head = lane.head, None
        return next(lane.items) if head is None else head


class Lanes(Supply):
    """Of one member of an ordered group.

    Args:
        fetching: Talks to the broker.
        desk: Where frames are settled.
        unpacking: Opens them.
        endings: Knows when there are no more.
        pace: How many to fetch.
        member: A name that no other member has.
        lease: Seconds of silence after which a member is dead.
    """

    def __init__(
        self,
        fetching: Fetching,
        desk: Desk,
        unpacking: Unpacking,
        endings: Endings,
        pace: Pace,
        *,
        member: str,
        lease: float,
    ) -> None:
        self._member = member
        self._lease = lease
        self._claims: Claims | None = None
        super().__init__(fetching, desk, unpacking, endings, pace)
        fetching.partitions = []
        weak = weakref.ref(self)

        def retry(item: object, delay: float) -> bool:
            lanes = weak()
            return lanes is not None and isinstance(item, Item) and lanes.give_back(item, delay)

        desk.retry, desk.alone = retry, True

    def after_fork(self) -> None:
        super().after_fork()
        self._lanes: dict[int, Lane] = {}
        self._changing = threading.RLock()
        self._last = -1

    # -- handing out -------------------------------------------------------------------------------------------------

    def put_back(self, items: Iterator[Item]) -> None:
        """What is left of it is in its lane; but one that was given back is nowhere else."""
        if not isinstance(items, _Run):
            super().put_back(items)

    def ready(self) -> Iterator[Item] | None:
        self.desk.asked = time.monotonic()
        if self._begun:
            return self._begun.popleft()
        with self._changing:
            numbers = sorted(self._lanes)
            ahead = [number for number in numbers if number > self._last]
            for number in [*ahead, *numbers[: len(numbers) - len(ahead)]]:
                items = self._of(self._lanes[number])
                if items is not None:
                    self._last = number
                    return items
        return None

    def _of(self, lane: Lane) -> Iterator[Item] | None:
        now = time.monotonic()
        if lane.blocked(now):
            return None
        if lane.again:
            return iter([heapq.heappop(lane.again)[2]])
        if lane.begun():
            return _Run(lane)
        while lane.waiting and not lane.blocked(now) and self._target() is None:
            offset, _, hand = heapq.heappop(lane.waiting)
            lane.expected = max(lane.expected, offset + 1)
            if not hand.begin():
                continue
            items = self.unpacking.open(hand)
            self.pace.opened(hand.total)
            if items is not None:
                lane.items = items
                return _Run(lane)
        return None

    def give_back(self, item: Item, delay: float) -> bool:
        """An event comes again, before all others of its partition; False where that is another member's now."""
        hand = item._hand
        spot = hand.delivery.position.offset, item._index
        with self._changing:
            lane = self._lanes.get(hand.delivery.position.partition)
            if lane is None:
                return False
            now = time.monotonic()
            hand.attempt += 1
            hand.moved = now + delay
            heapq.heappush(lane.again, (spot, now + delay, item))
        return True

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _waits(self) -> bool:
        now = time.monotonic()
        return any([lane.waiting and not lane.blocked(now) for lane in self._lanes.values()]) and self._target() is None

    def _fetched(self, want: int, timeout: float) -> Sequence[Delivery]:
        try:
            claims = self._joined()
        except LOST as error:
            self.fetching.failed(error, timeout)
            return ()
        now = time.monotonic()
        timeout = min([timeout, *(lane.due(now) for lane in self._lanes.values())])
        target = self._target()
        if target is not None and not self._change(target):
            self.fetching.closing.wait(min(timeout, _STEP))
            return ()
        if not self.fetching.partitions:
            claims.changed.wait(timeout)
            claims.changed.clear()
            return ()
        found = self.fetching.fetch(self.pace.most(want), timeout)
        if found:
            self.bind()
            self.pace.came(found)
            self.endings.moved(found)
            self._take(found)
        self._lift()
        return found

    def _is_over(self) -> bool:
        lanes = list(self._lanes.values())
        return not any([lane.again or lane.waiting or lane.begun() for lane in lanes]) and super()._is_over()

    def open(self) -> None:
        self._joined()

    def info(self) -> GroupInfo:
        self._joined()
        return super().info()

    def _joined(self) -> Claims:
        """Our claims, begun now if they were not."""
        with self._changing:
            self.fetching.check()
            if self._claims is None:
                broker, group = self.fetching.broker, self.fetching.group or ""
                self.fetching.topic = topic = broker.ensure(self.fetching.topic)
                broker.ensure_group(topic.name, group, self.fetching.start)
                claims = Claims(broker, topic.name, group, self._member, topic.partitions, self._lease)
                claims.begin()
                self._claims = claims
            return self._claims

    def seek(self, start: Start, skip: dict[tuple[int, int], int]) -> None:
        self._joined()
        if self.fetching.partitions:
            super().seek(start, skip)
        else:
            name, group = self.fetching.topic.name, self.fetching.group
            with self.fetching.broker.subscribe(name, group=group) as another:
                another.seek(start)
        with self._changing:
            self._lanes = {number: Lane(0, 0.0) for number in self._lanes}

    def _take(self, found: Sequence[Delivery]) -> None:
        with self._changing:
            for hand in self.desk.take(found):
                at = hand.delivery.position
                lane = self._lanes.get(at.partition)
                if lane is not None:
                    heapq.heappush(lane.waiting, (at.offset, next(_order), hand))

    def _lift(self) -> None:
        """Nobody else owes anything, of all partitions or of one: there is nothing to wait for."""
        if any([lane.blocked(time.monotonic()) and not lane.again for lane in self._lanes.values()]):
            try:
                info = self.fetching.subscription().info()
            except LOST:
                return
            held = Counter([partition for partition, _ in self.desk.held()])
            for number, lane in self._lanes.items():
                if info.pending <= held.total() or (info.owed is not None and info.owed.get(number, 0) <= held[number]):
                    lane.barrier = 0.0

    # -- partitions --------------------------------------------------------------------------------------------------

    def _target(self) -> frozenset[int] | None:
        """The partitions to read from now on; None where they are those that are read."""
        claims = self._claims
        if claims is None:
            return None
        now = frozenset(self._lanes)
        mine = sorted(claims.mine, key=lambda number: (number not in now, number))
        target = frozenset(mine[: claims.allowed])
        return None if target == now else target

    def _change(self, target: Collection[int]) -> bool:
        """Read other partitions, if nothing is under way; whether that is done."""
        assert self._claims is not None
        with self._changing:
            under_way = [lane for lane in self._lanes.values() if lane.again or lane.begun()]
        if under_way or self.desk.working():
            return False
        self._settle()
        old = set(self._lanes)
        with self._changing:
            waiting = [hand for lane in self._lanes.values() for _, _, hand in sorted(lane.waiting)]
            self._lanes = {}
        self.desk.give_back(waiting)
        former = self.fetching.reopen(sorted(target))
        if former is not None:
            former.close()
        floors = self.fetching.broker.groups(self.fetching.topic.name)[self.fetching.group or ""].floor
        barrier = time.monotonic() + self._claims.lease + max(1.5 * self.desk.ack_wait, _LONGEST)
        with self._changing:
            self._lanes = {number: Lane(floors.get(number, 0) + 1, barrier) for number in target}
        if target:
            self.bind()
        given = old - set(target)
        if given:
            self._claims.beat(given)
        return True

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._claims is not None:
                try:
                    self._claims.leave()
                except ProxyfabError:  # who is silent is taken for dead
                    pass
