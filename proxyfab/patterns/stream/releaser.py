"""The part of a consumer, or a producer, that releases objects: behind acknowledgements, in a thread of its own.

Rules:
1. Who settles frames only hands them over; groups are asked, and objects evicted, in the background. A stream without
   stored objects starts no thread and asks nobody.
2. Objects go once every group, our own too, has its floor behind them (`first_ack`: once one has): a group that moves
   (`seek`) wants again what it has acknowledged, whoever moved it, and its floor is all that says so; and a broker that
   knows floors only hands out once more what was acknowledged behind them. What lies behind an event that is not
   settled waits with it. What waits is looked at again, less and less often; the others will evict it, too.
3. About once a second what was released is written down; what then has been released by nobody, although it could
   have been some time before, is swept: its consumer was killed between acknowledging and evicting.
4. The thread refers to its releaser weakly and ends with it, or when there is nothing left to do.
"""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Delivery, Topic
from proxyfab.fork import on_fork
from proxyfab.patterns.stream.releasing import RUNS, Held, Marker, evict, objects_of, releasable, sweep
from proxyfab.spans import Spans
from proxyfab.waiting import Flag
from proxyfab.wire.events import Frame

EVERY = 1.0
"""Seconds between two looks at what is known to be released."""
LONGEST = 10.0
MOST = 20_000
"""Frames that wait for other groups; of more than these the oldest are left to a sweep."""


class Acknowledged(Protocol):
    """A frame that the broker was told is done."""

    @property
    def delivery(self) -> Delivery: ...
    @property
    def frame(self) -> Frame: ...


class Waiting(NamedTuple):
    """A frame whose objects are still there."""

    partition: int
    offset: int
    objects: list[Held]


