"""Items in the order of their partitions, for members of an ordered group.

Rules:
1. Of a partition nothing is handed out before what came before it was; an event that is given back comes again here,
   before all others of its partition, which wait for it.
2. What another member left behind, or was lost on its way to this one, comes again when the broker knows of it. Until
   it is here, or nobody owes anything of that partition any more, or for a minute (or `ack_wait` and a half), what came
   later waits. That something is missing is seen by offsets, or by serials where offsets have gaps.
3. Partitions change hands between frames: frames that were begun are handed out first, and settled. What waits to be
   tried again goes back as it is.
4. What is blocked is kept up to the bounds of what is fetched ahead, and beyond them left to the broker: given back to
   come later, or, where it takes nothing back, not fetched.
5. Who may have been taken for dead hands nothing out before he has asked; if he was, he gives back all that he has.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import ACK_WAIT
from proxyfab.events.model import Capability, Delivery, GroupInfo, Start
from proxyfab.patterns.stream.claiming import Claims
from proxyfab.patterns.stream.endings import Endings
from proxyfab.patterns.stream.fetching import Fetching, Pace, Trickle
from proxyfab.patterns.stream.hand import Hand
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.lane import Lane, Run, all_here, nothing_missing, serial_of
from proxyfab.patterns.stream.settling import LOST, Desk
from proxyfab.patterns.stream.supply import Supply
from proxyfab.patterns.stream.unpacking import Unpacking

_STEP = 0.05
"""Seconds between two looks whether what is under way is settled, before partitions change hands."""
_LONGEST = 2 * ACK_WAIT
_order = itertools.count()


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

        desk.retry = retry

    def after_fork(self) -> None:
        super().after_fork()
        self._lanes: dict[int, Lane] = {}
        self._changing = threading.RLock()
        self._last = -1
        self._life = 0
        """The life of our claims that the lanes are of."""
        self._trickle = Trickle()
        self._looked = self._asked = 0.0
        """When it was asked what others owe, and whether the stream is over."""

    # -- handing out -------------------------------------------------------------------------------------------------

    def put_back(self, items: Iterator[Item]) -> None:
        """What is left of it is in its lane; but one that was given back is nowhere else."""
        if not isinstance(items, Run):
            super().put_back(items)

    def ready(self) -> Iterator[Item] | None:
        self.desk.asked = time.monotonic()
        if self._claims is None or not self._claims.live(self._life):
            return None
        if self._begun:
            return self._begun.popleft()
        with self._changing:
            numbers = sorted(self._lanes)
            ahead = [number for number in numbers if number > self._last]
            for number in [*ahead, *numbers[: len(numbers) - len(ahead)]]:
                items = self._of(self._lanes[number], self._claims)
                if items is not None:
                    self._last = number
                    return items
        return None

    def _of(self, lane: Lane, claims: Claims) -> Iterator[Item] | None:
        now = time.monotonic()
        if lane.again:
            return None if lane.blocked(now) else iter([heapq.heappop(lane.again)[2]])
        if lane.begun():  # whatever comes after it waits for: partitions do not change hands before it was handed out
            return Run(lane, claims)
        while lane.waiting and not lane.blocked(now) and self._target() is None:
            offset, _, hand = heapq.heappop(lane.waiting)
            if hand.replaced:
                continue
            if not hand.begin():  # nobody asked for long, so it was given back: all that is here is looked at anew
                self._life = -1
                return None
            lane.expected, lane.since = max(lane.expected, offset + 1), 0.0
            items = self.unpacking.open(hand)
            self.pace.opened(hand.total)
            if items is not None:
                lane.items, lane.hand = items, hand
                return Run(lane, claims)
        return None

    def give_back(self, item: Item, delay: float) -> bool:
        """An event comes again, before all others of its partition; False where that is another member's now."""
        hand = item._hand
        spot = hand.delivery.position.offset, item._index
        with self._changing:
            lane = self._lanes.get(hand.delivery.position.partition)
            if lane is None or hand.over:
                return False
            now = time.monotonic()
            hand.retried[item._index] = hand.retried.get(item._index, 0) + 1
            hand.moved = now + delay
            heapq.heappush(lane.again, (spot, now + delay, item))
        return True

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _waits(self) -> bool:
        if self._claims is None or not self._claims.live(self._life) or self._target() is not None:
            return False
        now = time.monotonic()
        return any([lane.waiting and not lane.blocked(now) for lane in self._lanes.values()])

    def _fetched(self, want: int, timeout: float) -> Sequence[Delivery]:
        try:
            if not self._claimed(timeout):
                return ()
        except LOST as error:
            self.fetching.failed(error, timeout)
            return ()
        now = time.monotonic()
        stuck = [lane for lane in self._lanes.values() if lane.stuck()]
        wait = min([timeout, *(lane.due(now) for lane in self._lanes.values())])
        most, rest = self._trickle.most(self.pace.most(want), sum([len(lane.waiting) for lane in stuck]), now)
        if rest > 0.0:
            self.fetching.closing.wait(min(rest, wait))
        if Capability.DELAYED_NACK not in self.fetching.broker.capabilities:
            self._pause()
        found = self.fetching.fetch(most, min(wait, _STEP) if stuck else wait) if rest <= wait else []
        if found:
            self._trickle.came(found)
            self.bind()
            self.pace.came(found)
            self.endings.moved(found)
            self._take(found)
        self._lift()
        return found

    def _claimed(self, timeout: float) -> bool:
        """Whether there are partitions to read, and they are ours; if not, a while has passed, or something changed."""
        claims = self._joined()
        if not claims.sure:
            claims.look(asked=True)
        target = self._target()
        if target is not None:
            if not self._change(claims, target):
                self.fetching.closing.wait(min(timeout, _STEP))
            return False
        if self.fetching.partitions:
            return True
        self.fetching.fine()
        claims.changed.wait(timeout)
        claims.changed.clear()
        return False

    def _is_over(self) -> bool:
        lanes = list(self._lanes.values())
        if any([lane.again or lane.waiting or lane.begun() for lane in lanes]):
            return False
        now = time.monotonic()
        if now - self._asked < _STEP:
            return False
        over = super()._is_over()
        self._asked = time.monotonic()
        return over

    def open(self, patience: float | None = None) -> None:
        self.fetching.trying(self._joined, patience)

    def info(self) -> GroupInfo:
        self._joined()
        return super().info()

    def _joined(self) -> Claims:
        """Our claims, begun now if they were not."""
        with self._changing:
            self.fetching.check()
            if self._claims is None:
                broker, group, limit = self.fetching.broker, self.fetching.group or "", self.fetching.timeout
                self.fetching.prepare()
                topic = self.fetching.topic
                broker.ensure_group(topic.name, group, self.fetching.start, ack_wait=self.desk.ack_wait, timeout=limit)
                works, lease = _works(self.desk), self._lease
                claims = Claims(broker, topic.name, group, self._member, topic.partitions, lease, works, timeout=limit)
                claims.begin()
                self._claims, self._life = claims, claims.share.life
            return self._claims

    def seek(self, start: Start, skip: dict[tuple[int, int], int]) -> None:
        self._joined()
        if self.fetching.partitions:
            super().seek(start, skip)
        else:
            name, group = self.fetching.topic.name, self.fetching.group
            with self.fetching.broker.subscribe(name, group=group) as another:
                another.seek(start)
        self._life = -1

    def _take(self, found: Sequence[Delivery]) -> None:
        hands = self.desk.take(found)
        with self._changing:
            for hand in hands:
                at = hand.delivery.position
                lane = self._lanes.get(at.partition)
                if lane is not None:
                    lane.came(hand.delivery.serial, at.offset)
                    heapq.heappush(lane.waiting, (at.offset, next(_order), hand))
        if Capability.DELAYED_NACK in self.fetching.broker.capabilities:  # elsewhere it would lie here all the same
            self._shed()

    def _pause(self) -> None:
        """Fetch no more of what is blocked here than may be kept, where nothing can be given back."""
        now, (frames, nbytes) = time.monotonic(), self.pace.room
        blocked = {number: lane for number, lane in self._lanes.items() if lane.sheds(now)}
        much = {
            number
            for number, lane in blocked.items()
            if len(lane.waiting) * len(blocked) >= frames or lane.nbytes * len(blocked) >= nbytes
        }
        with contextlib.suppress(*LOST):  # who fetches is told the same
            self.fetching.subscription().pause(much)

    def _shed(self) -> None:
        """Keep no more of what is blocked here than may be fetched ahead: the last of it comes again later."""
        now = time.monotonic()
        back: list[tuple[float, Hand]] = []
        with self._changing:
            lanes = [lane for lane in self._lanes.values() if lane.sheds(now)]
            frames, nbytes = self.pace.room
            if sum([len(lane.waiting) for lane in lanes]) > frames or sum([lane.nbytes for lane in lanes]) > nbytes:
                for lane in lanes:
                    back += lane.shed(now, frames // (2 * len(lanes)), nbytes // (2 * len(lanes)))
        with contextlib.suppress(*LOST):  # they come again when their time is over
            for when, hand in back:
                self.desk.give_back([hand], delay=max(when - time.monotonic(), 0.0))

    def _lift(self) -> None:
        """Look whether anybody owes what a partition waits for."""
        stuck = {number: lane for number, lane in self._lanes.items() if lane.stuck()}
        now = time.monotonic()
        if not stuck or now - self._looked < _STEP / 2:
            return
        try:
            info, spots = self.desk.compared(self.fetching.info)
        except LOST:
            return
        self._looked = time.monotonic()
        longest = self._lease + max(1.5 * self.desk.ack_wait, _LONGEST)
        for number, lane in stuck.items():
            held = [offset for partition, offset in spots if partition == number]
            lane.since = lane.since or now
            late = now - lane.since > longest
            if late or nothing_missing(info, number, held):
                lane.lift(serial_of(info, number))
            elif all_here(info, number, lane.waiting[0][0], held, len(spots)):
                lane.lift()

    # -- partitions --------------------------------------------------------------------------------------------------

    def _target(self) -> frozenset[int] | None:
        """The partitions to read from now on; None where nothing is to be done."""
        claims = self._claims
        if claims is None:
            return None
        share = claims.share
        target = share.kept(self._lanes)
        same = target == self._lanes.keys() and share.life == self._life and target == share.mine
        return None if same else target

    def _change(self, claims: Claims, target: frozenset[int]) -> bool:
        """Read other partitions, if nothing is under way; whether that is done."""
        share = claims.share
        if target != self._lanes.keys() or share.life != self._life:
            if share.life == self._life and self._under_way():
                return False
            self._settle()
            self._let_go(everything=share.life != self._life)
            self._read(target, share.life)
        given = share.mine - target
        if given:
            claims.beat(given)
        return True

    def _under_way(self) -> bool:
        """Whether there is more of a frame that was begun, or somebody works on what he was given."""
        now = time.monotonic()
        with self._changing:
            lanes = list(self._lanes.values())
            later = [lane for lane in lanes if lane.again and lane.again[0][1] > now]
            more = any([lane not in later and (lane.again or lane.begun()) for lane in lanes])
            back = {hand for lane in later for hand in lane.tried()}
            return bool(self._begun) or more or self.desk.working(back)

    def _let_go(self, *, everything: bool) -> None:
        """Give back what is not under way, or everything there is."""
        with self._changing:
            lanes, self._lanes = list(self._lanes.values()), {}
            for lane in lanes:
                lane.lost = True
            waiting = [hand for lane in lanes for _, _, hand in lane.waiting]
            tried = [hand for lane in lanes if lane.again for hand in lane.tried()]
            if everything:
                self._begun.clear()
        self.desk.give_back(waiting)
        self.desk.give_back(self.desk.hands() if everything else tried, begun=True)

    def _read(self, target: frozenset[int], life: int) -> None:
        former = self.fetching.reopen(sorted(target))
        if former is not None:
            former.close()
        if target:
            self.bind()
        else:
            self.desk.subscription = None  # nobody is left to be told
        info = self.fetching.broker.groups(self.fetching.topic.name, timeout=self.fetching.timeout)[
            self.fetching.group or ""
        ]
        with self._changing:
            self._life = life
            self._lanes = {
                number: Lane(
                    life,
                    info.floor.get(number, 0) + 1,
                    serial_of(info, number) if nothing_missing(info, number, ()) else None,
                )
                for number in target
            }

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._claims is not None:
                try:
                    self._claims.leave()
                except ProxyfabError:  # who is silent is taken for dead
                    pass


def _works(desk: Desk) -> Callable[[], bool]:
    weak = weakref.ref(desk)

    def works() -> bool:
        there = weak()
        return there is not None and (time.monotonic() - there.asked < there.ack_wait or there.working())

    return works
