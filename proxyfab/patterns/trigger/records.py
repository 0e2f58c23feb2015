"""What is kept of triggers beside their broker: whether they are enabled, what they have done, and a log of it.

Anybody who may read there sees it, from anywhere: `triggers`, `statistics`, `logs`; and `enable` and `disable` act on
all runners of a trigger, wherever they run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import count
from typing import Any, NamedTuple

import msgspec

from proxyfab.errors import ConfigurationError, Conflict, ProxyfabError, TopicNotFound
from proxyfab.events.broker import TIMEOUT, Broker
from proxyfab.events.model import EARLIEST, Record, Topic
from proxyfab.keys import Key
from proxyfab.retry import Backoff
from proxyfab.wire.events import VALUE, Event, Frame, decode, encode, pack_metadata, unpack_metadata

KEPT = 7 * 86400.0
"""Seconds that logs, and the figures of runners that have ended, are kept."""
_LOG_BYTES = 16 << 20
_LINES = 64
_MOST = 10_000
_PAUSES = Backoff(first=0.001, longest=0.05)
_PATIENCE = 5.0


class Firing(NamedTuple):
    """One line of a trigger's log.

    Attributes:
        time: Seconds since 1970.
        runner: Which process.
        what: `succeeded`, `failed`, `timed out` or `buried`; of the runner `started`, `stopped` or `disabled`.
        positions: Of the events it was called with.
        seconds: How long it took.
        attempt: Of the first of the events.
        error: What was raised; "" for nothing.
    """

    time: float
    runner: str
    what: str
    positions: tuple[str, ...] = ()
    seconds: float = 0.0
    attempt: int = 0
    error: str = ""


class Statistics(msgspec.Struct, array_like=True):
    """What a trigger's runners have done, all together.

    Attributes:
        fired: Calls.
        succeeded: Calls that returned.
        failed: Calls that raised, or took too long.
        buried: Events that became dead letters.
        events: Events that it was called with.
        seconds: Spent in calls that have ended.
        last: Seconds since 1970 when it was last called; 0 for never.
        error: What was raised last; "" for nothing.
        runners: How many have written this.
    """

    fired: int = 0
    succeeded: int = 0
    failed: int = 0
    buried: int = 0
    events: int = 0
    seconds: float = 0.0
    last: float = 0.0
    error: str = ""
    runners: int = 1

    def plus(self, other: Statistics) -> Statistics:
        """Both together."""
        latest = max(self, other, key=lambda each: (bool(each.error), each.last))
        return Statistics(
            self.fired + other.fired,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.buried + other.buried,
            self.events + other.events,
            self.seconds + other.seconds,
            max(self.last, other.last),
            latest.error,
            self.runners + other.runners,
        )


def log_topic(name: str) -> str:
    """Where a trigger's log is."""
    return f"_trigger.{name}.log"


def triggers(broker: Broker) -> dict[str, dict[str, Any]]:
    """All triggers that a broker knows, by name: `topic`, `enabled`, `batch`, `where` and so on."""
    kept = broker.state().items("triggers/")
    return {name.split("/")[1]: _read(each.value) for name, each in kept.items() if name.count("/") == 1}


def statistics(broker: Broker, name: str) -> Statistics:
    """What a trigger has done; all zero where nobody knows of it."""
    found = Statistics(runners=0)
    for kept in broker.state().items(f"triggers/{name}/stats/").values():
        found = found.plus(msgspec.msgpack.decode(kept.value, type=Statistics))
    return found


def logs(broker: Broker, name: str, most: int = 1000) -> list[Firing]:
    """The newest lines of a trigger's log, the oldest of them first."""
    lines: deque[Firing] = deque(maxlen=most)
    try:
        with broker.subscribe(log_topic(name), group=None, start=EARLIEST) as reader:
            while found := reader.fetch(_LINES, 0):
                for delivery in found:
                    lines += [_firing(event) for event in decode(delivery.body).events]
    except TopicNotFound:
        return []
    return list(lines)


def enable(broker: Broker, name: str) -> None:
    """Have all runners of a trigger go on."""
    _change(broker, name, enabled=True)


def disable(broker: Broker, name: str) -> None:
    """Have all runners of a trigger stop calling; events wait in its group."""
    _change(broker, name, enabled=False)


def is_enabled(broker: Broker, name: str) -> bool:
    """Whether it is to be called."""
    kept = broker.state().get(f"triggers/{name}")
    return kept is None or bool(_read(kept.value).get("enabled", True))


def register(broker: Broker, name: str, said: dict[str, Any]) -> None:
    """Say what a trigger is; whether it is enabled stays as it was.

    Raises:
        ConfigurationError: It is another topic's.
    """
    _change(broker, name, **said)


