"""Passage: how the third act went: what crossed the link when, what the cut cost, and what came twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from proxyfab.demo.between.plan import CUT, RATE, ROUND_TRIP
from proxyfab.demo.stream.course import Gathered, Slice

_DRAINED = 1.0
"""Seconds in which what the link holds at a cut comes out of it: 0.3 of a full queue, the rest for a busy machine."""


class Sample(NamedTuple):
    """What the link's ends had counted at one moment: all bytes of all packets, whatever they were for.

    Attributes:
        at: When.
        received: Bytes that had come to `alcf`.
        sent: Bytes that had left `aps`, those among them that the link lost.
    """

    at: float
    received: int
    sent: int


class Carried(NamedTuple):
    """What the gateways say of objects: bytes that `aps` has sent, and of these, that it had sent before."""

    sent: float
    again: float


class Cut(NamedTuple):
    """From when to when nothing crossed the link, and the slice that was asked for just before."""

    began: float
    ended: float
    frame: int


@dataclass(frozen=True, slots=True)
class Passage(Gathered):
    """What the third act came to.

    Attributes:
        frames: How many slices there were.
        interval: Seconds from one rotation to the next, as the instrument was told.
        slices: Pictures in the order of arrival, those that came twice among them.
        pictures: Of each slice, the first one that came.
        cut: When the link was cut.
        samples: What crossed the link, in the order of time; the first one from before the first rotation.
        carried: What the gateways sent of objects.
        counts: Bytes of counts that were measured.
        reports: What the processes said of themselves.
    """

    frames: int
    interval: float
    slices: Sequence[Slice]
    pictures: Mapping[int, Any]
    cut: Cut
    samples: Sequence[Sample]
    carried: Carried
    counts: int
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def seconds(self) -> float:
        """From there to the last picture."""
        return max(each.collected for each in self.slices) - self.started

    @property
    def sent(self) -> int:
        """Bytes that left `aps` from the first rotation on: counts, events, what protocols add, what was lost."""
        return self.samples[-1].sent - self.samples[0].sent

    @property
    def dropped(self) -> int:
        """Of these, bytes that did not come to `alcf`: what was on its way at the cut, and was sent again."""
        return self.sent - (self.samples[-1].received - self.samples[0].received)

    @property
    def again(self) -> float:
        """Part of the objects' bytes that gateways sent again; what TCP did below them is in `dropped`."""
        return self.carried.again / max(self.carried.sent, 1)

    @property
    def in_cut(self) -> int:
        """Bytes that came while the link was cut, but for what was on its way when that began.

        From the first look after that until the last one before the end: what comes after it is no part of the cut.
        """
        began, ended = self.cut.began + _DRAINED, self.cut.ended
        looks = [each.received for each in self.samples if began <= each.at <= ended]
        return looks[-1] - looks[0] if looks else 0

    @property
    def recovery(self) -> float:
        """Seconds from the end of the cut until bytes came again."""
        ended = self.cut.ended
        before = max(each.received for each in self.samples if each.at <= ended)
        return next((each.at for each in self.samples if each.received > before), ended) - ended

    def throughput(self, step: float = 0.25) -> tuple[list[float], list[float]]:
        """MB/s over the link: when each stretch of `step` seconds begins, from the first rotation on, and its rate.

        Between two looks at the counters bytes are taken to have come evenly.
        """
        times = [each.at - self.started for each in self.samples]
        edges = [i * step for i in range(int(times[-1] / step) + 2)]
        totals = [_between(times, [each.received for each in self.samples], edge) for edge in edges]
        return edges[:-1], [(after - before) / step / 1e6 for before, after in pairwise(totals)]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON takes it."""
        times, rates = self.throughput()
        began, ended = (moment - self.started for moment in self.cut[:2])
        instrument = self.reports["instrument"]
        return {
            "link": {"megabits_a_second": RATE / 1e6, "round_trip_seconds": ROUND_TRIP},
            "seconds": self.seconds,
            "pictures": self.frames - self.lost,
            "lost": self.lost,
            "twice": self.duplicates,
            "shares": self.shares,
            "cut": {"began": began, "seconds": ended - began, "planned_seconds": CUT, "frame": self.cut.frame},
            "recovery_seconds": self.recovery,
            "counts_bytes": self.counts,
            "link_bytes": self.sent,
            "link_bytes_dropped": self.dropped,
            "link_bytes_in_cut": self.in_cut,
            "object_bytes": self.carried.sent,
            "object_bytes_again": self.carried.again,
            "broker_records": instrument["records"],
            "broker_bytes": instrument["record_bytes"],
            "throughput": {"seconds": times, "megabytes_a_second": rates},
            "cpu_seconds": {name: each["cpu"] for name, each in self.reports.items()},
            "peak_memory_bytes": {name: each["peak_memory"] for name, each in self.reports.items()},
        }


def _between(times: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at one moment, on straight lines between those that are known."""
    if at <= times[0]:
        return values[0]
    for (begin, low), (end, high) in pairwise(zip(times, values, strict=True)):
        if at <= end:
            return low + (high - low) * (at - begin) / max(end - begin, 1e-9)
    return values[-1]
