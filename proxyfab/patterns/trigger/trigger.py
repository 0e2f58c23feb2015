"""Trigger: a function that a topic's events call, on any executor, in as many processes as one likes.

    with Trigger(broker, "frames", analyse, where="exposure > `0.1`", group="t", executor=pool, concurrency=4):
        ...                                       # runs in the background until the block ends; `run()` blocks

Rules:
1. An event is acknowledged when its call has returned, not before: a runner that dies leaves it to another one.
2. A call that raises, or takes too long, is made again after a pause; after the last one its events are dead letters.
3. All runners of one name are one trigger: they share its events, its log, its figures, and whether it is enabled.
   So a name is one topic's (or pattern's): with another one it is refused, until the former is forgotten.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from proxyfab.brokers.opening import open_broker
from proxyfab.errors import ConfigurationError, ConnectorError, ProxyfabError, ResolveTimeout, WorkerDied
from proxyfab.events.broker import ACK_WAIT, Broker
from proxyfab.events.model import EARLIEST, LATEST, Start, check_group, check_start, check_topic
from proxyfab.patterns.raised import story_of
from proxyfab.patterns.stream.filtering import Where, wanted_by
from proxyfab.patterns.trigger.lane import Lane, Plan
from proxyfab.patterns.trigger.records import Book, disable, enable, is_enabled, register
from proxyfab.patterns.trigger.slots import Slots
from proxyfab.waiting import Flag

if TYPE_CHECKING:
    from typing import Self

_LOOK = 1.0
"""Seconds between two looks for new topics, and whether it is enabled."""
_OURS = (".dlq", ".log")


class Backoff(NamedTuple):
    """Pauses before a call is made again: `pause`, doubled each time, `longest` at most; in seconds."""

    pause: float = 0.2
    longest: float = 60.0

    def delay(self, attempt: int) -> float:
        """Before the attempt after this one (1 is the first)."""
        return float(min(self.pause * 2 ** (attempt - 1), self.longest))


class Trigger:
    """Calls a function for the events of a topic. Runs inside `with`, between `start` and `stop`, or in `run`.

    Args:
        broker: A Broker, or the URL of one.
        topic: A name, or a pattern with `*`: topics that come later are found within a second, with all their events.
        fn: Called with an `Event`, or with a list of them where `batch` is more than 1. It must pickle if the executor
            runs it in another process.
        group: The trigger's name; None: the function's. One name is one topic's.
        where: Which events: JMESPath over their metadata, or a function of an item.
        batch: Events of one call at most.
        window: Seconds that a call waits for more than one event.
        start: Where it begins when it first runs: LATEST, EARLIEST, or seconds since 1970.
        timeout: Seconds that a call may take; None for as long as it likes.
        executor: Runs the calls; None for threads of its own. It is its maker's to shut down.
        concurrency: Calls at once in this process at most.
        retries: How often a call is made again.
        backoff: After which pauses; a number is the first one's seconds, and each is twice the one before.
        dead_letter: Whether events that never worked are kept in `<topic>.dlq`.
        ack_wait: Seconds after which the events of a runner that has died are another's.
        enabled: Whether it begins enabled, where it has never run before.

    Raises:
        ConfigurationError: An argument makes no sense.
    """

    def __init__(
        self,
        broker: Broker | str | None,
        topic: str,
        fn: Callable[..., object],
        *,
        group: str | None = None,
        where: Where = None,
        batch: int = 1,
        window: float = 0.5,
        start: Start = LATEST,
        timeout: float | None = 30.0,
        executor: Executor | None = None,
        concurrency: int = 1,
        retries: int = 3,
        backoff: Backoff | float = Backoff(),  # noqa: B008 - frozen
        dead_letter: bool = True,
        ack_wait: float = ACK_WAIT,
        enabled: bool = True,
    ) -> None:
        pauses = backoff if isinstance(backoff, Backoff) else Backoff(backoff)
        late = timeout is not None and timeout <= 0
        if batch < 1 or concurrency < 1 or retries < 0 or window < 0 or late or min(pauses) < 0:
            raise ConfigurationError(
                f"A trigger takes 1 event or more at once, makes 1 call or more at once, and waits for seconds: not "
                f"{batch=}, {concurrency=}, {retries=}, {window=}, {timeout=}, {backoff=}."
            )
        if not callable(fn):
            raise ConfigurationError(f"A trigger calls a function, not {fn!r}.")
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
            raise ConfigurationError(
                f"{_name_of(fn)} is a coroutine function: executors call functions, and nobody would await what it "
                "returns. Give a function that runs it: lambda event: asyncio.run(...)."
            )
        wanted_by(where)  # an expression that makes no sense is said here
        self.broker = broker if isinstance(broker, Broker) else open_broker(broker)
        self.topic = topic if _is_pattern(topic) else check_topic(topic)
        self.name = check_group(group or _name_of(fn))
        self._enabled = enabled
        self._executor, self._own = executor, executor is None
        self._plan = Plan(
            fn,
            self.name,
            where,
            batch,
            window,
            check_start(start),
            timeout,
            concurrency,
            retries,
            pauses.delay,
            dead_letter,
            ack_wait,
        )
        self._book: Book | None = None
        self._stop = Flag()
        self._thread: threading.Thread | None = None
        self._error: ProxyfabError | None = None
        self._first: frozenset[str] | None = None
        """The topics that were there when it began to run."""

    # -- to run it ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Run in the background; nothing happens if it runs.

        Raises:
            ProxyfabError: It cannot be run: it may not read there, or its topic cannot be had.
        """
        if self._thread is None:
            self._stop.clear()
            self._error = self._first = None
            ready = Flag()
            self._thread = threading.Thread(
                target=self._work, args=(ready,), name=f"proxyfab-trigger-{self.name}", daemon=True
            )
            self._thread.start()
            ready.wait(_READY)  # events that are sent from now on are its, with LATEST, too
            if self.error is not None:
                self.stop()
                raise self.error
        return self

    def stop(self, timeout: float | None = 30.0) -> None:
        """End after the calls that are under way, or leave them to others after `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join(timeout)

    def run(self, stop: threading.Event | None = None) -> None:
        """Run in this thread, until `stop` is set, or an interrupt.

        Raises:
            WorkerDied: Its executor is broken, or was shut down. Its events wait.
            ProxyfabError: As `start`.
        """
        stop = stop or threading.Event()
        self.start()
        try:
            while not stop.wait(_LOOK) and self._thread is not None and self._thread.is_alive():
                pass
        finally:
            self.stop()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- its state, which all its runners share ----------------------------------------------------------------------

    def enable(self) -> None:
        """Have it go on, wherever it runs."""
        enable(self.broker, self.name)

    def disable(self) -> None:
        """Have it make no more calls, wherever it runs; its events wait.

        Each runner notices within a second or so. When its log says `disabled` it takes no event any more.
        """
        disable(self.broker, self.name)

    @property
    def enabled(self) -> bool:
        """Whether it is to make calls."""
        return is_enabled(self.broker, self.name)

    @property
    def error(self) -> ProxyfabError | None:
        """Why it runs no more, though nobody has stopped it; None if it was not so."""
        return self._error

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self, ready: Flag) -> None:
        lanes: dict[str, Lane] = {}
        book = self._book = Book(self.broker, self.name)
        executor = self._executor or ThreadPoolExecutor(self._plan.concurrency, f"proxyfab-trigger-{self.name}")
        slots = Slots(self._plan.concurrency)
        try:
            while not self._stop.is_set():
                broken = [lane.broken for lane in lanes.values() if lane.broken is not None]
                if broken:
                    self._break(broken[0])
                    return
                try:
                    self._look(lanes, book, executor, slots)
                    ready.set()
                except (ConnectorError, ResolveTimeout):  # the broker cannot be reached now
                    pass
                except ProxyfabError as error:
                    if not ready.is_set():  # it never ran: whoever starts it is told
                        self._error = error
                        return
                self._stop.wait(_LOOK)
        finally:
            ready.set()
            for lane in lanes.values():
                lane.stop()
            for lane in lanes.values():
                lane.join()
            if self._own:
                executor.shutdown(wait=False, cancel_futures=True)
            book.write("stopped")
            book.flush()

    def _break(self, error: Exception) -> None:
        """Its executor runs nothing any more: its events are for others, or for later."""
        self._error = WorkerDied(
            f"The trigger {self.name} runs no more: its executor is broken, or was shut down. Its events wait: start "
            f"it again with another executor. {story_of(error)}"
        )

    def _look(self, lanes: dict[str, Lane], book: Book, executor: Executor, slots: Slots) -> None:
        """Begin and end lanes, as there are topics, and as it is enabled."""
        if not lanes and book.figures.last == 0 and not book.begun:
            register(self.broker, self.name, self._said())
            book.begun = True
            book.write("started")
        if not is_enabled(self.broker, self.name):
            for lane in lanes.values():
                lane.stop()
            for lane in lanes.values():
                lane.quiet()
            if lanes:  # not before: who reads this may rely on it
                book.write("disabled")
            while lanes:
                lanes.popitem()[1].join()
            return
        topics = self._topics()
        if self._first is None:
            self._first = frozenset(topics)
        for topic in topics:
            if topic not in lanes or not lanes[topic].alive:
                lanes[topic] = Lane(self.broker, topic, self._plan_for(topic), book, executor, slots)

    def _plan_for(self, topic: str) -> Plan:
        """One that came later begins at its beginning: what was sent before it was found came when the trigger ran."""
        late = self._first is not None and topic not in self._first and self._plan.start is LATEST
        return self._plan._replace(start=EARLIEST) if late else self._plan

    def _topics(self) -> list[str]:
        if not _is_pattern(self.topic):
            return [self.topic]
        return [
            name
            for name in self.broker.matching(self.topic)
            if not name.startswith("_") and not (name.endswith(_OURS) and not self.topic.endswith(_OURS))
        ]

    def _said(self) -> dict[str, Any]:
        plan = self._plan
        said = {
            "topic": self.topic,
            "function": _name_of(plan.fn),
            "where": plan.where if isinstance(plan.where, str) else None,
            "batch": plan.batch,
            "window": plan.window,
            "timeout": plan.timeout,
            "concurrency": plan.concurrency,
            "retries": plan.retries,
            "since": time.time(),
        }
        known = self.broker.state().get(f"triggers/{self.name}")
        return said if known is not None else {**said, "enabled": self._enabled}

    def __repr__(self) -> str:
        return f"<Trigger {self.name} at {self.topic} of {self.broker.url}{', running' if self._thread else ''}>"


_READY = 10.0


def _is_pattern(topic: object) -> bool:
    return isinstance(topic, str) and "*" in topic


def _name_of(fn: object) -> str:
    name = getattr(fn, "__name__", "") or type(fn).__name__
    return "".join(each if each.isalnum() and each.isascii() else "_" for each in name)[:60] or "trigger"
