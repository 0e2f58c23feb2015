"""`memory://`: a dict in this process, for tests, threads and single-process scripts.

Promises: a put copies, so what the caller does to its buffers afterwards changes nothing here; only what was given away
(`GivenFrames`) is kept as it is. A key that was made in another process is refused with that process's name instead of
found missing; a forked child reads what it inherited. Times to live are counted by a clock that nobody sets.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar

from proxyfab.abc import BaseConnector, Reclaimed, Stat, check_swap, check_timeout, check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, ConnectorError, KeyExists
from proxyfab.keys import Key
from proxyfab.osio.clock import uptime
from proxyfab.osio.memory import copied
from proxyfab.spec import ConnectorSpec, check_name
from proxyfab.trace import here
from proxyfab.wire.remains import HEAD, reason


class _Entry:
    __slots__ = ("created", "expires", "frames")

    def __init__(self, frames: Frames, ttl: float | None) -> None:
        self.frames = frames
        self.created = time.time()
        self.expires = None if ttl is None else uptime() + ttl

    def alive(self) -> bool:
        return self.expires is None or uptime() < self.expires


class _Space:
    """One namespace. The lock guards the dict and is held for dict operations only.

    No `threading.Condition`: an interrupt inside its `__enter__`, which is Python, would leave the lock taken.
    """

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self.waiting: list[threading.Lock] = []
        """One lock, taken, for each who waits; whoever puts releases them."""
        self.after_fork()

    def after_fork(self) -> None:
        """Give a child a lock that no thread of its parent holds."""
        self.lock = threading.RLock()
        self.waiting.clear()

    def wake(self) -> None:
        """Have all who wait look again."""
        with contextlib.suppress(IndexError):
            while True:
                self.waiting.pop().release()


_LOOK_EVERY = 1.0  # an interrupted put may have woken nobody
_spaces: dict[str, _Space] = {}
_counter = itertools.count()
_ancestors: set[str] = set()


def _process() -> str:
    return f"{os.getpid()}.{here()}"


class MemoryConnector(BaseConnector):
    """Objects in this process's own memory.

    Args:
        name: A name shares the namespace among all connectors of this process that use it; without one it is this
            connector's own.
    """

    scheme: ClassVar[str] = "memory"
    checksums: ClassVar[bool] = False
    local = True
    wait_bound = 0.0

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not name.startswith("~"):
            check_name(name)
        self.name = f"~{next(_counter)}.{_process()}" if name is None else name
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> MemoryConnector:
        spec = ConnectorSpec.parse(url)
        spec.take()
        if name is not None:
            check_name(name)
        return cls(name or spec.host or None)

    @property
    def spec(self) -> str:
        return f"memory://{self.name}"

    def reserve(self) -> Key:
        return Key.draw(_process())

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        space = self._space()
        key = self.reserve() if key is None else self._own(key)
        entry = _Entry(_kept(frames), ttl)
        with space.lock:
            old = space.entries.get(key.id)
            if old is not None and old.alive() and not replace:
                raise KeyExists(f"{self.spec} already holds {key.id}; objects are written once (say replace=True).")
            space.entries[key.id] = entry
        space.wake()
        return key

    def get(self, key: Key) -> Frames | None:
        entry = self._find(key)
        return None if entry is None else entry.frames

    def evict(self, key: Key) -> bool:
        space = self._space()
        with space.lock:
            found = self._find(key)
            if found is not None:
                del space.entries[key.id]
        return found is not None

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        check_swap(old, new)
        check_ttl(ttl)
        key = self._own(key)
        entry = None if new is None else _Entry(_kept(new), ttl)
        while True:
            found = self._find(key)
            if (None if found is None else found.frames) != old:  # compared outside the lock
                return False
            space = self._space()
            with space.lock:
                if self._find(key) is not found:
                    continue
                if entry is not None:
                    space.entries[key.id] = entry
                elif found is not None:
                    del space.entries[key.id]
            space.wake()
            return True

    def stat(self, key: Key) -> Stat | None:
        entry = self._find(key)
        return None if entry is None else self._stat(key.id, entry)

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        check_timeout(timeout)
        space = self._space()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            woken = threading.Lock()
            woken.acquire()
            try:
                space.waiting.append(woken)  # before the look: a put behind it finds who waits
                found = [key for key in keys if self._find(key) is not None]
                left = _LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline - time.monotonic())
                if found or left <= 0 or not keys:
                    return found
                woken.acquire(timeout=left)
            finally:
                with contextlib.suppress(ValueError):
                    space.waiting.remove(woken)

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        with self._space().lock:  # what is renewed here cannot be reaped in between
            entry = self._find(key)
            if entry is not None:
                entry.expires = None if ttl is None else uptime() + ttl
        return entry is not None

    def scan(self) -> Iterator[Stat]:
        for id, entry in list(self._space().entries.items()):
            if entry.alive():
                yield self._stat(id, entry)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        space = self._space()
        with space.lock:  # a dead entry that a put has just replaced must not take the new one along
            dead = [(id, entry) for id, entry in list(space.entries.items()) if not entry.alive()]
            for id, entry in () if dry_run else dead:
                if space.entries.get(id) is entry:  # what garbage collection ended may have come in between
                    del space.entries[id]
        return [
            Reclaimed(f"{self.spec} {id}", entry.frames.nbytes, reason(entry.frames.slice(0, HEAD).join()))
            for id, entry in dead
        ]

    def clear(self) -> int:
        space = self._space()
        with space.lock:  # memory is given back behind the lock: that takes milliseconds for large objects
            cleared, space.entries = space.entries, {}
        return sum(entry.alive() for entry in cleared.values())

    def close(self) -> None:
        self._closed = True

    def _space(self) -> _Space:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        space = _spaces.get(self.name)
        if space is None:
            home = self.name.partition(".")[2]
            if self.name.startswith("~") and home != _process() and home not in _ancestors:
                raise ConnectorError(
                    f"{self.spec} lives in another process and cannot be opened here; use shm:// between processes."
                )
            space = _spaces.setdefault(self.name, _Space())
        return space

    def _own(self, key: Key) -> Key:
        """The key as it is written here; one of another process (or of this one's parent) would be waited for there."""
        if key.where and key.where != _process():
            raise _elsewhere(key)
        return key.at(_process())

    def _find(self, key: Key) -> _Entry | None:
        if key.where and key.where != _process() and key.where not in _ancestors:
            raise _elsewhere(key)
        entry = self._space().entries.get(key.id)
        return entry if entry is not None and entry.alive() else None

    def _stat(self, id: str, entry: _Entry) -> Stat:
        owner = _process().replace(".", "@", 1) if self.name.startswith("~") else ""
        expires = None if entry.expires is None else entry.expires - uptime() + time.time()
        return Stat(Key(id, _process()), entry.frames.nbytes, entry.created, expires, self.name, owner)


def _kept(frames: Frames) -> Frames:
    """The one copy, into the store; none of what was given away."""
    if frames.given:
        return frames
    try:
        return Frames((copied(frames).toreadonly(),))
    except (MemoryError, OSError) as error:
        raise CapacityError(
            f"No memory for {frames.nbytes} bytes in process {_process()} ({error}); evict objects, or use file://."
        ) from error


def _elsewhere(key: Key) -> ConnectorError:
    return ConnectorError(
        f"{key.id} belongs to the memory of process {key.where}, not of {_process()}; use shm:// between processes."
    )


def _remember_parent() -> None:
    for space in _spaces.values():
        space.after_fork()


def _note_process() -> None:
    _ancestors.add(_process())


os.register_at_fork(before=_note_process, after_in_child=_remember_parent)
