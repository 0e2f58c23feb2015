"""A worker of the second act: takes a slice from the stream, sends its picture, and only then acknowledges.

So whenever it dies, what it had not finished comes again to another member of its group. What it had finished and not
acknowledged comes again, too: then there are two pictures of one slice, and the main process takes one of them.
"""

from __future__ import annotations

from typing import Any

from proxyfab.demo.role import now
from proxyfab.demo.stream.part import Part, play
from proxyfab.demo.stream.plan import ACK_WAIT, ATTEMPTS, RECONSTRUCT, Plan
from proxyfab.demo.tomography import Scanner, line_integrals
from proxyfab.events.broker import Broker
from proxyfab.patterns.stream import Consumer

_AHEAD = 2
"""Slices that are fetched ahead, about."""
_PATIENCE = 10
"""Deadlines: the main process watches over the others, who only must not wait for ever."""


def calibration(broker: Broker, plan: Plan, patience: float) -> Any:
    """Dark and flat fields, once the instrument has measured them: how every worker of either act begins."""
    with Consumer(broker, plan.calibration, observe=True, timeout=patience) as reader:
        return next(iter(reader)).get()


def run(part: Part) -> None:
    """Reconstruct until the instrument has ended and nothing is left."""
    plan, setup = part.plan, part.plan.setup
    scanner = Scanner(setup.size, setup.angles)
    patience = _PATIENCE * setup.deadline
    darks, flats = calibration(part.broker, plan, patience)
    part.ready()
    with Consumer(
        part.broker,
        plan.counts,
        group=RECONSTRUCT,
        ack_wait=ACK_WAIT,
        attempts=ATTEMPTS,
        prefetch=_AHEAD,
        timeout=patience,
        member=part.name,
    ) as slices:
        for item in slices:
            frame, taken = item.metadata["frame"], now()
            part.tell("taken", frame=frame, attempt=item.attempt)
            counts = item.get()
            loaded = now()
            picture = scanner.reconstruct(line_integrals(counts, darks, flats))
            times = [item.metadata["begun"], item.metadata["measured"], taken, loaded, now()]
            part.tell("picture", picture, frame=frame, attempt=item.attempt, times=times, got=counts.nbytes)
            item.ack()


if __name__ == "__main__":
    play(run)
