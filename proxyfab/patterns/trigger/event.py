"""What a trigger's function is called with: an event as plain data with a proxy, so that it can go to any executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxyfab.patterns.stream.item import Item


@dataclass(frozen=True, slots=True)
class Event:
    """One event. Pickles; its object's bytes move only where, and if, the object is used.

    Attributes:
        object: A proxy of the object; what stands in the event as it is (None, numbers, text, bytes) as itself.
        metadata: What its producer said of it.
        topic: Where it came from.
        position: Where it lies, as text (`Position.parse`).
        id: Known again wherever it comes from.
        key: What it belongs to; None for nothing.
        time: Seconds since 1970 when it was sent.
        attempt: 1 at first.
        attributes: In the words of CloudEvents 1.0.
    """

    object: Any
    metadata: dict[str, Any]
    topic: str
    position: str
    id: str
    key: str | None
    time: float
    attempt: int
    attributes: dict[str, str]


def event_of(item: Item) -> Event:
    """The event of an item; raises IntegrityError where that is damaged."""
    position = item.position
    return Event(
        item.proxy,
        item.metadata,
        position.topic,
        str(position),
        item.id,
        item.key,
        item.time,
        item.attempt,
        item.attributes,
    )
