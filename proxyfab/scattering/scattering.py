"""Objects of any size as pieces: one, or a list of segments and each of these, all of them scattered to members.

Rules:
1. A locator says all: what the object is, which member has which shard, and the digest of each. So nobody is asked
   where anything is, and nothing else could be lost. Of a large object it leads to the list of its segments, which
   lies in copies; the list is put last and evicted first, so that an object is never there in part.
2. Segments are coded while others are under way, two at a time where members are far.
3. A put that takes long leaves a mark, and renews it: its segments, which no list names yet, are no strays (`upkeep`).
4. A piece with shards that are broken or missing, seen by a get, is repaired in the background a moment later.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from proxyfab.abc import Stat
from proxyfab.background import Task
from proxyfab.beside import beside
from proxyfab.buffers import Frames
from proxyfab.erasure.codec import fresh
from proxyfab.erasure.locator import Locator
from proxyfab.erasure.shard import BLAKE2B, DRAWN, KINDS, SEGMENT, Shape, digest_of
from proxyfab.errors import ConfigurationError, IntegrityError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.scattering.asking import Asking
from proxyfab.scattering.getting import Found, Getting
from proxyfab.scattering.means import Means
from proxyfab.scattering.members import Members
from proxyfab.scattering.planning import Planner
from proxyfab.scattering.sending import Sending

T = TypeVar("T")
R = TypeVar("R")
SEGMENT_SIZE = 64 << 20
_AT_ONCE = 2
_LONG = 600.0
"""Seconds after which a put leaves a mark, and renews it."""
_MARKED = 6 * _LONG
_LENGTH = struct.Struct("<I")


class Scattering:
    """Puts objects to members and gets them back, by locators. Thread-safe and fork-safe as the members are.

    Args:
        members: Who keeps shards.
        planner: Decides to whom they go.
        segment: Bytes of the pieces that a larger object is cut into.
        patience: Seconds that members have for an answer.
        hedge: Seconds after which a get asks another member, too, until it has learned what late is; at most that.
        kernel: Of the codes.
        memory: Where room for what codes make comes from.
        noticed: Is told of pieces with bad shards.
    """

    def __init__(
        self,
        members: Members,
        planner: Planner,
        *,
        segment: int = SEGMENT_SIZE,
        patience: float = 30.0,
        hedge: float = 0.5,
        kernel: str = "",
        memory: Callable[[int], memoryview] = fresh,
        noticed: Callable[[Locator, Found], object] = lambda _, __: None,
    ) -> None:
        self.members = members
        self.planner = planner
        self.segment = segment
        self.means = Means(members, patience=patience, hedge=hedge, kernel=kernel, memory=memory)
        self.getting = Getting(self.means, noticed)
        self._sending = Sending(self.means, planner)
        self._asking = Asking(self.means, planner.m)

    # -- putting -----------------------------------------------------------------------------------------------------

    def put(self, frames: Frames, id: bytes, *, kind: int = DRAWN, ttl: float | None = None) -> Locator:
        """Store an object under an id that nothing else has.

        Raises:
            CapacityError: Too few members have room.
            ConnectorError: Too few shards could be stored.
        """
        if frames.nbytes <= self.segment:
            return self._sending.send(frames, Shape(id, 1, 0, frames.nbytes, kind=kind), ttl)
        done: list[Locator] = []
        marked = self._upload(id, time.monotonic())
        shapes = [self._segment_of(id, frames.nbytes, low) for low in range(0, frames.nbytes, self.segment)]
        parts = [frames.slice(number * self.segment, self.segment) for number in range(len(shapes))]
        try:
            for one in self.each(partial(self._send, ttl), list(zip(parts, shapes, strict=True))):
                done.append(one)
                next(marked)
            text = [str(one).encode() for one in done]
            listed = Frames([part for one in text for part in (_LENGTH.pack(len(one)), one)])
            shape = Shape(id, 1, 0, listed.nbytes, kind=kind, total=frames.nbytes)
            return self._sending.send(listed, shape, ttl)
        except BaseException:
            everybody = range(len(self.members))
            self.means.owe([(member, Key(shape.name)) for shape in shapes for member in everybody])
            raise

    def _upload(self, id: bytes, began: float) -> Iterator[None]:
        """Between two segments: have members know of a put that takes long."""
        while True:
            if time.monotonic() - began > _LONG:
                began = time.monotonic()
                self.means.mark_upload(id, _MARKED)
            yield

    def _segment_of(self, id: bytes, nbytes: int, low: int) -> Shape:
        return Shape(_segment_id(id, low), 1, 0, min(self.segment, nbytes - low), kind=SEGMENT)

    def _send(self, ttl: float | None, one: tuple[Frames, Shape]) -> Locator:
        return self._sending.send(*one, ttl)

    def each(self, work: Callable[[T], R], items: Sequence[T], most: int = _AT_ONCE) -> Iterator[R]:
        """The work on each item, in order; some at once where members are far. What is begun is waited for."""
        if not any(member.may_hang for member in self.members.all):
            yield from map(work, items)
            return
        begun: deque[Task[R]] = deque()
        try:
            for item in items:
                begun.append(_begun(partial(work, item)))
                if len(begun) >= most:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for task in begun:  # what is begun now must not come after it was taken back
                with suppress(ProxyfabError):
                    task.result()

    # -- getting -----------------------------------------------------------------------------------------------------

    def get(self, locator: Locator) -> Frames | None:
        """The object; None where it is not any more.

        Raises:
            ConnectorError: Too few of the members that have it answer.
            IntegrityError: Too few of its shards are what was written.
        """
        if not locator.shape.total:
            return self.getting.get(locator)
        segments = self._segments(locator)
        if segments is None:
            return None
        found = list(self.each(self.getting.get, segments))
        if any(one is None for one in found):
            return None if self._segments(locator) is None else self._lost(locator)
        return Frames([view for one in found if one is not None for view in one])

    def get_range(self, locator: Locator, offset: int, length: int) -> Frames | None:
        """A part of the object, cut at its end like a slice; None where it is not any more."""
        if not locator.shape.total:
            return self.getting.get_range(locator, offset, length)
        segments = self._segments(locator)
        if segments is None:
            return None
        views: list[memoryview] = []
        low = 0
        for one in segments:
            high = low + one.shape.size
            if low < offset + length and offset < high:
                begin = max(offset - low, 0)
                found = self.getting.get_range(one, begin, min(offset + length, high) - low - begin)
                if found is None:
                    return None if self._segments(locator) is None else self._lost(locator)
                views += found.views
            low = high
        return Frames(views)

    def _segments(self, locator: Locator) -> list[Locator] | None:
        """Where the segments of a large object are; None where it is not any more."""
        listed = self.getting.get(locator)
        if listed is None:
            return None
        try:
            return self._read(listed.tobytes(), locator)
        except (ConfigurationError, UnicodeDecodeError, struct.error):
            raise IntegrityError(f"What {locator.shape.id.hex()} names as the list of its segments is none.") from None

    def _read(self, raw: bytes, locator: Locator) -> list[Locator]:
        """A list of segments: those that follow from the object's id, so that no list leads to what is another's."""
        at, low, found = 0, 0, list[Locator]()
        while at < len(raw):
            end = at + _LENGTH.size + _LENGTH.unpack_from(raw, at)[0]
            one = Locator.parse(raw[at + _LENGTH.size : end].decode("ascii"))
            if (one.shape.id, one.shape.kind, one.shape.total) != (_segment_id(locator.shape.id, low), SEGMENT, 0):
                raise ConfigurationError("A list names what is no segment of its object.")
            found.append(one)
            at, low = end, low + one.shape.size
        if low != locator.shape.total:
            raise ConfigurationError("A list's segments are not the whole object.")
        return found

    def _lost(self, locator: Locator) -> Frames:
        raise IntegrityError(f"Segments of {locator.shape.id.hex()} are gone, although their list is there.")

    def pieces(self, locator: Locator) -> list[Locator]:
        """All that an object consists of: itself, or its list and its segments."""
        return [locator, *(self._segments(locator) or [])] if locator.shape.total else [locator]

    # -- asking ------------------------------------------------------------------------------------------------------

    def there(self, locator: Locator) -> bool:
        """Whether it can be read.

        Raises:
            ConnectorError: Too few members answer to tell.
        """
        return self._asking.there(locator)

    def state(self, locator: Locator) -> Stat | None:
        """What is known of it; None where it is not there."""
        return self._asking.state(locator)

    def renew(self, locator: Locator, ttl: float | None) -> bool:
        """Move its expiry; whether it was there."""
        pieces = self.pieces(locator) if locator.shape.total else [locator]
        return all([self._asking.renew(one, ttl) for one in reversed(pieces)])

    def drop(self, locator: Locator) -> bool:
        """Evict it; whether it was there.

        Raises:
            ConnectorError: So few members answer that it may still be read.
        """
        segments: list[Locator] = []
        with suppress(IntegrityError):  # what lists nothing goes all the same
            segments = (self._segments(locator) or []) if locator.shape.total else []
        there = self._asking.drop(locator)
        for one in segments:
            self._asking.drop(one)
        return there

    def find(self, id: bytes, kind: int = DRAWN) -> Locator | None:
        """Where an object lies of which only the id is known; None where it does not.

        Raises:
            ConnectorError: Too few members answer to tell.
        """
        return self._asking.find(id.hex() + KINDS[kind], id)

    def close(self) -> None:
        """Let go of what is owed, and close the members' connectors."""
        self.means.closed = True
        for member in self.members.all:
            member.child.close()


def _segment_id(id: bytes, low: int) -> bytes:
    return digest_of(BLAKE2B, Frames([id, low.to_bytes(8, "little")]))


def _begun(work: Callable[[], R]) -> Task[R]:
    task = Task(work, "An object's way to several places")
    beside(task.run)
    return task
