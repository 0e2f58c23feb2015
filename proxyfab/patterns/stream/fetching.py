"""From a broker into a consumer's hand: one subscription, opened at first use, with patience for a broker that is lost.

Promises: a fetch waits in the broker's own call, so an event is here as soon as the broker has it. No more is fetched
than is worked off in about half a second, nor than the bounds allow, so that a slow member does not hold what others
could do; of that, the second half is asked for while the first is worked off. A broker that cannot be reached is asked
again for `patience` seconds; then the error says topic, broker and what to do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.events.broker import TIMEOUT, Broker, Subscription
from proxyfab.events.model import Delivery, GroupInfo, Start, Topic
from proxyfab.patterns.stream.continuity import Gap
from proxyfab.patterns.stream.overtaken import overtaken
from proxyfab.patterns.stream.settling import LOST
from proxyfab.waiting import Flag

R = TypeVar("R")
AHEAD = 0.5
"""Seconds of work that are fetched at once."""
MOST = 64
"""Frames that are fetched at once."""
_MUCH = 256 << 10
"""Bytes from which an answer may have been cut short."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LONGEST_REST = 0.25


class Fetching:
    """How one member, or reader, gets its records.

    Args:
        broker: Whose they are.
        topic: Made if there is none.
        group: None for a reader.
        start: Where a new group, or the reader, begins.
        partitions: Some; None for all.
        ack_wait: Seconds for a record.
        patience: Seconds for a broker that cannot be reached.
        member: A name to show.
        missed: Is told once what the group was to read and has gone.
    """

    def __init__(
        self,
        broker: Broker,
        topic: Topic,
        *,
        group: str | None,
        start: Start,
        partitions: Sequence[int] | None,
        ack_wait: float,
        patience: float,
        member: str,
        missed: Callable[[Gap], object] = lambda _: None,
    ) -> None:
        self.broker = broker
        self.topic = topic
        self.group = group
        self.partitions = partitions
        self.start = start
        self._ack_wait = ack_wait
        self._patience = patience
        self.timeout = min(TIMEOUT, max(patience, _FIRST_PAUSE))
        """Seconds of a call to the broker."""
        self._member = member
        self._missed = missed
        self._looked = False
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._lost: float | None = None
        """Since when the broker cannot be reached."""
        self._pause = _FIRST_PAUSE
        self.closing = Flag()

    def after_fork(self) -> None:
        """A child's copy is closed."""
        self._lock = threading.Lock()
        self._subscription = None
        self.closing = Flag()
        self.closing.set()

    def subscription(self) -> Subscription:
        """The one there is, opened now if it was not; raises as `Broker.subscribe`."""
        found = self._subscription
        if found is None:
            self.prepare()
            found = self.broker.subscribe(
                self.topic.name,
                group=self.group,
                start=self.start,
                partitions=self.partitions,
                ack_wait=self._ack_wait,
                member=self._member,
                timeout=self.timeout,
            )
            with self._lock:  # two threads may have come at once: the second one's is given back
                mine = self._subscription is None and not self.closing.is_set()
                if mine:
                    self._subscription = found
            if not mine:
                found.close()
                self.check()
                return self.subscription()
        return found

    def open(self, patience: float | None = None) -> None:
        """Have a subscription, within so many seconds; None for as long as there is patience.

        Raises:
            ConnectorError: The broker could not be reached for so long.
        """
        self.trying(self.subscription, patience)

    def trying(self, call: Callable[[], R], patience: float | None) -> R:
        """What `call` answers, which is tried again while the broker cannot be reached."""
        while True:
            self.check()
            try:
                found = call()
            except LOST as error:
                self.failed(error, self._patience, patience)
                continue
            self.fine()
            return found

    def prepare(self) -> None:
        """Have the topic, and look once what its group has missed."""
        self.topic = self.broker.ensure(self.topic, timeout=self.timeout)
        if self.group is None or self._looked:
            return
        gaps = overtaken(self.broker, self.topic, self.group, self.timeout)
        self._looked = True
        for gap in gaps:
            if not self.partitions or gap.partition in self.partitions:
                self._missed(gap)

    def info(self) -> GroupInfo:
        """How far the group, or this reader, is."""
        if self.group is not None and not (self.partitions is None or self.partitions):
            return self.broker.groups(self.topic.name, timeout=self.timeout)[self.group]
        return self.subscription().info()

    def reopen(self, partitions: Sequence[int]) -> Subscription | None:
        """Read other partitions from now on; the subscription that there was, to be closed."""
        with self._lock:
            former, self._subscription = self._subscription, None
            self.partitions = partitions
        return former

    def confirm(self) -> None:
        """Return when the broker knows what it was told."""
        if self._subscription is not None:
            self._subscription.flush()

    def check(self) -> None:
        """Raise if it was closed."""
        if self.closing.is_set():
            raise ConnectorError(f"This consumer of {self.topic.name} was closed; make another one.")

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        """Up to `most` records, as soon as there is one; [] after `timeout` seconds.

        Raises:
            ConnectorError: The broker could not be reached for as long as there is patience.
        """
        until = time.monotonic() + timeout
        while True:
            self.check()
            left = max(0.0, until - time.monotonic())
            try:
                found = self.subscription().fetch(most, left)
            except LOST as error:
                self.failed(error, left)
                if left <= 0:
                    return []
                continue
            self.fine()
            return found

    def ahead(self, most: int) -> bool:
        """Ask for up to `most` that come with the next fetch, whatever it asks; whether that was done."""
        found = self._subscription
        return found is not None and found.ahead(most)

    def fine(self) -> None:
        """The broker is there."""
        self._lost, self._pause = None, _FIRST_PAUSE

    def failed(self, error: Exception, left: float, patience: float | None = None) -> None:
        """Wait a little, `left` seconds at most, for a broker that is lost; raise when that was long enough."""
        patience = self._patience if patience is None else patience
        self.check()
        if self.broker.closed:
            raise ConnectorError(
                f"Topic {self.topic.name} cannot be read: broker {self.broker.url} was closed; open another one."
            ) from error
        now = time.monotonic()
        self._lost = since = now if self._lost is None else self._lost
        if now - since >= patience:
            self._lost = None  # who asks again is as patient once more
            raise ConnectorError(
                f"Topic {self.topic.name} cannot be read: broker {self.broker.url} could not be reached for "
                f"{now - since:.0f} s. Nothing is lost: start the broker, and try again. {error}"
            ) from error
        self.closing.wait(min(self._pause, max(since + patience - now, 0.001), max(left, _FIRST_PAUSE)))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def close(self) -> Subscription | None:
        """Fetch no more; the subscription that there was, to be closed."""
        with self._lock:
            self.closing.set()
            found, self._subscription = self._subscription, None
        return found


