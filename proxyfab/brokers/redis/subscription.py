"""Subscriptions to a topic in Redis: a group's member, and a reader that nobody counts.

Promises: a fetch is one round trip while there is something, and one more for all of its large records; who waits is
told by the server, and returns at once when the subscription is closed. An acknowledgement of any number is one round
trip, which confirms it: there is nothing to flush. What a member owes comes again when it is closed, or when its time
is over. A fetch ends at its deadline; what the server gives a member later is for the next one. A subscription of a
parent does nothing in its forked child.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic

from redis.exceptions import TimeoutError

from proxyfab.brokers.redis import turns
from proxyfab.brokers.redis.desk import LOOK, Desk, Ended, Waiting, leaves_at
from proxyfab.brokers.redis.records import DESCRIBE, READ, START
from proxyfab.brokers.redis.scripts import INLINE
from proxyfab.errors import CapacityError, ConnectorError, TopicNotFound
from proxyfab.events.broker import Subscription, Uncounted
from proxyfab.events.model import Delivery, From, GroupInfo, Position, Start
from proxyfab.resp.errors import FOREIGN, Late
from proxyfab.resp.link import SILENCE, Link, pack
from proxyfab.resp.parser import Reply

MAX_NOTE = 1 << 10
MOST = 1000
"""Records that one round trip brings at most."""
_LEAVE, _GIVE = 5.0, 0.1


def key(topic: str, rest: str) -> bytes:
    """What a topic's key is in Redis."""
    return f"{{pf:{topic}}}:{rest}".encode()


class RedisSubscription(Subscription):
    """What both kinds share: waiting, and the end."""

    def __init__(self, desk: Desk, topic: str, group: str | None) -> None:
        self.topic = topic
        self.group = group
        self._desk = desk
        self._waiting = Waiting(desk)
        self._pid = os.getpid()
        self._turn = 0
        """Counts a reader's seeks."""

    def fetch(self, most: int, timeout: float) -> list[Delivery]:
        until = monotonic() + timeout
        try:
            return self._fetch(most, until, leaves_at(until, timeout))
        except Late as late:
            self._desk.fleet.tell(late, "fetching")
            return []

    def _fetch(self, most: int, until: float, leaves: float) -> list[Delivery]:
        while True:
            self._open()
            turn = self._turn
            rung, again, *told = self._ask(min(most, MOST), leaves)
            if told:
                found = self._taken(deliveries(self._desk, self.topic, told), turn)
                if found or self._waiting.ended:
                    return found
                continue  # another thread was faster
            left = until - monotonic()
            if left <= 0:
                return []
            try:
                self._waiting.wait(key(self.topic, "b"), rung, min(left, int(again) / 1e6 if again else LOOK), leaves)
            except Ended:
                return []

    @abstractmethod
    def _ask(self, most: int, leaves: float) -> list[bytes]:
        """What there is: the bell, when something comes again, and records; raises Late."""

    @abstractmethod
    def _taken(self, found: list[Delivery], turn: int) -> list[Delivery]:
        """What of it is handed out; `turn` is as it was asked for."""

    def _open(self) -> None:
        if self._pid != os.getpid():
            raise ConnectorError(f"This subscription to {self.topic} is a parent process's; make one of your own.")
        if self._waiting.ended:
            raise ConnectorError(f"This subscription to {self.topic} was closed.")


