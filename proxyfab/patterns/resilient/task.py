"""A task on its way: an event whose object is the call, and what is told about it to whoever may run it.

The call (function and arguments) is one object, inside the event where it is small and in the store where it is not.
What has become of it so far lies beside its topic, where the next one who gets it looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from msgpack import packb, unpackb

from proxyfab.errors import IntegrityError
from proxyfab.events.model import Delivery, Record
from proxyfab.patterns.resilient.failures import History
from proxyfab.patterns.stream.references import ref_in, state_of
from proxyfab.ref import Ref
from proxyfab.wire.events import OBJECT, Event, Frame, decode, encode, pack_metadata, unpack_metadata

TYPE = "proxyfab.task"


class Call(NamedTuple):
    """What is to be done."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Task(NamedTuple):
    """One task.

    Attributes:
        id: Its own; the future's key is made of it.
        call: A reference to the Call.
        store: URL of the store where results go.
        timeout: Seconds that it may run; None for as long as it takes.
        result_ttl: Seconds after which its result expires; None for never.
    """

    id: str
    call: Ref[Call]
    store: str
    timeout: float | None = None
    result_ttl: float | None = None

    def record(self, producer: str, number: int) -> Record:
        """As a broker takes it, under an id that is known again when it is sent twice."""
        said = {"store": self.store, "timeout": self.timeout, "ttl": self.result_ttl}
        event = Event(
            OBJECT,
            state_of(self.call, 0),
            int(time.time() * 1e6),
            None,
            pack_metadata(said),
            {"id": self.id, "type": TYPE},
        )
        frame = Frame(producer, 0, 0, number, "proxyfab", [self.call.url], [event])
        return Record(encode(frame), frame.id)


def task_in(delivery: Delivery) -> Task:
    """The task in what came from a broker; raises IntegrityError."""
    frame = decode(delivery.body)
    if len(frame.events) != 1 or frame.events[0].kind != OBJECT:
        raise IntegrityError(f"What lies at {delivery.position} is no task.")
    event = frame.events[0]
    said = unpack_metadata(event.metadata)
    store, timeout, ttl = said.get("store"), said.get("timeout"), said.get("ttl")
    if not isinstance(store, str) or not all(each is None or isinstance(each, int | float) for each in (timeout, ttl)):
        raise IntegrityError(f"The task at {delivery.position} is damaged.")
    return Task(frame.id_of(0), ref_in(event.data, frame.stores), store, timeout, ttl)


class Past(NamedTuple):
    """What has become of a task so far, as it lies beside its topic.

    Attributes:
        attempt: How often it was begun.
        node: Where it was begun last and did not end; "" where it ended.
        pool: As for the node.
        history: Its failures.
    """

    attempt: int = 0
    node: str = ""
    pool: str = ""
    history: History = History()

    def pack(self) -> bytes:
        """At most a few hundred bytes."""
        failures, nodes, pools = self.history
        packed: bytes = packb([self.attempt, self.node, self.pool, failures, nodes, pools])
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Past:
        """The inverse of `pack`."""
        attempt, node, pool, failures, nodes, pools = unpackb(packed)
        return cls(attempt, node, pool, History(failures, tuple(nodes), tuple(pools)))