class Trickle:
    """How much to fetch while what is here waits for something that is to come again.

    That comes before what is new, but not at once: who goes on fetching as usual gathers what is new, and owes more and
    more of it. So no more than usual is held, and then one is fetched now and then, until what comes again is there.
    """

    def __init__(self) -> None:
        self._frames = 1
        self._rest = 0.0
        self._next = 0.0
        """When to fetch more."""
        self._full = False

    def most(self, usual: int, waiting: int, now: float) -> tuple[int, float]:
        """Frames to fetch, and the seconds to wait before, while so many wait."""
        self._full = waiting >= usual
        return (self._frames, max(self._next - now, 0.0)) if self._full else (usual - waiting, 0.0)

    def came(self, deliveries: Sequence[Delivery]) -> None:
        """This was fetched."""
        if not self._full or any([delivery.attempt > 1 for delivery in deliveries]):
            self._frames = min(2 * self._frames, MOST) if self._full else 1
            self._rest = self._next = 0.0
        else:
            self._frames, self._rest = 1, min(max(2 * self._rest, _FIRST_PAUSE), _LONGEST_REST)
            self._next = time.monotonic() + self._rest


class Pace:
    """How much to fetch: what is worked off in `AHEAD` seconds, within bounds. One consumer's.

    Args:
        events: At most, as far as the size of frames can be told before they come.
        nbytes: Bytes likewise.
    """

    def __init__(self, events: int, nbytes: int) -> None:
        if events < 1 or nbytes < 1:
            raise ConfigurationError("A consumer fetches one event and one byte at least.")
        self._events = events
        self._nbytes = nbytes
        self._frames = 1
        self._asked = 1
        self._ahead = 0
        """Frames that were asked for, and asked for ahead."""
        self._fits = 0
        """Frames that would have been worked off in `AHEAD` seconds, lately."""
        self._per_frame = 1.0
        """Events in a frame, lately."""
        self._began = 0.0
        self._got = 0

    def most(self, want: int) -> int:
        """Frames to fetch now, so many events being wanted at once; what was fetched before is done."""
        if self._got:
            spent = time.monotonic() - self._began
            self._fits = int(self._got * AHEAD / spent) if spent > 0 else MOST
            self._frames = max(1, min(2 * self._frames, self._fits, MOST))
            self._got = 0
        frames = max(self._frames, min(int(want / self._per_frame), MOST))
        self._asked = max(1, min(frames, int(self._events / self._per_frame)))
        return self._asked

    def ahead(self, found: Sequence[Delivery]) -> int:
        """Frames to ask for while these, which came just now, are worked off: 0 unless there are more, it seems.

        Both together are within all bounds.
        """
        asked, self._ahead = self._ahead or self._asked, 0
        sizes = [len(delivery.body) for delivery in found]
        if len(found) >= asked or sum(sizes) >= _MUCH:
            frames, nbytes = self.room
            fits = min(self._fits, frames, nbytes // max(*sizes, 1))
            self._ahead = max(0, min(fits - len(found), self._asked))
        return self._ahead

    @property
    def room(self) -> tuple[int, int]:
        """Frames and bytes that may be kept of what cannot be handed out."""
        return max(1, int(self._events / self._per_frame)), self._nbytes

    def came(self, deliveries: Sequence[Delivery]) -> None:
        """This was fetched."""
        self._began = time.monotonic()
        self._got = len(deliveries)
        largest = max([len(delivery.body) for delivery in deliveries])
        self._frames = max(1, min(self._frames, self._nbytes // max(largest, 1)))

    def opened(self, events: int) -> None:
        """So many events were in a frame."""
        self._per_frame += (max(events, 1) - self._per_frame) / 8
