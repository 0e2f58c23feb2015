"""What every process of the second act is told at its start: the scan, the broker, and what its topics are called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxyfab.demo.setup import Setup
from proxyfab.events.model import Topic

if TYPE_CHECKING:
    from typing import Self

RECONSTRUCT, ASSEMBLE = "reconstruct", "assemble"
"""The groups: workers that share the counts, and the main process."""
ABOVE = 1024
"""Bytes from which an object goes to the store: counts and pictures always do."""
ACK_WAIT = 2.0
"""Seconds after which a slice that a worker has taken and not acknowledged is another's."""
ATTEMPTS = 50
"""A slice is given up after so many; on a machine that is busy a slow worker is taken for a dead one now and then."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the second act.

    Attributes:
        setup: The scan.
        broker: URL of the broker.
        run: What its topics begin with.
    """

    setup: Setup
    broker: str
    run: str

    @property
    def counts(self) -> Topic:
        """Rotations, one an event; an object goes when its slice is acknowledged."""
        return Topic(f"{self.run}-counts")

    @property
    def calibration(self) -> Topic:
        """Dark and flat exposures, which every worker reads."""
        return Topic(f"{self.run}-calibration", release="never")

    @property
    def results(self) -> Topic:
        """Pictures, and what instrument and workers tell of themselves."""
        return Topic(f"{self.run}-results", groups=(ASSEMBLE,))

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All of them."""
        return self.counts, self.calibration, self.results

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps([self.setup.to_json(), self.broker, self.run])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The Plan that `to_json` wrote."""
        setup, broker, run = json.loads(text)
        return cls(Setup.from_json(setup), broker, run)