class Member(RedisSubscription):
    """A group's member.

    Args:
        desk: Asks the server.
        topic: Its name.
        group: Which exists.
        partitions: That it fetches from.
        ack_wait: Seconds to acknowledge.
        name: To show.
        left: Called with it when it is closed.
    """

    group: str

    def __init__(
        self,
        desk: Desk,
        topic: str,
        group: str,
        partitions: Sequence[int],
        ack_wait: float,
        name: str,
        left: Callable[[Member], object],
    ) -> None:
        super().__init__(desk, topic, group)
        self._key = key(topic, f"g:{group}")
        self._me = f"{'_'.join(name.split())[:64]}~{os.urandom(8).hex()}".encode()
        self._ack_wait = _micros(max(ack_wait, 0.001))
        self._partitions = [b"%d" % number for number in partitions]
        self._left = left
        self._late: deque[tuple[float, Link]] = deque()
        """Links on which a fetch is still to be answered, each with when it was given up first."""

    def _ask(self, most: int, leaves: float) -> list[bytes]:
        if self._late and (late := self._came(leaves)) is not None:
            return late
        # the next fetch begins with another partition, so that a busy one does not keep the others waiting
        turned = self._partitions = [*self._partitions[1:], *self._partitions[:1]]
        words = [self._me, b"%d" % most, self._ack_wait, *turned]
        try:
            reply: list[bytes] = self._desk.ask(turns.FETCH, self._key, words, "fetching", leaves=leaves, keep=True)
        except Late as late:
            if late.link is not None:
                self._put_off(monotonic(), late.link)
            raise
        return reply

    def _came(self, leaves: float) -> list[bytes] | None:
        """What an earlier fetch is answered; None where it is not, and a new one may be: nothing was lost."""
        try:
            since, link = self._late.popleft()
        except IndexError:  # another thread was faster
            return None
        try:
            if leaves == inf and not link.wait(0):
                self._put_off(since, link)
                return None
            found: list[bytes] | None = self._desk.finish(link, leaves)
        except Late as late:
            if monotonic() - since > SILENCE:
                late.trouble = TimeoutError(f"silent for {SILENCE:g} s")
            self._put_off(since, link)
            raise
        return found

    def _put_off(self, since: float, link: Link) -> None:
        self._late.append((since, link))
        if self._waiting.ended:
            self._let_go()

    def _let_go(self) -> None:
        """What is still to come on links, and was not yet: it is given back behind it, on the same way."""
        while self._late:
            try:
                _, link = self._late.popleft()
            except IndexError:
                return
            with contextlib.suppress(*FOREIGN):
                link.begin(_GIVE)
                parts = turns.LEAVE.command(self._key, [self._me])
                link.send(parts, sum(map(len, parts)))
            link.close()

    def _taken(self, found: list[Delivery], turn: int) -> list[Delivery]:  # noqa: ARG002 - the server keeps count
        if not self._waiting.ended:
            return found
        self._leave()  # who closed it meanwhile knew nothing of these
        return []

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        spots = _spots(deliveries)
        if spots:
            self._desk.ask(turns.ACK, self._key, spots, "acknowledging")

    def nack(self, deliveries: Iterable[Delivery], *, delay: float = 0.0, note: bytes = b"") -> None:
        if len(note) > MAX_NOTE:
            raise CapacityError(f"A note has {len(note)} bytes, more than {MAX_NOTE}.")
        self._keep(deliveries, _micros(max(delay, 0.0)), note, b"back")

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        self._keep(deliveries, self._ack_wait, b"", b"hold")

    def _keep(self, deliveries: Iterable[Delivery], micros: bytes, note: bytes, how: bytes) -> None:
        spots = _spots(deliveries)
        if spots:
            self._desk.ask(turns.KEEP, self._key, [self._me, micros, bytes(note), how, *spots], "settling")

    def seek(self, start: Start) -> None:
        while self._late:  # what of before it comes late would be taken for what comes behind it
            with contextlib.suppress(IndexError):
                self._desk.finish(self._late.popleft()[1], inf)
        words = [self.group.encode(), b"seek", *start_words(start), b"0"]
        self._desk.ask(turns.GROUP, self._key, words, "seeking")

    def info(self) -> GroupInfo:
        found = infos(self._desk, self.topic, self.group).get(self.group)
        if found is None:
            raise TopicNotFound(f"Topic {self.topic} has no group {self.group!r}: it was deleted.")
        return found

    def close(self) -> None:
        if self._waiting.ended:
            return
        self._waiting.end()
        self._left(self)
        if self._pid != os.getpid():
            return
        self._let_go()
        with contextlib.suppress(TopicNotFound):  # then nothing is owed any more
            self._leave()

    def _leave(self) -> None:
        self._desk.ask(turns.LEAVE, self._key, [self._me], "leaving", timeout=_LEAVE)


