"""Storage: the connector that a server keeps its objects in, asked so that the server's loop never waits for a disk.

The smallest objects lie in the server's own memory, up to a limit: a file for each would cost ten times the request.

A step of work is a Job. What is quick (memory, shared memory, and not much of it) is done where it is asked for; the
rest goes to a few threads, and the loop is told when it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from proxyfab.abc import Connector, SupportsReap, SupportsStatus
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key

if TYPE_CHECKING:
    from proxyfab.ledger import Room

QUICK = 256 << 10
"""Bytes that the loop copies itself; more would make others wait."""
_FEW = 8
_SMALL = 4096
_SMALL_BYTES = 64 << 20
"""Bytes of small objects in the server's own memory at most; those that come then go to the connector."""
_SMALL_PART = 16
"""They take at most this part of the limit."""
_HERE = "here"
"""Where small objects lie, as their places say it."""
_HEAVY = 64 << 20
"""Bytes from which on letting go takes long: the kernel frees them page by page."""


class Job(NamedTuple):
    """A call, and whether it is so short that no other client notices."""

    call: Callable[[], Any]
    quick: bool


class Later(NamedTuple):
    """What ends elsewhere: `begin` is told, in the loop's thread, whom to call with how it ended, from any thread."""

    begin: Callable[[Callable[[Any, BaseException | None], None]], None]


Steps: TypeAlias = Generator[Job | Later, Any, Any]
"""What does one request: it yields jobs and gets their results, and everything else it does in the loop's thread."""


class Storage:
    """A connector, seen by a server.

    Args:
        connector: Where the objects lie; it is closed with this.

    Attributes:
        namespace: Where in shared memory clients of this machine may look and write; `""` when they may not.
    """

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._fast = bool(connector.local)
        self._small: dict[str, Frames] = {}
        self._small_bytes = 0
        self._small_limit = _SMALL_BYTES
        self.namespace = str(getattr(connector, "namespace", "")) if connector.scheme == "shm" else ""

    def put(self, many: list[Frames]) -> Job:
        """Store new objects; answers with the place of each, or with why it has none."""
        places = [self._hold(frames) for frames in many]
        rest = [frames for frames, place in zip(many, places, strict=True) if place is None]

        def put() -> list[Key | ProxyfabError]:
            fresh = iter([self._put(frames) for frames in rest])
            return [place if place is not None else next(fresh) for place in places]

        return Job(put, not rest or self._is_quick(rest))

    def _hold(self, frames: Frames) -> Key | None:
        """Keep a small object here, as a copy: the message's memory is larger than what is in it."""
        size = _size(frames)
        if frames.nbytes > _SMALL or self._small_bytes + size > self._small_limit:
            return None
        place = Key.draw(_HERE)
        self._small[place.id] = Frames([frames.tobytes()])
        self._small_bytes += size
        return place

    def _is_quick(self, many: list[Frames]) -> bool:
        return self._fast and len(many) < _FEW and sum([frames.nbytes for frames in many]) <= QUICK

    def _put(self, frames: Frames) -> Key | ProxyfabError:
        try:
            return self.connector.put(frames)
        except ProxyfabError as error:
            return error

    def get(self, places: list[Key]) -> Job:
        """Frames of objects, None for what is not there."""
        known = [self._small.get(place.id) for place in places]
        missing = [place for place in places if place.where != _HERE]

        def get() -> list[Frames | None]:
            fresh = iter(self.connector.get_many(missing))
            return [
                frames if place.where == _HERE else next(fresh) for place, frames in zip(places, known, strict=True)
            ]

        return Job((lambda: known) if not missing else get, not missing or self._reads_quickly(missing))

    def _reads_quickly(self, places: list[Key]) -> bool:
        return self._fast and len(places) < _FEW

    def evict(self, places: list[Key], nbytes: int = 0) -> Job:
        """Let go of objects, of so many bytes in all."""
        for place in places:
            small = self._small.pop(place.id, None)
            if small is not None:
                self._small_bytes -= _size(small)
        rest = [place for place in places if place.where != _HERE]
        quick = not rest or (nbytes < _HEAVY and self._reads_quickly(rest))
        return Job((lambda: self.connector.evict_many(rest)) if rest else list, quick)

    # -- where clients of this machine write and read themselves -------------------------------------------------

    def grant(self, nbytes: int) -> Job:  # noqa: ARG002 - only what is bounded needs to know
        """A key in shared memory under which a client may put `nbytes` itself; None when it has to send them."""
        return Job(lambda: Key.draw(self.namespace) if self.namespace else None, quick=True)

    def adopt(self, place: Key, nbytes: int) -> Job:
        """Whether what was granted lies there as large as was said; from now on it is the storage's."""

        def look() -> bool:
            stat = self.connector.stat(place)
            return stat is not None and stat.nbytes == nbytes

        return Job(look, quick=True)

    def revoke(self, place: Key) -> Job:
        """Take back a grant that nobody will use any more, with whatever was put there."""
        return Job(lambda: self.connector.evict(place), self._fast)

    def share(self, place: Key) -> Key | None:
        """The key in shared memory where a client may read an object itself; None when it has to be sent."""
        return place if self.namespace else None

    # -- the whole -----------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int | None:
        """Bytes it may hold."""
        return None

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """What the connector counts itself, for `status`: totals and levels; and what lies here."""
        totals: dict[str, float] = {}
        levels: dict[str, float] = {"small_objects": len(self._small), "small_bytes": self._small_bytes}
        if isinstance(self.connector, SupportsStatus):
            with contextlib.suppress(ProxyfabError):
                status = self.connector.status()
                totals |= _ours(status.counters)
                levels |= _ours(status.gauges)
        return totals, levels

    def tidy(self) -> Job:
        """Take back what processes left in the storage that were killed."""

        def reap() -> None:
            if isinstance(self.connector, SupportsReap):
                with contextlib.suppress(ProxyfabError):
                    self.connector.reap()

        return Job(reap, quick=False)

    def close(self, places: list[Key]) -> None:
        """Let go of what the server kept, as nobody can reach it any more, and close the connector."""
        with contextlib.suppress(ProxyfabError):  # who ends has nobody to tell
            self.evict(places).call()
        self.tidy().call()
        self.connector.close()


