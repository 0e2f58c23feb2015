"""Buffers and Frames: bytes in pieces that are joined only when somebody asks.

Promises: no payload byte is copied here but by `join` and `copy_into`, and both say so. Leaves the meaning of the
bytes to `wire`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer as _Buffer

    Buffer: TypeAlias = _Buffer
else:
    Buffer = object

_EMPTY = memoryview(b"")


def byte_view(buffer: Buffer) -> memoryview:
    """One-dimensional unsigned-byte view of any buffer; copies nothing, unless there are gaps between its elements."""
    view = memoryview(buffer)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view
    if view.nbytes == 0:
        return _EMPTY
    if view.c_contiguous:
        return view.cast("B")
    if not view.f_contiguous:
        return memoryview(view.tobytes())  # a copy: bytes with gaps between them have no flat view
    from proxyfab.pointers import flat_view

    return flat_view(view)  # Fortran order


class Frames:
    """An immutable list of byte views with a total length.

    Thread-safe (nothing changes after construction). The views keep their exporters alive, so a mapped file or a
    leased segment stays valid as long as its Frames, or any view taken from them, does.
    """

    __slots__ = ("nbytes", "views")

    mapped: ClassVar[bool] = False
    """Whether these are the very bytes that were put, in memory of this machine, so that there is nothing to verify."""
    given: ClassVar[bool] = False
    """Whether who stores these may keep them as they are: nobody else writes to that memory any more."""

    views: tuple[memoryview, ...]
    nbytes: int

    def __init__(self, parts: Iterable[Buffer] = ()) -> None:
        self.views = tuple(map(byte_view, parts))
        self.nbytes = sum([view.nbytes for view in self.views])

    @classmethod
    def known(cls, views: tuple[memoryview, ...], nbytes: int) -> Frames:
        """Frames of what is known to be byte views of `nbytes` in all, without looking at each again."""
        frames = cls.__new__(cls)
        frames.views = views
        frames.nbytes = nbytes
        return frames

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def __eq__(self, other: object) -> bool:
        """Equal bytes in total, however they are cut. Joins both sides: for tests, not for hot paths."""
        if not isinstance(other, Frames):
            return NotImplemented
        return self.nbytes == other.nbytes and self.tobytes() == other.tobytes()

    __hash__ = None  # type: ignore[assignment]  # equality by content of large buffers is no basis for a dict

    def __repr__(self) -> str:
        return f"Frames({len(self.views)} views, {self.nbytes} bytes)"

    def join(self) -> memoryview:
        """One view over all bytes: the only view itself when there is one, otherwise a copy of everything."""
        if len(self.views) == 1:
            return self.views[0]
        return memoryview(self.tobytes())

    def tobytes(self) -> bytes:
        """A copy of all bytes."""
        return b"".join(self.views)

    def copy_into(self, target: memoryview, offset: int = 0) -> int:
        """Copy all bytes to `target[offset:]`, one memcpy a view; returns the offset behind the last byte."""
        for view in self.views:
            end = offset + view.nbytes
            target[offset:end] = view
            offset = end
        return offset

    def slice(self, offset: int, length: int) -> Frames:
        """The bytes `[offset, offset + length)`, cut at the end like a Python slice; copies nothing."""
        end = min(offset + length, self.nbytes)
        parts, start = [], 0
        for view in self.views:
            low, high = max(offset - start, 0), min(end - start, view.nbytes)
            if low < high:
                parts.append(view[low:high])
            start += view.nbytes
        return Frames(parts)

    @property
    def parts(self) -> tuple[memoryview | Made, ...]:
        """The bytes for who writes them somewhere, one behind the other: views, or what is made while he does."""
        return self.views


class Made:
    """Bytes that are made while somebody writes them: `nbytes` in all, in pieces that come in any order.

    Args:
        nbytes: How many.
        begin: Begins anew each time: an iterator of offsets and pieces. A piece is over when the next one is asked for.
    """

    __slots__ = ("_begin", "nbytes")

    def __init__(self, nbytes: int, begin: Callable[[], Iterator[tuple[int, memoryview]]]) -> None:
        self.nbytes = nbytes
        self._begin = begin

    def __len__(self) -> int:
        return self.nbytes

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """Each piece with its offset. Every byte comes once."""
        return self._begin()


class MadeFrames(Frames):
    """Frames that are made while they are stored, as encrypting and writing take turns at each piece.

    Who asks for `views` gets all of it in memory, made once. Each making may give other bytes, of the same meaning and
    length; what somebody has written is one making.

    Args:
        made: The bytes for who writes.
        whole: The bytes in memory.
    """

    __slots__ = ("_made", "_whole")

    def __init__(self, made: Made, whole: Callable[[], Frames]) -> None:
        self.nbytes = made.nbytes
        self._made = made
        self._whole: Callable[[], Frames] | Frames = whole

    @property
    def views(self) -> tuple[memoryview, ...]:  # type: ignore[override]  # read, never written by who has Frames
        whole = self._whole
        if not isinstance(whole, Frames):
            whole = self._whole = whole()
        return whole.views

    @property
    def parts(self) -> tuple[memoryview | Made, ...]:
        return (self._made,)

    def copy_into(self, target: memoryview, offset: int = 0) -> int:
        for low, piece in self._made.pieces():
            target[offset + low : offset + low + len(piece)] = piece
        return offset + self.nbytes


class MappedFrames(Frames):
    """Frames in shared memory, where they lie as they were put: their data need no second look at each get."""

    __slots__ = ()

    mapped: ClassVar[bool] = True


class GivenFrames(Frames):
    """Frames whose maker gives them away: who keeps objects in memory keeps these without a copy."""

    __slots__ = ()

    given: ClassVar[bool] = True
