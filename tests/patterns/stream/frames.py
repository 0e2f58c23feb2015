"""Frames written by hand, as a producer would write them, for tests of consumers."""

from __future__ import annotations

from typing import Any

import msgspec

from proxyfab import Store
from proxyfab.events.broker import Broker
from proxyfab.events.model import Position, Record, Topic
from proxyfab.patterns.stream.references import state_of
from proxyfab.wire.events import END, NOTHING, OBJECT, VALUE, Event, Frame, encode, is_plain, pack_metadata


class Writer:
    """One producer. Registered when it is made."""

    def __init__(self, broker: Broker, topic: str = "t", name: str = "p", *, partitions: int = 1) -> None:
        self.broker, self.topic, self.name = broker, topic, name
        self.partitions = partitions
        self.numbers = [0] * partitions
        broker.ensure(Topic(topic, partitions=partitions))
        self._say(ended=False)

    def _say(self, *, ended: bool) -> None:
        value = msgspec.msgpack.encode({"epoch": 0, "ended": ended, "at": 0.0})
        self.broker.state(self.topic).put(f"producers/{self.name}", value)

    def send(
        self,
        *objects: Any,
        partition: int = 0,
        key: str | None = None,
        store: Store | None = None,
        attributes: dict[str, str] | None = None,
        **metadata: Any,
    ) -> Position:
        """One frame of these."""
        packed = pack_metadata(metadata) if metadata else NOTHING
        events = []
        for obj in objects:
            kind, data = VALUE, obj
            if not is_plain(obj):
                assert store is not None
                kind, data = OBJECT, state_of(store.ref(obj, once=True), 0)
                data[-1] = 0
            events.append(Event(kind, data, 1_700_000_000_500_000, key, packed, attributes))
        return self.publish(events, partition, [] if store is None else [store.url])

    def publish(self, events: list[Event], partition: int = 0, stores: list[str] | None = None) -> Position:
        frame = Frame(self.name, 0, partition, self.numbers[partition], "//here", stores or [], events)
        self.numbers[partition] += len(events)
        key = events[0].key if events else None
        return self.broker.publish(self.topic, [Record(encode(frame), frame.id, partition, key)])[0]

    def end(self) -> None:
        for partition in range(self.partitions):
            self.publish([Event(END)], partition)
        self._say(ended=True)