class BoundedStorage(Storage):
    """Shared memory with a limit, and a slower place behind it (`connectors.bounded`)."""

    def __init__(self, connector: Any) -> None:
        super().__init__(connector)
        self._bounded = connector
        self._small_limit = min(_SMALL_BYTES, int(connector.quota or connector.limit) // _SMALL_PART)
        self._fast = bool(connector.fast.local)
        self._rooms: dict[str, Room] = {}
        if connector.fast.scheme == "shm":
            self.namespace = str(connector.fast.namespace)

    def _is_quick(self, many: list[Frames]) -> bool:
        book = self._bounded.ledger
        room = book.limit - book.fast_bytes  # beyond it others are moved to a disk first
        return super()._is_quick(many) and sum([frames.nbytes for frames in many]) <= room

    def _reads_quickly(self, places: list[Key]) -> bool:
        fast = self._bounded.ledger.fast
        return super()._reads_quickly(places) and all(place.id in fast for place in places)

    def grant(self, nbytes: int) -> Job:
        if not self.namespace:
            return super().grant(nbytes)

        def grant() -> Key | None:
            room = self._bounded.grant(nbytes)
            if room is None:
                return None
            place = Key.draw(self.connector.reserve().where)
            self._rooms[place.id] = room
            return place

        book = self._bounded.ledger
        return Job(grant, book.fast_bytes + nbytes <= book.limit)

    def adopt(self, place: Key, nbytes: int) -> Job:  # noqa: ARG002 - the room knows
        return Job(lambda: self._bounded.adopt(place.id, self._rooms.pop(place.id)), quick=True)

    def revoke(self, place: Key) -> Job:
        def revoke() -> None:
            room = self._rooms.pop(place.id, None)
            if room is None:
                self.connector.evict(place)
            else:
                self._bounded.revoke(place.id, room)

        return Job(revoke, self._fast)

    def share(self, place: Key) -> Key | None:
        if not self.namespace or self._bounded.lies_fast(place.id) is None:
            return None
        return Key(place.id, self.namespace)

    @property
    def limit(self) -> int | None:
        return None if self._bounded.quota is None else int(self._bounded.quota)


def _size(frames: Frames) -> int:
    return frames.nbytes + 200


def storage_of(connector: Connector) -> Storage:
    """A connector as a server uses it."""
    return BoundedStorage(connector) if connector.scheme == "bounded" else Storage(connector)


def _ours(figures: dict[str, float]) -> dict[str, float]:
    return {f"storage_{name}": value for name, value in figures.items()}
