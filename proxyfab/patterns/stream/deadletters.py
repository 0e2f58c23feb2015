"""Dead letters: events that never worked, in a topic of their own beside theirs, until somebody replays or purges them.

    for letter in dead_letters(broker, "frames"): print(letter.position, letter.cause)
    replay(broker, "frames")            # all of them, once more to their topic
    purge(broker, "frames")             # and what was copied for them is deleted

How they come there is for `burying`. That a letter is gone is noted (`letters`) behind its being replayed or purged: a
replay that was interrupted publishes again under the same id, and the topic takes it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from proxyfab.errors import IntegrityError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Delivery, Position, Record
from proxyfab.patterns.stream.letters import COPIED, OURS, Gone, topic_of
from proxyfab.patterns.stream.naming import opened
from proxyfab.patterns.stream.references import ref_in
from proxyfab.ref import Ref
from proxyfab.wire.events import OBJECT, Event, Frame, decode, encode, unpack_metadata

_MOST = 64
_REPLAYER = "~replay"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was buried.

    Attributes:
        place: Where the letter lies.
        position: Where the event lay.
        id: The event's id.
        cause: Why it was buried.
        traceback: What was raised, as text; "" for nothing.
        group: Whose consumer has buried it.
        attempts: How often it was delivered.
        time: Seconds since 1970 when it was buried.
        key: The event's key.
        metadata: What its producer said of it.
        attributes: All that is said of it, in CloudEvents' words and its own.
        nbytes: Bytes of its object.
    """

    place: Position
    position: Position | None
    id: str
    cause: str
    traceback: str
    group: str
    attempts: int
    time: float
    key: str | None
    metadata: dict[str, object]
    attributes: dict[str, str]
    nbytes: int
    _frame: Frame = field(repr=False)

    @property
    def raw(self) -> bool:
        """Whether it was no event: its data are the bytes that came."""
        return "dlqraw" in self.attributes

    @property
    def ref(self) -> Ref[Any] | None:
        """The reference to its object; None for what stands in the event as it is."""
        event = self._frame.events[0]
        return ref_in(event.data, self._frame.stores) if event.kind == OBJECT else None

    def get(self) -> Any:
        """Its object; raises as `Ref.resolve`."""
        ref = self.ref
        return self._frame.events[0].data if ref is None else ref.resolve()


# -- what lies there -------------------------------------------------------------------------------------------------


def dead_letters(broker: Broker, topic: str) -> Iterator[DeadLetter]:
    """The dead letters of a topic, oldest first, as many as there are now.

    Raises:
        ConnectorError: The broker cannot be reached.
    """
    name = topic_of(topic)
    try:
        last = broker.describe(name).extents[0].last
    except TopicNotFound:
        return
    gone = Gone(broker, name)
    at = gone.floor
    with broker.subscribe(name, group=None, start={0: at + 1} if at else EARLIEST) as reader:
        while at < last:
            found = reader.fetch_surely(_MOST, 1.0)
            if not found:
                return
            for delivery in found:
                at = delivery.position.offset
                if at > last:
                    return
                letter = None if at in gone else _read(delivery)
                if letter is not None:
                    yield letter


def _read(delivery: Delivery) -> DeadLetter | None:
    """A letter; None where somebody else has written into the topic."""
    try:
        frame = decode(delivery.body)
        event = frame.events[0]
        said = event.attributes or {}
        at = said.get("dlqposition", "")
        return DeadLetter(
            place=delivery.position,
            position=Position.parse(at) if at else None,
            id=frame.id_of(0),
            cause=said.get("dlqcause", ""),
            traceback=said.get("dlqtraceback", ""),
            group=said.get("dlqgroup", ""),
            attempts=int(said.get("dlqattempts", "0")),
            time=float(said.get("dlqtime", "0")),
            key=event.key,
            metadata=opened(unpack_metadata(event.metadata)),
            attributes=said,
            nbytes=event.data[-4] if event.kind == OBJECT and len(event.data) > 3 else 0,
            _frame=frame,
        )
    except (ProxyfabError, ValueError, IndexError):
        return None


# -- what becomes of it ----------------------------------------------------------------------------------------------


def replay(
    broker: Broker, topic: str, *, where: Callable[[DeadLetter], bool] | None = None, most: int | None = None
) -> int:
    """Send dead letters to their topic once more, under new ids; how many.

    An event's new id is made of the old one, which it names in its attribute `replayof`; its object goes with it.

    Args:
        broker: Where the topic is.
        topic: Its name, not that of its dead letters.
        where: Which; None for all.
        most: How many at most, the oldest first.

    Raises:
        TopicNotFound: The topic is gone.
        ConnectorError: The broker cannot be reached; letters that were sent are gone, others wait.
    """
    partitions = broker.describe(topic).topic.partitions
    return _settle(broker, topic, lambda letter: _send(broker, topic, letter, partitions), where, most)


def purge(
    broker: Broker, topic: str, *, where: Callable[[DeadLetter], bool] | None = None, most: int | None = None
) -> int:
    """Delete dead letters, and the copies of their objects; how many.

    Args:
        broker: Where the topic is.
        topic: Its name, not that of its dead letters.
        where: Which; None for all.
        most: How many at most, the oldest first.

    Raises:
        ConnectorError: The broker, or a store with copies, cannot be reached; the other letters wait.
    """
    return _settle(broker, topic, _evict, where, most)


def _settle(
    broker: Broker,
    topic: str,
    do: Callable[[DeadLetter], None],
    where: Callable[[DeadLetter], bool] | None,
    most: int | None,
) -> int:
    gone, count = Gone(broker, topic_of(topic)), 0
    try:
        for letter in dead_letters(broker, topic):
            if most is not None and count >= most:
                break
            if where is None or where(letter):
                do(letter)
                gone.add(letter.place.offset)
                count += 1
    finally:
        gone.save()
    return count


def _send(broker: Broker, topic: str, letter: DeadLetter, partitions: int) -> None:
    partition = letter._frame.partition if letter._frame.partition < partitions else 0
    name = f"{_REPLAYER}.{letter.place.offset}.{letter.time:.6f}"
    if letter.raw:
        broker.publish(topic, [Record(letter._frame.events[0].data, name, partition)])
        return
    old = letter._frame.events[0]
    said = {word: text for word, text in letter.attributes.items() if not word.startswith(OURS)}
    said |= {"id": f"{letter.id}~{letter.place.offset}", "replayof": letter.id}
    event = Event(old.kind, old.data, old.time, old.key, old.metadata, said)
    frame = letter._frame
    body = encode(Frame(name, 0, partition, 0, frame.source, frame.stores, [event]))
    broker.publish(topic, [Record(body, name, partition, old.key)])


def _evict(letter: DeadLetter) -> None:
    if letter.attributes.get("dlqobject") == COPIED:
        try:
            ref = letter.ref
        except IntegrityError:
            return
        if ref is not None:
            ref.evict()
