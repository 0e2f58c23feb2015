"""Object files: a slot header and a payload, under a name that its key's id tells.

Rules:
1. Whoever has a key finds a complete object or none: it is written under a temporary name in the same directory and
   then renamed, or linked where the name must be free. Only under a key that was drawn for it, which nobody has before
   `put` returns, and where a power cut need not be survived, is it written at once under its own name: that saves a
   third of the time of a small put. What a killed writer leaves there is cut off; listing skips it, reaping takes it.
2. Whoever removes or overwrites what may be somebody's object because of what it read before (it expired; replace it)
   does that under the namespace's `guard`, so that nothing acknowledged is lost in between.
3. A length is believed only as far as the file really reaches.
4. `durable` means: data, name and directory have reached the disk when the write returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from operator import call
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError
from proxyfab.osio.clock import Clock
from proxyfab.osio.files import (
    MODE,
    NEW,
    PIECE,
    NoLinks,
    Part,
    check_regular,
    discard,
    link_new,
    make_directory,
    open_file,
    sync_directory,
    temporary_name,
    write_all,
)
from proxyfab.osio.mapping import Mapping, window
from proxyfab.osio.memory import allocate
from proxyfab.osio.owner import try_lock, wait_lock
from proxyfab.wire.slot import SIZE, Slot, header, id_hash, pack, unpack

MAPPED_FROM = 256 * 1024
"""Payloads below are read: that takes no longer than mapping them, and their file is closed at once."""
_FIRST = 16 * 1024  # what comes with the header in one call; most small objects are whole then
RESERVED_FROM = 2**20
"""From here on the space is reserved before writing, where that is quick: ext4 then writes a third faster."""
_RESERVES = frozenset({"ext4", "xfs"})
FANS = 16
"""Directories that a namespace of `file://` fans out to. A root's marker says so (`osio.root`)."""
_FANS = [f"{number:02x}" for number in range(FANS)]
_LONGEST = 200
_RENEWED = 3


def fan_of(id: str) -> str:
    """One of 16 directories, so that none gets too large soon for file systems that search them entry by entry.

    Not more: making one doubles the time of the put that needs it, each is brought to the disk behind a `put_many`,
    and disks place the files of one directory together.
    """
    return _FANS[crc32(id.encode()) & FANS - 1]


def name_of(id: str) -> str:
    """The file's name of an id: itself where it can be, quoted where it must be, a hash where that gets too long."""
    if id.isalnum() and id.isascii():
        return id
    name = quote(id, safe=" ,:+").replace(".", "%2E", 1 if id.startswith(".") else 0)
    return name if len(name) <= _LONGEST else "=" + blake2b(id.encode(), digest_size=32).hexdigest()


def place_of(namespace: str, id: str) -> tuple[str, str]:
    """Directory and path of an id's object: `fan_of` and `name_of`, spelt out for the usual ids."""
    directory = f"{namespace}/{_FANS[crc32(id.encode()) & FANS - 1]}"
    return directory, f"{directory}/{id if id.isalnum() and id.isascii() else name_of(id)}"


def id_of(name: str, fd: int, slot: Slot) -> str:
    """The inverse of `name_of`; a hashed name's id stands behind the payload."""
    if not slot.id_length:
        return unquote(name)
    return os.pread(fd, slot.id_length, SIZE + slot.length).decode()


def is_object(name: str) -> bool:
    """Whether a directory entry may be an object: temporaries and our own files begin with a dot."""
    return not name.startswith(".")


class Name(enum.Enum):
    """What may lie under the name of an object to be written."""

    DRAWN = "nothing, and nobody knows it"
    FREE = "nothing that is alive"
    REPLACED = "anything"


