"""How much of what a producer sent may wait to be acknowledged. Plain data; who heeds it is `gathering`."""

from __future__ import annotations

from typing import NamedTuple

FULL = ("block", "error", "drop_oldest")
"""What happens to what does not fit."""
_PARTS = 8


class Limits(NamedTuple):
    """How much may wait, and what happens then.

    Attributes:
        nbytes: Bytes of events that are not acknowledged.
        events: Their number.
        full: `"block"`, `"error"` or `"drop_oldest"`.
        timeout: Seconds to block.
        linger: Seconds that an event waits for others although nothing is in flight.
        record: Bytes that one frame may have at the broker.
    """

    nbytes: int
    events: int
    full: str
    timeout: float
    linger: float
    record: int = 1 << 20

    def frame(self, events: int, nbytes: int) -> tuple[int, int]:
        """The most events and bytes of one frame, of these at most: what goes for newer ones goes by frames."""
        if self.full != "drop_oldest":
            return events, nbytes
        return min(events, max(self.events // _PARTS, 1)), min(nbytes, max(self.nbytes // _PARTS, 1))
