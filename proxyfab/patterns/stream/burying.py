"""Burying: an event that never worked becomes a dead letter, in a topic of its own beside its own.

Rules:
1. A letter is the event as it was, in a frame of its own, with attributes that begin with `dlq`. What was no event at
   all is a letter whose data are its bytes.
2. A stored object is copied under a key of its own, so that the release of the original does not take it; one that
   belonged to somebody else (attribute `keep`) stays where it is. What cannot be copied says why in `dlqobject`. A copy
   has the topic's mark: if its letter never came to be, it is a stray.
3. An event that comes again and is buried again has one letter, as long as that waits; after it was replayed or purged,
   another one.
"""

from __future__ import annotations

import time
from typing import Any

from proxyfab.errors import ProxyfabError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Delivery, Position, Record, Topic
from proxyfab.patterns.stream.letters import COPIED, Gone, topic_of
from proxyfab.patterns.stream.references import KEEP, ref_in, state_of
from proxyfab.patterns.stream.strays import draw, marked
from proxyfab.ref import Ref
from proxyfab.wire.events import OBJECT, VALUE, Event, Frame, encode

TRACEBACK = 8 << 10
"""Characters of a traceback that are kept: its end."""
CAUSE = 1000


class Undertaker:
    """Buries events of one topic for one group.

    Args:
        broker: Where the topic is.
        topic: Its name.
        group: Whose consumer it is.
    """

    def __init__(self, broker: Broker, topic: str, group: str) -> None:
        self._broker = broker
        self._topic = topic
        self._group = group
        self._ready = False
        self._keeps = Capability.STATE in broker.capabilities

    def event(self, frame: Frame, index: int, position: Position, attempts: int, cause: str, traceback: str) -> None:
        """Bury an event of a frame.

        Raises:
            ConnectorError: The broker cannot be reached.
        """
        event = frame.events[index]
        said = self._said(position, attempts, cause, traceback)
        stores, data = frame.stores, event.data
        if event.kind == OBJECT:
            stores, data, said["dlqobject"] = self._copied(frame, event)
        letter = Event(event.kind, data, event.time, event.key, event.metadata, {**(event.attributes or {}), **said})
        first = frame.first + index
        made = Frame(frame.producer, frame.epoch, frame.partition, first, frame.source, stores, [letter])
        if not self._publish(made, position) and said.get("dlqobject") == COPIED:
            ref_in(data, stores).evict()  # the letter that waits has a copy of its own

    def record(self, delivery: Delivery, cause: str) -> None:
        """Bury what is no frame of events."""
        said = {**self._said(delivery.position, delivery.attempt, cause, ""), "dlqraw": "1"}
        body = bytes(delivery.body)
        if len(body) > self._broker.max_record - (16 << 10):
            body, said["dlqraw"] = body[: self._broker.max_record // 2], "cut"
        letter = Event(VALUE, body, int(delivery.time * 1e6), attributes=said)
        partition = delivery.position.partition
        self._publish(Frame("~", 0, partition, delivery.position.offset, "", [], [letter]), delivery.position)

    def _said(self, position: Position, attempts: int, cause: str, traceback: str) -> dict[str, str]:
        said = {
            "dlqcause": cause[:CAUSE],
            "dlqposition": str(position),
            "dlqgroup": self._group,
            "dlqattempts": str(attempts),
            "dlqtime": f"{time.time():.6f}",
        }
        if traceback:
            said["dlqtraceback"] = traceback[-TRACEBACK:]
        return {name: text.encode(errors="replace").decode() for name, text in said.items()}

    def _publish(self, frame: Frame, position: Position) -> bool:
        """Whether this is its letter; False where an earlier one of the same event waits."""
        name = topic_of(self._topic)
        body, id = encode(frame), f"{self._group}.{position.partition}.{position.offset}.{position.event}"
        while True:
            try:
                if not self._ready:
                    self._broker.ensure(Topic(name, release="never"))
                    self._ready = True
                last = self._broker.describe(name).extents[0].last
                (place,) = self._broker.publish(name, [Record(body, id)])
            except TopicNotFound:  # somebody has deleted it meanwhile
                self._ready = False
                continue
            if place.offset > last:
                return True
            if place.offset not in Gone(self._broker, name):
                return False
            id = f"{id}~{place.offset}"

    def _copied(self, frame: Frame, event: Event) -> tuple[list[str], Any, str]:
        """Stores, data and what became of the object."""
        store = frame.stores[event.data[0]]
        alone = [store], [0, *event.data[1:]]
        if (event.attributes or {}).get(KEEP):
            return *alone, "kept"
        try:
            ref = ref_in(event.data, frame.stores)
            if ref.key is None:
                return *alone, "inside"
            source = ref.store
            payload = source.fetch(ref.key)
            mark = marked(self._broker, self._topic, ref.url) if self._keeps else ""
            key = source.put_payload(payload, draw(mark)).plain() if mark else source.put_payload(payload, None)
            copy = source.ref_from_key(key)
        except (ProxyfabError, OSError) as error:
            return *alone, f"not copied: {error}"[:CAUSE]
        mine: Ref[Any] = Ref(ref.url, copy.key, nbytes=ref.nbytes, kind=ref.kind)
        return [store], state_of(mine, 0), COPIED
