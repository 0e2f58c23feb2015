"""What a client has put for its tasks, for how long it claims it, and what it finds again by content.

Rules:
1. An object is claimed at the scheduler before its bytes are put, and every graph that names it is sent while the
   client claims it: claims, graphs and releases go through one stream, in order.
2. A claim ends when no graph with it is being made, none of its tasks has a future left at this client, and it was not
   used for a moment. From then on only the scheduler's tasks keep the object.
3. No lock is held while bytes move. Two threads that put the same content at the same time put it twice.
4. In shared memory what is over does not wait for its moment where `SPARE` bytes were put since: its pages are warm,
   and serve the next one. Not for a while after one that was given up so came again: these calls go round.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Container, Hashable, Iterable
from itertools import islice
from typing import Any

from proxyfab.integrations.dask.home import CLAIM, RELEASE
from proxyfab.integrations.dask.packing import Large
from proxyfab.keys import Key
from proxyfab.proxy import kind_of
from proxyfab.ref import Ref, mode_of
from proxyfab.serialize import dumps
from proxyfab.store import Store

IDLE = 0.5
"""Seconds after its last use for which an object is kept, though no future needs it: the next call may."""
SPARE = 32 << 20
"""Bytes that are put after an object's last use, from which on it is kept no longer than needed, and waits for none."""
ROUNDS = 60.0
"""Seconds for which nothing is given up early once that has cost a put."""
_SOME = 16
_USERS = 256
"""Keys that are remembered for an object before those are looked for whose futures are gone."""


class _Kept:
    __slots__ = ("behind", "last", "many", "pins", "ref", "users")

    def __init__(self, ref: Ref[Any]) -> None:
        self.ref = ref
        self.pins = 1
        self.behind = 0  # bytes that had been put when it was used last
        self.users: set[Hashable] = set()
        self.many = _USERS  # users from which on those are dropped that have no future
        self.last = time.monotonic()


class Keeping:
    """Of one client. Thread-safe.

    Args:
        store: Where objects go.
        send: Sends a message to the scheduler, in order with everything else that this client sends.
        mark: How the ids of keys begin (`home.mark_of`).
        where: Which shared memory the store is in (`home.sight`); `""` for one that is reached from everywhere.
    """

    def __init__(self, store: Store, send: Callable[[dict[str, Any]], None], mark: str = "", where: str = "") -> None:
        self.store = store
        self.where = where
        self._mark = mark
        self._send = send
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        self._given_up: dict[str, float] = {}  # early, by token: until when it would have been kept
        self._go_round = 0.0
        self.put = 0
        self.put_bytes = 0
        self.found = 0
        self.found_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def reserve(self) -> Key:
        """A key of this client's, under which nothing lies yet."""
        key = self.store.reserve()
        return Key(self._mark + key.id[len(self._mark) :], key.where)

    def fill(self, larges: Iterable[Large], alive: Container[Hashable] | None = None) -> list[str]:
        """Give every node its reference; what is not there yet is put. Its claims are pinned: say `sent` at last.

        Args:
            larges: What is to be put.
            alive: The keys that have futures; None where that is not known.

        Raises:
            ProxyfabError: Something could not be put; nothing is pinned then.
        """
        pinned: list[str] = []
        looked = alive is None or not self.where
        try:
            for large in larges:
                ref = self._find(large.token)
                if ref is None:
                    if not looked and alive is not None:
                        looked = True
                        self._make_room(large.token, alive)
                    ref = self._put(large.token, large)
                large.node.ref = ref
                pinned.append(large.token)
        except BaseException:
            self.sent(pinned, ())
            raise
        return pinned

    def sent(self, tokens: Iterable[str], users: Iterable[Hashable]) -> None:
        """The graph was sent, or will not be; these are the keys of its tasks that have futures."""
        users = tuple(users)
        now = time.monotonic()
        with self._lock:
            for token in tokens:
                kept = self._kept.get(token)
                if kept is not None:  # else the client was closed, or made a plain one, meanwhile
                    kept.pins -= 1
                    kept.last = now
                    kept.behind = self.put_bytes
                    kept.users.update(users)

    def tidy(self, alive: Container[Hashable]) -> None:
        """End the claims on what is not needed any more.

        Args:
            alive: The keys that have futures.
        """
        if not self._kept:
            return
        now = time.monotonic()
        with self._lock:
            for kept in self._kept.values():
                _drop(kept, alive)
            over = [token for token, kept in self._kept.items() if now - kept.last >= IDLE and _is_over(kept, alive)]
            self._release([self._kept.pop(token).ref for token in over])

    def leave(self) -> None:
        """End all claims: nothing more is sent by reference."""
        with self._lock:
            with contextlib.suppress(Exception):  # a client that is closed cannot say so, and need not
                self._release([kept.ref for kept in self._kept.values()], over=True)
            self._kept.clear()

    def _make_room(self, token: str, alive: Container[Hashable]) -> None:
        """End claims that would only last for a moment; a few are looked at each time, in turns."""
        now = time.monotonic()
        with self._lock:
            if self._given_up.pop(token, 0.0) > now:
                self._go_round = now + ROUNDS
            if self._go_round > now:
                return
            over = []
            for each in list(islice(self._kept, _SOME)):
                kept = self._kept.pop(each)
                if self.put_bytes - kept.behind >= SPARE and _is_over(kept, alive):
                    over.append(kept.ref)
                    self._given_up[each] = kept.last + IDLE
                else:
                    self._kept[each] = kept  # behind all others
            while len(self._given_up) > _SOME:
                del self._given_up[next(iter(self._given_up))]
            self._release(over)

    def _find(self, token: str) -> Ref[Any] | None:
        with self._lock:
            kept = self._kept.get(token)
            if kept is None:
                return None
            kept.pins += 1
            self.found += 1
            self.found_bytes += kept.ref.nbytes
            return kept.ref

    def _put(self, token: str, large: Large) -> Ref[Any]:
        store = self.store
        payload = large.payload or dumps(large.obj, mode=mode_of(store.url))
        key = self.reserve()
        ref: Ref[Any] = Ref(store.url, key, source=store, nbytes=payload.nbytes, kind=kind_of(large.obj))
        self._send({"op": CLAIM, "url": store.url, "keys": [str(key)]})
        try:
            store.put_payload(payload, key)
        except BaseException:
            self._release([ref])
            raise
        with self._lock:
            kept = self._kept.setdefault(token, _Kept(ref))
            if kept.ref is not ref:  # another thread was first
                kept.pins += 1
                self._release([ref])
            self.put += 1
            self.put_bytes += payload.nbytes
            return kept.ref

    def _release(self, refs: list[Ref[Any]], *, over: bool = False) -> None:
        if refs or over:
            self._send({"op": RELEASE, "url": self.store.url, "keys": [str(ref.key) for ref in refs], "over": over})


def _drop(kept: _Kept, alive: Container[Hashable]) -> None:
    """Of an object that is in use all the time the users that are gone would be remembered for ever."""
    if len(kept.users) >= kept.many:
        kept.users = {user for user in kept.users if user in alive}
        kept.many = max(_USERS, 2 * len(kept.users))  # so that it costs each user a few looks in all


def _is_over(kept: _Kept, alive: Container[Hashable]) -> bool:
    """Whether no graph with it is being made, and none of its tasks has a future."""
    if kept.pins:
        return False
    while kept.users:
        user = kept.users.pop()
        if user in alive:
            kept.users.add(user)
            return False
    return True
