"""Topics and values that the threads of a process share: each with a lock, and with waiting for a change.

Promises: a lock is held for bookkeeping only; who waits is woken by whatever may concern it; a forked child has locks
of its own, and what lay there at the fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from proxyfab.errors import TopicNotFound
from proxyfab.events.engine import Log, same_topic
from proxyfab.events.model import Topic, check_topic
from proxyfab.events.values import Values
from proxyfab.fork import on_fork
from proxyfab.members import Members

T = TypeVar("T")
K = TypeVar("K")
_LOOK = 1.0
"""Seconds after which who waits looks again, whatever happened to its waker."""


class Shared(Generic[T]):
    """Something that one thread at a time may use.

    Args:
        thing: It.
    """

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self._waiting: list[threading.Lock] = []
        """One lock, taken, for each who waits; whoever changes something releases them."""
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """Nobody holds the lock in a child, and nobody waits there."""
        self._lock = threading.RLock()
        self._waiting = []

    def look(self, work: Callable[[T], K]) -> K:
        """What `work` finds out."""
        with self._lock:
            return work(self.thing)

    def change(self, work: Callable[[T], K]) -> K:
        """What `work` returns; whoever waits looks again."""
        with self._lock:
            try:
                return work(self.thing)
            finally:
                self._wake()

    def wake(self) -> None:
        """Have who waits look again."""
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.release()

    def wait(self, find: Callable[[T], K], timeout: float, until: Callable[[T], float]) -> K:
        """What `find` finds, as soon as that is something, or when the time has passed.

        Args:
            find: Called under the lock.
            timeout: Seconds.
            until: The monotonic moment at which to look again without a change.
        """
        ends = time.monotonic() + timeout
        while True:
            with self._lock:
                found = find(self.thing)
                now = time.monotonic()
                if found or now >= ends:
                    return found
                woken = threading.Lock()
                woken.acquire()
                self._waiting.append(woken)
                pause = max(0.0, min(ends, until(self.thing), now + _LOOK) - now)
            if not woken.acquire(timeout=pause):
                with self._lock:
                    if woken in self._waiting:
                        self._waiting.remove(woken)


class Space:
    """The topics of one name in this process. Thread-safe."""

    def __init__(self) -> None:
        self.logs: dict[str, Shared[Log]] = {}
        self._values: dict[str, Shared[Values]] = {"": Shared(Values())}
        self.users: Members[object] = Members()
        """Who has it open: look through them, as their number may count one who has just gone."""
        self._lock = threading.RLock()
        on_fork(self)

    def after_fork(self) -> None:
        """Nobody holds the lock in a child."""
        self._lock = threading.RLock()

    def log(self, name: str) -> Shared[Log]:
        """A topic's; raises TopicNotFound."""
        found = self.logs.get(name)
        if found is None:
            raise _missing(name)
        return found

    def values(self, topic: str) -> Shared[Values]:
        """The values beside a topic, or beside the broker; raises TopicNotFound."""
        found = self._values.get(topic)
        if found is None:
            raise _missing(topic)
        return found

    def ensure(self, topic: Topic) -> Topic:
        """Make a topic, or tell what it is."""
        with self._lock:
            log = self.logs.get(topic.name)
            if log is None:
                self._values[topic.name] = Shared(Values())
                self.logs[topic.name] = Shared(Log(topic))
                return topic
        return same_topic(log.thing.topic, topic)

    def delete(self, name: str) -> bool:
        """Whether there was such a topic."""
        with self._lock:
            log = self.logs.pop(check_topic(name), None)
            values = self._values.pop(name, None) if log is not None else None
        if log is None or values is None:
            return False
        log.change(Log.end)
        values.change(Values.end)
        return True


def _missing(name: str) -> TopicNotFound:
    check_topic(name)
    return TopicNotFound(f"There is no topic {name} here; make it with ensure(Topic({name!r})).")
