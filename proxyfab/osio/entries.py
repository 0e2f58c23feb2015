"""Entries of a namespace in shared memory: names that are given once, moved and taken away only under a lock.

Rules:
1. A file gets its object's name when it is complete, by `link`, which fails when the name is taken.
2. Whoever takes a name away or moves it to another file holds the `flock` of the file that it names and has seen, under
   that lock, that it still names it. So to look at a file and to act on its name is one step in the eyes of others: who
   reaps an expired object cannot hit the new one that was put in its place meanwhile.
3. Nobody waits while holding such a lock, and it is freed by the kernel with its process: it is held for microseconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxyfab.errors import IntegrityError
from proxyfab.osio.files import (
    MODE,
    NEW,
    TEMPORARY,
    Part,
    is_abandoned,
    names_it,
    open_file,
    temporary_name,
    translate,
    write_all,
)
from proxyfab.osio.namespace import Namespace
from proxyfab.osio.objects import id_of
from proxyfab.osio.owner import wait_lock
from proxyfab.wire import remains
from proxyfab.wire.slot import SIZE, Slot, id_hash, unpack

_UNFINISHED_AFTER = 60.0
"""Seconds after which a file that is shorter than its header says has lost its writer."""


class Entry(NamedTuple):
    """An object file that was looked at."""

    id: str
    slot: Slot


def write_new(path: str, parts: Sequence[Part]) -> None:
    """A new file, whole or not at all."""
    fds: list[int] = []
    try:
        fds.extend(map(os.open, (path,), NEW, MODE))  # opened and recorded by one call: see `osio.leases`
        write_all(fds[0], parts)
    except FileExistsError:  # somebody else's
        raise
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise
    finally:
        if fds:
            os.close(fds[0])


def write_beside(path: str, parts: Sequence[Part], publish: Callable[[str], object]) -> None:
    """A new file under a temporary name in the directory of `path`, for as long as `publish` gives it another."""
    temporary = f"{os.path.dirname(path)}/{temporary_name()}"
    try:
        write_new(temporary, parts)
        publish(temporary)
    finally:
        try:
            os.unlink(temporary)  # called here and not in a function, which an interrupt may keep from beginning
        except FileNotFoundError:  # what was not written whole is gone already
            pass


def open_held(path: str, flags: int = os.O_RDONLY) -> int | None:
    """Open the file at `path` and hold its lock; None when there is none. Closing it lets go.

    Raises:
        IntegrityError: Something that is no file has that name.
        ConnectorError: Somebody has held the lock for ten seconds.
        OSError: What the operating system says.
    """
    while True:
        fd = open_file(path, flags)
        if fd is None:
            return None
        try:
            wait_lock(fd, path)
            if names_it(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def publish(source: str, target: str, may_replace: Callable[[int], bool]) -> bool:
    """Give the complete file `source` the name `target` as well; False when it is taken.

    Args:
        source: Any other name of the file, on the same file system.
        target: The name.
        may_replace: Asked with the open file that has the name now, whether it may lose it.
    """
    while True:
        try:
            os.link(source, target)
        except FileExistsError:
            fd = open_held(target)
        else:
            return True
        if fd is None:
            continue
        try:
            if not may_replace(fd):
                return False
            move(source, target)
            return True
        finally:
            os.close(fd)


def move(source: str, target: str) -> None:
    """Give the file `source` the name `target` as well, whatever has it; under the lock of what has it (rule 2)."""
    temporary = f"{os.path.dirname(target)}/{temporary_name()}"
    try:
        os.link(source, temporary)
        os.rename(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def take_away(path: str, may_go: Callable[[int], bool]) -> bool:
    """Take the name away if there is one and `may_go(its open file)`; whether it was."""
    fd = open_held(path)
    if fd is None:
        return False
    try:
        if not may_go(fd):
            return False
        os.unlink(path)
        return True
    except FileNotFoundError:  # its owner has died, and whoever reaped took the whole namespace
        return False
    finally:
        os.close(fd)


def take_object(path: str, may_go: Callable[[int], bool]) -> Slot | None:
    """Like `take_away`; the header of what is gone, None where nothing is or where it was damaged."""
    slot: Slot | None = None

    def looked_at(fd: int) -> bool:
        nonlocal slot
        slot = slot_of(fd)
        return may_go(fd)

    return slot if take_away(path, looked_at) else None


def slot_of(fd: int) -> Slot | None:
    """The header of an open file; None when it is damaged, or not complete."""
    try:
        return unpack(os.pread(fd, SIZE, 0), available=os.fstat(fd).st_size)
    except IntegrityError:
        return None


def is_live(fd: int, now: float) -> bool:
    """Whether the open file holds an object that can be read and has not expired, by its root's clock."""
    slot = slot_of(fd)
    return slot is not None and slot.alive(now)


def look(namespace: Namespace, name: str, now: float) -> Entry | None:
    """The object under a name that is live by its root's clock; None when there is none, or a damaged one."""
    try:
        fd = open_file(f"{namespace.path}/{name}")
    except (OSError, IntegrityError):
        return None
    if fd is None:
        return None
    try:
        slot = slot_of(fd)
        if slot is None or not slot.alive(now):
            return None
        id = id_of(name, fd, slot)
        return Entry(id, slot) if id_hash(id) == slot.id_hash else None
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)


def entries(namespace: Namespace, *, temporaries: bool = False) -> list[str]:
    """Names of a namespace's object files, and of what is being written."""
    try:
        found = os.listdir(namespace.path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise translate(error, "list", namespace.path) from error
    return [name for name in found if name[0] != "." or (temporaries and name.startswith(TEMPORARY))]


def lost(name: str, fd: int, now: float) -> str:
    """Why nobody needs an open file any more, by its root's clock; empty when somebody may."""
    wall, modified = time.time(), os.fstat(fd).st_mtime
    if name.startswith(TEMPORARY):
        return "its writer ended before it was complete" if is_abandoned(name, modified, wall) else ""
    slot = slot_of(fd)
    if slot is not None:
        return "" if slot.alive(now) else remains.reason(os.pread(fd, remains.HEAD, SIZE))
    old = wall - modified > _UNFINISHED_AFTER
    return "its writer ended before it was complete" if old and _is_unfinished(fd) else ""


def _is_unfinished(fd: int) -> bool:
    """Whether a file was begun as an object and not finished; damaged ones are for their user to judge."""
    header = os.pread(fd, SIZE, 0)
    try:
        return len(header) < SIZE or unpack(header).total > os.fstat(fd).st_size
    except IntegrityError:
        return False
