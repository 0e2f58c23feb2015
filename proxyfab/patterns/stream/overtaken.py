"""What retention, or a full topic, took before a group had read it: told to each member that begins.

Rules:
1. Where a group stands is its floor; what lies behind that, before the oldest record that is left, is gone.
   What its members have in hand is not missed; what they acknowledged out of turn is: how many is an upper bound.
2. A group that is made now begins where its maker wants it to: it has missed nothing.
3. Where offsets of a partition have gaps (`Broker.one_count`, several partitions) nobody can tell, and nothing is told.
"""

from __future__ import annotations

from proxyfab.errors import AccessDenied, CapabilityError
from proxyfab.events.broker import Broker
from proxyfab.events.model import GroupInfo, Position, Topic
from proxyfab.patterns.stream.continuity import Gap


def overtaken(broker: Broker, topic: Topic, group: str, timeout: float) -> list[Gap]:
    """What a group has missed for good, by partition, asked before a member of it begins; [] where nobody may ask."""
    if broker.one_count and topic.partitions > 1:
        return []
    try:
        info = broker.groups(topic.name, timeout=timeout).get(group)
        if info is None:
            return []
        extents = broker.describe(topic.name, timeout=timeout).extents
    except (AccessDenied, CapabilityError):
        return []
    found = []
    for number, extent in sorted(extents.items()):
        floor = info.floor.get(number, 0)
        missing = extent.first - 1 - floor - _held(info, number)
        if missing > 0:
            found.append(Gap("", 0, number, floor + 1, missing, Position(topic.name, number, extent.first)))
    return found


def _held(info: GroupInfo, number: int) -> int:
    return info.pending if info.owed is None else info.owed.get(number, 0)
