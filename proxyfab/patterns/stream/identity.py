"""Who a producer is on its topic: a name, and an epoch that grows each time the name is used again.

Kept as the topic's value `producers/<name>`: `{"epoch": n, "ended": bool, "at": seconds, "by": drawn}`. Promises: of
all that register one name at once each gets an epoch of its own; who registers twice because an answer was lost is
known again. Of one name only the latest epoch counts: a producer that was replaced is told so (StaleEpoch) by `check`,
and what `check` let pass lay at the broker before the later epoch began.
"""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from proxyfab.errors import ConfigurationError, Conflict, IntegrityError, StaleEpoch
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.spec import check_name

PREFIX = "producers/"
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class Identity:
    """One producer's.

    Args:
        name: None for one that nobody else has.
        awaited: Whether its end is: nothing is kept of one that is not.

    Raises:
        ConfigurationError: It is no name, or one whose end nobody waits for.
    """

    def __init__(self, name: str | None, *, awaited: bool = True) -> None:
        if name is not None and not awaited:
            raise ConfigurationError(f"A producer whose end nobody waits for has no name, so not {name!r}.")
        self._awaited = awaited
        self.name = os.urandom(8).hex() if name is None else check_name(name)
        self._drawn = name is None
        self.epoch = 0
        self._by = os.urandom(8)

    def child(self) -> Identity:
        """What a forked child is called that goes on sending."""
        child = Identity(f"{self.name[:47]}.{os.urandom(8).hex()}")
        child._awaited = self._awaited
        child._drawn = True
        return child

    def register(self, broker: Broker, topic: str) -> None:
        """Take the next epoch of this name."""
        if not self._awaited or Capability.STATE not in broker.capabilities:
            self.epoch = time.time_ns() // 1_000_000  # grows, too
            return
        state = broker.state(topic)
        while True:
            kept = state.get(PREFIX + self.name)
            known = None if kept is None else entry(kept.value)
            if known is not None and known.get("by") == self._by:
                self.epoch = int(known["epoch"])
                return
            self.epoch = 0 if known is None else int(known["epoch"]) + 1
            try:
                state.put(PREFIX + self.name, self._value(ended=False), revision=0 if kept is None else kept.revision)
            except Conflict:
                continue
            return

    def check(self, broker: Broker, topic: str, timeout: float) -> None:
        """Raise StaleEpoch if a later epoch of this name has begun; one that was drawn has no other."""
        if self._drawn or Capability.STATE not in broker.capabilities:
            return
        kept = broker.state(topic, timeout=timeout).get(PREFIX + self.name)
        if kept is not None:
            self._compare(int(entry(kept.value)["epoch"]), topic)

    def _compare(self, epoch: int, topic: str) -> None:
        if epoch > self.epoch:
            raise StaleEpoch(
                f"Producer {self.name} of topic {topic} was replaced: another one has begun under its name, in epoch "
                f"{epoch}; this one is of epoch {self.epoch}, and what it publishes does not count any more. Two "
                "producers that are to live at once have two names."
            )

    def check_end(self) -> None:
        """Raise ConfigurationError if nobody waits for an end."""
        if not self._awaited:
            raise ConfigurationError("Nobody waits for the end of a producer with awaited=False: close it.")

    def end(self, broker: Broker, topic: str) -> None:
        """Say that nothing more comes from this epoch; raises StaleEpoch as `check`."""
        if Capability.STATE not in broker.capabilities:
            return
        state = broker.state(topic)
        while True:
            kept = state.get(PREFIX + self.name)
            if kept is not None and (epoch := int(entry(kept.value)["epoch"])) != self.epoch:
                self._compare(epoch, topic)
                return  # the topic was made anew
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
