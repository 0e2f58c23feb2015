"""Which member of an ordered group reads which partition: one table beside the topic, changed by compare-and-set.

    claims/<group>    {members: how often each has said that it lives, owners: whose each partition is}

Rules:
1. Each member raises its own number every third of a lease; one whose number stood still for a lease, as the others'
   clocks tell, is dead, and its partitions are free. No two clocks are compared.
2. Partitions are shared evenly: who has too few claims free ones, who has too many gives some back, but only when
   nothing of them is under way with it any more.
3. Whoever was taken for dead, and is not, finds himself missing, and begins anew without partitions.
4. The thread that says so refers to its claims weakly; who waits for a change is told of it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Iterable
from concurrent.futures import CancelledError
from typing import NamedTuple

import msgspec

from proxyfab.errors import Conflict, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.fork import on_fork

BEATS = 3


class Table(NamedTuple):
    """Who lives, and who reads what."""

    members: dict[str, int]
    owners: dict[int, str]


_tables = msgspec.msgpack.Decoder(tuple[dict[str, int], dict[int, str]])


def share(members: Iterable[str], me: str, partitions: int) -> int:
    """How many partitions are one member's."""
    order = sorted(members)
    each, more = divmod(partitions, len(order))
    return each + (order.index(me) < more)


def joined(table: Table, me: str, partitions: int, *, dead: Collection[str], given: Collection[int]) -> Table:
    """The table once a member has said that it lives, that others are dead, and what it gives back."""
    members = {name: beat for name, beat in table.members.items() if name not in dead}
    again = me in members
    members[me] = members.get(me, 0) + 1
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
    """

    def __init__(self, broker: Broker, topic: str, group: str, member: str, partitions: int, lease: float) -> None:
        self._state = broker.state(topic)
        self._told = Capability.LAST_VALUE in broker.capabilities
        self._name = f"claims/{group}"
        self._me = member
        self._partitions = partitions
        self.lease = lease
        self._revision = 0
        self._heard: dict[str, tuple[int, float]] = {}
        self.mine: frozenset[int] = frozenset()
        self.allowed = 0
        """How many of them may stay."""
        self.after_fork()
        on_fork(self)

    def after_fork(self) -> None:
        """A child claims nothing."""
        self._turn = threading.RLock()
        self.changed = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Claim, and go on doing so."""
        self.beat()
        with self._turn:
            if self._thread is None and not self._over.is_set():
                name = "proxyfab-background-claiming"
                self._thread = threading.Thread(target=_claim, args=(weakref.ref(self),), name=name, daemon=True)
                self._thread.start()

    def beat(self, given: Collection[int] = ()) -> None:
        """Say that this member lives, and take or give partitions.

        Raises:
            ConnectorError: The broker cannot be reached.
        """
        with self._turn:
            while not self._over.is_set():
                table, revision = self._read()
                new = joined(table, self._me, self._partitions, dead=self._dead(table), given=given)
                try:
                    self._revision = self._put(new, revision)
                except Conflict:
                    continue
                self._learn(new)
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
        now = time.monotonic()
        heard = self._heard
        self._heard = {
            name: known if (known := heard.get(name)) is not None and known[0] == beat else (beat, now)
            for name, beat in table.members.items()
        }
        return {name for name, (_, at) in self._heard.items() if name != self._me and now - at > self.lease}

    def _learn(self, table: Table) -> None:
        mine = frozenset([number for number, name in table.owners.items() if name == self._me])
        allowed = share(table.members, self._me, self._partitions)
        if mine != self.mine or allowed != self.allowed:
            self.mine, self.allowed = mine, allowed
            self.changed.set()

    def wait(self) -> bool:
        """Until the table changes, or the next beat is due; whether the claims go on."""
        pause = self.lease / BEATS
        if self._told:
            self._state.wait({self._name: self._revision}, pause)
        else:
            self._over.wait(pause)
        return not self._over.is_set()

    def look(self) -> None:
        """After `wait`: beat if it is time, or if there is something to take or give."""
        with self._turn:
            table, self._revision = self._read()
            self._dead(table)
            wanted = share({**table.members, self._me: 0}, self._me, self._partitions)
            mine = sum([name == self._me for name in table.owners.values()])
            free = any([number not in table.owners for number in range(self._partitions)])
            due = time.monotonic() - self._heard.get(self._me, (0, 0.0))[1] >= self.lease / BEATS * 0.9
            if due or self._me not in table.members or (mine < wanted and free):
                self.beat()
            else:
                self._learn(table)

    def leave(self) -> None:
        """Give everything back. Idempotent."""
        with self._turn:
            self._over.set()
            self.changed.set()
            while True:
                table, revision = self._read()
                members = {name: beat for name, beat in table.members.items() if name != self._me}
                owners = {number: name for number, name in table.owners.items() if name != self._me}
                try:
                    self._put(Table(members, owners), revision)
                except Conflict:
                    continue
                return


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
