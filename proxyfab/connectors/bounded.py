"""`bounded://?limit=4GiB&fast=shm://&slow=file:///scratch`: a fast place with a limit, and a slow one behind it.

What no longer fits moves to the slow place, least recently used first; what is read there a second time comes back. So
a server's memory stays within `limit` while its objects stay within `quota`.

Promises: an object that was acknowledged can be read at every moment, also while it moves and if who moves it is
killed; its time to live moves along; puts at once never exceed a bound together. An object that is larger than the
limit, or finds all others on the move, goes to the slow place at once. A key names no place, as that may change.

Not promised: that several processes which put here keep the limit together. Each counts what it found when it opened,
and what it moved itself. Memory that a reader still maps is given back when the reader lets go. `stat` tells when an
object came to where it lies, not when it was first put.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, ClassVar

from proxyfab.abc import (
    BaseConnector,
    Finding,
    Reclaimed,
    Stat,
    Status,
    SupportsScan,
    check_range,
    check_swap,
    check_ttl,
)
from proxyfab.abilities import METHODS, claiming, shared
from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError, ConnectorError, KeyExists, ProxyfabError
from proxyfab.flight import SingleFlight
from proxyfab.fork import on_fork
from proxyfab.groups import wait_in_turn
from proxyfab.keys import Fresh, Key
from proxyfab.ledger import Ledger, Room
from proxyfab.opening import open_connector
from proxyfab.policy import is_received
from proxyfab.spec import ConnectorSpec, nbytes
from proxyfab.spilling import Spilling

_STEP = 0.02
"""Seconds after which a waiter looks into the slow place, too."""
_OWN = ("compare_and_set", "scan", "status")


class BoundedConnector(BaseConnector):
    """A fast connector with a limit, and a slow one that takes what does not fit. Thread-safe and fork-safe.

    Args:
        fast: Where objects are put; this connector closes it.
        slow: Where they go when there is no room; closed with it. Both must be able to `scan`.
        limit: Bytes of objects that may lie in `fast`, as a number or `"4 GiB"`.
        quota: Bytes that may lie in both; a put beyond it is a CapacityError. None for any number.
        moving: Whether objects move. If not, as in stores that references from elsewhere opened, what finds no room in
            `fast` is put into `slow`, and all stays where it was put.

    Attributes:
        fast: The fast child.
        slow: The slow child.
        limit: In bytes.
        quota: In bytes, or None.
    """

    scheme: ClassVar[str] = "bounded"
    plain: ClassVar[type[Any] | None] = None

    def __new__(cls, fast: Any, slow: Any, **_: Any) -> BoundedConnector:
        """An instance of a class that claims what both children have."""
        kind = cls.plain or cls
        own = {ability for ability, method in METHODS.items() if method in _OWN}
        return super().__new__(claiming(kind, shared([fast, slow]) | own))

    def __init__(
        self, fast: Any, slow: Any, *, limit: int | str, quota: int | str | None = None, moving: bool = True
    ) -> None:
        self.fast = fast
        self.slow = slow
        self.limit = nbytes(limit)
        self.quota = None if quota is None else nbytes(quota)
        self.checksums = bool(fast.checksums or slow.checksums)  # type: ignore[misc]  # it is the children's
        for child in (fast, slow):
            if not isinstance(child, SupportsScan):
                raise ConfigurationError(f"{child.spec} cannot list what it holds, so bounded:// cannot bound it.")
        if fast.spec == slow.spec:
            raise ConfigurationError(f"fast and slow are the same place, {fast.spec}; objects would be lost.")
        self._tag = blake2b(f"{fast.spec} {slow.spec}".encode(), digest_size=6).hexdigest()
        self._moving = moving
        self._places: Spilling | None = None
        self._opening: SingleFlight[Spilling] = SingleFlight("what lies in bounded://")
        self._closed = False
        self._started = time.time()
        on_fork(self)

    def after_fork(self) -> None:
        """Count anew in the child: what the parent moves from now on is not seen here."""
        self._places = None

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> BoundedConnector:
        options = ConnectorSpec.parse(url).take("limit", "quota", "fast", "slow")
        missing = sorted({"limit", "slow"} - set(options))
        if missing:
            raise ConfigurationError(f"{url!r} needs {missing[0]}=: bounded://?limit=4GiB&slow=file:///scratch/me.")
        fast = open_connector(options.get("fast", "shm://"), name=name)
        slow = open_connector(options["slow"], name=name)
        return cls(fast, slow, limit=options["limit"], quota=options.get("quota"), moving=not is_received())

    @property
    def spec(self) -> str:
        quota = () if self.quota is None else (("quota", str(self.quota)),)
        places = ("fast", self.fast.spec), ("slow", self.slow.spec)
        return str(ConnectorSpec("bounded", options=(("limit", str(self.limit)), *quota, *places)))

    @property
    def place(self) -> str:
        return str(self.fast.place)

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return bool(self.fast.local and self.slow.local)

    @property
    def wait_bound(self) -> float:  # type: ignore[override]  # as above
        return float(max(self.fast.wait_bound, self.slow.wait_bound, _STEP))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.plain or type(self), self.fast, self.slow, self.limit, self.quota)

    # -- reading -------------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw(self._tag)

    def get(self, key: Key) -> Frames | None:
        return self._get(self._id(key))

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        return self._use().first(self._id(key), lambda child, key: child.get_range(key, offset, length))[0]

    def get_many(self, keys: Sequence[Key]) -> list[Frames | None]:
        places = self._use()
        ids = [self._id(key) for key in keys]
        found: dict[str, Frames] = {}
        for child in (self.fast, self.slow):
            missing = [id for id in dict.fromkeys(ids) if id not in found]
            got = child.get_many([Key(id) for id in missing]) if missing else []
            fresh = {id: frames for id, frames in zip(missing, got, strict=True) if frames is not None}
            if child is self.fast:
                places.book.touch({id: frames.nbytes for id, frames in fresh.items()})
            found.update(fresh)
        return [found[id] if id in found else self._get(id) for id in ids]

    def exists(self, key: Key) -> bool:
        return self._use().holds(self._id(key))

    def stat(self, key: Key) -> Stat | None:
        stat: Stat | None = self._use().first(self._id(key), lambda child, key: child.stat(key))[0]
        return None if stat is None else stat._replace(key=Key(key.id, self._tag))

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        turn = partial(self.fast.wait_any, [Key(self._id(key)) for key in keys])
        return wait_in_turn(lambda: [*filter(self.exists, keys)], [turn] if keys else [], timeout, _STEP)

    def _get(self, id: str) -> Frames | None:
        places = self._use()
        found: Frames | None
        found, child = places.first(id, _get)
        if found is not None and child is self.fast:
            places.book.touch({id: found.nbytes})
        elif found is not None and places.book.wanted_back(id):
            with contextlib.suppress(ProxyfabError):  # who reads has what he wants; it stays where it is
                places.promote(id)
        return found

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        places = self._use()
        if key is None or type(key) is Fresh:
            id = self.reserve().id if key is None else self._id(key)
            with places.room(frames.nbytes) as room:
                places.store(room, id, frames, ttl, alone=True)
            return Key(id, self._tag)
        id = self._id(key)
        if not replace and places.holds(id):  # before others are moved to make room for nothing
            raise _taken(key)
        with places.room(frames.nbytes, id) as room, places.turn(id):
            if not replace and places.holds(id):
                raise _taken(key)
            places.store(room, id, frames, ttl, alone=False)
        return Key(id, self._tag)

    def evict(self, key: Key) -> bool:
        places, id = self._use(), self._id(key)
        with places.turn(id):
            return places.remove(id)

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        places, id = self._use(), self._id(key)
        with places.turn(id):
            return any([child.renew(Key(id), ttl) for child in (self.fast, self.slow)])

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        check_ttl(ttl)
        places, id = self._use(), self._id(key)
        with places.room(0 if new is None else new.nbytes, id) as room, places.turn(id):
            if places.first(id, _get)[0] != old:
                return False
            if new is not None:
                places.store(room, id, new, ttl, alone=False)
            elif old is not None:
                places.remove(id)
        return True

    # -- who puts into the fast place himself --------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """What lies where, to look at."""
        return self._use().book

    def grant(self, nbytes: int) -> Room | None:
        """Room in the fast place for somebody who puts there himself; None where none can be made.

        It is to be given to `adopt` or `revoke`, with the id that was put.

        Raises:
            CapacityError: So many bytes are beyond the quota.
        """
        return self._use().grant(nbytes)

    def adopt(self, id: str, room: Room) -> bool:
        """What was put under `id` is an object from now on; False, and taken back, where it is not as large as said."""
        stat = self.fast.stat(Key(id))
        if stat is None or stat.nbytes != room.nbytes:
            self.revoke(id, room)
            return False
        self._use().book.settle(id, room)
        return True

    def revoke(self, id: str, room: Room) -> None:
        """Give room back that was not used, and evict what was put."""
        self.fast.evict(Key(id))
        self._use().book.end(room)

    def lies_fast(self, id: str) -> int | None:
        """Bytes of an object that lies in the fast place, which counts as a read; None for others. Does no I/O."""
        book = self.ledger
        nbytes = book.fast.get(id)
        if nbytes is not None:
            book.touch({id: nbytes})
        return nbytes

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        for stat in self._use().stats():
            yield stat._replace(key=Key(stat.key.id, self._tag))

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._use()
        return [*self.fast.reap(dry_run=dry_run), *self.slow.reap(dry_run=dry_run)]

    def clear(self) -> int:
        return self._use().clear()

    def diagnose(self) -> Iterator[Finding]:
        yield from self.fast.diagnose()
        yield from self.slow.diagnose()

    def status(self) -> Status:
        places = self._use()
        book = places.book
        fast, slow = book.known()
        levels: dict[str, float] = {"fast_objects": len(fast), "fast_bytes": book.fast_bytes, "fast_limit": book.limit}
        held, counts = book.fast_bytes + book.slow_bytes, dict(places.counts)
        return Status(self.spec, len(fast) + len(slow), held, self.quota, counts, started=self._started, gauges=levels)

    def close(self) -> None:
        self._closed = True
        places, self._places = self._places, None
        if places is not None:
            places.close()
        self.fast.close()
        self.slow.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _id(self, key: Key) -> str:
        """A key's id; a key of other places is refused with their name instead of found missing."""
        if key.where not in ("", self._tag):
            raise ConnectorError(f"{key} does not lie in {self.spec}; ask the store that its reference names.")
        return key.id

    def _use(self) -> Spilling:
        """The two places; opened by listing what lies there."""
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        places = self._places
        return self._opening.do("", self._open) if places is None else places

    def _open(self) -> Spilling:
        if self._places is None:
            book = Ledger(self.limit, self.quota)
            self._places = Spilling(self.fast, self.slow, self._tag, book, moving=self._moving).open()
        return self._places


def _get(child: Any, key: Key) -> Frames | None:
    return child.get(key)  # type: ignore[no-any-return]


def _taken(key: Key) -> KeyExists:
    return KeyExists(f"{key} holds an object, and objects are written once (say replace=True).")


def _rebuild(kind: Any, fast: Any, slow: Any, limit: int, quota: int | None) -> BoundedConnector:
    return kind(fast, slow, limit=limit, quota=quota)  # type: ignore[no-any-return]
