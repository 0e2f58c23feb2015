"""Segments: files in shared memory that a process fills again and again, because fresh pages cost five times a copy.

Each process has a pool per root: an ephemeral namespace of its own with one hidden file per segment. A segment is known
by its home, 63 bits: the lower 16 count within the pool, the others are the pool's own. To publish a segment is to give
its file a second name, the object's; to evict the object, which anybody may do, is to take that name away. The name in
the pool is the segment's home and keeps the pages from being freed.

Rules:
1. A segment is free when its home is its only name (`st_nlink == 1`). Nobody has to be told; a pool that is told
   (`heard_free`, by who evicts in the same process) looks there first, and finds what others evicted by looking at a
   few each time, those that it has found taken the longest ago.
2. It is filled anew only under the exclusive lock on its home, and a reader holds a lease on that for as long as he
   looks (`osio.leases`; one lock file for a whole root). A reader takes the lease first and then checks that the header
   still is of the key he wants.
3. The header is wiped before the first byte is changed and written behind the last one: a process that is killed in
   between leaves nothing that a slow reader could take for an object.
4. Between filling and publishing the lock is turned into a lease, never given up: others may take free segments away
   when memory is short (`trim_others`), and they ask for the exclusive lock before.
5. The lock file may be removed by anybody who cleans up. Leases are taken on the one that has its name (`osio.leases`),
   so a segment is filled anew only where that still is the one it was published under: asked behind the wiping of the
   header, or a reader might look in between.
6. The pages that homes can hold back are bounded by `limit`, whoever evicts and however idle the owner is. What does
   not fit under the limit is published without a home and is an ordinary file from then on.
7. When the owner ends, its homes go with its namespace; what was published into a named namespace stays.
8. New files are filled by write, and through a mapping only where the pages are there already (`osio.huge`): a full
   file system is then an error and not SIGBUS.
9. A write that is interrupted, anywhere, leaves its segment free or whole and published: its claim ends with it, its
   lock too, and what counts bytes is counted anew when it matters (see `osio.leases` on interrupts).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from operator import attrgetter

from proxyfab.fork import on_fork
from proxyfab.osio.files import names_it, open_file
from proxyfab.osio.filling import LOOKS, NOBODY, Body, Claim, Segment, choose, fill, lay
from proxyfab.osio.leases import SETLK, lock, unlocking
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.namespace import Namespace
from proxyfab.osio.root import Root
from proxyfab.wire.slot import SIZE

Head = Callable[[int], bytes]
Publish = Callable[[str], None]
LEASES = ".leases"
"""The root's lock file; byte `home` of it stands for a segment."""
COUNT = 128
"""Segments in a pool at most."""
_NAME = ".s-"
_HOME = re.compile(rf"{re.escape(_NAME)}[0-9a-f]{{16}}")
_NUMBER_BITS = 16
_BLANK = bytes(SIZE)


