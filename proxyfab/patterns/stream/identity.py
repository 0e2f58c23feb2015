"""Who a producer is on its topic: a name, and an epoch that grows each time the name is used again.

Kept as the topic's value `producers/<name>`: `{"epoch": n, "ended": bool, "at": seconds, "by": drawn}`. Promises: of
all that register one name at once each gets an epoch of its own; who registers twice because an answer was lost is
known again. An end counts for the epoch that said it; the producer of a later one is not ended by an earlier one.
"""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from proxyfab.errors import Conflict, IntegrityError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.spec import check_name

PREFIX = "producers/"
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class Identity:
    """One producer's.

    Args:
        name: None for one that nobody else has.
    """

    def __init__(self, name: str | None) -> None:
        self.name = os.urandom(8).hex() if name is None else check_name(name)
        self.epoch = 0
        self._by = os.urandom(8)

    def child(self) -> Identity:
        """What a forked child is called that goes on sending."""
        return Identity(f"{self.name[:47]}.{os.urandom(8).hex()}")

    def register(self, broker: Broker, topic: str) -> None:
        """Take the next epoch of this name."""
        if Capability.STATE not in broker.capabilities:
            self.epoch = time.time_ns() // 1_000_000  # grows, too
            return
        state = broker.state(topic)
        while True:
            kept = state.get(PREFIX + self.name)
            known = None if kept is None else entry(kept.value)
            if known is not None and known.get("by") == self._by:
                return
            self.epoch = 0 if known is None else int(known["epoch"]) + 1
            try:
                state.put(PREFIX + self.name, self._value(ended=False), revision=0 if kept is None else kept.revision)
            except Conflict:
                continue
            return

    def end(self, broker: Broker, topic: str) -> None:
        """Say that nothing more comes from this epoch."""
        if Capability.STATE not in broker.capabilities:
            return
        state = broker.state(topic)
        while True:
            kept = state.get(PREFIX + self.name)
            if kept is not None and entry(kept.value)["epoch"] != self.epoch:
                return  # somebody else goes on under this name
            try:
                state.put(PREFIX + self.name, self._value(ended=True), revision=0 if kept is None else kept.revision)
            except Conflict:
                continue
            return

    def _value(self, *, ended: bool) -> bytes:
        return msgspec.msgpack.encode({"epoch": self.epoch, "ended": ended, "at": time.time(), "by": self._by})


def entry(value: bytes) -> dict[str, Any]:
    """What is kept of a producer; raises IntegrityError."""
    try:
        found = _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"What a topic keeps of a producer is damaged: {error}.") from error
    if found.get("epoch").__class__ is not int or found.get("ended").__class__ is not bool:
        raise IntegrityError("What a topic keeps of a producer is damaged: it says no epoch, or not whether it ended.")
    return found
