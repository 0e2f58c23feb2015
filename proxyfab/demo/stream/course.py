"""Course: how the second act went: who did which slice, who was killed at what, what came again, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Slice(NamedTuple):
    """A picture of a slice, as it came to the main process. Points in time as in `trip.Trip`.

    Attributes:
        frame: Which.
        worker: Whose.
        attempt: How often the slice had been delivered.
        begun: The instrument starts the rotation.
        measured: The counts are there.
        taken: The worker takes the slice.
        loaded: The counts are an array in the worker.
        reconstructed: The picture is computed.
        collected: The main process has it in place.
        first: Whether it was the first of this slice, and not one that came twice.
    """

    frame: int
    worker: str
    attempt: int
    begun: float
    measured: float
    taken: float
    loaded: float
    reconstructed: float
    collected: float
    first: bool


class Kill(NamedTuple):
    """The end of a worker.

    Attributes:
        worker: Who was killed.
        at: When.
        taken: When it had taken what it was at.
        frame: What it was at.
        replaced_by: Who came instead.
    """

    worker: str
    at: float
    taken: float
    frame: int
    replaced_by: str


class Held(NamedTuple):
    """What the broker held of all topics in the end: records and their bytes, lag and dead letters."""

    records: int
    nbytes: int
    lag: int
    dead_letters: int


class Gathered:
    """What can be told from the pictures of an act alone."""

    __slots__ = ()
    frames: int
    slices: Sequence[Slice]

    @property
    def started(self) -> float:
        """When the first rotation began."""
        return min(each.begun for each in self.slices)

    @property
    def duplicates(self) -> int:
        """Pictures that came a second time, and were left aside."""
        return sum(not each.first for each in self.slices)

    @property
    def lost(self) -> int:
        """Slices without a picture."""
        return self.frames - sum(each.first for each in self.slices)

    @property
    def shares(self) -> dict[str, int]:
        """How many pictures each worker's are."""
        return dict(sorted(Counter(each.worker for each in self.slices).items()))


@dataclass(frozen=True, slots=True)
class Course(Gathered):
    """What the second act came to.

    Attributes:
        broker: URL of the broker.
        frames: How many slices there were.
        slices: Pictures in the order of arrival, those that came twice among them.
        pictures: Of each slice, the first one that came.
        kill: Who was killed.
        differing: Frames of which two pictures came that are not the same, bit for bit.
        bulk: Bytes of counts and pictures that were moved, also for what was done twice.
        held: What lay at the broker.
        left: Objects that were left in the store when all was done, besides the calibration.
        reports: What the processes said of themselves; the one that was killed said nothing.
    """

    broker: str
    frames: int
    slices: Sequence[Slice]
    pictures: Mapping[int, Any]
    kill: Kill
    differing: Sequence[int]
    bulk: int
    held: Held
    left: int
    reports: Mapping[str, Mapping[str, Any]]

    @property
    def seconds(self) -> float:
        """From there to the last picture."""
        return max(each.collected for each in self.slices if each.first) - self.started

    @property
    def again(self) -> list[int]:
        """Slices that were delivered more than once, and of which a picture came of such a delivery."""
        return sorted({each.frame for each in self.slices if each.attempt > 1})

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON takes it."""
        return {
            "broker": self.broker,
            "seconds": self.seconds,
            "frames_per_second": self.frames / self.seconds,
            "pictures": self.frames - self.lost,
            "lost": self.lost,
            "duplicates": self.duplicates,
            "differing": list(self.differing),
            "delivered_again": self.again,
            "shares": self.shares,
            "killed": {
                "worker": self.kill.worker,
                "frame": self.kill.frame,
                "seconds": self.kill.at - self.started,
                "replaced_by": self.kill.replaced_by,
            },
            "moved_bytes": self.bulk,
            "broker_bytes": self.held.nbytes,
            "broker_records": self.held.records,
            "broker_bytes_per_frame": self.held.nbytes / self.frames,
            "lag": self.held.lag,
            "dead_letters": self.held.dead_letters,
            "objects_left": self.left,
            "cpu_seconds": {name: each["cpu"] for name, each in self.reports.items()},
            "peak_memory_bytes": {name: each["peak_memory"] for name, each in self.reports.items()},
        }
