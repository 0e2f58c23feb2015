"""Compare and set, for objects that are files: change what lies under a name only if it is still what one believes.

Rules:
1. In shared memory, and in a directory on a local file system, whoever takes a name away or moves it holds the lock of
   the file that has it (`osio.entries`); so the look and the change are one step here for everybody. Those who put a
   file in another's place in a directory hold the namespace's Guard as well.
2. On a network file system such a lock costs a round trip and more, and those who evict hold nothing. So a name is
   exchanged with the new file's (`renameat2`), never just overwritten: where it is gone by then somebody evicted it,
   and where another object came out of the exchange that is put back. Who is killed in between, in microseconds, leaves
   that one in a temporary. A file system that cannot exchange overwrites; then an evict between look and change may
   pass unseen.
3. But for that, whoever is killed leaves the old object or the new one under the name, and at most a temporary beside.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import TypeAlias

from proxyfab.abc import BaseConnector, check_swap, check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import IntegrityError, KeyExists
from proxyfab.keys import Key
from proxyfab.osio import entries
from proxyfab.osio.clock import Clock
from proxyfab.osio.files import (
    NoLinks,
    check_regular,
    discard,
    link_new,
    open_file,
    sync_directory,
    temporary_name,
    translate,
)
from proxyfab.osio.objects import Writing, guard, read_slot
from proxyfab.wire.slot import SIZE

Over: TypeAlias = bool | Frames
"""What a new object may be put over: True anything, False nothing that is alive, Frames an object of just these bytes,
which must be there."""
_AT_FDCWD = -100
_EXCHANGE = 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
_libc = ctypes.CDLL(None, use_errno=True)


def holds(fd: int, expected: Frames, clock: Clock) -> bool:
    """Whether an open object file is alive, by its root's clock, and holds exactly these bytes."""
    slot = entries.slot_of(fd)
    if slot is None or slot.length != expected.nbytes or not clock.alive(slot):
        return False
    return os.pread(fd, slot.length, SIZE) == expected.tobytes()  # copies, of what is small by contract


# -- shared memory -------------------------------------------------------------------------------------------------


def in_memory(
    clock: Clock, path: str, old: Frames | None, new: Frames | None, put: Callable[[Frames, Over], object]
) -> bool:
    """Compare and set the object file `path`; `put(new, over)` writes one and has it published over what may go."""
    check_swap(old, new)
    try:
        if new is not None:
            put(new, False if old is None else old)
            return True
        if old is not None:
            return entries.take_away(path, lambda fd: holds(fd, old, clock))
        fd = open_file(path)
    except KeyExists:
        return False
    except OSError as error:
        raise translate(error, "change", path) from error
    try:
        return fd is None or not entries.is_live(fd, clock.now())
    finally:
        if fd is not None:
            os.close(fd)


def publish_over(clock: Clock, target: str, over: Over, source: str) -> None:
    """Give the complete file `source` the name `target` as well.

    Args:
        clock: The root's.
        target: The name.
        over: What may lose it.
        source: Any other name of the file, on the same file system.

    Raises:
        KeyExists: Something else has it.
    """
    if isinstance(over, Frames):
        done = _replace(clock, source, target, over)
    else:
        done = entries.publish(source, target, lambda fd: over or not entries.is_live(fd, clock.now()))
    if not done:
        raise KeyExists(f"{target} is there already; objects are written once (say replace=True).")


def _replace(clock: Clock, source: str, target: str, old: Frames) -> bool:
    fd = entries.open_held(target)
    if fd is None:
        return False
    try:
        if not holds(fd, old, clock):
            return False
        entries.move(source, target)
        return True
    finally:
        os.close(fd)


# -- directories ---------------------------------------------------------------------------------------------------


def first(connector: BaseConnector, key: Key, new: Frames | None, ttl: float | None) -> bool:
    """Put `new`, if it is one, where nothing lies; whether nothing did."""
    check_swap(None, new)
    try:
        return not connector.exists(key) if new is None else bool(connector.put(new, key=key, ttl=ttl))
    except KeyExists:
        return False


def in_directory(
    namespace: str,
    path: str,
    id: str,
    old: Frames,
    new: Frames | None,
    ttl: float | None,
    writing: Writing,
    *,
    locks: bool,
) -> bool:
    """Put `new` (None: nothing) in the place of an object of just these bytes; whether it was there.

    Args:
        namespace: Path of the namespace.
        path: Of the object, in one of its directories.
        id: Of its key.
        old: What should lie there.
        new: What shall.
        ttl: Seconds until that expires; None for never.
        writing: How objects are written there.
        locks: Whether those who evict hold the file's lock (`take_away`); rules 1 and 2.
    """
    check_swap(old, new)
    check_ttl(ttl)
    temporary = f"{os.path.dirname(path)}/{temporary_name()}"
    try:
        try:
            if new is not None:
                writing.whole(temporary, id, new, writing.clock.after(ttl))
            with guard(namespace):
                swap = _replace_held if locks else _swap
                done = swap(path, temporary, old, writing.clock, put=new is not None)
        finally:
            discard(temporary)
        if done and writing.durable:
            sync_directory(os.path.dirname(path))
        return done
    except FileNotFoundError:  # not even its directory is there
        return False
    except OSError as error:
        raise translate(error, "change", path) from error


def take(path: str, *, locks: bool) -> bool:
    """Take away whatever has a name; False where nothing has."""
    if locks:
        return entries.take_away(path, lambda _: True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def evict(path: str, clock: Clock) -> bool | None:
    """Take away the object that has a name, in a local directory; None where none has, False for an expired one."""
    looked: list[bool] = []

    def may_go(fd: int) -> bool:
        looked.append(is_evictable(fd, path, clock))
        return looked[-1]

    gone = entries.take_away(path, may_go)
    return gone if looked else None


def is_evictable(fd: int, path: str, clock: Clock) -> bool:
    """Whether an open object file is there to be evicted: not an expired one, but a damaged one."""
    check_regular(fd, path)
    try:
        return clock.alive(read_slot(fd, path))
    except IntegrityError:
        return True


def _replace_held(path: str, temporary: str, old: Frames, clock: Clock, *, put: bool) -> bool:
    fd = entries.open_held(path)
    if fd is None:
        return False
    try:
        if not holds(fd, old, clock):
            return False
        if put:
            os.rename(temporary, path)
        else:
            os.unlink(path)
        return True
    finally:
        os.close(fd)


def _swap(path: str, temporary: str, old: Frames, clock: Clock, *, put: bool) -> bool:
    fd = open_file(path)
    if fd is None:
        return False
    try:
        if not holds(fd, old, clock):
            return False
        if not put:
            os.rename(path, temporary)
        elif not _exchange(temporary, path):
            os.rename(temporary, path)
            return True
        if os.stat(temporary).st_ino == os.fstat(fd).st_ino:
            return True
        _put_back(temporary, path, exchange=put)
        return False
    finally:
        os.close(fd)


def _put_back(temporary: str, path: str, *, exchange: bool) -> None:
    """What came out was put there since we looked."""
    try:
        if exchange and _exchange(temporary, path):
            return
    except FileNotFoundError:  # somebody evicted what we had put there for a moment
        pass
    try:
        link_new(temporary, path)
    except NoLinks:
        os.rename(temporary, path)


def _exchange(one: str, other: str) -> bool:
    """Let two names change places; False where the file system cannot."""
    try:
        rename = _libc.renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), other)
