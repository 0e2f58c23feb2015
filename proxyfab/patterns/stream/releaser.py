"""The part of a consumer, or a producer, that releases objects: behind acknowledgements, in a thread of its own.

Rules:
1. Who settles frames only hands them over; groups are asked, and objects evicted, in the background. A stream without
   stored objects starts no thread and asks nobody.
2. Of a frame that this consumer acknowledged just now its own group is done, whatever gaps its floor has; of the others
   the floor counts. What waits for others is looked at again, less and less often; they will evict it, too.
3. A group that moves (`seek`) may want again what it has acknowledged, and need not say so here: another member moves
   it. So the floor of its own group counts, too, of what waits since an earlier look, or from before a move, and
   wherever that floor is lower than it was. What a member fetched before another one's move and acknowledges after it,
   or just before, is not told from a gap where no floor was seen to fall: that may go.
4. About once a second what was released is written down; what then has been released by nobody, although it could
   have been some time before, is swept: its consumer was killed between acknowledging and evicting.
5. The thread refers to its releaser weakly and ends with it, or when there is nothing left to do.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Delivery, Topic
from proxyfab.fork import on_fork
from proxyfab.patterns.stream.releasing import RUNS, Held, Marker, evict, objects_of, releasable, sweep
from proxyfab.spans import Spans
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
    since: object | None
    """After which move of our group it was acknowledged; None when it was looked at before."""


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
        self._last: dict[int, int] = {}
        self._limits: Mapping[int, int] = {}
        self._moved = object()
        """Stands for the last move of our group that we know of."""
        self._highest: dict[int, int] = {}
        """The floor of our group, at most, in each partition."""
        self._marked = 0.0
        self._seen = False
        self._pause = EVERY
        self._turn = threading.RLock()
        self._bell = threading.Event()
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
            self._new.append(Waiting(position.partition, position.offset, objects, self._moved))
        if self._seen:
            self._begin()

    def anew(self) -> None:
        """Our group is about to move: what was acknowledged up to now it may want again."""
        self._moved = object()

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
        try:
            self._gather()
            own, others = self._floors()
            go: list[Waiting] = []
            stay: list[Waiting] = []
            for each in self._waiting:
                done = all(floor.get(each.partition, 0) >= each.offset for floor in others) and self._ours(each, own)
                (go if done or not each.objects else stay).append(each)
            self.released += len(evict([held for each in go for held in each.objects]))
        except ProxyfabError:
            self.anew()  # nobody knows how long it takes until it is looked at once more
            raise
        for each in go:
            self._done.setdefault(each.partition, Spans()).add(each.offset)
        self._waiting = [each if each.since is None else each._replace(since=None) for each in stay]

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

    def _floors(self) -> tuple[Mapping[int, int] | None, list[Mapping[int, int]]]:
        """The floor of our group, None where it does not count, and those of the others that have to be asked."""
        if self.topic.release == "first_ack" or not any(each.objects for each in self._waiting):
            return None, []
        groups = self.broker.groups(self.topic.name)
        own = groups.get(self.group) if self.group is not None else None
        for number, floor in own.floor.items() if own is not None else ():
            self._highest[number] = max(floor, self._highest.get(number, 0))
        return None if own is None else own.floor, [info.floor for name, info in groups.items() if name != self.group]

    def _ours(self, each: Waiting, own: Mapping[int, int] | None) -> bool:
        """Whether our group is done with it, as far as is known."""
        floor = each.offset if own is None else own.get(each.partition, 0)
        return floor >= each.offset or (each.since is self._moved and floor >= self._highest.get(each.partition, 0))

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
        """Take numbers between those that were released for such if they came here for another partition."""
        for number, spans in self._done.items() if self.broker.one_count else ():
            waiting = Spans([(each.offset, each.offset) for each in self._waiting if each.partition == number])
            last = max(high for _, high in spans)
            for low, high in spans.gaps(self._last.get(number, 0) + 1, last):
                if not self._met.gaps(low, high) and waiting.gaps(low, high) == [(low, high)]:
                    spans.add(low, high)
            self._last[number] = last
        if len(self._met) > RUNS:
            self._met = Spans()


def _release(weak: weakref.ref[Releaser], bell: threading.Event) -> None:
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
