"""Walking a namespace of object files: listing, clearing, taking back what expired or was left half-written.

Promises: only fan-out directories are entered (two hexadecimal digits) and only what is ours is removed there: files
that carry a slot header, damaged ones under a drawn key's name, temporaries whose writer has ended. The rest stays.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from proxyfab.abc import Reclaimed
from proxyfab.errors import IntegrityError
from proxyfab.osio.clock import Clock
from proxyfab.osio.files import OLD, TEMPORARY, is_abandoned, open_file
from proxyfab.osio.objects import fan_of, guard, id_of, is_object, read_slot, remove_dead
from proxyfab.osio.swap import take
from proxyfab.wire import remains
from proxyfab.wire.slot import SIZE, Slot, unpack

_FAN = re.compile(r"[0-9a-f]{2}$")
_DRAWN = re.compile(r"[0-9a-f]{32}$")


class Found(NamedTuple):
    """An object file."""

    path: str
    id: str
    slot: Slot


def objects(namespace: str) -> Iterator[Found]:
    """Every object file of a namespace, expired ones too; those that cannot be read are left out."""
    for path, name in _files(namespace):
        found = _open(path, name) if is_object(name) else None
        if found is not None:
            yield found


def clear(namespace: str, clock: Clock, *, locks: bool) -> int:
    """Remove every object of a namespace, as `swap.take` does; says how many were alive."""
    count = 0
    for path, name in _files(namespace):
        if name.startswith(TEMPORARY):
            _remove_abandoned(path, name, clock, dry_run=False)
        elif is_object(name):
            found = _open(path, name)
            if found is not None or _is_damaged(path, name):
                count += take(path, locks=locks) and (found is None or clock.alive(found.slot))
    return count


def reap(namespace: str, clock: Clock, *, dry_run: bool) -> list[Reclaimed]:
    """Remove expired objects, and temporaries that nobody writes any more."""
    taken = []
    for path, name in _files(namespace):
        if name.startswith(TEMPORARY):
            nbytes = _remove_abandoned(path, name, clock, dry_run=dry_run)
            if nbytes is not None:
                taken.append(Reclaimed(path, nbytes, "its writer ended before it was complete"))
        elif is_object(name):
            expired = _remove_expired(namespace, path, name, clock, dry_run)
            if expired is not None:
                taken.append(expired)
            elif _is_damaged(path, name) and _is_cut_off(path, clock):
                nbytes = os.path.getsize(path)
                if dry_run or _unlink(path):
                    taken.append(Reclaimed(path, nbytes, "its writer ended before it was complete"))
    return taken


def _files(namespace: str) -> Iterator[tuple[str, str]]:
    for fan in sorted(filter(_FAN.match, _names(namespace))):
        for name in _names(f"{namespace}/{fan}"):
            yield f"{namespace}/{fan}/{name}", name


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _open(path: str, name: str) -> Found | None:
    try:
        fd = open_file(path)
    except IntegrityError:
        return None
    if fd is None:
        return None
    try:
        slot = read_slot(fd, path)
        return Found(path, id_of(name, fd, slot), slot)
    except (IntegrityError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)


def _is_damaged(path: str, name: str) -> bool:
    fan = os.path.basename(os.path.dirname(path))
    return bool(_DRAWN.match(name)) and fan_of(name) == fan and os.path.isfile(path) and not os.path.islink(path)


def _is_cut_off(path: str, clock: Clock) -> bool:
    """Whether a file has less bytes than its header tells, or none, and has not grown for a day."""
    fd = open_file(path)
    if fd is None:
        return False
    try:
        status = os.fstat(fd)
        cut = not status.st_size or unpack(os.pread(fd, SIZE, 0)).total > status.st_size
        return cut and clock.now() - status.st_mtime >= OLD
    except IntegrityError:
        return False
    finally:
        os.close(fd)


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _remove_expired(namespace: str, path: str, name: str, clock: Clock, dry_run: bool) -> Reclaimed | None:
    found = _open(path, name)
    if found is None or clock.alive(found.slot):
        return None
    expired = Reclaimed(path, found.slot.length, remains.reason(_head(path)))
    if dry_run:
        return expired
    with guard(namespace):  # it may have been renewed, or replaced, meanwhile
        return None if remove_dead(path, clock) is None else expired


def _head(path: str) -> bytes:
    fd = open_file(path)
    if fd is None:
        return b""
    try:
        return os.pread(fd, remains.HEAD, SIZE)
    finally:
        os.close(fd)


def _remove_abandoned(path: str, name: str, clock: Clock, *, dry_run: bool) -> int | None:
    try:
        status = os.lstat(path)
        if not is_abandoned(name, status.st_mtime, clock.now()):
            return None
        if not dry_run:
            os.unlink(path)
    except FileNotFoundError:
        return None
    return status.st_size
