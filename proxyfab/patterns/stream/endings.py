"""When a stream is over: all its producers have ended, and nothing is left that this consumer might still get.

    producers/<name>    {"epoch": how often it began, "ended": whether it has, "at": seconds since 1970}

Rules:
1. Producers are asked first, and then what is left: whoever has ended had sent everything before.
2. What a consumer itself holds does not keep it; what others hold does, as it comes to this one if they die.
3. Of a name only the latest epoch counts: a producer that was replaced neither ends a stream nor keeps it.
4. A group's member who has seen no END looks at longer and longer intervals, while it waits for events: an event itself
   never waits for a look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import TIMEOUT, Broker
from proxyfab.events.model import Delivery, GroupInfo
from proxyfab.patterns.stream.settling import Desk

PRODUCERS = "producers/"
_FORWARDED = "forward/"
_SOON, _AT_FIRST, _LONGEST = 0.01, 0.1, 1.0


class _Producer(msgspec.Struct):
    epoch: int = 0
    ended: bool = False


_producers = msgspec.msgpack.Decoder(_Producer)


class Endings:
    """Whether one consumer's stream is over.

    Args:
        broker: Where the topic is.
        topic: Its name.
        partitions: Those that this consumer alone reads; None where it takes from all what others leave.
        timeout: Seconds of a call.
    """

    def __init__(self, broker: Broker, topic: str, partitions: list[int] | None, timeout: float = TIMEOUT) -> None:
        self._broker = broker
        self._topic = topic
        self._timeout = timeout
        self.partitions = partitions
        self._top: dict[int, int] = {}
        """The highest offset that was fetched of each partition."""
        self._pause = _AT_FIRST
        self.seen = False
        """Whether an END came by."""

    def moved(self, found: Sequence[Delivery]) -> None:
        """Events came: the next look may come soon again."""
        self._pause = _SOON if self.seen else _AT_FIRST
        for delivery in found:
            partition, offset = delivery.position.partition, delivery.position.offset
            self._top[partition] = max(self._top.get(partition, 0), offset)

    def restart(self) -> None:
        """Reading goes on elsewhere."""
        self._top.clear()

    def pause(self) -> float:
        """Seconds to wait for events before the next look."""
        pause = self._pause
        self._pause = min(2 * pause, _LONGEST)
        return pause

    def over(self, info: Callable[[], GroupInfo], desk: Desk) -> bool:
        """Whether nothing comes any more.

        Raises:
            ConnectorError: The broker cannot be reached.
        """
        return self.all_ended() and self._nothing_left(*desk.compared(info), desk)

    def all_ended(self) -> bool:
        """Whether there was a producer, and each has ended."""
        found = self._broker.state(self._topic, timeout=self._timeout).items(PRODUCERS).values()
        return bool(found) and all([_ended(kept.value) for kept in found])

    def _nothing_left(self, info: GroupInfo, spots: list[tuple[int, int]], desk: Desk) -> bool:
        if self.partitions is None or desk.observing:
            return info.undelivered == 0 and (desk.observing or info.pending <= len(spots))
        return self._all_mine(info, spots, desk)

    def _all_mine(self, info: GroupInfo, spots: list[tuple[int, int]], desk: Desk) -> bool:
        """Of partitions that nobody else reads: all was fetched, and the oldest that is not acknowledged is held."""
        floors = info.floor
        extents = self._broker.describe(self._topic, timeout=self._timeout).extents
        held: dict[int, list[int]] = {}
        for partition, offset in spots:
            held.setdefault(partition, []).append(offset)
        for number in self.partitions or ():
            last, floor = extents[number].last, floors.get(number, 0)
            if floor >= last:
                continue
            if self._top.get(number, 0) < last or desk.returned(number) or number not in held:
                return False
        return True


class Fences:
    """Which producers were replaced by others of their names.

    Args:
        broker: Where the topic is.
        topic: Its name.
        timeout: Seconds of a call.
    """

    def __init__(self, broker: Broker, topic: str, timeout: float = TIMEOUT) -> None:
        self._broker = broker
        self._topic = topic
        self._timeout = timeout
        self._latest: dict[str, int] = {}

    def __call__(self, producer: str, epoch: int) -> bool:
        """Whether a producer's epoch is over; what was forwarded here, in whatever order, is never."""
        if self._latest.get(producer, -1) <= epoch:
            try:
                self._latest[producer] = self._look(producer)
            except ProxyfabError:  # it is taken for what it says it is
                return False
        return self._latest[producer] > epoch

    def _look(self, producer: str) -> int:
        state = self._broker.state(self._topic, timeout=self._timeout)
        kept = state.get(PRODUCERS + producer)
        if kept is None or state.items(_FORWARDED):
            return -1
        try:
            return _producers.decode(kept.value).epoch
        except msgspec.MsgspecError:
            return -1


def _ended(value: bytes) -> bool:
    try:
        return _producers.decode(value).ended
    except msgspec.MsgspecError:  # nobody who will end
        return True