class Releaser:
    """Releases objects of one topic. Thread-safe; a forked child has nothing to release.

    Args:
        broker: Where the topic is.
        topic: What it is.
        group: Whose acknowledgements come here; None for who only sweeps.
        confirm: Returns when the broker knows what it was told.
    """

    def __init__(
        self, broker: Broker, topic: Topic, group: str | None, confirm: Callable[[], object] = lambda: None
    ) -> None:
        self.broker = broker
        self.topic = topic
        self.group = group
        self.released = 0
        """Objects that were evicted here."""
        self._confirm = confirm
        self._works = topic.release in ("all_groups_acked", "first_ack")
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child has acknowledged nothing."""
        self._new: deque[Waiting] = deque()
        self._waiting: list[Waiting] = []
        self._done: dict[int, Spans] = {}
        self._met = Spans()
        """Offsets that came here, of all partitions: where they share one count, these are no gaps in another one."""
        self._known: dict[int, Spans] = {}
        """What was released here, by partition, with what lies between of others."""
        self._limits: Mapping[int, int] = {}
        self._marked = 0.0
        self._seen = False
        self._pause = EVERY
        self._turn = threading.RLock()
        self._bell = Flag()
        self._over = False
        self._thread: threading.Thread | None = None

    # -- who acknowledges --------------------------------------------------------------------------------------------

    def told(self, hands: Iterable[Acknowledged]) -> None:
        """The broker was told that these are done."""
        if not self._works:
            return
        for hand in hands:
            position, objects = hand.delivery.position, objects_of(hand.frame)
            self._seen = self._seen or bool(objects)
            self._new.append(Waiting(position.partition, position.offset, objects))
        if self._seen:
            self._begin()

    def watch(self) -> None:
        """Sweep from now on, every now and then: for who produces objects."""
        if self._works and Capability.REPLAY in self.broker.capabilities:
            self._begin()

    def close(self) -> None:
        """Release what can be released, and leave the rest to others. Idempotent; raises nothing."""
        self._over = True
        self._bell.set()
        if not self._seen:  # also of who only sweeps: consumers do, or whoever produces or consumes next
            return
        try:
            self.work(last=True)
        except ProxyfabError:  # others will, or `proxyfab gc`
            pass

    # -- who releases ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._bell.set()
        if self._over or (self._thread is not None and self._thread.is_alive()):
            return
        with self._turn:
            if self._thread is None or not self._thread.is_alive():
                name = "proxyfab-background-releasing"
                self._thread = threading.Thread(
                    target=_release, args=(weakref.ref(self), self._bell), name=name, daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # no thread can be had: `close` does it
                    self._thread = None

    def work(self, *, last: bool = False) -> float | None:
        """Release what can be; seconds until there is more to do, None for not before there is news."""
        with self._turn:
            if self._over and not last:
                return None
            if self._new or self._waiting:
                self._release()
            now = time.monotonic()
            if not last and now - self._marked < EVERY:
                return EVERY
            self._marked = now
            before, self._limits = self._limits, self._clean(sweep_to=None if last else self._limits)
            quiet = not self._new and not self._waiting and dict(before) == dict(self._limits)
            self._pause = min(2 * self._pause, LONGEST) if quiet else EVERY
            return None if quiet and self.group is not None else self._pause

    def _release(self) -> None:
        self._gather()
        floors, enough = self._floors(), any if self.topic.release == "first_ack" else all
        go: list[Waiting] = []
        stay: list[Waiting] = []
        for each in self._waiting:
            done = enough([floor.get(each.partition, 0) >= each.offset for floor in floors])
            (go if done or not each.objects else stay).append(each)
        self.released += len(evict([held for each in go for held in each.objects]))
        self._remember(go)
        self._waiting = stay

    def _remember(self, gone: Iterable[Waiting]) -> None:
        """These are released: in all partitions, where a number that lies in one is none of another."""
        shared = self.broker.one_count
        fresh: dict[int, Spans] = {}
        for each in gone:
            fresh.setdefault(0 if shared else each.partition, Spans()).add(each.offset)
        if shared and fresh:  # so that other members, who never met these, do not look for them
            fresh = dict.fromkeys(range(self.topic.partitions), fresh[0])
        for number, spans in fresh.items():
            self._done.setdefault(number, Spans()).update(spans)

    def _gather(self) -> None:
        """What is new waits, and the broker knows of it."""
        fresh = list(self._new)
        if fresh:
            self._confirm()
        if self._waiting and fresh:  # what comes once more waits once
            again = {(each.partition, each.offset) for each in fresh}
            self._waiting = [each for each in self._waiting if (each.partition, each.offset) not in again]
        self._waiting += fresh
        for _ in fresh:
            self._new.popleft()
        if self.broker.one_count:
            for each in fresh:
                self._met.add(each.offset)
        if len(self._waiting) > MOST:
            del self._waiting[: len(self._waiting) - MOST]
            self._met = Spans()

    def _floors(self) -> list[Mapping[int, int]]:
        """How far each group has settled everything, if anybody has to be asked."""
        if not any(each.objects for each in self._waiting):
            return []
        return [info.floor for info in self.broker.groups(self.topic.name).values()]

    def _clean(self, sweep_to: Mapping[int, int] | None) -> Mapping[int, int]:
        """Write down what was released, and sweep what nobody released; how far objects may be gone now."""
        self._close_gaps()
        done, self._done = self._done, {}
        try:
            known = Marker(self.broker.state(self.topic.name)).merge(done)
        except ProxyfabError:
            self._done = done
            raise
        limits = releasable(self.broker, self.topic)
        upto = limits if sweep_to is None else sweep_to
        left = any(known.get(number, Spans()).gaps(1, limit) for number, limit in upto.items())
        if left and Capability.REPLAY in self.broker.capabilities:
            self.released += len(sweep(self.broker, self.topic.name, upto=upto))
        return limits

    def _close_gaps(self) -> None:
        """Take numbers behind those that were released for such, too, once they came here for other partitions."""
        if not self.broker.one_count:
            return
        for number, spans in self._done.items():
            self._known.setdefault(number, Spans([(0, 0)])).update(spans)
        for number, known in self._known.items():
            waiting = sorted([each.offset for each in self._waiting if each.partition == number])
            for _, last in known:
                at = bisect(waiting, last)
                upto = min([self._met.upto(last + 1), *[offset - 1 for offset in waiting[at : at + 1]]])
                if upto > last:
                    known.add(last + 1, upto)
                    self._done.setdefault(number, Spans()).add(last + 1, upto)
            if len(known) > RUNS:
                self._known[number] = Spans(list(known)[-1:])
        if len(self._met) > RUNS:
            self._met = Spans()


def _release(weak: weakref.ref[Releaser], bell: Flag) -> None:
    pause: float | None = 0.0
    while True:
        if pause is None:
            pause = LONGEST
            if not bell.wait(pause):
                return _end(weak)
        else:
            bell.wait(pause)
        bell.clear()
        releaser = weak()
        if releaser is None or releaser._over:
            return None
        try:
            pause = releaser.work()
        except ProxyfabError:  # a broker or a store cannot be reached: once more, later
            pause = LONGEST / 2
        del releaser


def _end(weak: weakref.ref[Releaser]) -> None:
    releaser = weak()
    if releaser is not None:
        with releaser._turn:
            releaser._thread = None
            if releaser._new:
                releaser._begin()
