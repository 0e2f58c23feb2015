"""A race: several calls at once, whose answers are taken as they come, for as long as somebody waits.

Promises: a call that hangs holds up nobody but the thread that is its own; what comes when nobody waits any more goes
to `late`, once. Errors of the tree are answers; others end the race where they are met.
"""

from __future__ import annotations

import threading
import time
from _queue import Empty, SimpleQueue  # as in `background`
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from proxyfab.beside import beside as run_beside
from proxyfab.errors import ProxyfabError, ResolveTimeout

T = TypeVar("T")


class Answer(NamedTuple, Generic[T]):
    """What came of one call."""

    child: int
    number: int
    value: T | None
    error: BaseException | None


class Race(Generic[T]):
    """Calls under way. One thread asks and takes answers.

    Args:
        late: Is given the answers, without errors, that come after `give_up` or `close`.

    Attributes:
        pending: Calls whose answer is still waited for.
    """

    def __init__(self, late: Callable[[Answer[T]], object] | None = None) -> None:
        self.pending = 0
        self._late = late
        self._answers: SimpleQueue[tuple[int, Answer[T]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._waited: dict[int, tuple[int, int, float]] = {}
        self._count = 0

    def ask(self, child: int, number: int, call: Callable[[], T], *, beside: bool) -> None:
        """Begin a call; in a thread of its own, unless it answers at once (`beside=False`)."""
        self._count += 1
        ticket = self._count
        self._waited[ticket] = (child, number, time.monotonic())
        self.pending += 1

        def run() -> None:
            value, error = None, None
            try:
                value = call()
            except BaseException as raised:  # the one who waits raises it
                if not beside and not isinstance(raised, Exception):
                    raise  # an interrupt is the caller's, whether or not he waits for the answer
                error = raised
            self._tell(ticket, Answer(child, number, value, error))

        if beside:
            run_beside(run)
        else:
            run()

    def _tell(self, ticket: int, answer: Answer[T]) -> None:
        with self._lock:
            wanted = ticket in self._waited
            if wanted:
                self._answers.put((ticket, answer))
        if not wanted and answer.error is None and self._late is not None:
            self._late(answer)

    def next(self, timeout: float) -> Answer[T] | None:
        """The next answer; None when none came within so many seconds."""
        try:
            ticket, answer = self._answers.get(timeout=max(timeout, 0.0))
        except Empty:
            return None
        self._waited.pop(ticket, None)
        self.pending -= 1
        if answer.error is not None and not isinstance(answer.error, ProxyfabError):
            raise answer.error
        return answer

    def give_up(self) -> list[Answer[T]]:
        """Wait for none of the calls that are under way any more: what came meanwhile, and a timeout for each other."""
        with self._lock:
            waited, self._waited = self._waited, {}
        self.pending = 0
        found: list[Answer[T]] = []
        while True:
            try:
                ticket, answer = self._answers.get_nowait()
            except Empty:
                break
            waited.pop(ticket, None)
            found.append(answer)
        now = time.monotonic()
        for child, number, began in waited.values():
            text = f"No answer came within {now - began:.3g} s; it is not waited for any longer."
            found.append(Answer(child, number, None, ResolveTimeout(text)))
        return found

    def close(self) -> None:
        """Wait for nothing any more; answers that have come and were not taken are late."""
        for answer in self.give_up():
            if answer.error is None and self._late is not None:
                self._late(answer)