class Writing:
    """How objects are written: on which kind of file system, by which clock they expire, and whether they must survive
    a power cut.
    """

    __slots__ = ("clock", "durable", "reserve")

    def __init__(self, kind: str, clock: Clock, *, durable: bool) -> None:
        self.clock = clock
        self.durable = durable
        self.reserve = kind in _RESERVES

    def write(self, namespace: str, path: str, name: Name, id: str, frames: Frames, expires: float) -> None:
        """Write an object to `path`, in a directory that must exist.

        Raises:
            FileExistsError: The name should be FREE, and an object that is alive has it.
            OSError: What the operating system says; then nothing is left behind.
        """
        if name is Name.DRAWN and not self.durable:
            self.whole(path, id, frames, expires)
            return
        temporary = f"{os.path.dirname(path)}/{temporary_name()}"
        self.whole(temporary, id, frames, expires)
        try:
            if name is Name.DRAWN:
                os.rename(temporary, path)
            elif name is Name.REPLACED:
                with guard(namespace):
                    os.rename(temporary, path)
            else:
                _claim(temporary, path, namespace, self.clock)
        except BaseException:
            discard(temporary)
            raise

    def whole(self, path: str, id: str, frames: Frames, expires: float) -> None:
        """Write an object under a path that nobody has or knows; whatever fails, nothing is left there."""
        tail = b"" if (id.isalnum() and id.isascii()) or name_of(id)[0] != "=" else id.encode()
        start = header(frames.nbytes, time.time(), expires, id_hash(id), len(tail))
        parts: list[Part] = [start, *frames.parts]
        if tail:
            parts.append(tail)
        fds: list[int] = []
        total = SIZE + frames.nbytes + len(tail)
        try:
            try:
                fds.extend(map(os.open, (path,), NEW, MODE))  # opened and recorded by one call: see `osio.leases`
                if self.durable or total >= RESERVED_FROM:
                    self._fill(fds[0], parts, total)
                else:
                    write_all(fds[0], parts)
            finally:
                if fds:
                    os.close(fds[0])  # reports what a network file system could not write
        except FileExistsError:  # somebody else's
            raise
        except BaseException:
            discard(path)
            raise

    def _fill(self, fd: int, parts: Sequence[Part], total: int) -> None:
        if self.reserve and total >= RESERVED_FROM:
            os.posix_fallocate(fd, 0, total)
        write_all(fd, parts, _start_writeback if self.durable and total > PIECE else None)
        if self.durable:
            os.fsync(fd)


def _claim(temporary: str, target: str, namespace: str, clock: Clock) -> None:
    """Give a complete temporary a name that must be free; FileExistsError when an object that is alive has it."""
    while True:
        try:
            link_new(temporary, target)
            discard(temporary)
            return
        except FileExistsError:
            if is_alive(target, clock):
                raise
            with guard(namespace):
                remove_dead(target, clock)
        except NoLinks:
            with guard(namespace):
                if is_alive(target, clock):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
                os.rename(temporary, target)
            return


def make_fan(namespace: str, directory: str, *, durable: bool) -> None:
    """Make a fan-out directory; FileNotFoundError when the namespace is gone."""
    make_directory(directory)
    if durable:
        sync_directory(namespace)


def read_slot(fd: int, path: str, id: str | None = None) -> Slot:
    """The header of an open object.

    Raises:
        IntegrityError: The file is not whole, not ours, or (`id` given) another key's.
    """
    return _checked(os.pread(fd, SIZE, 0), fd, os.fstat(fd).st_size, path, id)


def _checked(data: bytes, fd: int, available: int, path: str, id: str | None) -> Slot:
    try:
        slot = unpack(data, available=available)
    except IntegrityError:
        slot = _read_again(fd, available, path)
    if id is not None and slot.id_hash != id_hash(id):
        raise IntegrityError(f"{path} holds the object of another key than {id!r}; was it renamed? Evict it.")
    return slot


