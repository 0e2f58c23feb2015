"""What stands before a run and is judged after it: topics, the output, objects, dead letters, and what is left."""

from __future__ import annotations

from proxyfab.brokers.opening import open_broker
from proxyfab.errors import ResolveTimeout
from proxyfab.events.model import Topic
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.releasing import objects_of, sweep
from proxyfab.patterns.stream.strays import sweep_strays
from proxyfab.store import Store
from proxyfab.testing.processes import until
from proxyfab.testing.streamkills.places import Place
from proxyfab.testing.streamkills.work import CHECK, judged
from proxyfab.wire.events import decode

PARTITIONS = 2
_SWEPT = 30.0
_FORGOTTEN = 5.0
"""Seconds after which nothing is left of a topic: who waited for it was told so."""


class Aftermath:
    """The stream of one run, as its maker sees it.

    Args:
        at: The broker.
        name: Of the topic.
    """

    def __init__(self, at: Place, name: str) -> None:
        self.topic, self.output = name, f"{name}-out"
        self._place = at
        self._broker = open_broker(at.url)
        self._store = Store(at.store)

    def prepare(self, groups: tuple[str, ...], ack_wait: float) -> None:
        """Make the topics and their groups: nothing is released before all of these have read it."""
        for topic, readers in ((self.topic, groups), (self.output, (CHECK,))):
            self._place.make(topic, PARTITIONS)
            self._broker.ensure(Topic(topic, partitions=PARTITIONS))
            for group in readers:
                self._broker.ensure_group(topic, group, ack_wait=ack_wait)

    def read(self, timeout: float) -> list[str]:
        """The events in the output, in the order in which they come; what is torn is none."""
        found = []
        try:
            with Consumer(self._broker, self.output, group=CHECK, timeout=timeout) as consumer:
                for item in consumer:
                    found.append(item.metadata["about"] if judged(item) == ["whole"] else f"torn {item.position}:0")
                    item.ack()
        except ResolveTimeout:  # it has no end: what is missing is seen
            pass
        return found

    def clear(self) -> list[str]:
        """Sweep, delete the topics, close; what was left, in words."""
        left = []
        for topic in (self.topic, self.output):
            for group, info in self._broker.groups(topic).items():
                left += [f"{info.lag} records of {topic} that {group} has not acknowledged"] if info.lag else []
        until(self._swept, _SWEPT)
        left += self._objects()
        left += [f"dead letters in {name}" for name in self._broker.topics() if name.endswith(".dlq")]
        self._store.clear()
        if self._place.deletes:
            for name in self._broker.topics():
                self._broker.delete(name)
            left += [f"topic {name}" for name in self._broker.topics()]
        self.close()
        until(lambda: not self._place.leftovers(), _FORGOTTEN)
        return [*left, *self._place.leftovers()]

    def _swept(self) -> bool:
        for topic in (self.topic, self.output):
            sweep(self._broker, topic)
            sweep_strays(self._broker, topic, older=0.0)
        return not self._keys()

    def _keys(self) -> set[str]:
        return {stat.key.id for stat in self._store.connector.scan()}  # type: ignore[attr-defined]  # these can

    def _objects(self) -> list[str]:
        keys = self._keys()
        named: dict[str, str] = {}
        for topic in (self.topic, self.output) if keys else ():
            named.update(self._named(topic))
        return [f"object {key} of {named.get(key, 'an event that never was')}" for key in sorted(keys)]

    def _named(self, topic: str) -> dict[str, str]:
        """Where events refer to which objects."""
        found: dict[str, str] = {}
        with self._broker.subscribe(topic, group=None) as reader:
            while batch := reader.fetch(256, 1.0):
                for delivery in batch:
                    for held in objects_of(decode(delivery.body)):
                        found[held.key.id] = str(delivery.position)
        return found

    def close(self) -> None:
        """Let go."""
        self._store.close()
        self._broker.close()