class Pool:
    """The segments of this process under one root. Thread-safe; a forked child starts with none.

    Args:
        root: Path of the root.
        limit: Bytes that homes may hold back.
        count: Segments at most.
    """

    def __init__(self, root: str, limit: int, count: int = COUNT) -> None:
        self.root = root
        self.limit = limit
        self.count = count
        self._locks: list[int] = []
        """Descriptors of the lock file, the present one last. Others were removed; a thread may be busy under one."""
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """The child makes a pool of its own when it needs one; the parent's files are the parent's."""
        while self._locks:
            os.close(self._locks.pop())
        self._directory = ""
        self._unnamed = False
        self._base = 0
        self._guard = threading.RLock()  # reentrant: collecting garbage inside may end somebody who puts or evicts
        self._opening = threading.RLock()
        self._segments: dict[int, Segment] = {}
        self._clock = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return sum([segment.capacity for segment in list(self._segments.values())])

    def write(self, head: Head, body: Body, publish: Publish) -> None:
        """Fill a segment, warm where one fits, and publish it.

        Args:
            head: Makes the 64 bytes in front from the home (0: none).
            body: What stands behind them.
            publish: Gives the complete file at the given path its other name. What it raises comes out, and nothing
                stays.

        Raises:
            OSError: No space, among others; nothing stays.
        """
        claim = Claim()
        try:
            if not self._directory:
                self._open()
            need = SIZE + sum([len(part) for part in body])
            for segment in self._claims(need, claim):
                try:
                    if self._refill(segment, need, head, body, publish):
                        return
                finally:
                    self._unclaim(segment)
            if self._unnamed or not os.path.isdir(self._directory):
                self._open()  # anew: somebody removed it
            self._fresh(need, head, body, publish, claim)
        finally:
            claim.over = True

    def heard_free(self, home: int) -> None:
        """Take notice that the object of this home was evicted; homes of others are nothing to this pool."""
        segment = self._segments.get(home)
        if segment is not None:
            segment.hinted = True

    def trim(self) -> int:
        """Give free segments back to the file system; returns the bytes."""
        return sum(segment.capacity for segment in self._idle() if segment.free() is not False and self._drop(segment))

    def close(self) -> None:
        """Give all homes up; what is published stays with its readers."""
        for segment in self._idle():
            self._drop(segment)
        with self._opening:
            locks, self._locks, self._directory = self._locks, [], ""
        for fd in locks:
            os.close(fd)

    def __len__(self) -> int:
        return len(self._segments)

    def _open(self) -> None:
        """Make the pool's directory, anew if somebody removed it; one thread does it for all."""
        with self._opening:
            if not self._locks or not self._is_named(self._locks[-1]):
                self._locks.append(self._lock_file())
            self._unnamed = False
            if not os.path.isdir(self._directory):
                _, namespace = Lodging(self.root, None).open()
                with self._guard:
                    self._directory = namespace.path
                    self._segments.clear()

    def _lock_file(self) -> int:
        fd = os.open(f"{self.root}/{LEASES}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._base = int.from_bytes(os.urandom(8), "big") >> _NUMBER_BITS + 1 << _NUMBER_BITS
        try:
            lock(fd, self._base, exclusive=True)  # byte 0 of a pool is no segment's
        except OSError:
            self.limit = 0  # a file system without such locks: nothing can be recycled here
        return fd

    def _is_named(self, locks: int) -> bool:
        return names_it(f"{self.root}/{LEASES}", locks)

    def _is_outdated(self, segment: Segment) -> bool:
        """Whether it was made under a lock file that somebody has removed since."""
        return segment.home >> _NUMBER_BITS != self._base >> _NUMBER_BITS

    # -- who may fill what ---------------------------------------------------------------------------------------

    def _idle(self) -> list[Segment]:
        """Segments that no thread has claimed, those that were filled the longest ago first."""
        with self._guard:
            return sorted([s for s in list(self._segments.values()) if s.claim.over], key=attrgetter("used"))

    def _claims(self, need: int, claim: Claim) -> Iterator[Segment]:
        """Free segments that fit, one after the other, each claimed for this thread."""
        if need > self.limit:
            return
        with self._guard:
            known = [segment for segment in list(self._segments.values()) if segment.recycled and segment.claim.over]
        for segment in choose(known, need):
            free = self._look(segment)
            if free is None or self._is_outdated(segment):
                self._drop(segment)
                continue
            if not free:
                continue
            with self._guard:
                if not segment.claim.over or segment.home not in self._segments:
                    continue
                segment.claim = claim
            yield segment

    def _look(self, segment: Segment) -> bool | None:
        """Whether a segment is free; None when its home is gone."""
        segment.hinted = False  # first: what is heard meanwhile is news
        free = segment.free()
        if not free:
            segment.looked = self._tick()
        return free

    def _tick(self) -> int:
        with self._guard:
            self._clock += 1
            return self._clock

    def _unclaim(self, segment: Segment) -> None:
        segment.used = segment.looked = self._tick()
        segment.claim = NOBODY

    def _admit(self, need: int) -> bool:
        """Make room under the limit for a new segment of `need` bytes, at the expense of free ones."""
        if need > self.limit:
            return False
        self._shrink(need)
        if not self._has_room(need) and (idle := self._idle()):
            # All is published. Give up one home at random, or objects that stay for good would keep the pool for
            # themselves; the oldest would be wrong: in a queue it is the next to come back.
            self._drop(idle[int.from_bytes(os.urandom(4), "big") % len(idle)])
        return self._has_room(need)

    def _shrink(self, need: int = 0) -> None:
        """Give up free segments until `need` bytes fit, or until LOOKS were found taken."""
        taken = 0
        for segment in sorted(self._idle(), key=lambda segment: (not segment.hinted, segment.looked)):
            if taken == LOOKS or self._has_room(need):
                return
            if self._look(segment) is False:
                taken += 1
            else:
                self._drop(segment)

    def _settle(self) -> None:
        """Keep to the limit when a segment has grown: free ones go first, then homes of published ones."""
        self._shrink()
        for segment in self._idle():
            if self.nbytes <= self.limit:
                return
            self._drop(segment)

    def _has_room(self, need: int) -> bool:
        return self.nbytes + need <= self.limit and len(self._segments) < self.count + (not need)

    def _reserve(self, need: int, claim: Claim, *, recycled: bool) -> Segment:
        """A new claimed segment."""
        with self._guard:
            while True:
                home = self._base + self._tick() % ((1 << _NUMBER_BITS) - 1) + 1
                if home not in self._segments:
                    break
            segment = Segment(home, f"{self._directory}/{_NAME}{home:016x}", need, recycled=recycled)
            segment.claim = claim
            self._segments[home] = segment
            return segment

    def _drop(self, segment: Segment) -> bool:
        """Give a home up. A published segment becomes an ordinary file; readers need not be asked."""
        with self._guard:
            if not segment.claim.over or self._segments.pop(segment.home, None) is None:
                return False
        with contextlib.suppress(OSError):
            os.unlink(segment.path)
        return True

    def _release(self, segment: Segment) -> None:
        """Give up a segment that this thread has claimed."""
        segment.claim = NOBODY
        self._drop(segment)

    # -- filling -------------------------------------------------------------------------------------------------

    def _refill(self, segment: Segment, need: int, head: Head, body: Body, publish: Publish) -> bool:
        """Fill a claimed segment and publish it; False when a reader still has it, or it was taken away."""
        before, locks = segment.capacity, self._locks[-1]
        if self._is_outdated(segment):  # asked behind `locks`: they are made together
            return False
        with _locked(locks, segment.home) as mine:
            if not mine:
                return False
            fd = open_file(segment.path, os.O_RDWR)
            if fd is None:
                return False
            try:
                if os.fstat(fd).st_nlink != 1:  # another thread filled it between our look and our claim
                    return False
                os.pwrite(fd, _BLANK, 0)
                if not self._is_named(locks):  # a reader may have leased where we do not see it
                    self._unnamed = True
                    return False
                fill(segment, fd, need, body)
                os.pwrite(fd, head(segment.home), 0)
                lock(locks, segment.home, exclusive=False)
                try:
                    publish(segment.path)
                except BaseException:
                    if os.fstat(fd).st_nlink == 1:  # an interrupt may have come behind the giving of the name
                        os.pwrite(fd, _BLANK, 0)
                    raise
            finally:
                os.close(fd)
                if segment.capacity != before:
                    self._settle()
        return True

    def _fresh(self, need: int, head: Head, body: Body, publish: Publish, claim: Claim) -> None:
        """Fill a new file and publish it, with a home as far as the limit allows."""
        keep = self._admit(need)
        segment = self._reserve(need, claim, recycled=keep)
        try:
            locks = self._locks[-1]
            with _locked(locks, segment.home) as mine:  # against `trim_others`
                lay(segment, head(segment.home if keep else 0), need, body)
                if mine:
                    lock(locks, segment.home, exclusive=False)  # who looks at once is not to find it locked, and copy
                publish(segment.path)
        except BaseException:
            self._release(segment)
            raise
        if keep:
            self._unclaim(segment)
        else:
            self._release(segment)


@contextlib.contextmanager
def _locked(fd: int, home: int) -> Iterator[bool]:
    """The exclusive lock on a segment: whether it was to be had. It may be turned into a lease inside."""
    free = unlocking(home)
    try:
        try:
            mine = lock(fd, home, exclusive=True)
        except OSError:  # no such locks here: then nothing is recycled, and nothing needs to be kept from others
            mine = False
        yield mine
    finally:
        try:
            fcntl.fcntl(fd, SETLK, free)
        except OSError:  # as above
            pass


def trim_others(root: Root) -> int:
    """Give the free segments of every pool under a root back to the file system; returns the bytes.

    For when memory is short. A pool's owner finds out when it looks for the segment.
    """
    try:
        fd = os.open(f"{root.path}/{LEASES}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    freed = 0
    try:
        for namespace in root.namespaces():
            for name in _homes(namespace):
                with contextlib.suppress(OSError):  # whatever is wrong with one, another may do
                    freed += _take_away(fd, f"{namespace.path}/{name}", int(name.removeprefix(_NAME), 16))
    finally:
        os.close(fd)  # and with it every lock
    return freed


def _homes(namespace: Namespace) -> list[str]:
    with contextlib.suppress(OSError):
        if namespace.ephemeral:
            return [name for name in os.listdir(namespace.path) if _HOME.fullmatch(name)]
    return []


def _take_away(fd: int, path: str, home: int) -> int:
    if os.stat(path).st_nlink != 1:
        return 0
    with _locked(fd, home) as mine:
        found = os.stat(path)
        if not mine or found.st_nlink != 1:
            return 0
        os.unlink(path)
        return found.st_size
