"""Groups of a topic: what they are called in Kafka, and how far they are.

Promises: a group's entry beside the topic says its name in Kafka and where it began. A group that is moved gets a new
name, at which its beginning was committed before anybody knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from proxyfab.brokers.kafka.client import Client
from proxyfab.brokers.kafka.journal import Journal
from proxyfab.brokers.kafka.naming import GROUPS, new_group
from proxyfab.errors import TopicNotFound
from proxyfab.events.model import EARLIEST, GroupInfo, Kept, Start, check_group


class _Entry(NamedTuple):
    id: str
    start: dict[int, int]


class Groups:
    """Those of one topic."""

    def __init__(self, client: Client, journal: Journal, topic: str) -> None:
        self._client = client
        self._journal = journal
        self._topic = topic

    def ensure(self, group: str, start: Start) -> None:
        """Make one, if there is none."""
        check_group(group)
        if self._journal.get(GROUPS + group) is None:
            self._write(group, start, 0)

    def move(self, group: str, start: Start) -> None:
        """Begin anew."""
        self.id(group)
        self._write(group, start, None)

    def delete(self, group: str) -> bool:
        """Forget one; whether there was one.

        Kafka forgets what it knows by itself, some days later: librdkafka up to 2.16 aborts the process after
        DeleteGroups was asked of a cluster that does not know it, and the name never comes again.
        """
        return self._journal.put(GROUPS + group, None, None).before > 0

    def id(self, group: str) -> str:
        """What Kafka calls it; raises TopicNotFound."""
        kept = self._journal.get(GROUPS + group)
        if kept is None:
            raise TopicNotFound(f"Topic {self._topic} has no group {group!r}: it was deleted.")
        return _entry(kept).id

    def glance(self, group: str) -> str | None:
        """The same, as far as it is known here; None without one."""
        kept = self._journal.glance(GROUPS + group)
        return None if kept is None else _entry(kept).id

    def info(self, group: str) -> GroupInfo:
        """How far it is. Kafka does not know what was fetched: all that is not acknowledged is undelivered here."""
        kept = self._journal.get(GROUPS + group)
        if kept is None:
            raise TopicNotFound(f"Topic {self._topic} has no group {group!r}: it was deleted.")
        return self._info(_entry(kept), self._bounds())

    def all(self) -> dict[str, GroupInfo]:
        """How far each is."""
        entries = self._entries()
        bounds = self._bounds() if entries else {}
        return {name.removeprefix(GROUPS): self._info(_entry(kept), bounds) for name, kept in entries.items()}

    def _entries(self) -> dict[str, Kept]:
        return {name: kept for name, kept in self._journal.items().items() if name.startswith(GROUPS)}

    def _bounds(self) -> dict[int, tuple[int, int]]:
        return self._client.bounds(self._topic, range(self._client.partitions(self._topic)))

    def _info(self, entry: _Entry, bounds: Mapping[int, tuple[int, int]]) -> GroupInfo:
        told = self._client.committed(entry.id, self._topic, list(bounds))
        floor = {number: told.get(number, entry.start.get(number, 0)) for number in bounds}
        left = [max(0, high - max(floor[number], low)) for number, (low, high) in bounds.items()]
        return GroupInfo(floor, sum(left), 0, {})

    def _write(self, group: str, start: Start, expected: int | None) -> None:
        partitions = range(self._client.partitions(self._topic))
        entry = _Entry(new_group(self._topic, group), self._client.starts(self._topic, start, partitions))
        self._client.commit(entry.id, self._topic, entry.start)
        # If somebody else was faster, theirs is the group; nobody knows of ours.
        self._journal.put(GROUPS + group, msgspec.msgpack.encode(entry), expected)


def begin_all(groups: Groups, names: tuple[str, ...]) -> None:
    """Make the groups that a topic has from its beginning."""
    for name in names:
        groups.ensure(name, EARLIEST)


def _entry(kept: Kept) -> _Entry:
    return msgspec.msgpack.decode(kept.value, type=_Entry)
