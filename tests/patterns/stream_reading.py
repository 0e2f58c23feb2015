"""What tests of producers read behind them, and a broker whose moods they choose."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.events.broker import TIMEOUT, Broker
from proxyfab.events.model import Position, Record
from proxyfab.patterns.stream.references import ref_in
from proxyfab.wire.events import OBJECT, Event, Frame, decode, unpack_metadata

PATIENCE = 20.0


class Moody(MemoryBroker):
    """Publishes while its gate is open; `mood` is called with the records, before or after they are there."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Semaphore(0)
        self.before: Callable[[Sequence[Record]], object] = lambda _: None
        self.after: Callable[[Sequence[Record]], object] = lambda _: None
        self.calls: list[list[Record]] = []

    def publish(self, topic: str, records: Sequence[Record], *, timeout: float = TIMEOUT) -> list[Position]:
        self.calls.append(list(records))
        self.waits.release()
        assert self.gate.wait(PATIENCE)
        self.before(records)
        positions = super().publish(topic, records, timeout=timeout)
        self.after(records)
        return positions


def frames(broker: Broker, topic: str) -> list[Frame]:
    """All frames of a topic, those of a partition in order."""
    with broker.subscribe(topic, group=None) as reader:
        found = []
        while some := reader.fetch(1000, 0.0):
            found += [decode(each.body) for each in some]
        return found


def events(broker: Broker, topic: str) -> list[tuple[Frame, Event]]:
    return [(frame, event) for frame in frames(broker, topic) for event in frame.events]


def objects(broker: Broker, topic: str) -> list[Any]:
    """What was sent, ends left out."""
    return [
        ref_in(event.data, frame.stores).resolve() if event.kind == OBJECT else event.data
        for frame, event in events(broker, topic)
        if event.kind != 2
    ]


def metadata(broker: Broker, topic: str) -> list[dict[str, Any]]:
    return [unpack_metadata(event.metadata) for _, event in events(broker, topic)]
