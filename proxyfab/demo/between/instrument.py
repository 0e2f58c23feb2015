"""The instrument of the third act: measures at its own pace, whether or not the link is there.

Counts go to the gateway of its own site at once. What waits for the link, in a thread, is the event that says so.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from proxyfab.demo.between.part import Part, play
from proxyfab.demo.instrument import Instrument
from proxyfab.demo.role import now
from proxyfab.patterns.stream import Producer
from proxyfab.ref import Ref


def run(part: Part) -> None:
    """Measure all frames and announce them."""
    plan = part.plan
    instrument = Instrument(plan.setup)
    for frame in instrument.prepare():
        part.tell("preparing", frame=frame)  # a sign of life, on a busy machine too
    part.begin()
    with part.broker:
        with Producer(part.broker, plan.calibration, store=part.store, above=0, timeout=part.patience) as out:
            out.send(instrument.calibrate())
            out.end()
        part.ready()
        _scan(part, instrument)
        held = part.broker.describe(plan.counts.name)
        part.done(records=held.records, record_bytes=held.nbytes)


def _scan(part: Part, instrument: Instrument) -> None:
    """All rotations, each at its time, or as soon after it as the one before is done."""
    plan = part.plan
    with (
        Producer(part.broker, plan.counts, store=part.store, name=part.name, timeout=part.patience) as out,
        ThreadPoolExecutor(1) as announcing,
    ):
        announced = []
        started = now()
        for frame in range(plan.setup.frames):
            time.sleep(max(0.0, started + frame * plan.interval - now()))
            begun = now()
            ref = part.store.ref(instrument.measure(frame))
            said = {"frame": frame, "begun": begun, "measured": now()}
            part.tell("measured", frame=frame)
            announced.append(announcing.submit(_announce, out, ref, said))
        for each in announced:
            each.result()
        out.end()


def _announce(out: Producer, ref: Ref[Any], said: dict[str, Any]) -> None:
    """Back when the broker has it; one at a time, so that slices, not groups of them, are shared out."""
    out.send(ref, metadata=said)
    out.flush()


if __name__ == "__main__":
    play(run)
