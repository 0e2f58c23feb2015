"""The hub: one thread for each store waits, with one wait, for all that this process wants to be told of.

Callbacks, `as_completed`, `wait`, `await` and asyncio are served by it; a blocking `result()` and a proxy wait by
themselves, which spares them a thread's turn.

Rules:
1. The thread is a daemon: it keeps no interpreter alive, and what it meets while one ends it meets in silence. It ends
   when nothing was wanted for ten seconds. A forked child starts with none and with nothing wanted.
2. Who wants to be told does no I/O: news go through a queue. A thread that waits in the store is
   called back by a bell, an object that means nothing, which a thread of its own puts there.
3. A place that cannot be reached is told to all who wait for something in it, when it has been away for as long as a
   blocking wait would outlive; they are not left waiting.
4. The hub calls nothing that may take long: it only tells.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from _queue import Empty, SimpleQueue  # not from `queue`, as in `background`
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from proxyfab import background
from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.patterns.future.board import Board
from proxyfab.patterns.future.promise import Listener

if TYPE_CHECKING:
    import asyncio

SLICE = 1.0
"""Seconds after which a wait begins anew, and looks whether all of it is still wanted."""
_DEAF, _STAYS_DEAF = 0.05, 100
_IDLE = 10.0
_PAUSE = 0.1


class Watch(Protocol):
    """Who wants to be told of one key. Known by identity: to add it again while it waits changes nothing."""

    @property
    def key(self) -> Key: ...
    @property
    def lease(self) -> float | None:
        """Seconds of silence after which who promised its outcome is given up."""

    def tell(self, trouble: BaseException | None) -> None:
        """In the hub's thread, once: the outcome is there (None), or why it cannot be waited for."""

    def wanted(self) -> bool:
        """Whether anybody still listens."""


