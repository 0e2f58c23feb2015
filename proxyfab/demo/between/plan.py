"""What the third act is: the way between the sites, the instrument's pace, and the topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxyfab.demo.setup import Setup
from proxyfab.demo.stream import plan as stream
from proxyfab.wan.facilities import ADDRESSES

if TYPE_CHECKING:
    from typing import Self

RATE = 200e6
"""Bits a second of the link, each way."""
ROUND_TRIP = 0.05
"""Seconds from one site to the other and back."""
CUT = 5.0
"""Seconds without the link."""
BROKER = f"nats://{ADDRESSES['B']}:4222"
"""Where the workers are: what they acknowledge does not cross the link, and so is not late when that is cut."""
ACK_WAIT = 60.0
"""Seconds for a slice; more than a cut takes, for nobody dies in this act."""
AHEAD = 2
"""Slices that a worker fetches ahead, about."""
_SCAN, _SHORTEST = 6.0, 0.125


@dataclass(frozen=True, slots=True)
class Plan(stream.Plan):
    """One run of the third act, as each process is told it; which store is used is told when there is one."""

    @classmethod
    def of(cls, setup: Setup, run: str) -> Self:
        """That of a scan whose topics begin with `run`, at this act's broker."""
        return cls(setup, BROKER, run)

    @property
    def interval(self) -> float:
        """Seconds from one rotation to the next: a short scan is stretched, so that there is a middle to be cut."""
        return max(_SCAN / self.setup.frames, _SHORTEST)
