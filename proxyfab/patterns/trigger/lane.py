"""A lane: one topic of a trigger in one process. It takes events, has the function called, and settles them.

Promises: no more calls than the trigger may make at once, in all its lanes; the events of calls under way, and those
that are gathered for one, are kept from others for as long as this process lives; what a call that came too late does
is not counted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from typing import NamedTuple

from proxyfab.errors import IntegrityError, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Start
from proxyfab.patterns.raised import story_of
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.filtering import Where
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.trigger.event import Event, event_of
from proxyfab.patterns.trigger.records import Book
from proxyfab.patterns.trigger.slots import Slots
from proxyfab.waiting import Flag

_SLICE = 0.25
"""Seconds after which a lane looks whether calls have taken too long."""
_TURN = 0.01
"""Seconds for which a lane looks for events where others wait for its slot."""
_PAUSE = 0.5


class Plan(NamedTuple):
    """What a trigger does; see `Trigger`."""

    fn: Callable[..., object]
    group: str
    where: Where
    batch: int
    window: float
    start: Start
    timeout: float | None
    concurrency: int
    retries: int
    delay: Callable[[int], float]
    dead_letter: bool
    ack_wait: float


class _Call:
    """A call under way."""

    __slots__ = ("began", "extended", "future", "items", "settled")

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.began = self.extended = time.monotonic()
        self.settled = False
        self.future: Future[object] | None = None


class Lane:
    """Runs in a thread of its own from when it is made until `stop`."""

    def __init__(self, broker: Broker, topic: str, plan: Plan, book: Book, executor: Executor, slots: Slots) -> None:
        self._plan = plan
        self._book = book
        self._executor = executor
        self._slots = slots
        self._stopped = Flag()
        self._quiet = Flag()
        self.broken: Exception | None = None
        """What was raised by an executor that runs nothing any more."""
        self._calls: list[_Call] = []
        self._last_tries: deque[Item] = deque()
        """Events of failed batches that are to be called alone, so that none is buried for the company it was in."""
        self._extended = time.monotonic()
        self._lock = threading.Lock()
        self._consumer = Consumer(
            broker,
            topic,
            group=plan.group,
            start=plan.start,
            ack_wait=plan.ack_wait,
            attempts=plan.retries + 1,
            dead_letter=plan.dead_letter,
            where=plan.where,
            prefetch=plan.batch * plan.concurrency,
        )
        self._consumer.open(patience=0.0)  # whoever made this lane tries again
        self._thread = threading.Thread(target=self._work, name=f"proxyfab-trigger-{topic}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take no more events."""
        self._stopped.set()

    def quiet(self) -> None:
        """Wait, after `stop`, until no more events are taken; calls with those that were may be under way."""
        self._quiet.wait()

    def join(self) -> None:
        """Wait for what is under way."""
        self._thread.join()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._call()
            self._quiet.set()
            while self._calls:
                self._watch()
                time.sleep(_SLICE / 10)
        finally:
            self._quiet.set()
            with contextlib.suppress(ProxyfabError):
                self._consumer.close()

    def _call(self) -> None:
        while not self._stopped.is_set():
            self._watch()
            if not self._slots.take(_SLICE):
                continue
            items = self._take()
            if not items:
                self._slots.give()
                if self._consumer.over:
                    self._stopped.wait(_PAUSE)  # all producers have ended; another one may begin
                continue
            self._fire(items)

    def _take(self) -> list[Item]:
        """Events for a call: one alone that is to be given up if this fails, too, or as many as come."""
        if self._last_tries:
            return [self._last_tries.popleft()]
        items, retries = self._gather(), self._plan.retries
        last = [item for item in items if 0 < retries <= item.failures]
        if not last or len(items) == 1:
            return items
        self._last_tries.extend(last)
        return [item for item in items if item not in last] or [self._last_tries.popleft()]

    def _gather(self) -> list[Item]:
        """Up to a batch of events, gathered for a window from the first one on."""
        plan = self._plan
        try:
            items = self._consumer.fetch(plan.batch, _TURN if self._slots.wanted else _SLICE)
            if items and plan.batch > 1:
                until = time.monotonic() + plan.window
                while len(items) < plan.batch and (left := until - time.monotonic()) > 0 and not self._ends():
                    self._watch(items)
                    items += self._consumer.fetch(plan.batch - len(items), min(left, _SLICE))
        except ProxyfabError as error:
            self._book.write("failed", error=story_of(error))
            self._stopped.wait(_PAUSE)
            return []
        return items

    def _ends(self) -> bool:
        return self._consumer.over or self._stopped.is_set()

    def _fire(self, items: list[Item]) -> None:
        call = _Call(items)
        events: list[Event] = []
        for item in list(items):
            try:
                events.append(event_of(item))
            except IntegrityError as error:
                item.reject(str(error))
                items.remove(item)
        if not items:
            self._slots.give()
            return
        self._book.count(fired=1, events=len(items))
        with self._lock:
            self._calls.append(call)
        try:
            call.future = self._executor.submit(self._plan.fn, events if self._plan.batch > 1 else events[0])
        except RuntimeError as error:  # the pool is broken, or was shut down: the events are for others
            self._break(call, error)
            return
        except Exception as error:  # noqa: BLE001 - it does not take these
            self._settle(call, error)
            self._slots.give()
            self._stopped.wait(_PAUSE)
            return
        call.future.add_done_callback(lambda future: self._ended(call, future))

    def _break(self, call: _Call, error: Exception) -> None:
        """Nothing runs here any more: what this lane holds is given back when it ends."""
        with self._lock:
            call.settled = True
            self._calls.remove(call)
        self._slots.give()
        self._book.write("broken", error=story_of(error))
        self.broken = error
        self._stopped.set()

    def _ended(self, call: _Call, future: Future[object]) -> None:
        try:
            error = future.exception()
        except CancelledError as cancelled:
            error = cancelled
        try:
            self._settle(call, error)
        finally:
            self._slots.give()  # not before: a call that has taken too long is a call under way

    def _settle(self, call: _Call, error: BaseException | None, what: str = "failed") -> None:
        with self._lock:
            if call.settled:
                return
            call.settled = True
        seconds = time.monotonic() - call.began
        try:
            if error is None:
                self._say("succeeded", call.items, seconds)
                for item in call.items:
                    item.ack()
            else:
                self._failed(call, error, what, seconds)
        finally:
            with self._lock:
                self._calls.remove(call)

    def _failed(self, call: _Call, error: BaseException, what: str, seconds: float) -> None:
        """Give the events back; those that were given back as often as may be are buried by that."""
        buried = [item for item in call.items if item.failures >= self._plan.retries]
        again = [item for item in call.items if item.failures < self._plan.retries]
        if buried:
            self._book.count(buried=len(buried))
            self._say("buried", buried, seconds, error, calls=not again)
        if again:
            self._say(what, again, seconds, error)
        for item in call.items:
            with contextlib.suppress(ProxyfabError):  # no dead letter can be written now: it comes again
                item.nack(self._plan.delay(item.failures + 1), error=_raised(error))

    def _say(
        self, what: str, items: list[Item], seconds: float, error: BaseException | None = None, *, calls: bool = True
    ) -> None:
        """A line for some events of a call, which is counted with one of its lines."""
        story = "" if error is None else story_of(error)
        if calls:
            self._book.count(seconds=seconds, succeeded=error is None, failed=error is not None)
        self._book.called(story)
        self._book.write(
            what,
            positions=[str(item.position) for item in items],
            seconds=round(seconds, 6),
            attempt=items[0].attempt,
            error=story,
        )

    def _watch(self, gathered: Sequence[Item] = ()) -> None:
        """Keep the events of calls under way, or to come, and give up calls that take too long."""
        now, plan = time.monotonic(), self._plan
        with self._lock:
            calls = list(self._calls)
        if now - self._extended > plan.ack_wait / 3:
            self._extended = now
            self._extend([*self._last_tries, *gathered])
        for call in calls:
            if plan.timeout is not None and now - call.began > plan.timeout:
                late = TimeoutError(f"The call took longer than {plan.timeout:g} s.")
                self._settle(call, late, "timed out")
                if call.future is not None:
                    call.future.cancel()  # if nobody has begun it
            elif now - call.extended > plan.ack_wait / 3:
                call.extended = now
                self._extend(call.items)

    def _extend(self, items: Iterable[Item]) -> None:
        """They are worked on, or will be soon."""
        with contextlib.suppress(ProxyfabError):
            for item in items:
                item.extend()


def _raised(error: BaseException) -> Exception:
    """What a dead letter is told; a cancelled call is no interrupt of this process."""
    return error if isinstance(error, Exception) else RuntimeError(story_of(error))