def forget(broker: Broker, name: str) -> bool:
    """Delete what is known of a trigger that runs no more, with its log; whether there was something.

    How far it was in its topic stays with the topic: `Broker.delete_group`.
    """
    state = broker.state()
    for each in state.items(f"triggers/{name}/"):
        state.delete(each)
    broker.delete(log_topic(name))
    return state.delete(f"triggers/{name}")


def _change(broker: Broker, name: str, **said: Any) -> None:
    state, ends = broker.state(), time.monotonic() + TIMEOUT
    for times in count(1):
        kept = state.get(f"triggers/{name}")
        if kept is None and "topic" not in said:
            raise TopicNotFound(f"{broker.url} knows no trigger {name!r}: it has never run there.")
        known = _read(kept.value) if kept else {}
        if (of := known.get("topic")) is not None and said.get("topic", of) != of:
            raise ConfigurationError(
                f"The trigger {name} at {broker.url} is that of topic {of}: give that of {said['topic']} another "
                f"group=, or, if the former is not to run again, forget it: proxyfab events triggers {name} --forget."
            )
        now = {"enabled": True, **known, **said}
        try:
            state.put(f"triggers/{name}", msgspec.msgpack.encode(now), revision=kept.revision if kept else 0)
        except Conflict as conflict:
            left = ends - time.monotonic()
            if left <= 0:
                raise Conflict(
                    f"The trigger {name} at {broker.url} was changed by others {times} times within {TIMEOUT:g} s, "
                    "each time before this change was taken; change it less often, or from fewer places."
                ) from conflict
            time.sleep(min(_PAUSES.pause(times), left))
        else:
            return


def _read(value: bytes) -> dict[str, Any]:
    found = msgspec.msgpack.decode(value)
    return found if isinstance(found, dict) else {}


def _firing(event: Event) -> Firing:
    said = unpack_metadata(event.metadata)
    return Firing(
        event.time / 1e6,
        str(said.get("runner", "")),
        str(said.get("what", "")),
        tuple(said.get("positions", ())),
        float(said.get("seconds", 0.0)),
        int(said.get("attempt", 0)),
        str(said.get("error", "")),
    )


class Book:
    """Writes a runner's log and figures, in the background. Thread-safe.

    Args:
        broker: Where.
        name: The trigger's.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        self.runner = Key.draw().id[:12]
        self.begun = False
        self.figures = Statistics()
        self._broker = broker
        self._name = name
        self._number = 0
        self._lines: deque[Event] = deque(maxlen=_MOST)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._made = False

    def write(self, what: str, **more: Any) -> None:
        """A line."""
        said = {"what": what, "runner": self.runner, **more}
        event = Event(
            VALUE, None, int(time.time() * 1e6), self._name, pack_metadata(said), {"type": "proxyfab.trigger"}
        )
        with self._lock:
            self._lines.append(event)
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="proxyfab-trigger-log", daemon=True)
                thread.start()
                self._thread = thread

    def count(self, **more: float) -> None:
        """Add to the figures."""
        with self._lock:
            for field, value in more.items():
                setattr(self.figures, field, getattr(self.figures, field) + value)

    def called(self, error: str = "") -> None:
        """Remember when it was called last, and what came of it."""
        with self._lock:
            self.figures.last = time.time()
            self.figures.error = error or self.figures.error

    def _work(self) -> None:
        while True:
            with self._lock:
                lines = [self._lines.popleft() for _ in range(min(len(self._lines), _LINES))]
                figures = msgspec.msgpack.encode(self.figures)
                if not lines:
                    self._thread = None
                    return
            try:
                self._publish(lines, figures)
            except ProxyfabError:  # the log tells of the work; the work does not wait for it
                pass

    def _publish(self, lines: list[Event], figures: bytes) -> None:
        topic = log_topic(self._name)
        if not self._made:
            self._broker.ensure(Topic(topic, retention=KEPT, max_bytes=_LOG_BYTES, full="drop_oldest"))
            self._made = True
        frame = Frame(self.runner, 0, 0, self._number, f"trigger/{self._name}", [], lines)
        self._number += len(lines)
        self._broker.publish(topic, [Record(encode(frame), frame.id)], timeout=_PATIENCE)
        self._broker.state().put(f"triggers/{self._name}/stats/{self.runner}", figures, ttl=KEPT)

    def flush(self, timeout: float = _PATIENCE) -> None:
        """Return when what was written is told, or after `timeout` seconds."""
        with self._lock:  # under which it is started
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
