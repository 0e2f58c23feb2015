"""What this process keeps for one root of shared memory: its pool of segments and its warm mappings.

Promises: all connectors of a process that use a root share one; it goes with the last of them, while views that were
handed out stay valid; a forked child has its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
import weakref

from proxyfab.errors import AccessDenied, CapacityError, IntegrityError
from proxyfab.osio.clock import steady_at
from proxyfab.osio.leases import Lease, leases
from proxyfab.osio.mapping import FileId, Mapping, Mappings, window
from proxyfab.osio.memory import allocate
from proxyfab.osio.segments import LEASES, Pool
from proxyfab.wire.slot import SIZE, Slot, id_hash, unpack

DIRECTORY = "PROXYFAB_SHM_DIR"
"""Environment variable: another root than `/dev/shm/proxyfab-<uid>`."""
_POOL_MOST = 4 * 2**30
_POOL_PART = 8
_WARM_MOST = 2**30
_WARM_PART = 16
_READ_MOST = 64 * 2**20
_SWEEP_SELDOM = 2.0


class Shared:
    """Pool and mappings for one root. Thread-safe.

    Free segments hold back at most an eighth of the file system and 4 GiB, the mappings of a process that idles at most
    a sixteenth and 1 GiB.

    Args:
        root: Path of a root that exists.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._leases = f"{root}/{LEASES}"
        self._clock = steady_at(root)
        status = os.statvfs(root)
        total = status.f_blocks * status.f_frsize
        self.pool = Pool(root, min(total // _POOL_PART, _POOL_MOST))
        self.mappings = Mappings(min(total // _WARM_PART, _WARM_MOST))
        weakref.finalize(self, _let_go, root, self.pool, self.mappings).atexit = False

    def again(self, path: str, id: str) -> memoryview | None:
        """The payload of an object whose file this process has mapped and kept warm, which needs no descriptor of it.

        A mapping's file is known by device and inode, which are nobody else's while it is mapped; so its name needs but
        a look, and the header is read where it lies.

        Returns:
            None where anything is in doubt: `view` tells what it is.
        """
        try:
            status = os.lstat(path)
            mapping = self.mappings.warm(status)
            if mapping is None or status.st_size < SIZE:
                return None
            header = mapping.start.tobytes()
            slot = unpack(header, available=min(status.st_size, mapping.length))
        except (OSError, IntegrityError):
            return None
        if slot.id_hash != id_hash(id) or (slot.expires and not slot.alive(self._clock.now())):
            return None
        lease = None
        if slot.home:
            try:
                lease = leases.take(self._leases, slot.home)
            except OSError:
                return None
            if lease is None or mapping.start.tobytes() != header:
                return None
        self.mappings.sweep(every=_SWEEP_SELDOM)
        return window(mapping, SIZE, slot.length, lease)

    def view(self, fd: int, slot: Slot, header: bytes) -> memoryview | None:
        """The payload of an open object file: mapped, or copied where it cannot be mapped or leased.

        Args:
            fd: The file.
            slot: Its header, checked to be of the object that is wanted and to fit into the file.
            header: The same as bytes.

        Returns:
            None when the segment has gone to another object meanwhile: look anew.
        """
        lease, safe = self._lease(slot.home)
        if slot.home and os.pread(fd, SIZE, 0) != header:
            return None
        if safe:
            mapped = self._map(fd, slot, lease)
            if mapped is not None:
                return mapped
        copied = _copy(fd, slot.length)
        return copied if safe or os.pread(fd, SIZE, 0) == header else None

    def lease(self, home: int) -> Lease | None:
        """A lease on a segment for as long as it is held; None where none is needed."""
        return self._lease(home)[0]

    def _lease(self, home: int) -> tuple[Lease | None, bool]:
        """A lease where one is needed and can be had, and whether the file cannot be filled anew meanwhile."""
        if not home:
            return None, True
        try:
            lease = leases.take(self._leases, home)
        except FileNotFoundError:  # no process here recycles
            return None, True
        except OSError:  # no such locks here, or no descriptor left
            return None, False
        return lease, lease is not None

    def _map(self, fd: int, slot: Slot, lease: Lease | None) -> memoryview | None:
        """A window on the file; None when the kernel has no mapping left for us."""
        status = os.fstat(fd)
        file = FileId(status.st_dev, status.st_ino)
        mapping = self.mappings.find(file, SIZE + slot.length)
        if mapping is None:
            with contextlib.suppress(OSError):
                mapping = Mapping(fd, status.st_size)
                self.mappings.keep(file, mapping, fd)
        return None if mapping is None else window(mapping, SIZE, slot.length, lease)


def _let_go(root: str, pool: Pool, mappings: Mappings) -> None:
    pool.close()
    mappings.clear()
    leases.forget(f"{root}/{LEASES}")


def _copy(fd: int, length: int) -> memoryview:
    """The payload in memory of our own; shorter when the file is."""
    block = allocate(length)
    done = 0
    while done < length:
        count = os.preadv(fd, [block[done : done + _READ_MOST]], SIZE + done)
        if not count:
            break
        done += count
    return block[:done].toreadonly()


_known: weakref.WeakValueDictionary[str, Shared] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def shared_at(root: str) -> Shared:
    """This process's Shared for a root; hold it for as long as it is used."""
    found = _known.get(root)
    if found is None:
        with _opening:
            found = _known.get(root)
            if found is None:
                found = _known[root] = Shared(root)
    return found


def all_shared() -> list[Shared]:
    """Those of every root that this process uses."""
    references = _known.valuerefs()  # in one step: `values` fails where another thread adds one meanwhile
    return [shared for reference in references if (shared := reference()) is not None]


def cool() -> None:
    """Let go of all that this process keeps warm, at every root: for who looks at what it holds. Windows stay valid."""
    for each in all_shared():
        each.mappings.clear()


def _after_fork() -> None:
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


_warned = False


def default_root() -> str:
    """`$PROXYFAB_SHM_DIR`, or a directory of this user in shared memory or, without that, among temporary files."""
    told = os.environ.get(DIRECTORY)
    if told:
        return os.path.abspath(told)
    if os.access("/dev/shm", os.W_OK | os.X_OK):
        return f"/dev/shm/proxyfab-{os.geteuid()}"
    global _warned
    root = f"{tempfile.gettempdir()}/proxyfab-{os.geteuid()}"
    if not _warned:
        _warned = True
        warnings.warn(
            f"/dev/shm cannot be written, so objects of shm:// lie in {root}, which may be a slow disk. "
            f"Set {DIRECTORY} to choose the directory.",
            RuntimeWarning,
            stacklevel=3,
        )
    return root


def check_mine(root: str) -> bool:
    """Whether the root is there. /dev/shm is everybody's: AccessDenied where another user made it under our name."""
    try:
        status = os.lstat(root)
    except OSError:
        return False
    if status.st_uid != os.geteuid():
        raise AccessDenied(f"{root} belongs to another user; set {DIRECTORY} to a directory of yours.")
    return True


def full(root: str, size: int) -> CapacityError:
    """The error of a put of `size` bytes that found no room."""
    status = os.statvfs(root)
    free = f"{size} bytes are needed and {status.f_bavail * status.f_frsize} are free there"
    if status.f_files and not status.f_favail:
        free = f"all of its {status.f_files} inodes are taken, of which each object needs one"
    return CapacityError(
        f"{root} is full: {free}. Evict objects, run `proxyfab gc`, or give the file system more room."
    )