class Hub:
    """What this process wants to be told of in one place. Thread-safe, fork-safe."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child has no thread, and what its parent wanted is the parent's."""
        self._lock = threading.RLock()
        self._news: SimpleQueue[Watch] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._bell: Key | None = None
        """What to ring for the thread to come back; None while it does not wait in the store."""
        self._heard: dict[Key, Listener] = {}
        self._away: float | None = None
        """Since when the place cannot be reached."""
        self._deaf = 0
        """For so many rounds nobody can call the thread back: it comes by itself."""

    def add(self, watch: Watch) -> None:
        """Tell `watch` when its key has an outcome."""
        self._news.put(watch)
        bell, self._bell = self._bell, None
        if bell is not None:
            background.aside(lambda: self._ring(bell), "Ringing")
            return
        with self._lock:  # a thread that ends looks for news under it
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="proxyfab-futures", daemon=True)
                thread.start()
                self._thread = thread

    def _ring(self, bell: Key) -> None:
        try:
            self._board.ring(bell)
        except ProxyfabError:  # we may not write there, or it is gone, which the hub's own wait will tell
            self._deaf = _STAYS_DEAF

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        wanted: dict[Key, list[Watch]] = {}
        bell: Key | None = None
        while self._take(wanted):
            try:
                bell = bell or self._board.bell(next(iter(wanted)))
                bell = self._wait(wanted, bell)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody is left waiting
                if sys.is_finalizing():
                    return
                bell = None
                self._trouble(wanted, error)

    def _take(self, wanted: dict[Key, list[Watch]]) -> bool:
        """Learn what is wanted, and forget what is not any more; False when the thread is to end."""
        _prune(wanted)
        while True:
            try:
                watch = self._news.get_nowait() if wanted else self._news.get(timeout=_IDLE)
            except Empty:
                if wanted:
                    return True
                if self._end():
                    return False
                continue
            if not any(watch is each for each in wanted.get(watch.key, ())):
                wanted.setdefault(watch.key, []).append(watch)

    def _end(self) -> bool:
        with self._lock:
            if not self._news.empty():
                return False
            self._thread = None
            return True

    def _wait(self, wanted: dict[Key, list[Watch]], bell: Key) -> Key | None:
        """One wait in the store; the bell for the next one."""
        self._bell = bell
        if not self._news.empty():  # who added it may not have seen the bell
            self._bell = None
            return bell
        listeners = self._listeners(wanted)
        pause = min([_DEAF if self._deaf else SLICE, *(listener.pause for listener in listeners)])
        found = self._board.wait_any([*wanted, bell], pause)
        self._bell = self._away = None
        self._deaf = max(self._deaf - 1, 0)
        for key in found:
            for watch in wanted.pop(key, ()):
                watch.tell(None)
        for listener in listeners:
            try:
                listener.listen()
            except ProxyfabError as error:  # nobody else's: it may be that only this one cannot be heard or given up
                for watch in wanted.pop(listener.key, ()):
                    watch.tell(error)
        if bell in found:
            self._board.silence(bell)
            return None
        return bell

    def _listeners(self, wanted: dict[Key, list[Watch]]) -> list[Listener]:
        """Of all that somebody may have promised; those of before keep what they have heard."""
        leases = {key: min([watch.lease for watch in wanted[key] if watch.lease], default=None) for key in wanted}
        self._heard = {
            key: self._heard.get(key) or Listener(self._board, key, lease) for key, lease in leases.items() if lease
        }
        return [*self._heard.values()]

    def _trouble(self, wanted: dict[Key, list[Watch]], error: Exception) -> None:
        """Tell those who wait in vain: all, where the place itself fails; otherwise those whose key is the trouble."""
        self._bell = None
        _prune(wanted)
        if not wanted:  # it may be that nobody is to open again what was closed
            return
        if isinstance(error, ConnectorError) and self._outlives():
            time.sleep(_PAUSE)
            return
        if isinstance(error, ProxyfabError):
            why = self._asked(self._board.check)
            vain = {key: why or self._asked(partial(self._board.wait, key, 0)) for key in wanted}
        else:
            vain = dict.fromkeys(wanted, error)
        for key, reason in vain.items():
            if reason is not None:
                for watch in wanted.pop(key):
                    watch.tell(reason)
        if wanted:  # it has passed already, it seems
            time.sleep(_PAUSE)

    def _outlives(self) -> bool:
        """Whether the place may yet come back."""
        now = time.monotonic()
        self._away = now if self._away is None else self._away
        with contextlib.suppress(ProxyfabError):
            return now - self._away < self._board.outage
        return False

    def _asked(self, question: Callable[[], object]) -> Exception | None:
        try:
            question()
        except Exception as trouble:  # noqa: BLE001 - as above
            return trouble
        return None


def _prune(wanted: dict[Key, list[Watch]]) -> None:
    for key in list(wanted):
        wanted[key] = [watch for watch in wanted[key] if watch.wanted()]
        if not wanted[key]:
            del wanted[key]


_hubs: dict[str, Hub] = {}


def watch(board: Board, watch: Watch) -> None:
    """Tell `watch` when its key has an outcome on `board`."""
    hub = _hubs.get(board.place)
    if hub is None:
        hub = _hubs.setdefault(board.place, Hub(board))
    hub.add(watch)


async def arrival(board: Board, key: Key, lease: float | None) -> None:
    """Wait, without blocking the event loop, until `key` has an outcome.

    Raises:
        ProxyfabError: It cannot be waited for.
    """
    import asyncio  # not at the top: it takes as long to import as all of proxyfab

    arrival = _Arrival(key, lease, asyncio.get_running_loop())
    watch(board, arrival)
    await arrival.came


class _Arrival:
    """One `await`, in its event loop."""

    def __init__(self, key: Key, lease: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self.key = key
        self.lease = lease
        self.came: asyncio.Future[None] = loop.create_future()

    def wanted(self) -> bool:
        return not self.came.done()

    def tell(self, trouble: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            self.came.get_loop().call_soon_threadsafe(self._settle, trouble)

    def _settle(self, trouble: BaseException | None) -> None:
        if self.came.done():
            return
        if trouble is None:
            self.came.set_result(None)
        else:
            self.came.set_exception(trouble)
