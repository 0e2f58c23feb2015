"""`shm://`: objects in shared memory of this machine, for any process of this user. The default of a Store.

One object is one file of the namespace's directory: 64 bytes of header (`wire.slot`), then the frames.

- Small objects are written to a new file and read back into private memory: that is the cheapest there.
- Large ones are copied into warm segments that this process fills again and again (`osio.segments`), and read as a
  read-only mapping that stays warm, too (`osio.mapping`). A lease keeps a segment from being filled anew for as long as
  a view of it, or anything that derives from one, lives (`osio.leases`).

Promises: a put that returned is whole; a `get` of a large object copies nothing and takes the same time at any size;
views stay valid after evict, clear, close and the owner's end. No lock is held while bytes are copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from proxyfab.abc import Reclaimed, Stat, check_range, check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, IntegrityError, KeyExists, ProxyfabError
from proxyfab.keys import Fresh, Key
from proxyfab.osio import entries
from proxyfab.osio.checkup import Lodged
from proxyfab.osio.clock import steady_at
from proxyfab.osio.entries import open_held, slot_of, write_new
from proxyfab.osio.files import Part, check_regular, names_it, open_anything, translate
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.namespace import is_name
from proxyfab.osio.objects import name_of
from proxyfab.osio.root import Root, left
from proxyfab.osio.segments import trim_others
from proxyfab.osio.shared import Shared, check_mine, default_root, full, shared_at
from proxyfab.osio.swap import Over, in_memory, publish_over
from proxyfab.osio.watch import wait_for_any
from proxyfab.spec import ConnectorSpec, check_name
from proxyfab.wire.slot import SIZE, Slot, id_hash, pack, unpack

R = TypeVar("R")
LARGE = 128 * 1024
"""Payload bytes from which on segments and mappings are cheaper than a new file and a copy."""
_FIRST = 16 * 1024
_TRIES = 100
_ANEW = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


class SharedMemoryConnector(Lodged):
    """Objects in shared memory of this machine.

    Thread-safe and fork-safe. Arrays that are read from here are read-only views of memory that others see.

    Args:
        name: A name makes the namespace persistent (until the machine starts anew); without one it lives with this
            process. A name that begins with `~` attaches to the unnamed namespace of another connector.
        directory: The root; by default `$PROXYFAB_SHM_DIR` or `/dev/shm/proxyfab-<uid>`.
    """

    scheme: ClassVar[str] = "shm"
    checksums: ClassVar[bool] = False
    local = True
    wait_bound = 0.02

    def __init__(self, name: str | None = None, *, directory: str | None = None) -> None:
        if name is not None and not name.startswith("~"):
            check_name(name)
        self._all = name is None
        self._lodging = Lodging(directory or default_root(), name)
        self._clock = steady_at(self._lodging.path)
        self._shared: Shared | None = None
        self._closed = self._mine = False
        self._neighbours: set[str] = set()
        self._places: dict[str, str] = {}  # directories from which large objects were read, by `where` of their keys

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> SharedMemoryConnector:
        spec = ConnectorSpec.parse(url)
        spec.take()
        if spec.path.strip("/"):
            raise ConfigurationError(f"{url} has a path; shared memory is named as in shm:// or shm://name.")
        if name is not None:
            check_name(name)
        return cls(name or spec.host or None)

    @property
    def spec(self) -> str:
        return f"shm://{self._lodging.name}"

    @property
    def namespace(self) -> str:
        """The namespace's name, as keys carry it."""
        return self._lodging.name

    def reserve(self) -> Key:
        return Key.draw(self.namespace)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: Over = False) -> Key:
        check_ttl(ttl)
        self._check_open()
        drawn = key is None or type(key) is Fresh
        key = self.reserve() if key is None else key.at(key.where or self.namespace)
        try:
            self._put(frames, key, ttl, drawn, replace)
        except CapacityError:
            self._make_room()
            self._put(frames, key, ttl, drawn, replace)
        return key

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        clock, path = self._clock, self._path(key)
        return in_memory(clock, path, old, new, lambda one, over: self.put(one, key=key, ttl=ttl, replace=over))

    def _put(self, frames: Frames, key: Key, ttl: float | None, drawn: bool, replace: Over) -> None:
        path = self._path(key, make=True)
        trailer = key.id.encode() if path[path.rfind("/") + 1] == "=" else b""
        body: list[Part] = [*frames.parts, trailer] if trailer else [*frames.parts]
        slot = Slot(frames.nbytes, time.time(), self._clock.after(ttl), id_hash(key.id), len(trailer))
        try:
            for attempt in range(_ANEW + 1):
                try:
                    self._store(path, slot, body, drawn, replace)
                    break
                except FileNotFoundError:  # somebody removed the directory behind our back
                    if attempt == _ANEW:
                        raise
                    self._lodging.reopen()
        except OSError as error:
            if error.errno == errno.EEXIST:
                raise KeyExists(f"{path} is there already; a key is drawn for one put.") from error
            if error.errno in _FULL:
                raise full(self._lodging.path, frames.nbytes) from error
            raise translate(error, "write", path) from error

    def _store(self, path: str, slot: Slot, body: list[Part], drawn: bool, replace: Over) -> None:
        publish = partial(publish_over, self._clock, path, replace)
        if slot.length >= LARGE:
            room = self._room()  # held, as another thread may close this connector: a pool ends with its last user
            room.pool.write(lambda home: pack(slot._replace(home=home)), body, publish)
        elif drawn:  # nobody knows the key yet, so nobody can look while it is written
            write_new(path, [pack(slot), *body])
        else:
            entries.write_beside(path, [pack(slot), *body], publish)

    def _make_room(self) -> None:
        """Give back what is only kept warm, here and by others, or belongs to nobody."""
        if (room := self._shared) is not None:
            room.mappings.clear()
            room.pool.trim()
        root = Root.find(self._lodging.path)
        if root is not None:
            trim_others(root)
            self.reap()

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, key: Key) -> Frames | None:
        directory, room = self._places.get(key.where), self._shared
        if directory is not None and room is not None and key.id.isalnum() and key.id.isascii():
            view = room.again(f"{directory}/{key.id}", key.id)
            if view is not None:
                return Frames.known((view,), view.nbytes)
        frames = self._visit(key, self._read)
        if directory is None and frames is not None and frames.nbytes >= LARGE:
            if len(self._places) >= 256:  # a worker reads from any number of namespaces in its life
                self._places.clear()
            self._places[key.where] = os.path.dirname(self._path(key))
        return frames

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)
        return self._visit(key, lambda fd, first, slot: self._part(fd, first, slot, offset, length))

    def stat(self, key: Key) -> Stat | None:
        slot = self._visit(key, lambda _fd, _first, slot: slot)
        if slot is None:
            return None
        where, root = self._where(key), self._lodging.root()
        return self._stat(key.id, slot, where, "" if root is None else root.namespace(where).owner())

    def exists(self, key: Key) -> bool:
        return self._visit(key, lambda *_: True) is not None

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        self._check_open()
        if any(key.where in ("", self.namespace) for key in keys):
            self._lodging.open()  # a directory that is there can tell
        paths = [self._path(key) for key in keys]
        return wait_for_any(keys, self.exists, timeout, paths=lambda: paths, bound=self.wait_bound)

    def _visit(self, key: Key, act: Callable[[int, bytes, Slot], R | None]) -> R | None:
        """`act` on the open file, its first bytes and its header, if a live object lies under the key.

        A file may be taken away, and even filled with another object, between any two steps. Then something does not
        fit and its name leads elsewhere: the look starts anew. If the name still leads to it, it is damaged.
        """
        path = self._path(key)
        for _ in range(_TRIES):
            try:
                fd = open_anything(path)
            except OSError as error:
                raise translate(error, "read", path) from error
            if fd is None:
                return None
            try:
                first = os.read(fd, _FIRST)
                slot = unpack(first, available=len(first) if len(first) < _FIRST else os.fstat(fd).st_size)
                if slot.id_hash != id_hash(key.id):
                    raise IntegrityError("it is the object of another key")
                if slot.expires and not slot.alive(self._clock.now()):
                    return None
                result = act(fd, first, slot)
                if result is not None:
                    return result
            except IntegrityError as error:
                check_regular(fd, path)
                if names_it(path, fd):
                    raise IntegrityError(f"{path} is damaged: {error}. Evict it, or put it anew.") from error
            except OSError as error:
                check_regular(fd, path)
                raise translate(error, "read", path) from error
            finally:
                os.close(fd)
        raise ConnectorError(f"{path} changes faster than it can be read; use a new key for each object.")

    def _read(self, fd: int, first: bytes, slot: Slot) -> Frames | None:
        end = SIZE + slot.length
        if end <= len(first):
            return Frames.known((memoryview(first)[SIZE:end],), slot.length)
        room = self._room()
        if slot.length < LARGE and not slot.home:
            view = memoryview(os.pread(fd, slot.length, SIZE))
        else:
            found = room.view(fd, slot, first[:SIZE])
            room.mappings.sweep()
            if found is None:
                return None
            view = found
        if view.nbytes < slot.length:
            raise IntegrityError(f"it is cut off: {view.nbytes} of {slot.length} bytes are there")
        return Frames.known((view,), view.nbytes)

    def _part(self, fd: int, first: bytes, slot: Slot, offset: int, length: int) -> Frames | None:
        length = max(min(length, slot.length - offset), 0)
        if length >= LARGE:
            frames = self._read(fd, first, slot)
            return None if frames is None else frames.slice(offset, length)
        data = os.pread(fd, length, SIZE + offset)
        if len(data) < length:
            raise IntegrityError(f"it is cut off: {len(data)} of {length} bytes are there")
        if slot.home and os.pread(fd, SIZE, 0) != first[:SIZE]:
            return None
        return Frames([data])

    # -- taking away ---------------------------------------------------------------------------------------------

    def evict(self, key: Key) -> bool:
        gone = self._remove(self._path(key))
        if (room := self._shared) is not None:
            room.mappings.sweep()
        return gone

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        path = self._path(key)
        try:
            fd = open_held(path, os.O_RDWR)
            if fd is None:
                return False
            try:
                slot = slot_of(fd)
                # Should the namespace be removed meanwhile, a lease keeps the header from becoming another object's.
                lease = None if slot is None else self._room().lease(slot.home)
                slot = slot_of(fd)
                if slot is None or slot.id_hash != id_hash(key.id) or not slot.alive(self._clock.now()):
                    return False
                os.pwrite(fd, pack(slot._replace(expires=self._clock.after(ttl))), 0)
                del lease
                return True
            finally:
                os.close(fd)
        except OSError as error:
            raise translate(error, "renew", path) from error

    def clear(self) -> int:
        self._check_open()
        namespace = self._lodging.find() or self._lodging.open()[1]
        count = 0
        for name in entries.entries(namespace):
            with contextlib.suppress(IntegrityError):  # no file, so not ours
                count += self._remove(f"{namespace.path}/{name}")
        if (room := self._shared) is not None:
            room.mappings.sweep(now=True)
        return count

    def _remove(self, path: str, only: Callable[[int], bool] = lambda _fd: True) -> bool:
        """Take a file's name away if it may go; whether a live object was there."""
        try:
            gone = entries.take_object(path, only)
        except OSError as error:
            raise translate(error, "remove", path) from error
        if gone is None:
            return False
        if gone.home and (room := self._shared) is not None:
            room.pool.heard_free(gone.home)
        return gone.alive(self._clock.now())

    def close(self) -> None:
        self._closed = True
        self._shared = None

    # -- the whole -----------------------------------------------------------------------------------------------

    def scan(self) -> Iterator[Stat]:
        self._check_open()
        root = self._lodging.root()
        if root is None:
            return
        for namespace in root.namespaces() if self._all else [root.namespace(self.namespace)]:
            owner = namespace.owner()
            for name in entries.entries(namespace):
                found = entries.look(namespace, name, self._clock.now())
                if found is not None:
                    yield self._stat(found.id, found.slot, namespace.name, owner)

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._check_open()
        root = Root.find(self._lodging.path)  # not through the lodging, which reaps on its own at first use
        if root is None:
            return []
        taken = root.reap(dry_run=dry_run)
        for namespace in root.namespaces():
            for name in entries.entries(namespace, temporaries=True):
                taken += self._reap_one(f"{namespace.path}/{name}", dry_run)
        return taken

    def _reap_one(self, path: str, dry_run: bool) -> list[Reclaimed]:
        found: list[Reclaimed] = []

        def may_go(fd: int) -> bool:
            reason = entries.lost(os.path.basename(path), fd, self._clock.now())
            if reason:
                found.append(Reclaimed(path, os.fstat(fd).st_size, reason))
            return bool(reason) and not dry_run

        try:
            self._remove(path, may_go)
        except IntegrityError:  # no file, so not ours
            return []
        except ProxyfabError as error:
            return [left(path, error)]
        return found

    # -- places --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        if not self._mine:  # before anything of it is believed, or made in it
            self._mine = check_mine(self._lodging.path)

    def _where(self, key: Key) -> str:
        """The namespace that a key lies in."""
        where = key.where or self.namespace
        if where == self.namespace or where in self._neighbours:
            return where
        # Named ones are never cleared away by us: where there is no such directory the key is of another machine.
        if not is_name(where) or (where[0] != "~" and not os.path.isdir(f"{self._lodging.path}/{where}")):
            raise ConnectorError(f"{key} does not lie in {self._lodging.path}: there is no namespace {where!r} here.")
        if where[0] != "~":
            self._neighbours.add(where)
        return where

    def _path(self, key: Key, *, make: bool = False) -> str:
        """The file of a key."""
        self._check_open()
        where = self._where(key)
        directory = f"{self._lodging.path}/{where}"
        if make and where == self.namespace:
            self._lodging.open()
        elif make and not os.path.isdir(directory):
            raise ConnectorError(f"{key} cannot be put: {directory} is not there; its owner has ended.")
        if not self._mine:  # somebody else may have been faster than we
            self._mine = check_mine(self._lodging.path)
        return f"{directory}/{name_of(key.id)}"

    def _room(self) -> Shared:
        shared = self._shared
        if shared is None:
            shared = self._shared = shared_at(self._lodging.path)
        return shared

    def _stat(self, id: str, slot: Slot, namespace: str, owner: str) -> Stat:
        return Stat(Key(id, namespace), slot.length, slot.created, self._clock.wall(slot.expires), namespace, owner)
