"""Storage: the connector that a server keeps its objects in, asked so that the server's loop never waits for a disk.

A step of work is a Job. What is quick (memory, shared memory, and not much of it) is done where it is asked for; the
rest goes to a few threads, and the loop is told when it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

from proxyfab.abc import Connector
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key

QUICK = 256 << 10
"""Bytes that the loop copies itself; more would make others wait."""


class Job(NamedTuple):
    """A call, and whether it is so short that no other client notices."""

    call: Callable[[], Any]
    quick: bool


Steps: TypeAlias = Generator[Job, Any, Any]
"""What does one request: it yields jobs and gets their results, and everything else it does in the loop's thread."""


class Storage:
    """A connector, seen by a server.

    Args:
        connector: Where the objects lie; it is closed with this.
    """

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._fast = bool(connector.local)
        self.namespace = self._shared_namespace()
        self.limit: int | None = None

    def _shared_namespace(self) -> str:
        """The namespace in shared memory that clients of this machine may look into; `""` when there is none."""
        return str(getattr(self.connector, "namespace", "")) if self.connector.scheme == "shm" else ""

    def put(self, frames: Frames) -> Job:
        """Store a new object; answers with its place."""
        return Job(lambda: self.connector.put(frames), self._fast and frames.nbytes <= QUICK)

    def get(self, place: Key, nbytes: int) -> Job:  # noqa: ARG002 - a slower storage may want to know
        """Frames of an object, or None."""
        return Job(lambda: self.connector.get(place), self._fast)

    def evict(self, places: list[Key]) -> Job:
        """Let go of objects."""
        return Job(lambda: self.connector.evict_many(places), self._fast and len(places) < 8)

    # -- where clients of this machine write and read themselves -------------------------------------------------

    def grant(self, nbytes: int) -> Job:  # noqa: ARG002 - plain shared memory has no limit but its own
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

    def share(self, place: Key) -> Job:
        """The key in shared memory where a client may read an object itself; None when it has to be sent."""
        return Job(lambda: place if self.namespace else None, quick=True)

    def close(self, places: list[Key]) -> None:
        """Let go of what the server kept, as nobody can reach it any more, and close the connector."""
        with contextlib.suppress(ProxyfabError):  # who ends has nobody to tell
            self.connector.evict_many(places)
        self.connector.close()