class Reader(Uncounted, RedisSubscription):
    """Reads without anybody counting.

    Args:
        desk: Asks the server.
        topic: Its name.
        cursors: Where each partition goes on.
    """

    def __init__(self, desk: Desk, topic: str, cursors: dict[int, int]) -> None:
        super().__init__(desk, topic, None)
        self._cursors = cursors
        self._lock = threading.Lock()

    def _ask(self, most: int, leaves: float) -> list[bytes]:
        words = [b"%d" % most]
        for number, cursor in list(self._cursors.items()):
            words += [b"%d" % number, b"%d" % cursor]
        reply: list[bytes] = self._desk.ask(READ, key(self.topic, "m"), words, "reading", leaves=leaves)
        return reply

    def _taken(self, found: list[Delivery], turn: int) -> list[Delivery]:
        with self._lock:
            if turn != self._turn:
                return []
            mine = [each for each in found if each.position.offset >= self._cursors[each.position.partition]]
            for each in mine:
                self._cursors[each.position.partition] = each.position.offset + 1
            if mine:  # the others come first next time
                last = mine[-1].position.partition
                self._cursors[last] = self._cursors.pop(last)
            return mine

    def seek(self, start: Start) -> None:
        found = cursors(self._desk, self.topic, start, list(self._cursors))
        with self._lock:
            self._turn += 1
            self._cursors = found

    def info(self) -> GroupInfo:
        _, *told = self._desk.ask(DESCRIBE, key(self.topic, "m"), [], "asking how far it is")
        left = 0
        now = dict(self._cursors)
        for number, cursor in now.items():
            first, last = int(told[3 * number]), int(told[3 * number + 1])
            left += max(0, last + 1 - max(cursor, first))
        return GroupInfo({number: cursor - 1 for number, cursor in sorted(now.items())}, left, 0)

    def close(self) -> None:
        self._waiting.end()


def start_words(start: Start) -> list[bytes]:
    """A start as scripts are told it."""
    if isinstance(start, From):
        return [start.value.encode(), b""]
    if isinstance(start, Mapping):
        return [b"from", "".join([f",{number}:{offset}," for number, offset in start.items()]).encode()]
    return [b"time", _micros(start)]


def cursors(desk: Desk, topic: str, start: Start, partitions: Sequence[int] | None) -> dict[int, int]:
    """The offsets that a start means."""
    told = desk.ask(START, key(topic, "m"), start_words(start), "asking where to begin")
    every = dict(enumerate(map(int, told)))
    return every if partitions is None else {number: every[number] for number in partitions}


def infos(desk: Desk, topic: str, group: str | None = None) -> dict[str, GroupInfo]:
    """How far groups are."""
    words = [] if group is None else [group.encode()]
    count, *told = desk.ask(turns.GROUPS, key(topic, "m"), words, "asking how far groups are")
    step = 3 + 2 * int(count)
    found = {}
    for at in range(0, len(told), step):
        name, pending, left, *each = told[at : at + step]
        floors, owed = dict(enumerate(map(int, each[::2]))), dict(enumerate(map(int, each[1::2])))
        found[name.decode()] = GroupInfo(floors, int(left), int(pending), owed)
    return found


def deliveries(desk: Desk, topic: str, told: list[Reply]) -> list[Delivery]:
    """Records as scripts tell them; large bodies are asked for, in one round trip."""
    found: list[Delivery] = []
    large: list[int] = []
    for at in range(0, len(told), 3):
        head, body, note = told[at : at + 3]
        partition, offset, attempt, taken, size, name = head.decode().split(" ", 5)
        if int(size) > INLINE:
            large.append(len(found))
        position = Position(topic, int(partition), int(offset))
        found.append(Delivery(bytes(body), position, name, int(taken) / 1e6, int(attempt), bytes(note)))
    if not large:
        return found
    bodies = _bodies(desk, topic, [found[number].position for number in large])
    for number, whole in zip(large, bodies, strict=True):
        found[number] = found[number]._replace(body=whole or b"")
    gone = {number for number, whole in zip(large, bodies, strict=True) if whole is None}  # room was made meanwhile
    return [each for number, each in enumerate(found) if number not in gone] if gone else found


def _bodies(desk: Desk, topic: str, positions: Sequence[Position]) -> list[bytes | None]:
    commands = []
    for _, partition, offset, _ in positions:
        name = b"0-%d" % offset
        commands.append(pack(b"XRANGE", key(topic, f"s:{partition}"), name, name))
    replies = desk.fleet.run(key(topic, "m"), lambda link: link.calls(commands), "fetching")
    # bytes() copies a large body out of the memory that it was received in, which is used again
    return [bytes(reply[0][1][1]) if reply else None for reply in replies]


def _spots(deliveries: Iterable[Delivery]) -> list[bytes]:
    spots: list[bytes] = []
    for each in deliveries:
        _, partition, offset, _ = each.position
        spots += [b"%d" % partition, b"%d" % offset]
    return spots


def _micros(seconds: float) -> bytes:
    return b"%d" % int(seconds * 1e6)