def _read_again(fd: int, available: int, path: str) -> Slot:
    """The header that made no sense: a renewal may have been rewriting it just then."""
    for attempt in range(_RENEWED):
        try:
            return unpack(os.pread(fd, SIZE, 0), available=available)
        except IntegrityError as error:
            if attempt == _RENEWED - 1:
                check_regular(fd, path)
                raise IntegrityError(
                    f"{path} is damaged or foreign: {error}. Evict it, put the object again."
                ) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def read_object(fd: int, path: str, id: str, *, mapped: bool) -> tuple[Slot, memoryview]:
    """Header and payload of an open object: mapped (`mapped` and large), or read. See `read_slot` for errors."""
    data = os.pread(fd, _FIRST, 0)
    available = len(data)
    if available == _FIRST:
        available = os.fstat(fd).st_size
        if _FIRST < available < MAPPED_FROM + SIZE:
            data = os.pread(fd, available, 0)
            available = len(data)
    if available < MAPPED_FROM + SIZE:
        slot = _checked(data, fd, available, path, id)
        return slot, memoryview(data)[SIZE : SIZE + slot.length]
    slot = _checked(data, fd, available, path, id)
    if mapped:
        try:
            return slot, window(Mapping(fd, SIZE + slot.length), SIZE, slot.length)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EMFILE, errno.ENODEV, errno.EAGAIN, errno.EACCES):
                raise  # else: too many mappings, or a file system that cannot map: read it
    return slot, read_range(fd, path, SIZE, slot.length)


def read_range(fd: int, path: str, offset: int, length: int) -> memoryview:
    """Exactly `length` bytes from `offset`, in pieces between which signals are handled."""
    if length < MAPPED_FROM:
        small = os.pread(fd, length, offset)
        if len(small) == length:
            return memoryview(small)
    block = allocate(length)
    done = 0
    while done < length:
        count = os.preadv(fd, [block[done : done + PIECE]], offset + done)
        if not count:
            raise IntegrityError(f"{path} was cut off while it was read: {done} of {length} bytes. Evict it.")
        done += count
    return block.toreadonly()


def is_alive(path: str, clock: Clock) -> bool:
    """Whether there is an object that has not expired; one that cannot be understood is not ours to take for dead."""
    fd = open_file(path)
    if fd is None:
        return False
    try:
        return clock.alive(read_slot(fd, path))
    except IntegrityError:
        return True
    finally:
        os.close(fd)


def remove_dead(path: str, clock: Clock) -> int | None:
    """Under the guard: unlink an object if it has expired; returns its payload's length, None when it has not."""
    fd = open_file(path)
    if fd is None:
        return None
    try:
        slot = read_slot(fd, path)
    except IntegrityError:
        return None
    finally:
        os.close(fd)
    if clock.alive(slot):
        return None
    discard(path)
    return slot.length


def renew(path: str, id: str, ttl: float | None, writing: Writing) -> bool:
    """Under the guard: move an object's expiry in place; False when it is missing or expired.

    64 bytes inside one page are written by one call. A reader that meets the old and the new half sees the checksum
    fail and reads again.
    """
    fd = open_file(path, os.O_RDWR)
    if fd is None:
        return False
    try:
        slot = read_slot(fd, path, id)
        if not writing.clock.alive(slot):
            return False
        os.pwrite(fd, pack(slot._replace(expires=writing.clock.after(ttl))), 0)
        if writing.durable:
            os.fdatasync(fd)
        return os.fstat(fd).st_nlink > 0
    finally:
        os.close(fd)


@contextlib.contextmanager
def guard(namespace: str) -> Iterator[None]:
    """The lock of a namespace's slow ways (rule 2): one at a time among threads, processes and, where the file system
    carries locks, machines. Held for a few system calls; whoever waits ten seconds for it is told.

    A generator, since one that an interrupt leaves behind is closed as it is collected (`osio.leases` on interrupts).
    What garbage collection ends in here may come back, in this very thread, which would wait for itself: it goes on.
    """
    path = f"{namespace}/.lock"
    within: set[str] = vars(_here).setdefault("within", set())
    held: list[Any] = []
    steps: list[Any] = [os.close]  # and the lock goes with it
    back = map(call, steps, held)
    try:
        held.extend(map(os.open, (path,), (os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,), (0o600,)))
        if path not in within or try_lock(held[0]) is not False:
            wait_lock(held[0], path)
            steps.append(within.discard)
            held.append(path)
            within.add(path)
        yield
    finally:
        any(back)


_here = threading.local()
"""Where this thread is `within`, as far as it knows: it looks at the lock, too."""
_START_WRITE = 2


def _start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the disk begin with these bytes while the next ones are copied; fsync then finds half of its work done."""
    with contextlib.suppress(AttributeError):  # not every libc has it, and it is but a hint
        _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _START_WRITE)


_libc = ctypes.CDLL(None)
