"""Which member of an ordered group reads which partition: one table beside the topic, changed by compare-and-set.

    claims/<group>    {members: how often each has said that it lives, owners: whose each partition is}

Rules:
1. Each member raises its own number every third of a lease; one whose number stood still for a lease, as the others'
   clocks tell, is dead, and its partitions are free. No two clocks are compared. A lease after it last raised its
   number a member is not sure any more that it is alive, and hands nothing out until it has asked.
2. Partitions are shared evenly: who has too few claims free ones, who has too many gives some back, but only when
   nothing of them is under way with it any more.
3. Whoever was taken for dead, and is not, finds himself missing, and begins a new life without partitions. Who does not
   work, nor ask for events, takes himself out, and comes back when he asks.
4. The thread that says so refers to its claims weakly; who waits for a change is told of it.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import CancelledError
from typing import NamedTuple

import msgspec

from proxyfab.errors import Conflict, ProxyfabError
from proxyfab.events.broker import TIMEOUT, Broker
from proxyfab.events.model import Capability
from proxyfab.fork import on_fork
from proxyfab.waiting import Flag

BEATS = 3
_SOON = 0.01
_LEAST = 5.0
"""Seconds that a call has at least, however short the lease is, unless it is told otherwise."""


class Table(NamedTuple):
    """Who lives, and who reads what."""

    members: dict[str, int]
    owners: dict[int, str]


class Share(NamedTuple):
    """What one member has.

    Attributes:
        mine: Its partitions, by the table.
        allowed: How many of them may stay.
        life: Counts how often it began anew.
    """

    mine: frozenset[int]
    allowed: int
    life: int

    def kept(self, now: Collection[int]) -> frozenset[int]:
        """Those that stay, the ones that are read now first."""
        return frozenset(sorted(self.mine, key=lambda number: (number not in now, number))[: self.allowed])


_tables = msgspec.msgpack.Decoder(tuple[dict[str, int], dict[int, str]])


def share(members: Iterable[str], me: str, partitions: int) -> int:
    """How many partitions are one member's."""
    order = sorted(members)
    each, more = divmod(partitions, len(order))
    return each + (order.index(me) < more)


def joined(
    table: Table, me: str, partitions: int, *, dead: Collection[str], given: Collection[int], beat: int = 1
) -> Table:
    """The table once a member has said that it lives, that others are dead, and what it gives back.

    Its number is `beat` at least, so that those of two lives are not taken for one.
    """
    members = {name: said for name, said in table.members.items() if name not in dead}
    again = me in members
    members[me] = max(members.get(me, 0) + 1, beat)
    owners = {
        number: name
        for number, name in table.owners.items()
        if name in members and number < partitions and not (name == me and (number in given or not again))
    }
    mine = sum([name == me for name in owners.values()])
    for number in range(partitions):
        if mine < share(members, me, partitions) and number not in owners and number not in given:
            owners[number] = me
            mine += 1
    return Table(members, owners)


