"""All topics of a server, and the bytes that they may hold together.

Promises: nothing that clients say makes the server hold more than `memory` bytes of records and a part of that of
values; what all groups have acknowledged makes room first, in every topic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from proxyfab.errors import BackPressureError, CapacityError, ConfigurationError, TopicNotFound
from proxyfab.events.engine import Log, same_topic
from proxyfab.events.model import Position, Record, Topic, check_topic
from proxyfab.events.values import Values

MOST_TOPICS = 10_000
MOST_GROUPS = 1_000
_VALUES = 4
"""The part of `memory` that values may take."""
_OWN = 400
"""Bytes that a record takes beside its body."""


class Held:
    """A topic and what stands beside it.

    Attributes:
        number: No other topic of this server has had it.
    """

    __slots__ = ("log", "number", "values")

    def __init__(self, topic: Topic | None, number: int) -> None:
        self.log = None if topic is None else Log(topic)
        self.values = Values()
        self.number = number


class Topics:
    """Belongs to the loop's thread.

    Args:
        memory: Bytes.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._held: dict[str, Held] = {"": Held(None, 0)}
        self._numbers = itertools.count(1)
        self._used = 0

    def names(self) -> list[str]:
        """Of all topics, sorted."""
        return sorted(filter(None, self._held))

    def log(self, name: str) -> Log:
        """A topic; raises TopicNotFound."""
        log = self._find(name).log
        if log is None:
            raise ConfigurationError("'' cannot name a topic.")
        return log

    def number(self, name: str) -> int:
        """What tells a topic from one of the same name that is made when it was deleted."""
        return self._find(name).number

    def values(self, name: str) -> Values:
        """The values beside a topic, or beside all of them; raises TopicNotFound."""
        return self._find(name).values

    def _find(self, name: str) -> Held:
        held = self._held.get(name)
        if held is None:
            check_topic(name)
            raise TopicNotFound(f"There is no topic {name} here; make it with ensure(Topic({name!r})).")
        return held

    def ensure(self, topic: Topic) -> Topic:
        """Make it, or tell what it is."""
        held = self._held.get(topic.name)
        if held is not None and held.log is not None:
            return same_topic(held.log.topic, topic)
        if len(self._held) > MOST_TOPICS:
            raise CapacityError(f"This broker has {MOST_TOPICS} topics, which is all that it takes; delete some.")
        if len(topic.groups) > MOST_GROUPS:
            raise ConfigurationError(f"Topic {topic.name} asks for more than {MOST_GROUPS} groups.")
        self._held[topic.name] = Held(topic, next(self._numbers))
        return topic

    def delete(self, name: str) -> Held | None:
        """Forget it; what it was."""
        held = self._held.pop(check_topic(name), None)
        if held is not None and held.log is not None:
            held.log.end()
            held.values.end()
            self.count()
        return held

    def publish(self, log: Log, records: Sequence[Record]) -> list[Position]:
        """Take records, if there is room for them."""
        more = sum([len(record.body) for record in records]) + _OWN * len(records)
        if self._used + more > self.memory:
            self._make_room(more)
        self._used += more
        return log.publish(records)

    def _make_room(self, more: int) -> None:
        self.count()
        for held in self._held.values():
            if self._used + more <= self.memory:
                return
            if held.log is not None:
                held.log.trim(self._used + more - self.memory)
                self.count()
        if self._used + more > self.memory:
            raise BackPressureError(
                f"This broker holds {self._used} bytes in all its topics, and {more} more do not fit into "
                f"{self.memory}: consume, delete topics or groups, or start it with more --memory."
            )

    def count(self) -> None:
        """How much is held, exactly; between two countings it is an upper bound."""
        logs = [held.log for held in self._held.values() if held.log is not None]
        self._used = sum([log.nbytes + _OWN * log.count for log in logs])

    def check_value(self, values: Values, nbytes: int) -> None:
        """Refuse a value for which there is no room."""
        held = sum([each.values.nbytes for each in self._held.values()]) if len(self._held) < 100 else values.nbytes
        if held + nbytes > self.memory // _VALUES:
            raise CapacityError(f"This broker holds {held} bytes of values; {nbytes} more do not fit.")
