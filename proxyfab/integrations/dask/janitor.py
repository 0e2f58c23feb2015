"""Janitor: a thread beside the scheduler's event loop that deletes objects which nobody needs any more.

Promises: nothing here blocks the loop or raises into it; what cannot be deleted now (its server is away) is tried
again, and said once; what may still be written (the result of a task that was forgotten while it ran) is deleted once
more a little later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from proxyfab.abc import SupportsScan
from proxyfab.errors import ProxyfabError
from proxyfab.integrations.dask.holdings import Place
from proxyfab.keys import Key
from proxyfab.store import Store, received_store

logger = logging.getLogger(__name__)
AGAIN = 2.0
"""Seconds until what may still be written is deleted once more."""
PATIENCE = 5.0
"""Seconds until what failed is tried again, and at most that the end waits for the thread."""
_TRIES = 100


class Janitor:
    """Deletes objects. For one thread that asks, besides its own.

    Attributes:
        evicted: How many objects it has deleted.
        failures: How often a store has refused.
    """

    def __init__(self) -> None:
        self.evicted = 0
        self.failures = 0
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._later: list[tuple[float, int, list[Place]]] = []  # of its own thread: when, the how manieth time, what
        self._complained: set[str] = set()
        self._thread: threading.Thread | None = None

    def evict(self, places: Iterable[Place], *, again: bool = False) -> None:
        """Delete these soon; with `again` once more in `AGAIN` seconds."""
        places = list(places)
        if places:
            self._do(lambda: self._evict(places, 1, again))

    def sweep(self, store: Store, known: Callable[[Place], bool], age: float) -> None:
        """Delete what lies in a store of our own for longer than `age` seconds and is not `known` now."""
        self._do(lambda: self._sweep(store, known, age))

    def sweep_marked(self, store: Store, known: Callable[[str], bool], mark: str) -> None:
        """Delete what lies in a store, if it can list that, under ids with this mark that are not `known` now."""
        if isinstance(store.connector, SupportsScan):
            self._do(lambda: self._guarded(store.url, lambda: self._sweep_marked(store, known, mark)))

    def reap(self, store: Store) -> None:
        """Take back what ended processes left where a store of shared memory lies."""
        self._do(lambda: self._guarded(store.url, store.connector.reap))  # type: ignore[attr-defined]  # it can

    def end(self, last: Callable[[], None]) -> None:
        """Do what was asked for and then `last`; ends the thread, for which it waits some seconds at most."""
        self._do(lambda: self._guarded("the end", last))
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(PATIENCE)

    # -- its own thread ------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="proxyfab-dask-janitor", daemon=True)
            self._thread.start()
        self._work.put(work)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._pause())
            except Empty:
                self._try_again()
                continue
            if work is None:
                return
            work()

    def _pause(self) -> float | None:
        return max(min(self._later)[0] - time.monotonic(), 0.01) if self._later else None

    def _try_again(self) -> None:
        due = [each for each in self._later if each[0] <= time.monotonic()]
        self._later = [each for each in self._later if each not in due]
        for _, count, places in due:
            self._evict(places, count + 1, False)

    def _evict(self, places: list[Place], count: int, again: bool) -> None:
        by_url: dict[str, list[Place]] = {}
        for place in places:
            by_url.setdefault(place.url, []).append(place)
        for url, some in by_url.items():
            if self._guarded(url, lambda url=url, some=some: self._evict_at(url, some)):  # type: ignore[misc]
                self._complained.discard(url)
                if again:
                    self._later.append((time.monotonic() + AGAIN, 0, some))
            elif count < _TRIES:
                self._later.append((time.monotonic() + PATIENCE, count, some))

    def _evict_at(self, url: str, places: list[Place]) -> None:
        gone = received_store(url).evict_many([place.key for place in places])
        self.evicted += sum(gone)

    def _guarded(self, what: str, act: Callable[[], object]) -> bool:
        """Whether it went well; what did not is said once."""
        try:
            act()
        except Exception as error:
            self.failures += 1
            if what not in self._complained:
                self._complained.add(what)
                expected = isinstance(error, ProxyfabError)
                logger.warning("proxyfab: what is no longer needed stays at %s: %s", what, error, exc_info=not expected)
            return False
        return True

    def _sweep_marked(self, store: Store, known: Callable[[str], bool], mark: str) -> None:
        found = [stat.key for stat in store.connector.scan() if stat.key.id.startswith(mark)]  # type: ignore[attr-defined]  # it can
        self.evicted += sum(store.evict_many([key for key in found if not known(key.id)]))

    def _sweep(self, store: Store, known: Callable[[Place], bool], age: float) -> None:
        def sweep() -> None:
            oldest = time.time() - age
            scan = store.connector.scan()  # type: ignore[attr-defined]  # of shared memory, which can
            mine = store.connector.namespace  # type: ignore[attr-defined]  # as above; it lists what others have, too
            old: list[Key] = [stat.key for stat in scan if stat.namespace == mine and stat.created <= oldest]
            self.evicted += sum(store.evict_many([key for key in old if not known(Place(store.url, str(key)))]))

        self._guarded(store.url, sweep)