class Claims:
    """One member's. Thread-safe; a forked child has none.

    Args:
        broker: Where the topic is.
        topic: Its name.
        group: The ordered group.
        member: A name that no other member has.
        partitions: How many the topic has.
        lease: Seconds of silence after which a member is dead.
        works: Whether the member does anything, or waits for something to do.
        clock: For tests of time.
        timeout: Seconds of a call.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        group: str,
        member: str,
        partitions: int,
        lease: float,
        works: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = TIMEOUT,
    ) -> None:
        self._state = broker.state(topic, timeout=min(timeout, max(lease, _LEAST)))
        self._told = Capability.LAST_VALUE in broker.capabilities
        self._name = f"claims/{group}"
        self._me = member
        self._partitions = partitions
        self.lease = lease
        self._revision = 0
        self._heard: dict[str, tuple[int, float]] = {}
        self._works = works
        self._clock = clock
        self._beat = 0
        self._said = -math.inf
        """When this member last began to say that it lives, and got through."""
        self.share = Share(frozenset(), 0, 0)
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child claims nothing."""
        self._turn = threading.RLock()
        self.changed = Flag()
        self._over = Flag()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Claim, and go on doing so."""
        self.beat()
        with self._turn:
            if self._thread is None and not self._over.is_set():
                name = "proxyfab-background-claiming"
                self._thread = threading.Thread(target=_claim, args=(weakref.ref(self),), name=name, daemon=True)
                self._thread.start()

    @property
    def sure(self) -> bool:
        """Whether nobody can have taken this member for dead."""
        return self._clock() < self._said + self.lease

    def live(self, life: int) -> bool:
        """Whether this is that life still, for sure."""
        return self.share.life == life and self._clock() < self._said + self.lease

    def beat(self, given: Collection[int] = ()) -> None:
        """Say that this member lives, and take or give partitions.

        Raises:
            ConnectorError: The broker cannot be reached.
        """
        with self._turn:
            while not self._over.is_set():
                table, revision = self._read()
                began = self._clock()
                dead = self._dead(table)
                new = joined(table, self._me, self._partitions, dead=dead, given=given, beat=self._beat + 1)
                try:
                    self._revision = self._put(new, revision)
                except Conflict:
                    continue
                except ProxyfabError:
                    self._said = -math.inf if given else self._said  # who knows whose they are now
                    raise
                self._said, self._beat = began, new.members[self._me]
                self._learn(new, anew=self._me not in table.members)
                return

    def _read(self) -> tuple[Table, int]:
        kept = self._state.get(self._name)
        if kept is None:
            return Table({}, {}), 0
        try:
            return Table(*_tables.decode(kept.value)), kept.revision
        except msgspec.MsgspecError:  # nobody's table
            return Table({}, {}), kept.revision

    def _put(self, table: Table, revision: int) -> int:
        return self._state.put(self._name, msgspec.msgpack.encode(tuple(table)), revision=revision)

    def _dead(self, table: Table) -> set[str]:
        now = self._clock()
        heard = self._heard
        self._heard = {
            name: known if (known := heard.get(name)) is not None and known[0] == beat else (beat, now)
            for name, beat in table.members.items()
            if name != self._me
        }
        return {name for name, (_, at) in self._heard.items() if now - at > self.lease}

    def _learn(self, table: Table, *, anew: bool = False) -> None:
        mine = frozenset([number for number, name in table.owners.items() if name == self._me])
        allowed = share(table.members, self._me, self._partitions) if self._me in table.members else 0
        known, self.share = self.share, Share(mine, allowed, self.share.life + anew)
        if known != self.share:
            self.changed.set()

    def wait(self) -> bool:
        """Until the table changes, the next beat is due, or somebody may be dead; whether the claims go on."""
        now = self._clock()
        third = self.lease / BEATS
        due = self._said + third if self._said > -math.inf else now + third
        ends = [due, *(at + self.lease for _, at in list(self._heard.values()))]
        pause = min(max(0.0, min(ends) - now) + _SOON, third)
        if self._told:
            self._state.wait({self._name: self._revision}, pause)
        else:
            self._over.wait(pause)
        return not self._over.is_set()

    def look(self, *, asked: bool = False) -> None:
        """Beat if it is time, or if there is something to take or give; go if there is nothing that this member does.

        Args:
            asked: The member asks for events just now.
        """
        with self._turn:
            if not asked and not self._works():
                self._go()
                return
            table, self._revision = self._read()
            dead = self._dead(table)
            wanted = share({**table.members, self._me: 0}, self._me, self._partitions)
            mine = sum([name == self._me for name in table.owners.values()])
            free = any([number not in table.owners for number in range(self._partitions)])
            due = self._clock() - self._said >= self.lease / BEATS
            if due or dead or self._me not in table.members or (mine < wanted and free):
                self.beat()
            else:
                self._learn(table)

    def _go(self) -> None:
        """Be no member."""
        self._said = -math.inf
        self._heard = {}
        while True:
            table, self._revision = self._read()
            members = {name: beat for name, beat in table.members.items() if name != self._me}
            owners = {number: name for number, name in table.owners.items() if name != self._me}
            if members == table.members and owners == table.owners:
                return
            try:
                self._revision = self._put(Table(members, owners), self._revision)
            except Conflict:
                continue
            return

    def leave(self) -> None:
        """Give everything back. Idempotent."""
        self._over.set()
        self.changed.set()
        with self._turn:
            self._go()


def _claim(weak: weakref.ref[Claims]) -> None:
    while True:
        claims = weak()
        if claims is None:
            return
        try:
            if not claims.wait():
                return
            claims.look()
        except (ProxyfabError, CancelledError):  # tried again; who does not get through in time is taken for dead
            if claims._over.wait(claims.lease / BEATS):
                return
        del claims
