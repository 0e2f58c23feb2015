"""Which event kills its consumers: of a frame that came back again without a word, one event is tried at a time.

A consumer that dies leaves no note: every frame it held comes again, and only one event can have been the reason. So
the innocent are not counted: from the second time on that a frame comes back so, each of its events is marked in a
value beside the topic before it is handed out, `trials/<group>/<partition>.<offset>`, and an event that was marked too
often is the one that is buried. Beside the marks stands what was settled meanwhile, which is left out then.

Promises: an event that kills whoever gets it is buried after `attempts` deliveries (three at least), and two that were
marked; one that was only held by those who died never is. Frames that were given back, or come for the first time, cost
nothing here.
"""

from __future__ import annotations

import msgspec

from proxyfab.errors import ProxyfabError
from proxyfab.events.broker import Broker, State
from proxyfab.patterns.stream.hand import Hand

_FROM = 3
_TTL = 7 * 86400.0
_marks = msgspec.msgpack.Decoder(tuple[dict[int, int], list[int]])


class Trials:
    """Of one group's consumer.

    Args:
        broker: Where the topic is.
        topic: Its name.
        group: Its group.
        attempts: After how many an event is buried.
    """

    def __init__(self, broker: Broker, topic: str, group: str, attempts: int) -> None:
        self._broker = broker
        self._topic = topic
        self._group = group
        self._from = max(2, min(_FROM, attempts - 1))
        self._allowed = max(_FROM, attempts) - self._from + 1

    def trial(self, hand: Hand) -> Trial | None:
        """What is to be asked before an event of this frame is handed out; None for nothing."""
        if not hand.silent or hand.attempt < self._from:
            return None
        at = hand.delivery.position
        name = f"trials/{self._group}/{at.partition}.{at.offset}"
        try:
            trial = Trial(self._broker.state(self._topic), name, self._allowed, hand)
        except ProxyfabError:  # handed out as others are; if that was wrong, it comes again
            return None
        hand.after = trial.over
        return trial


class Trial:
    """Of one frame."""

    def __init__(self, state: State, name: str, allowed: int, hand: Hand) -> None:
        self._state = state
        self._name = name
        self._allowed = allowed
        self._marks: dict[int, int] = {}
        done: list[int] = []
        kept = state.get(name)
        if kept is not None:
            try:
                self._marks, done = _marks.decode(kept.value)
            except msgspec.MsgspecError:
                pass
        hand.done.update([index for index in done if 0 <= index < hand.total])

    def guilty(self, index: int) -> bool:
        """Whether an event was handed out too often by those who never said anything again."""
        return self._marks.get(index, 0) >= self._allowed

    def mark(self, index: int, hand: Hand) -> None:
        """An event is about to be handed out; those before it that were settled since are done."""
        done = [each for each in list(hand.done) if each not in hand.back]
        for each in done:
            self._marks.pop(each, None)
        self._marks[index] = self._marks.get(index, 0) + 1
        try:
            self._state.put(self._name, msgspec.msgpack.encode((self._marks, done)), ttl=_TTL)
        except ProxyfabError:  # as above
            pass

    def over(self) -> None:
        """The frame is settled."""
        try:
            self._state.delete(self._name)
        except ProxyfabError:  # it ends by itself
            pass
