"""Promise: somebody is at it, and says so. If he falls silent, the future fails, instead of being waited for in vain.

Who computes a result beats every third of the lease: he puts a few bytes, other ones each time, under a key beside the
future's. Who waits listens every third of a lease. When what he hears has not changed for a lease by his own clock, he
sets an ObjectLost as the future's exception. That is an outcome like any other: the first one counts, for everybody,
also for a promiser who was only paused.

Promises: clocks of two machines are never compared; a promise that nobody listens to costs a put every third of a
lease; who never promised is never declared dead. The thread that beats is a daemon and ends with the last promise.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from proxyfab.errors import KeyExists, ObjectLost, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.patterns.future.board import Board
from proxyfab.patterns.future.outcome import of_error
from proxyfab.trace import here
from proxyfab.waiting import Flag

if TYPE_CHECKING:
    from typing import Self

_BEATS = 3
"""In a lease."""
_LONGEST = 3600.0
"""Seconds between two looks at what was promised; no lease is too long."""


class Promise:
    """Inside `with`, this process says that it is at it. Not for two threads at once.

    Args:
        board: Where the future is.
        key: Its key.
        lease: Seconds of silence after which it is given up.
        ttl: Seconds after which whatever comes of it expires; None for never.
    """

    def __init__(self, board: Board, key: Key, lease: float, ttl: float | None) -> None:
        self.board = board
        self.key = key
        self.lease = lease
        self.ttl = ttl
        self.due = 0.0
        self._count = itertools.count()

    def beat(self) -> None:
        """Say once more that this process is alive."""
        self.due = time.monotonic() + self.lease / _BEATS
        self.board.beat(self.key, f"{os.getpid()}@{here()} {self.ttl or ''} {next(self._count)}".encode(), self.lease)

    def __enter__(self) -> Self:
        self.beat()
        _pulse.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _pulse.drop(self)
        try:
            self.board.hush(self.key)
        except ProxyfabError:  # it goes by itself
            pass


class Listener:
    """What one who waits has heard of who promised."""

    def __init__(self, board: Board, key: Key, lease: float) -> None:
        self.board = board
        self.key = key
        self.lease = lease
        self.due = 0.0
        self._heard: bytes | None = None
        self._since = 0.0

    @property
    def pause(self) -> float:
        """Seconds until it is time to listen again."""
        return max(self.due - time.monotonic(), 0.0)

    def listen(self) -> None:
        """Listen, if it is time; where a promise has fallen silent, fail the future."""
        now = time.monotonic()
        if now < self.due:
            return
        late, self.due = now - self.due, now + self.lease / _BEATS
        heard = self.board.listen(self.key)
        if heard is None or heard != self._heard:
            self._heard, self._since = heard, now
        elif late > self.lease:  # it is us who were stopped, and perhaps all of this machine
            self._since = now
        elif now - self._since > self.lease:
            who, ttl, *_ = *heard.decode(errors="replace").split(" "), ""
            self._give_up(who, float(ttl) if ttl else None)

    def _give_up(self, who: str, ttl: float | None) -> None:
        lost = ObjectLost(
            f"The process {who}, which had promised the future {self.key.id} in {self.board.url}, has said nothing for "
            f"{self.lease:g} s: it has ended, or it hangs. Run its task again, with a new future."
        )
        try:
            self.board.announce(self.key, of_error(lost, self.board.writes), ttl)
        except KeyExists:  # it is set: the wait goes on and finds it
            pass
        self.board.hush(self.key)


class _Pulse:
    """The thread that beats for all promises of this process."""

    def __init__(self) -> None:
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """What its parent promised, the parent keeps."""
        self._lock = threading.RLock()
        self._promises: list[Promise] = []
        self._thread: threading.Thread | None = None
        self._stir = Flag()

    def add(self, promise: Promise) -> None:
        with self._lock:
            self._promises.append(promise)
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="proxyfab-promises", daemon=True)
                thread.start()
                self._thread = thread
        self._stir.set()  # its lease may be shorter than those before

    def drop(self, promise: Promise) -> None:
        with self._lock:
            if promise in self._promises:
                self._promises.remove(promise)
        self._stir.set()

    def _work(self) -> None:
        while True:
            self._stir.clear()
            with self._lock:
                promises = list(self._promises)
                if not promises:
                    self._thread = None
                    return
            now = time.monotonic()
            for promise in [promise for promise in promises if promise.due <= now]:
                try:
                    promise.beat()
                except ProxyfabError:  # the next beat may come through; if none does, it was right to give us up
                    pass
            pause = min(promise.due for promise in promises) - time.monotonic()
            self._stir.wait(min(pause, _LONGEST))


_pulse = _Pulse()
