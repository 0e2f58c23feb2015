"""The instrument of the second act: the same counts as in the first one, each rotation an event."""

from __future__ import annotations

from proxyfab.demo.instrument import Instrument
from proxyfab.demo.role import now
from proxyfab.demo.stream.part import Part, play
from proxyfab.demo.stream.plan import ABOVE
from proxyfab.patterns.stream import Producer


def run(part: Part) -> None:
    """Measure and send all frames. Nobody is waited for: what workers have not taken lies at the broker."""
    plan, setup = part.plan, part.plan.setup
    instrument = Instrument(setup)
    for frame in instrument.prepare():
        part.tell("preparing", frame=frame)  # a sign of life, on a busy machine too
    with Producer(part.broker, plan.calibration, store=part.store, above=ABOVE, timeout=setup.deadline) as out:
        out.send(instrument.calibrate())
        out.end()
    part.ready()
    with Producer(
        part.broker, plan.counts, store=part.store, name=part.name, above=ABOVE, timeout=setup.deadline
    ) as out:
        for frame in range(setup.frames):
            begun = now()
            counts = instrument.measure(frame)
            out.send(counts, metadata={"frame": frame, "begun": begun, "measured": now()})
            out.flush()  # a slice a record: so slices, not groups of them, are shared out and come again
        out.end()


if __name__ == "__main__":
    play(run)
