"""What an executor does in the background: publishing tasks, and deleting what nobody needs.

Promises: whoever submits a task, or lets go of a future, is not held up; a thread is there by need only. Tasks that the
broker does not take fail their futures.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from itertools import count
from typing import Any

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.keys import Key
from proxyfab.patterns.future.handle import Future
from proxyfab.patterns.resilient.task import Task

_FRAMES = 64


class Outbox:
    """Publishes tasks in the background, all that have gathered at once."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic
        self._producer = Key.draw().id[:16]
        self._number = 0
        self._waiting: deque[tuple[Task, Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, task: Task, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.append((task, future))
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="proxyfab-tasks", daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _FRAMES))]
                if not batch:
                    self._thread = None
                    return
            try:
                records = [task.record(self._producer, self._number + n) for n, (task, _) in enumerate(batch)]
                self._number += len(batch)
                self._broker.publish(self._topic, records)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
                for _, future in batch:
                    with contextlib.suppress(ProxyfabError, InvalidStateError):
                        future.set_exception(error)

    def flush(self) -> None:
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()


class Janitor:
    """Deletes what nobody needs, in a thread by need: who lets go of a future is not held up."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._held: dict[int, Callable[[], object]] = {}
        self._numbers = count()
        self._lock = threading.RLock()  # a future may be let go at any instruction, also under it
        self._thread: threading.Thread | None = None

    def hold(self, call: Callable[[], object]) -> Callable[[object], None]:
        """Keep a call until what is returned is called, with whatever."""
        number = next(self._numbers)
        self._held[number] = call
        return lambda _: self._let_go(number)

    def _let_go(self, number: int) -> None:
        call = self._held.pop(number, None)
        if call is not None:
            self.add(call)

    def add(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="proxyfab-background-janitor", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter ends
                    self._thread = None

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._thread = None
                    return
            with contextlib.suppress(ProxyfabError):  # it expires, or `proxyfab gc` finds it
                self._calls.popleft()()

    def close(self, *, everything: bool) -> None:
        """Have done what is to be done, and with `everything` also what is still kept."""
        for number in list(self._held) if everything else []:
            self._let_go(number)
        with self._lock:  # under which it is started
            thread = self._thread
        if thread is not None:
            thread.join(5.0)
