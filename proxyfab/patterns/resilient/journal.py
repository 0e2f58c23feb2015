"""What happens to tasks and nodes, told as events: to watch, to count, and for triggers to act on.

Topics: `<name>.events` for tasks (submitted, started, done, failed, retried, lost), `fabric.tasks` for those of
executors without a name, and `fabric.health` for nodes and pools.

Promises: telling holds up nobody: a thread by need publishes what has gathered; what cannot be told within seconds is
dropped and counted. The journal is told of work, it is not what work rests on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Record, Topic
from proxyfab.keys import Key
from proxyfab.wire.events import VALUE, Event, Frame, encode, pack_metadata

HEALTH = "fabric.health"
TASKS = "fabric.tasks"
UNNAMED = "tasks-"
"""Begins the names of executors that were given none."""
_KEPT = 7 * 86400.0
_MOST = 10_000
_FRAME = 64
_PATIENCE = 5.0


def topic_of(name: str) -> str:
    """Where the steps of an executor's tasks are told: those of executors without a name of their own in one topic."""
    return TASKS if name.startswith(UNNAMED) else f"{name}.events"


class Journal:
    """Tells what happens. Thread-safe.

    Args:
        broker: Where.
        name: Of the tasks' executor.
        source: Who tells.
    """

    def __init__(self, broker: Broker, name: str, source: str) -> None:
        self.dropped = 0
        self._broker = broker
        self._topics = {"task": topic_of(name), "health": HEALTH}
        self._source = source
        self._producer = Key.draw().id[:16]
        self._numbers = dict.fromkeys(self._topics.values(), 0)
        self._waiting: deque[tuple[str, Event]] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._made = False

    def task(self, id: str, what: str, **more: Any) -> None:
        """Something has happened to a task."""
        self._tell(self._topics["task"], what, id, more)

    def health(self, who: str, what: str, **more: Any) -> None:
        """Something has happened to a node, a pool or a worker."""
        self._tell(HEALTH, what, who, more)

    def _tell(self, topic: str, what: str, key: str, more: dict[str, Any]) -> None:
        metadata = pack_metadata({"what": what, **{name: value for name, value in more.items() if value is not None}})
        event = Event(VALUE, None, int(time.time() * 1e6), key, metadata, {"type": f"proxyfab.{what}"})
        with self._lock:
            if len(self._waiting) >= _MOST:
                self.dropped += 1
                return
            self._waiting.append((topic, event))
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._work, name="proxyfab-journal", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _FRAME))]
                if not batch:
                    self._busy = False
                    return
            try:
                self._publish(batch)
            except ProxyfabError:
                self.dropped += len(batch)

    def _publish(self, batch: list[tuple[str, Event]]) -> None:
        if not self._made:
            for topic in self._topics.values():
                self._broker.ensure(Topic(topic, retention=_KEPT, full="drop_oldest", max_bytes=64 << 20))
            self._made = True
        for topic in self._numbers:
            events = [event for where, event in batch if where == topic]
            if events:
                first = self._numbers[topic]
                self._numbers[topic] += len(events)
                frame = Frame(self._producer, 0, 0, first, self._source, [], events)
                self._broker.publish(topic, [Record(encode(frame), frame.id)], timeout=_PATIENCE)

    def flush(self, timeout: float) -> bool:
        """Whether all was told within `timeout` seconds."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with self._lock:
                if not self._busy:
                    return True
            time.sleep(0.005)
        return False
