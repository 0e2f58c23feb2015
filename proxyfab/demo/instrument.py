"""The instrument: turns the specimen before a detector and hands out what was counted, rotation by rotation.

The physics is computed (line integrals of a real volume, counting noise, an uneven beam and detector); what happens to
the counts from here on is what would happen to those of a real detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import process_time

from proxyfab.demo.carrier import carrier
from proxyfab.demo.channel import Channel
from proxyfab.demo.role import now, play, report
from proxyfab.demo.setup import Setup
from proxyfab.demo.specimen import Slice, Specimen
from proxyfab.demo.tomography import Counts, Detector, Scanner, Sinogram

_EXPOSURES = 40
"""Dark and flat exposures before the scan."""


class Instrument:
    """Source, stage and detector. The counts of a frame depend on the seed and the frame's number only."""

    def __init__(self, setup: Setup) -> None:
        self._specimen = Specimen(setup.size)
        self._scanner = Scanner(setup.size, setup.angles)
        self._detector = Detector(setup.size, setup.seed)
        self._program = self._specimen.slices(setup.frames)
        self._projected: dict[Slice, Sinogram] = {}

    def prepare(self) -> Iterator[int]:
        """Compute all line integrals beforehand, one by one: what nature does for a real instrument, in no time."""
        for frame, which in enumerate(self._program):
            if which not in self._projected:
                self._project(which)
                yield frame

    def calibrate(self) -> tuple[Counts, Counts]:
        """Dark and flat exposures, each of shape (exposures, size)."""
        return self._detector.darks(_EXPOSURES), self._detector.flats(_EXPOSURES)

    def measure(self, frame: int) -> Counts:
        """Counts of one rotation, shape (angles, size)."""
        return self._detector.expose(self._project(self._program[frame]), frame)

    def _project(self, which: Slice) -> Sinogram:
        if which not in self._projected:
            self._projected[which] = self._scanner.project(self._specimen.image(which))
        return self._projected[which]


def run(setup: Setup, channels: Mapping[str, Channel]) -> None:
    """Measure and hand out all frames."""
    dispatcher = channels["dispatcher"]
    instrument, carry = Instrument(setup), carrier(setup)
    for frame in instrument.prepare():
        dispatcher.send({"kind": "preparing", "frame": frame})  # a sign of life, on a busy machine too
    dispatcher.send({"kind": "ready"})
    since = process_time()
    dispatcher.receive()  # "go": everybody is ready
    dispatcher.send({"kind": "calibration"}, carry.pack(instrument.calibrate(), readers=setup.workers))
    for frame in range(setup.frames):
        begun = now()
        counts = instrument.measure(frame)
        measured = now()
        body = carry.pack(counts)
        dispatcher.send({"kind": "frame", "frame": frame, "times": [begun, measured, now()]}, body)
    dispatcher.send(report("instrument", channels, carry.stats(), since=since))


if __name__ == "__main__":
    play(run)
