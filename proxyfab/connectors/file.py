"""`file:///path`: objects as files under a directory, local or shared by the nodes of a cluster.

Promises: what `abc` numbers, across processes and, on a shared file system, across machines. An object is written under
a temporary name and renamed, or linked where its key must be free. A named namespace's objects are on the disk when
`put` returns (`fsync` of file and directory). An unnamed one's are not: it ends with its process, and no process
outlives a power cut, so there would be nothing to come back to.

On a local file system objects from 256 KiB are mapped: no copy, shared by all readers. On a network file system they
are read into the reader's memory, because a mapping there faults page by page over the wire and raises SIGBUS when the
server loses the file. Times to live are counted by the clock of the file server (`osio.clock`), whatever the clocks of
those who put and get say.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import ClassVar, TypeVar

from proxyfab.abc import Reclaimed, Stat, check_batch, check_range, check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, KeyExists, ProxyfabError
from proxyfab.keys import Fresh, Key
from proxyfab.osio import mounts, swap, sweep
from proxyfab.osio.checkup import Lodged
from proxyfab.osio.clock import served_at
from proxyfab.osio.files import check_regular, open_anything, sync_directory, translate
from proxyfab.osio.locator import Locator
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.namespace import Namespace
from proxyfab.osio.objects import (
    Name,
    Writing,
    guard,
    make_fan,
    place_of,
    read_object,
    read_range,
    read_slot,
    remove_dead,
    renew,
)
from proxyfab.osio.root import Root, left
from proxyfab.osio.watch import wait_for_any
from proxyfab.spec import ConnectorSpec, check_name, flag
from proxyfab.trace import here
from proxyfab.wire.slot import SIZE, Slot

T = TypeVar("T")
_TRIES = 3


class FileConnector(Lodged):
    """Objects as files.

    Args:
        path: The directory; made at first use. May hold other things: only our marker and namespaces are touched.
        name: A name makes the namespace persistent; without one it lives with this process.
        sync: Whether `put` waits for the disk; None for named namespaces only.
        mapped: Whether large objects are mapped instead of read; None on local file systems only.
    """

    scheme: ClassVar[str] = "file"
    checksums: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        sync: bool | None = None,
        mapped: bool | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.sync = sync
        self.mapped = mapped
        self._named = name is not None
        if name is not None and not name.startswith("~"):
            check_name(name)
        self._lodging = Lodging(self.path, name)
        self._keys = Locator(self._lodging)
        self._clock = served_at(self.path)
        self._closed = False

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> FileConnector:
        spec = ConnectorSpec.parse(url)
        options = spec.take("ns", "sync", "mapped")
        if spec.host not in ("", "localhost") or not spec.path:
            raise ConfigurationError(f"{url!r} names no absolute path; write file:///scratch/me (three slashes).")
        if name is not None:
            check_name(name)
        return cls(spec.path, name=name or options.get("ns"), sync=flag(spec, "sync"), mapped=flag(spec, "mapped"))

    @property
    def spec(self) -> str:
        flags = (("sync", self.sync), ("mapped", self.mapped))
        options = (("ns", self._lodging.name), *((name, str(int(flag))) for name, flag in flags if flag is not None))
        return str(ConnectorSpec("file", path=self.path, options=options))

    @property
    def place(self) -> str:
        return f"file:{self.path}" if self._network else here()

    @property
    def local(self) -> bool:  # type: ignore[override]  # callers only read it
        return not self._network if self.mapped is None else self.mapped

    @property
    def wait_bound(self) -> float:  # type: ignore[override]  # as above
        """Where inotify tells it is far less; a network file system's attribute cache (`acdirmax`) may add to it."""
        return 0.5 if self._network else 0.02

    @cached_property
    def _kind(self) -> str:
        return mounts.kind(self.path)

    @cached_property
    def _network(self) -> bool:
        return mounts.is_network(self._kind)

    # -- one object ----------------------------------------------------------------------------------------------

    def reserve(self) -> Key:
        return Key.draw(self._keys.where(self._lodging.name))

    def put(self, frames: Frames, *, key: Key | None = None, ttl: float | None = None, replace: bool = False) -> Key:
        check_ttl(ttl)
        done, directory = self._put(frames, key, ttl, replace)
        if directory is not None:
            self._settle({directory})
        return done

    def get(self, key: Key) -> Frames | None:
        found = self._read(key, self._whole)
        return Frames.known((found[1],), found[1].nbytes) if found is not None and self._clock.alive(found[0]) else None

    def get_range(self, key: Key, offset: int, length: int) -> Frames | None:
        check_range(offset, length)

        def read(fd: int, path: str, id: str) -> memoryview | None:
            slot = read_slot(fd, path, id)
            cut = max(min(length, slot.length - offset), 0)
            return read_range(fd, path, SIZE + offset, cut) if self._clock.alive(slot) else None

        found = self._read(key, read)
        return None if found is None else Frames((found,))

    def exists(self, key: Key) -> bool:
        return self._slot(key) is not None

    def stat(self, key: Key) -> Stat | None:
        slot = self._slot(key)
        namespace = self._use().find(key)
        return None if slot is None or namespace is None else self._stat(key.id, slot, namespace)

    def evict(self, key: Key) -> bool:
        namespace = self._use().find(key)
        if namespace is None:
            return False
        path = _path(namespace, key.id)
        try:
            if self._network:
                found = self._read(key, lambda fd, path, _: swap.is_evictable(fd, path, self._clock))
                found = swap.take(path, locks=False) if found else found
            else:
                found = swap.evict(path, self._clock)
            if found or found is None:
                return bool(found)
            with guard(namespace.path):  # what took its place meanwhile is not what was asked for
                remove_dead(path, self._clock)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise translate(error, "evict", path) from error
        return False

    def compare_and_set(self, key: Key, old: Frames | None, new: Frames | None, *, ttl: float | None = None) -> bool:
        if old is None:
            return swap.first(self, key, new, ttl)
        space = self._use().find(key)
        return space is not None and swap.in_directory(
            space.path, _path(space, key.id), key.id, old, new, ttl, self._writing(space), locks=not self._network
        )

    def renew(self, key: Key, ttl: float | None) -> bool:
        check_ttl(ttl)
        namespace = self._use().find(key)
        if namespace is None:
            return False
        path = _path(namespace, key.id)
        try:
            with guard(namespace.path):
                return renew(path, key.id, ttl, self._writing(namespace))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translate(error, "renew", path) from error

    def wait_any(self, keys: Sequence[Key], timeout: float | None = None) -> list[Key]:
        return wait_for_any(keys, self.exists, timeout, paths=lambda: self._watchable(keys), bound=self.wait_bound)

    # -- many ----------------------------------------------------------------------------------------------------

    def put_many(
        self,
        many: Sequence[Frames],
        *,
        keys: Sequence[Key] | None = None,
        ttl: float | None = None,
        replace: bool = False,
    ) -> list[Key]:
        """Like a loop of `put`; where they must reach the disk the directories are brought there once, at the end."""
        check_batch(many, keys)
        check_ttl(ttl)
        wanted = keys if keys is not None else [None] * len(many)
        done = [self._put(frames, key, ttl, replace) for frames, key in zip(many, wanted, strict=True)]
        self._settle({directory for _, directory in done if directory is not None})
        return [key for key, _ in done]

    def scan(self) -> Iterator[Stat]:
        self._use()
        for namespace in self._keys.namespaces(all_of_them=not self._named):
            owner = namespace.owner()
            try:
                for found in sweep.objects(namespace.path):
                    if self._clock.alive(found.slot):
                        yield self._stat(found.id, found.slot, namespace, owner)
            except OSError as error:
                raise translate(error, "list", namespace.path) from error

    def reap(self, *, dry_run: bool = False) -> list[Reclaimed]:
        self._use()
        root = Root.find(self.path)  # not through the lodging, which reaps on its own at first use
        if root is None:
            return []
        taken = root.reap(dry_run=dry_run)
        gone = {item.what.removesuffix(" (left)") for item in taken}
        for namespace in root.namespaces():
            if namespace.path not in gone:
                try:
                    taken.extend(sweep.reap(namespace.path, self._clock, dry_run=dry_run))
                except OSError as error:
                    taken.append(left(namespace.path, translate(error, "reap", namespace.path)))
        return taken

    def clear(self) -> int:
        self._use()
        namespace = self._lodging.find()
        if namespace is None:
            stranger = f"{self.path}/{self._lodging.name}"
            # One that another process is just making holds hidden files only, or is ours when we look again.
            if _holds_files(stranger) and self._lodging.find() is None:
                raise AccessDenied(
                    f"{stranger} was not made by proxyfab and is not cleared; choose another name or path."
                )
            return 0
        try:
            return sweep.clear(namespace.path, self._clock, locks=not self._network)
        except OSError as error:
            raise translate(error, "clear", namespace.path) from error

    def close(self) -> None:
        self._closed = True

    # -- inside --------------------------------------------------------------------------------------------------

    def _use(self) -> Locator:
        if self._closed:
            raise ConnectorError(f"{self.spec} was closed; open a new one.")
        return self._keys

    def _writing(self, namespace: Namespace) -> Writing:
        return self._writings[not namespace.ephemeral if self.sync is None else self.sync]

    @cached_property
    def _writings(self) -> tuple[Writing, Writing]:
        return Writing(self._kind, self._clock, durable=False), Writing(self._kind, self._clock, durable=True)

    def _put(self, frames: Frames, key: Key | None, ttl: float | None, replace: bool) -> tuple[Key, str | None]:
        """The key, and the directory that is to be brought to the disk, if one is."""
        done, namespace = self._use().target(key)
        directory, path = place_of(namespace.path, done.id)
        name = Name.DRAWN if key is None or type(key) is Fresh else Name.REPLACED if replace else Name.FREE
        writing = self._writing(namespace)
        expires = self._clock.after(ttl)
        try:
            for attempt in range(_TRIES):
                try:
                    if attempt:
                        make_fan(namespace.path, directory, durable=writing.durable)
                    writing.write(namespace.path, path, name, done.id, frames, expires)
                    break
                except FileNotFoundError:
                    if attempt == _TRIES - 1:
                        raise
                    if attempt or not namespace.exists():  # never made, or removed behind our back
                        Lodging(self.path, namespace.name).open()
        except FileExistsError as error:
            raise KeyExists(f"{done} holds an object, and objects are written once (say replace=True).") from error
        except OSError as error:
            raise translate(error, "write", path) from error
        return done, directory if writing.durable else None

    def _settle(self, directories: set[str]) -> None:
        for directory in directories:
            try:
                sync_directory(directory)
            except OSError as error:
                raise translate(error, "sync", directory) from error

    @cached_property
    def _whole(self) -> Callable[[int, str, str], tuple[Slot, memoryview]]:
        return partial(read_object, mapped=self.local)

    def _read(self, key: Key, read: Callable[[int, str, str], T]) -> T | None:
        """`read(fd, path, id)` of a key's file, None when there is none."""
        namespace = self._use().find(key)
        if namespace is None:
            return None
        path = place_of(namespace.path, key.id)[1]
        for attempt in range(_TRIES):
            try:
                fd = self._open(path)
                if fd is None:
                    return None
                try:
                    return read(fd, path, key.id)
                except OSError:
                    check_regular(fd, path)
                    raise
                finally:
                    os.close(fd)
            except OSError as error:
                # The server forgot a file that was replaced meanwhile: its name leads to the new one.
                if error.errno != errno.ESTALE or attempt == _TRIES - 1:
                    raise translate(error, "read", path) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _open(self, path: str) -> int | None:
        fd = open_anything(path)
        if fd is None and self._network:
            # A client remembers that a name was missing until it asks for its directory again, which listing one does.
            try:
                with os.scandir(os.path.dirname(path)) as entries:
                    next(entries, None)
            except FileNotFoundError:
                return None
            fd = open_anything(path)
        return fd

    def _slot(self, key: Key) -> Slot | None:
        slot = self._read(key, read_slot)
        return slot if slot is not None and self._clock.alive(slot) else None

    def _stat(self, id: str, slot: Slot, namespace: Namespace, owner: str | None = None) -> Stat:
        key = Key(id, self._keys.where(namespace.name))
        owner = namespace.owner() if owner is None else owner
        return Stat(key, slot.length, slot.created, self._clock.wall(slot.expires), namespace.name, owner)

    def _watchable(self, keys: Sequence[Key]) -> list[str] | None:
        """Their files, in directories made if need be; None where notices do not come, or they cannot be made."""
        if self._network:
            return None
        paths = []
        try:
            for key in keys:
                namespace = self._use().target(key)[1]
                paths.append(_path(namespace, key.id))
                make_fan(namespace.path, os.path.dirname(paths[-1]), durable=False)
        except (ProxyfabError, OSError):
            return None
        return paths


def _path(namespace: Namespace, id: str) -> str:
    return place_of(namespace.path, id)[1]


def _holds_files(path: str) -> bool:
    try:
        return any(not name.startswith(".") for name in os.listdir(path))
    except OSError:
        return False
