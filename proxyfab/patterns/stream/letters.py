"""Where a topic's dead letters lie, and which of them are gone: replayed or purged.

That is one value beside their topic, changed by compare-and-set. What is gone up to the oldest that is not is then cut
off, where the broker can (CUT) and lets us.
"""

from __future__ import annotations

import msgspec

from proxyfab.errors import AccessDenied, CapabilityError, Conflict, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.patterns.stream.strays import LETTERS

OURS = "dlq"
"""What the names of a letter's own attributes begin with."""
COPIED = "copied"
"""What `dlqobject` says of a letter that has a copy of its object."""
_GONE = "letters/gone"
_MOST = 64


def topic_of(topic: str) -> str:
    """Where the dead letters of a topic lie."""
    return f"{topic}{LETTERS}"


class Gone:
    """Which letters were replayed or purged: all up to a floor, and some beyond."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._new: set[int] = set()
        self.floor, self._beyond = 0, set[int]()
        try:
            self._load()
        except TopicNotFound:
            pass

    def __contains__(self, offset: int) -> bool:
        return offset <= self.floor or offset in self._beyond

    def _load(self) -> int:
        kept = self._broker.state(self._name).get(_GONE)
        if kept is None:
            return 0
        self.floor, beyond = msgspec.msgpack.decode(kept.value, type=tuple[int, list[int]])
        self._beyond = set(beyond)
        return kept.revision

    def add(self, offset: int) -> None:
        """One more."""
        self._new.add(offset)
        if len(self._new) >= _MOST:
            self.save()

    def save(self) -> None:
        """Say it to everybody."""
        while self._new:
            revision = self._load()
            beyond = self._beyond | self._new
            floor = max(self.floor, self._broker.describe(self._name).extents[0].first - 1)
            while floor + 1 in beyond:
                floor += 1
            value = msgspec.msgpack.encode((floor, sorted(each for each in beyond if each > floor)))
            try:
                self._broker.state(self._name).put(_GONE, value, revision=revision)
            except Conflict:
                continue
            self._new.clear()
            self._load()
            self._cut()

    def _cut(self) -> None:
        if Capability.CUT not in self._broker.capabilities:
            return
        try:
            self._broker.cut(self._name, {0: self.floor})
        except (AccessDenied, CapabilityError):  # they are gone for everybody all the same, and lie there
            pass
