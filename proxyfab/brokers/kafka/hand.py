"""What a member has in hand: records that it fetched, owes, and gets again by itself. Does no I/O.

Rules:
1. Of each partition there is a floor: everything up to it is acknowledged. Only floors are told to Kafka, so what was
   acknowledged above one comes again to whoever takes the partition over.
2. What is not acknowledged in time, or is given back, comes again here; Kafka knows nothing of it.
3. Everything in hand has the same time, so that what was fetched or extended first falls due first.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from proxyfab.events.model import Delivery

Spot: TypeAlias = "tuple[int, int]"
"""Partition and offset."""


class _Owed(NamedTuple):
    delivery: Delivery
    deadline: float


class _Returned(NamedTuple):
    delivery: Delivery
    due: float
    note: bytes


class _Partition:
    """Offsets that were handed out, of which the acknowledged ones go when they come first."""

    __slots__ = ("last", "offsets", "told")

    def __init__(self, first: int) -> None:
        self.last = self.told = first - 1
        self.offsets: deque[int] = deque()


class Hand:
    """Offsets are proxyfab's, from 1. Thread-safe."""

    def __init__(self, ack_wait: float) -> None:
        self._fresh: deque[Delivery] = deque()
        self._ack_wait = ack_wait
        self._partitions: dict[int, _Partition] = {}
        self._owed: OrderedDict[Spot, _Owed] = OrderedDict()
        self._returned: dict[Spot, _Returned] = {}
        self._due: list[tuple[float, Spot]] = []
        self._lock = threading.Lock()

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """They have arrived; nobody has them yet."""
        with self._lock:
            self._fresh.extend(deliveries)

    def take(self, most: int) -> list[Delivery]:
        """What comes again now, and then what is fresh."""
        now = time.monotonic()
        with self._lock:
            self._expire(now)
            found = self._again(most, now)
            while self._fresh and len(found) < most:
                delivery = self._fresh.popleft()
                number, offset = spot = spot_of(delivery)
                partition = self._partitions.get(number)
                if partition is None:
                    partition = self._partitions[number] = _Partition(offset)
                partition.last = offset
                partition.offsets.append(offset)
                self._owed[spot] = _Owed(delivery, now + self._ack_wait)
                found.append(delivery)
        return found

    def _expire(self, now: float) -> None:
        while self._owed:
            spot, owed = next(iter(self._owed.items()))
            if owed.deadline > now:
                break
            self._give_back(spot, now, b"")

    def _give_back(self, spot: Spot, due: float, note: bytes) -> None:
        self._returned[spot] = _Returned(self._owed.pop(spot).delivery, due, note)
        heapq.heappush(self._due, (due, spot))

    def _again(self, most: int, now: float) -> list[Delivery]:
        found: list[Delivery] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            due, spot = heapq.heappop(self._due)
            known = self._returned.get(spot)
            if known is None or known.due != due:  # acknowledged meanwhile, or returned once more
                continue
            del self._returned[spot]
            again = known.delivery._replace(attempt=known.delivery.attempt + 1, note=known.note)
            self._owed[spot] = _Owed(again, now + self._ack_wait)
            found.append(again)
        return found

    def patience(self, most: float) -> float:
        """Seconds until something may come again, at most so many."""
        with self._lock:
            first = next(iter(self._owed.values())).deadline if self._owed else float("inf")
            if self._due:
                first = min(first, self._due[0][0])
        return max(0.0, min(most, first - time.monotonic()))

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """They are done."""
        with self._lock:
            for delivery in deliveries:
                spot = spot_of(delivery)
                self._owed.pop(spot, None)
                self._returned.pop(spot, None)

    def nack(self, deliveries: Iterable[Delivery], delay: float, note: bytes) -> None:
        """They come again, those that are owed."""
        due = time.monotonic() + delay
        with self._lock:
            for delivery in deliveries:
                if (spot := spot_of(delivery)) in self._owed:
                    self._give_back(spot, due, note)

    def extend(self, deliveries: Iterable[Delivery]) -> None:
        """The time for those that are owed begins anew."""
        deadline = time.monotonic() + self._ack_wait
        with self._lock:
            for delivery in deliveries:
                spot = spot_of(delivery)
                owed = self._owed.pop(spot, None)
                if owed is not None:
                    self._owed[spot] = owed._replace(deadline=deadline)

    def drop(self, partitions: Iterable[int] | None = None) -> None:
        """These partitions, or all, are somebody else's: nothing of them is owed any more."""
        with self._lock:
            gone = None if partitions is None else set(partitions)
            self._fresh = deque(
                [each for each in self._fresh if gone is not None and each.position.partition not in gone]
            )
            for number in [number for number in self._partitions if gone is None or number in gone]:
                del self._partitions[number]
            for spot in [spot for spot in (*self._owed, *self._returned) if gone is None or spot[0] in gone]:
                self._owed.pop(spot, None)
                self._returned.pop(spot, None)

    def news(self) -> dict[int, int]:
        """Floors that Kafka was not told yet."""
        with self._lock:
            floors = {number: (self._floor(number, each), each.told) for number, each in self._partitions.items()}
        return {number: floor for number, (floor, told) in floors.items() if floor > told}

    def _floor(self, number: int, partition: _Partition) -> int:
        offsets = partition.offsets
        while offsets and (spot := (number, offsets[0])) not in self._owed and spot not in self._returned:
            offsets.popleft()
        return offsets[0] - 1 if offsets else partition.last

    def told(self, floors: dict[int, int]) -> None:
        """Kafka knows these."""
        with self._lock:
            for number, floor in floors.items():
                if number in self._partitions:
                    self._partitions[number].told = max(floor, self._partitions[number].told)

    def pending(self) -> tuple[int, int]:
        """Records that are fetched and not acknowledged; and those that are acknowledged above a floor."""
        with self._lock:
            held = len(self._owed) + len(self._returned)
            passed = sum([each.last - self._floor(number, each) for number, each in self._partitions.items()])
        return held, passed - held


def spot_of(delivery: Delivery) -> Spot:
    """Where it lies."""
    return delivery.position.partition, delivery.position.offset
