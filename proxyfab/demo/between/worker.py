"""A worker of the third act: fetches the next slice through its site's gateway while it reconstructs this one."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from proxyfab.demo.between.part import Part, play
from proxyfab.demo.between.plan import ACK_WAIT, AHEAD
from proxyfab.demo.role import now
from proxyfab.demo.stream.plan import RECONSTRUCT
from proxyfab.demo.stream.worker import calibration
from proxyfab.demo.tomography import Scanner, line_integrals
from proxyfab.patterns.stream import Consumer
from proxyfab.patterns.stream.item import Item


class Loaded(NamedTuple):
    """A slice whose counts are here; points in time as in `trip.Trip`."""

    item: Item
    counts: Any
    taken: float
    loaded: float


def run(part: Part) -> None:
    """Reconstruct until the instrument has ended and nothing is left."""
    plan, setup = part.plan, part.plan.setup
    scanner = Scanner(setup.size, setup.angles)
    part.begin()
    with part.broker:
        darks, flats = calibration(part.broker, plan, part.patience)
        part.ready()
        with Consumer(
            part.broker,
            plan.counts,
            group=RECONSTRUCT,
            ack_wait=ACK_WAIT,
            prefetch=AHEAD,
            timeout=part.patience,
            member=part.name,
        ) as slices:
            for item, counts, taken, loaded in _ahead(part, slices):
                said = item.metadata
                picture = scanner.reconstruct(line_integrals(counts, darks, flats))
                times = [said["begun"], said["measured"], taken, loaded, now()]
                body = pickle.dumps(part.store.ref(picture, once=True))
                part.tell("picture", body, frame=said["frame"], attempt=item.attempt, times=times, got=counts.nbytes)
                item.ack()
            slices.flush()
        part.done()


def _ahead(part: Part, slices: Consumer) -> Iterator[Loaded]:
    """Slices as they come, each fetched while the one before is under work."""
    ready: queue.Queue[Loaded | Exception | None] = queue.Queue(1)

    def fetch() -> None:
        try:
            for item in slices:
                taken = now()
                part.tell("taken", frame=item.metadata["frame"])
                ready.put(Loaded(item, item.get(), taken, now()))
            ready.put(None)
        except Exception as error:  # noqa: BLE001  # raised again where the slice is asked for
            ready.put(error)

    threading.Thread(target=fetch, daemon=True, name="ahead").start()
    while (found := ready.get()) is not None:  # its deadline is the consumer's
        if isinstance(found, Exception):
            raise found
        yield found


if __name__ == "__main__":
    play(run)
