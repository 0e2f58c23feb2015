"""Huge pages for new files in shared memory: 2 MiB are made at once, where 512 pages of 4 KiB cost three times as much.

Whoever writes to a new file of tmpfs gets small pages, also where the kernel could do better, unless it was mounted
otherwise. `MADV_COLLAPSE` (Linux 6.1) has a file's pages made into huge ones, those that are not there yet included: so
one small page is written in each 2 MiB, and the rest comes with it. Readers who map the file at an address that is a
multiple of 2 MiB, as `Mapping` does, find each by one fault.

Promises: what was made is there, so that no write to it finds the file system full; a process that is refused, or for
which it takes longer than small pages would, stops, and does not ask again for a while; where huge pages were switched
off (`never`) none are asked for.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from proxyfab.osio.mapping import PAGE, STEP, Mapping, advise

LEAST = 2
"""Huge pages below which it is not worth the calls."""
REST = 30.0
"""Seconds for which nothing is asked for after it was refused."""
COLD = 1.0
"""Seconds for which nothing is asked for after it took long."""
_COLLAPSE = 25
_SLOW = 0.001
"""Seconds of processor time for a huge page that say that it had to be made room for, or that the host of a virtual
machine has to give it first. Small ones cost as much."""
_LATE = 0.002
"""The same of all time: each call waits until every processor has done something, behind whatever it is busy with."""
_PART = 10
"""So many times as long as it was late nothing is asked for: that is what waiting costs at most, as a part of all."""
_AT_ONCE = 16
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class _Luck:
    """Whether this process asks: None before it has looked."""

    allowed: bool | None = None
    rests_until = 0.0
    at_once = 1
    """Pages for the next call: one to see what it costs, and more where that was well."""


def room_in(fd: int, need: int, length: int) -> tuple[Mapping, int] | None:
    """Make the first bytes of a new, empty file on huge pages.

    Args:
        fd: The file; its length is that of the huge pages then.
        need: Bytes that it is to have: what does not fill a huge page is left to others.
        length: Bytes to map.

    Returns:
        The mapping, writable, and how many bytes are there; None where it could not be, and the file is of any length.
    """
    count = need // STEP
    if count < LEAST or not _asks():
        return None
    with suppress(OSError):  # there is no room: who writes then says so
        mapping = Mapping(fd, length, writable=True)
        if mapping.address % STEP == 0:
            os.ftruncate(fd, count * STEP)
            made = _made(fd, mapping.address, count)
            if made:
                os.ftruncate(fd, made * STEP)
                return mapping, made * STEP
    _Luck.rests_until = time.monotonic() + REST
    return None


def _made(fd: int, address: int, count: int) -> int:
    """Make huge pages of the first ones; returns how many."""
    for number in range(count):
        os.pwrite(fd, b"\0", number * STEP)
    done = 0
    while done < count:
        some = min(_Luck.at_once, count - done)
        before, began = time.thread_time(), time.monotonic()
        if advise(address + done * STEP, some * STEP, _COLLAPSE):
            _Luck.rests_until = time.monotonic() + REST
            break
        done += some
        slow, took = time.thread_time() - before > _SLOW * some, time.monotonic() - began
        _Luck.at_once = 1 if slow else _AT_ONCE
        if slow or took > _LATE * some:
            _Luck.rests_until = time.monotonic() + (COLD if slow else _PART * took)
            break
    return done


def _asks() -> bool:
    if _Luck.allowed is None:
        _Luck.allowed = PAGE == 4096 and _is_on()
    return _Luck.allowed and time.monotonic() >= _Luck.rests_until


def _is_on() -> bool:
    try:
        return "[never]" not in _SWITCH.read_text()
    except OSError:
        return False
