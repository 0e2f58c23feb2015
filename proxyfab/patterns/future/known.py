"""What one process knows of a future, as a `concurrent.futures.Future` that the store, or the hub, is asked for.

Rules:
1. What is known only ever grows: the store is asked until the future is done, and never again after that. But for a
   place that could not be reached: that is told once, and then it is waited for anew.
2. The outcome's bytes come when somebody asks for the result, or is to be called back; waiters are told without them.
3. A forked child knows what its parent knew, without the parent's callbacks and waiters.
4. No cycle leads back to a future: with its last handle the result goes, at once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, TypeVar

from proxyfab.errors import ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.patterns.future import hub
from proxyfab.patterns.future.arriving import arrived, gone
from proxyfab.patterns.future.board import Board, Seen
from proxyfab.patterns.future.calling import call_soon
from proxyfab.patterns.future.outcome import Verdict, error_in, open_outcome, verdict_of
from proxyfab.waiting import Condition
from proxyfab.wire.payload import Payload

T = TypeVar("T")
PENDING, RUNNING, CANCELLED, FINISHED = "PENDING", "RUNNING", "CANCELLED_AND_NOTIFIED", "FINISHED"
"""The states of concurrent.futures, which its `wait` and `as_completed` read."""
DONE = (CANCELLED, FINISHED)
_log = logging.getLogger("concurrent.futures")  # to which that module tells the same


class Known(futures.Future[T]):
    """What is known here, and how it is learned. Thread-safe, fork-safe."""

    def __init__(self, board: Board, key: Key, lease: float | None) -> None:
        super().__init__()
        self._condition = Condition()  # type: ignore[assignment]  # one that an interrupt does not leave taken
        self.board = board
        self.key = key
        self.lease = lease
        self._seen: Seen | None = None
        self._opened = False
        self._trouble: BaseException | None = None
        """Why it could not be waited for."""
        self._waiters = _Waiters(self)
        self._setting = 0
        """How many threads are setting it: who wins calls back himself, although others may see it before he knows."""
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: locks of its own, and neither the parent's callbacks nor who waited there."""
        self._condition = Condition()  # type: ignore[assignment]  # as above
        self._waiters = _Waiters(self)
        self._done_callbacks: list[Callable[[futures.Future[T]], object]] = []
        self._setting = 0

    @property
    def known(self) -> bool:
        """Whether it is known here that it is done."""
        return self._state in DONE

    def _look(self) -> bool:
        """Ask the store, without waiting; whether it is done."""
        seen = self.board.look(self.key)
        if seen is not None:
            self._discovered(seen)
        return seen is not None

    def _whole(self, timeout: float | None) -> Payload | None:
        """The outcome as bytes, waited for; None where it was opened before."""
        if self._opened:
            return None
        if self._seen is not None and self._seen.payload is not None:
            return self._seen.payload
        payload = self.board.fetch(self.key) if self._state in DONE else None
        if payload is None:
            if self._state in DONE:
                raise gone(self.key, self.board.url)
            payload = arrived(self.board, self.key, timeout, self.lease, self.board.fetch)
        self._discovered(Seen(verdict_of(payload.type), None))
        return payload

    def _open(self, payload: Payload | None) -> None:
        if payload is None:
            return
        result, error = None, None
        if verdict_of(payload.type) is Verdict.FAILED:
            error = error_in(payload, self.board.reads)
        else:
            result = open_outcome(payload, self.board.reads)
        with self._condition:
            if not self._opened:
                self._result, self._exception, self._opened = result, error, True
                if self._seen is not None:
                    self._seen = Seen(self._seen.verdict, None)

    def _raise_trouble(self) -> None:
        trouble = self._trouble
        if trouble is not None:
            with self._condition:
                self._trouble, self._state = None, PENDING
            raise trouble

    def _discovered(self, seen: Seen) -> None:
        """Learn it in a thread that is not to be held up by callbacks."""
        if self._learn(seen) and not self._setting:
            call_soon(self._call_back)

    def _learn(self, seen: Seen | None, trouble: BaseException | None = None) -> bool:
        """Be done; whether it was not before. Waiters in this process are told."""
        with self._condition:
            if seen is not None and not self._opened and (self._seen is None or self._seen.payload is None):
                self._seen = seen
            if self._state in DONE:
                return False
            self._trouble = trouble
            verdict = Verdict.VALUE if seen is None else seen.verdict
            self._state = CANCELLED if verdict is Verdict.CANCELLED else FINISHED
            waiters = list(self._waiters)
            self._condition.notify_all()
            for waiter in waiters:
                if verdict is Verdict.FAILED or trouble is not None:
                    waiter.add_exception(self)
                elif verdict is Verdict.CANCELLED:
                    waiter.add_cancelled(self)
                else:
                    waiter.add_result(self)
        return True

    # -- what the hub asks and tells ---------------------------------------------------------------------------------

    def wanted(self) -> bool:
        """Whether anybody in this process waits for it or is to be called back."""
        return self._state not in DONE and bool(self._waiters or self._done_callbacks)

    def tell(self, trouble: BaseException | None) -> None:
        """It is there, as somebody has seen, or cannot be waited for."""
        seen = None
        if trouble is None and any(getattr(waiter, "stop_on_exception", False) for waiter in list(self._waiters)):
            try:
                seen = self.board.look(self.key)  # only they tell an exception from a result
            except ProxyfabError as error:
                trouble = error
        if self._learn(seen, trouble) and self._done_callbacks and not self._setting:
            call_soon(self._call)

    def _call(self) -> None:
        try:
            if self._trouble is None and self._seen is None:
                payload = self.board.fetch(self.key)
                if payload is not None:
                    self._learn(Seen(verdict_of(payload.type), payload))
        except Exception:  # noqa: BLE001 - whoever asks for the result is told
            pass
        self._call_back()

    def _call_back(self) -> None:
        """In the callbacks' thread, which is nobody's to end."""
        for callback in self._due():
            try:
                callback(self)
            except BaseException:  # noqa: BLE001 - not to end this thread, behind which others wait
                _log.exception("exception calling callback for %r", self)

    @contextmanager
    def _setting_it(self) -> Iterator[None]:
        """Callbacks are this thread's, then; where somebody else won after all, those of the callbacks' thread."""
        with self._condition:
            self._setting += 1
        try:
            yield
        finally:
            with self._condition:
                self._setting -= 1
            if self._state in DONE and self._done_callbacks:
                call_soon(self._call)

    def _due(self) -> list[Callable[[futures.Future[T]], object]]:
        """The callbacks, for one who calls them."""
        with self._condition:
            due, self._done_callbacks = self._done_callbacks, []
        return due


class _Waiters(list[Any]):
    """Who waits in `concurrent.futures.wait` and `as_completed`: they put themselves here."""

    def __init__(self, future: Known[Any]) -> None:
        super().__init__()
        self._future = weakref.ref(future)  # no cycle: with the last handle of a future its result goes, at once

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        future = self._future()
        if future is not None:
            hub.watch(future.board, future)
