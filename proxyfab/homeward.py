"""Homeward: objects that lie nearby and are on their way home, copied there in the background.

Rules:
1. An object is known as on its way before it leaves, and is known as such, or as one that failed, until it is at home.
   So whoever looks for it in that order (`waiting`, then home) finds it.
2. What could not be brought home stays where it is, pinned, and is tried again when somebody asks for it (`flush`).
3. No lock: each step is one operation on a dict. What garbage collection ends in the middle may come back here, in the
   thread of a put or in one that brings something home, and finds everything in order.
4. A finalizer that comes while its thread is in the tier's own book, which who brings something home needs, too, waits
   for nobody. What it evicts goes as soon as it has come home.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from functools import partial
from threading import get_ident
from typing import Any

from proxyfab.background import Task, submit
from proxyfab.errors import ConnectorError, KeyExists
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.nearby import Nearby


class Homeward:
    """Thread-safe; a forked child has nothing on its way.

    Args:
        tier: Where objects lie until they are at home.
        home: A connector.
    """

    def __init__(self, tier: Nearby, home: Any) -> None:
        self._tier = tier
        self._home = home
        self._pending: dict[str, Task[None]] = {}
        self._failed: dict[str, tuple[Key, float | None, str]] = {}
        self._bringing: dict[str, int] = {}
        self._gone: set[str] = set()
        on_fork(self)

    def after_fork(self) -> None:
        """What the parent is copying home is the parent's."""
        self._pending, self._failed = {}, {}
        self._bringing, self._gone = {}, set()

    def send(self, key: Key, expires: float | None) -> None:
        """Bring home what lies nearby under a key."""
        task = Task(partial(self._bring, key, expires), f"Bringing {key} home")
        self._pending[key.id] = task
        self._failed.pop(key.id, None)
        submit(task)

    def settle(self, keys: Iterable[Key]) -> None:
        """Wait until what was put under these keys is at home, or has failed (but for rule 4)."""
        for key in keys if self._pending else ():
            task = self._pending.get(key.id)
            if task is not None and not self._must_not_wait(key.id):
                task.result()

    def let_go(self, keys: Iterable[Key]) -> None:
        """These are about to be evicted: where it cannot be waited until they are at home, they go when they are."""
        for key in keys if self._pending else ():
            if key.id in self._pending and self._must_not_wait(key.id):
                self._gone.add(key.id)
                if key.id not in self._pending:  # it has come home meanwhile, and will be found there
                    self._gone.discard(key.id)

    def forget(self, keys: Iterable[Key]) -> None:
        """These were evicted, and need not come home any more."""
        for key in keys if self._failed else ():
            self._failed.pop(key.id, None)

    def forget_all(self) -> None:
        """Wait until nothing is on its way, and forget what could not be brought home."""
        for task in list(self._pending.values()):
            task.result()
        self._failed = {}

    def flush(self, timeout: float | None = None) -> None:
        """Bring home all that could not be before, and wait for all; raises as `TieredConnector.flush`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for key, expires, _ in list(self._failed.values()):
            self.send(key, expires)
        for task in list(self._pending.values()):
            task.result(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        failed = [why for *_, why in list(self._failed.values())]
        if failed:
            raise ConnectorError(f"Not all that was put came home to {self._home.spec}: {'; '.join(failed[:3])}")

    def _must_not_wait(self, id: str) -> bool:
        """Whether this very thread is bringing it home, or is in the tier's book: then a finalizer asks."""
        return self._bringing.get(id) == get_ident() or self._tier.is_held_here()

    def _bring(self, key: Key, expires: float | None) -> None:
        self._bringing[key.id] = get_ident()
        try:
            self._copy(key, expires)
            if key.id in self._gone:
                self._home.evict(key)
                self._tier.drop([key.id])
        except Exception as error:  # noqa: BLE001 - told by flush
            if key.id not in self._gone:
                self._failed[key.id] = key, expires, str(error)
        finally:
            self._bringing.pop(key.id, None)
            self._pending.pop(key.id, None)  # before the next step: see `let_go`
            self._gone.discard(key.id)

    def _copy(self, key: Key, expires: float | None) -> None:
        left = None if expires is None else expires - time.time()
        if left is not None and left <= 0:
            return
        frames = self._tier.get([key.id]).get(key.id)
        if frames is None:
            raise ConnectorError(f"{key} cannot be read in {self._tier.child.spec}.")
        with contextlib.suppress(KeyExists):  # the attempt before, whose answer was lost: nobody else has this key
            self._home.put(frames, key=key, ttl=left)
        self._tier.add(key.id, frames, expires)  # from now on a copy like any other
