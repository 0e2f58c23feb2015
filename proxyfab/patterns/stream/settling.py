"""What a consumer holds of a topic, from fetching to settling: frames that are counted down, and what is told of them.

Rules:
1. The broker knows frames. A frame is acknowledged when all its events are settled; when some were given back it goes
   back whole, with a note of what is done, and whoever gets it next leaves that out.
2. Settling an event takes no lock: a number is added to a set, and the thread that makes the set whole finishes the
   frame. Finishing, beginning and giving back a frame each happen once, whoever comes at the same time.
3. What is settled is told within `keeping.LINGER` seconds, and before anybody waits for more.
4. A frame that waits is extended while its consumer asks for events; if he does not for `ack_wait` seconds, it is given
   back untouched. One that was begun is extended while events of it are settled; what is not within `ack_wait` lapses.
   One that comes again while it is still here is handed out once, and settled as often as it came. One that waits here
   beyond its time, as this process stood still, is not handed out any more: others have it by now, or get it.
5. The keeper's thread, which does all this, refers to its desk weakly: a consumer that nobody has any more is closed.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Sequence

from proxyfab.errors import ConnectorError, ResolveTimeout
from proxyfab.events.broker import Subscription
from proxyfab.events.model import Delivery, GroupInfo
from proxyfab.fork import on_fork
from proxyfab.members import Members
from proxyfab.patterns.stream.hand import Hand, spot_of
from proxyfab.patterns.stream.keeping import BEATS, Bell, keep
from proxyfab.patterns.stream.selecting import Choice

LOST = (ConnectorError, ResolveTimeout)


class Desk:
    """Where frames are settled with a broker. Thread-safe; belongs to the process that made it.

    Args:
        ack_wait: Seconds for each frame.
        attempts: After how many an event is buried.
        bury: Buries an item, for a cause and with a traceback.
        observing: Nothing is owed: nobody counts.
    """

    def __init__(
        self, *, ack_wait: float, attempts: int, bury: Callable[[object, str, str], None], observing: bool
    ) -> None:
        self.ack_wait = ack_wait
        self.attempts = attempts
        self.bury = bury
        self.observing = observing
        self.subscription: Subscription | None = None
        """Whom to tell, once there is one."""
        self.of: Callable[[int], Subscription | None] | None = None
        """Says it where each partition has its own."""
        self.choice: Choice | None = None
        """What is wanted of objects; None for all, as it comes."""
        self.retry: Callable[[object, float], bool] | None = None
        """Takes an item that is to come again, if it is done here."""
        self.told: list[Callable[[list[Hand]], None]] = []
        """Called with the frames that the broker was just told are done."""
        self.counts: Counter[str] = Counter()
        self.asked = time.monotonic()
        """When events were last asked for; `inf` while somebody waits for them."""
        self._begin()
        on_fork(self)

    def after_fork(self) -> None:
        """A child holds nothing, and tells nobody what it does with its copies."""
        self.subscription, self.of = None, None
        self._begin()

    def _begin(self) -> None:
        self._hands: Members[Hand] = Members()
        self._finished: deque[Hand] = deque()
        self._returned: set[tuple[int, int]] = set()
        self._owed: dict[tuple[int, int], float] = {}
        """Until when the broker counts on us for what, whether or not somebody still has it."""
        self._turn = threading.RLock()
        self._counting = threading.RLock()  # reentrant: collecting garbage inside may settle something
        """Of what is held and owed; nobody talks while he has it."""
        self._bell = Bell()
        self._thread: threading.Thread | None = None

    # -- taking and finishing ----------------------------------------------------------------------------------------

    def take(self, deliveries: Iterable[Delivery]) -> list[Hand]:
        """Hold what was fetched."""
        now = time.monotonic()
        hands = [Hand(delivery, self, now) for delivery in deliveries]
        if self._returned:
            self._returned.difference_update([spot_of(hand) for hand in hands])
        if not self.observing:
            self._hands.update(hands)
            if any([hand.delivery.attempt > 1 for hand in hands]):
                self._met_again(hands)
            deadline = now + self.ack_wait
            self._owed.update([(spot_of(hand), deadline) for hand in hands])
            self._keep()
        return hands

    def _met_again(self, hands: list[Hand]) -> None:
        """What came again while it is still here had lapsed, and is handed out once.

        What waited goes: what came now counts. What is worked on, or settled and not told, is not handed out again.
        """
        later = {spot_of(hand): hand for hand in hands if hand.delivery.attempt > 1}
        for former in list(self._hands):
            again = later.get(spot_of(former))
            if again is None or former is again:
                continue
            if former.begin():
                former.drop()
                former.replaced = True
                self._hands.discard(former)
            else:
                former.again = again
                if former.over:
                    self._settled_again(former)

    def _settled_again(self, hand: Hand) -> None:
        """A frame is settled that came again meanwhile: the later one is, too, if nobody has begun it."""
        again, hand.again = hand.again, None
        if again is not None and not hand.back and len(hand.done) == hand.total and again.begin():
            again.replaced, again.frame = True, hand.frame
            again.finish()

    def finished(self, hand: Hand) -> None:
        """A frame is settled: that is told soon."""
        if self.observing:
            return
        if hand.again is not None:
            self._settled_again(hand)
        self._finished.append(hand)
        self._keep()
        self._bell.ring()

    def lapsed(self, hand: Hand) -> bool:
        """Whether the time is over for a frame that waits; then nothing is owed for it, and it comes again."""
        if self.observing or hand.deadline > time.monotonic():
            return False
        if hand.begin() and hand.drop():
            self._returned.add(spot_of(hand))
            self._owe_nothing_for([hand])
        return True

    def held(self) -> list[tuple[int, int]]:
        """What is owed and has not lapsed: partitions and offsets."""
        now = time.monotonic()
        for spot in [spot for spot, deadline in list(self._owed.items()) if deadline <= now]:
            self._owed.pop(spot, None)
        return list(self._owed)

    def compared(self, info: Callable[[], GroupInfo]) -> tuple[GroupInfo, list[tuple[int, int]]]:
        """What the broker says of the group, and what is held here, with nothing told in between."""
        with self._turn:
            self.flush()
            return info(), self.held()

    def hands(self) -> list[Hand]:
        """The frames that are held."""
        return list(self._hands)

    def working(self, but: Container[Hand] = ()) -> bool:
        """Whether something that was handed out is not settled, and has not lapsed; not counting some frames."""
        now = time.monotonic()
        hands = [hand for hand in list(self._hands) if hand not in but]
        return any([not hand.over and not hand.waits and hand.deadline > now for hand in hands])

    # -- telling -----------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Tell the broker what is settled; with a timeout, return when it knows.

        Raises:
            ConnectorError: It cannot be reached; what was to be told is told later.
        """
        with self._turn:  # held while talking: who flushes waits for what another thread has begun to tell
            while self._finished:
                batch = [self._finished.popleft() for _ in range(len(self._finished))]
                try:
                    self._tell(batch)
                except LOST:
                    self._finished.extendleft(reversed(batch))
                    raise
            if timeout is not None and self.subscription is not None:
                self.subscription.flush(timeout)

    def returned(self, partition: int) -> bool:
        """Whether a frame of a partition that nobody else reads was given back, and is still to come again."""
        return any([spot[0] == partition for spot in self._returned])

    def _tell(self, hands: list[Hand]) -> None:
        done = [hand for hand in hands if not hand.back]
        for subscription, some in self._sorted(done):
            subscription.ack([hand.delivery for hand in some])
        for hand in hands:
            if hand.back and hand.deadline > time.monotonic():
                self._returned.add(spot_of(hand))
                delay = max(hand.back.values())
                for subscription, _ in self._sorted([hand]):
                    subscription.nack([hand.delivery], delay=delay, note=hand.note(touched=True))
        self._owe_nothing_for(hands)
        self.counts["frames settled"] += len(done)
        for hand in done:
            if hand.after is not None:
                hand.after()
        for told in self.told if done else ():
            told(done)

    def _sorted(self, hands: list[Hand]) -> list[tuple[Subscription, list[Hand]]]:
        """By whom to tell; what nobody has any more need not be told."""
        by: dict[int, tuple[Subscription, list[Hand]]] = {}
        for hand in hands:
            subscription = self.subscription if self.of is None else self.of(hand.delivery.position.partition)
            if subscription is not None:
                by.setdefault(id(subscription), (subscription, []))[1].append(hand)
        return list(by.values())

    def extend(self, hands: list[Hand]) -> None:
        """They are worked on."""
        for subscription, some in self._sorted(hands):
            subscription.extend([hand.delivery for hand in some])
        deadline = time.monotonic() + self.ack_wait
        with self._counting:  # what was settled and told meanwhile is not owed once more
            for hand in hands:
                hand.deadline = deadline
                if hand in self._hands:
                    self._owed[spot_of(hand)] = deadline

    def _owe_nothing_for(self, hands: Sequence[Hand]) -> None:
        with self._counting:
            self._hands.difference_update(hands)
            for hand in hands:
                self._owed.pop(spot_of(hand), None)

    def give_back(self, hands: Iterable[Hand], *, begun: bool = False, delay: float = 0.0) -> None:
        """Frames that wait, and that nobody will hand out now: this counts for no attempt.

        Args:
            hands: Some of those held.
            begun: Also those that were begun; what of them is done is noted.
            delay: Seconds after which they may come again.

        Raises:
            ConnectorError: The broker cannot be reached; they come again when their time is over.
        """
        found = [(hand, hand.begin()) for hand in sorted(hands, key=spot_of)]
        back = [(hand, waits) for hand, waits in found if (waits or begun) and hand.drop()]
        self._returned.update([spot_of(hand) for hand, _ in back])
        self._owe_nothing_for([hand for hand, _ in back])
        alike: dict[bytes, list[Hand]] = {}
        for hand, waits in back:
            alike.setdefault(hand.note(touched=not waits), []).append(hand)
        for note, some in alike.items():
            for subscription, mine in self._sorted(some):
                subscription.nack([hand.delivery for hand in mine], delay=delay, note=note)

    def forget(self) -> None:
        """Nothing is owed any more, nor being told."""
        with self._turn:
            for hand in list(self._hands):
                hand.begin()
                hand.drop()
            self._hands.clear()
            self._finished.clear()
            self._returned.clear()
            self._owed.clear()

    def close(self) -> None:
        """Tell everything, and give back what is not settled."""
        try:
            self.flush()
            self.give_back(list(self._hands), begun=True)
        finally:
            self._bell.end()

    # -- the keeper --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._turn:
            if self._bell.ended or (self._thread is not None and self._thread.is_alive()):
                return
            work = weakref.ref(self), self._bell, self.ack_wait / BEATS
            name = "proxyfab-background-settling"
            self._thread = threading.Thread(target=keep, args=work, name=name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread can be had: what is settled is told when more is asked for
                self._thread = None

    def beat(self) -> None:
        """Extend what is worked on or waits, and give back what waits in vain (rule 4)."""
        now = time.monotonic()
        more: list[Hand] = []
        vain: list[Hand] = []
        for hand in list(self._hands):
            settled = len(hand.done)
            if hand.over:
                continue
            if hand.deadline <= now:
                self.lapsed(hand)
                self._hands.discard(hand)
            elif hand.waits:
                (vain if now - max(self.asked, hand.moved) > self.ack_wait else more).append(hand)
            elif settled != hand.mark:
                hand.mark, hand.moved = settled, now
                more.append(hand)
            elif now - hand.moved < self.ack_wait * (1 - 1 / BEATS):
                more.append(hand)
        if more:
            self.extend(more)
        self.give_back(vain)

    def idle(self) -> bool:
        """Whether the keeper may end; then he does."""
        with self._turn:
            if self._finished or self._hands:
                return False
            self._thread = None
            return True
