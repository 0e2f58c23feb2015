"""Finding the servers of a place: sentinels and the nodes of a cluster are asked beside whoever must go on in time.

Promises: nobody waits longer than he may, whichever servers hang; what was begun for who has left is the next one's. Of
a place that is one server nothing is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from redis.exceptions import TimeoutError

from proxyfab.background import Beginnings
from proxyfab.resp.errors import FOREIGN, Late
from proxyfab.resp.link import CONNECT, Link, pack
from proxyfab.resp.place import Address, Place
from proxyfab.resp.topology import topology_of

NOWHERE = "", 0
"""The address of servers that were not found."""


class Finder:
    """Which server has a key. Thread-safe.

    Args:
        place: Where to ask, and how to enter.
        check: Raises where an address must not be connected to, that another server has told.
    """

    def __init__(self, place: Place, check: Callable[[Address], None] | None) -> None:
        self._place = place
        self._check = check
        self._topology = topology_of(place, self._peek)
        self._trouble: BaseException | None = None
        """Why the servers could not be found the last time, since which they were not."""
        self.after_fork()

    def after_fork(self) -> None:
        """In a child: what was begun stays with the parent."""
        self._asking = Beginnings(self._ask, f"Finding the servers of {self._place.label}")

    def address(self, name: bytes, until: float, ends: float = inf) -> Address:
        """The server that has a key.

        Args:
            name: The key.
            until: When a call is late, in monotonic seconds.
            ends: When who waits goes on.

        Raises:
            Late: `ends` has passed.
            TimeoutError: `until` has passed.
            RedisError: Nobody knows.
        """
        while (found := self._topology.known(name)) is None:
            self._wait(until, ends)
        return found

    def masters(self, until: float) -> list[Address]:
        """All servers that have keys; raises as `address` does."""
        while self._topology.known(b"") is None:
            self._wait(until, inf)
        return self._topology.masters()

    def refresh(self) -> None:
        """Forget what is known: it was wrong."""
        self._topology.refresh()

    def _wait(self, until: float, ends: float) -> None:
        if self._asking.wait(max(min(until, ends) - time.monotonic(), 0.0)):
            return
        if ends > until:
            raise TimeoutError("nobody said in time which servers there are")
        late = Late(NOWHERE)
        late.trouble = self._trouble
        raise late

    def _ask(self) -> None:
        try:
            self._topology.masters()
        except FOREIGN as error:
            self._trouble = error
            raise
        self._trouble = None

    def _peek(self, address: Address, commands: Sequence[tuple[bytes, ...]], sentinel: bool) -> list[Any]:
        """What one server answers to some commands: how a topology learns."""
        place = self._place._replace(database=0)
        if self._check is not None and address not in place.hosts:
            self._check(address)
        link = Link(address, place, None if sentinel else place.secret(), seconds=min(CONNECT, place.timeout))
        try:
            link.begin(min(CONNECT, place.timeout))
            return link.calls([pack(*command) for command in commands])
        finally:
            link.close()
