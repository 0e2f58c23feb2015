"""Which segment to fill, and how: what is warm is copied to, what is missing is written, what is too much is cut off.

The choice is arithmetic; who may fill a segment, and when, is `osio.segments`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from operator import attrgetter

from proxyfab.buffers import Made
from proxyfab.osio.entries import write_new
from proxyfab.osio.files import MODE, Part, laid, write_all, write_at
from proxyfab.osio.huge import room_in
from proxyfab.osio.mapping import Mapping
from proxyfab.osio.memory import HUGE
from proxyfab.wire.slot import SIZE

Body = Sequence[Part]
LOOKS = 6
"""Segments that are looked at for one object in vain, at most: so a put costs the same however many objects live."""
_OLDEST = 2
_NEW = (os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,)
# Relative costs per byte, measured on tmpfs: a copy to warm pages is 1, the rest follows.
_FRESH = 5.0
_WORTH = 3.5
_CUT = 1.5
_SPARE = 25  # a segment may be larger than what it holds by one part in 25


class Claim:
    """Made for one write and over with it: what it claimed is free again then, whatever interrupted the write."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


NOBODY = Claim()
NOBODY.over = True


class Segment:
    """One file of a pool, as its owner knows it. Changed only by who has claimed it.

    Attributes:
        capacity: Bytes of the file; never more than it has, or a copy to its mapping would end in SIGBUS.
        recycled: Whether it may be filled again. One whose object says that it has no home is read without a lease.
        hinted: Whether this process has heard that it is free, which is to be looked at yet.
        used: When it was filled, on its pool's clock.
        looked: When it was filled, or found taken.
    """

    __slots__ = (
        "capacity",
        "claim",
        "hinted",
        "home",
        "looked",
        "mapping",
        "path",
        "populated",
        "recycled",
        "used",
    )

    def __init__(self, home: int, path: str, capacity: int, *, recycled: bool = True) -> None:
        self.home = home
        self.path = path
        self.capacity = capacity
        self.recycled = recycled
        self.mapping: Mapping | None = None
        self.populated = 0
        self.used = 0
        self.looked = 0
        self.hinted = False
        self.claim = NOBODY

    def free(self) -> bool | None:
        """Whether its home is its only name; None when it has no home any more."""
        try:
            return os.stat(self.path).st_nlink == 1
        except OSError:
            return None


def cost(capacity: int, need: int) -> float:
    """What it costs to put `need` bytes into a segment of that capacity; a copy of one byte to warm pages costs 1."""
    if capacity < need:
        return capacity + (need - capacity) * _FRESH
    spare = capacity - need
    return need + (spare * _CUT if spare > need // _SPARE else spare * 0.01)


def choose(segments: Iterable[Segment], need: int) -> list[Segment]:
    """The segments worth trying for `need` bytes, best first, LOOKS at most.

    Usually there are some that fit as they are; only without them costs are weighed, which takes a microsecond each.
    """
    most = need + need // _SPARE
    fitting = [segment for segment in segments if need <= segment.capacity <= most]
    if fitting:
        return _likely(sorted(fitting, key=_USED))
    worth = [segment for segment in segments if cost(segment.capacity, need) < need * _WORTH]
    return _likely(sorted(worth, key=lambda segment: (cost(segment.capacity, need), segment.used)))


def _likely(ordered: list[Segment]) -> list[Segment]:
    """Of segments of which the first are the best the likely ones to be free: what was heard of comes first, then the
    first two (in a queue the oldest comes back next), then those that were found taken the longest ago.
    """
    heard = [segment for segment in ordered if segment.hinted]
    if len(ordered) <= LOOKS:
        return heard + [segment for segment in ordered if not segment.hinted]
    rest = heard + ordered[:_OLDEST] + sorted(ordered[_OLDEST:], key=_LOOKED)
    return list(dict.fromkeys(rest))[:LOOKS]


_USED = attrgetter("used")
_LOOKED = attrgetter("looked")


def fill(segment: Segment, fd: int, need: int, body: Body) -> None:
    """Make the open file of a segment `need` bytes large, or little more, with `body` behind room for a header."""
    _fit(segment, fd, need)
    _copy(segment, fd, need, body)


def lay(segment: Segment, head: bytes, need: int, body: Body) -> None:
    """Make the file of a new segment, with `head` in front of `body`; large ones on huge pages, where there are any.

    Raises:
        OSError: No space, among others; there may be a file of that name then, of which its caller disposes.
    """
    if need >= HUGE:
        fds: list[int] = []
        try:
            fds.extend(map(os.open, (segment.path,), _NEW, MODE))  # opened and recorded by one call: see `osio.leases`
            found = room_in(fds[0], need, need + need // 4)
            if found is not None:
                segment.mapping, segment.populated = found
                segment.capacity = segment.populated
                fill(segment, fds[0], need, body)
                os.pwrite(fds[0], head, 0)
                return
        finally:
            if fds:
                os.close(fds[0])
        os.unlink(segment.path)
    write_new(segment.path, [head, *body])


def _fit(segment: Segment, fd: int, need: int) -> None:
    """Cut what is too much and map what is there."""
    if segment.capacity - need > need // _SPARE:
        segment.populated = min(segment.populated, need)
        segment.capacity = need  # first: an interrupt may come right behind the call
        os.ftruncate(fd, need)
    if segment.mapping is None or segment.mapping.length < need:
        # A fourth more than the file, so that a segment which grows a little need not be mapped, and touched, anew.
        segment.mapping = Mapping(fd, need + need // 4, writable=True)
        segment.populated = 0


def _copy(segment: Segment, fd: int, need: int, body: Body) -> None:
    """Copy to the pages that are there, and write what goes beyond them."""
    mapping, warm = segment.mapping, min(segment.capacity, need)
    assert mapping is not None
    if segment.populated < warm:
        mapping.populate(segment.populated, warm)
        segment.populated = warm
    try:
        if Made in map(type, body):
            _pour(mapping, fd, warm, body)
        else:
            views: Sequence[memoryview | bytes] = body  # type: ignore[assignment]  # as was just seen
            inner, outer = split(views, warm - SIZE)
            mapping.write(inner, SIZE)
            if outer:
                os.lseek(fd, warm, os.SEEK_SET)
                write_all(fd, outer)
    except BaseException:
        if warm < need:
            os.ftruncate(fd, segment.capacity)
        raise
    segment.capacity = max(segment.capacity, need)


def _pour(mapping: Mapping, fd: int, warm: int, body: Body) -> None:
    """Copy and write piece by piece what is made meanwhile."""
    for offset, piece in laid(body, SIZE):
        cut = min(max(warm - offset, 0), len(piece))
        mapping.write((memoryview(piece)[:cut],), offset)
        if cut < len(piece):
            write_at(fd, memoryview(piece)[cut:], offset + cut)


def split(body: Sequence[memoryview | bytes], at: int) -> tuple[list[memoryview | bytes], list[memoryview | bytes]]:
    """The parts of the first `at` bytes and the parts behind them; copies nothing."""
    inner: list[memoryview | bytes] = []
    outer: list[memoryview | bytes] = []
    for part in body:
        if at >= len(part):
            inner.append(part)
        elif at <= 0:
            outer.append(part)
        else:
            view = memoryview(part)
            inner.append(view[:at])
            outer.append(view[at:])
        at -= len(part)
    return inner, outer
