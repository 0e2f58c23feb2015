"""Dead letters: events that never worked, in a topic of their own beside theirs, until somebody replays or purges them.

    for letter in dead_letters(broker, "frames"): print(letter.position, letter.cause)
    replay(broker, "frames")            # all of them, once more to their topic
    purge(broker, "frames")             # and what was copied for them is deleted

Rules:
1. A letter is the event as it was, in a frame of its own, with attributes that begin with `dlq`. What was no event at
   all is a letter whose data are its bytes.
2. A stored object is copied under a key of its own, so that the release of the original does not take it; one that
   belonged to somebody else (attribute `keep`) stays where it is. What cannot be copied says why in `dlqobject`. A copy
   has the topic's mark: if its letter never came to be, it is a stray.
3. Which letters were replayed or purged is one value beside their topic, changed by compare-and-set; what is gone up
   to the oldest that is not is then cut off, where the broker can (CUT) and lets us. A replay that was interrupted
   publishes again under the same id, and the topic takes it once.
4. An event that comes again and is buried again has one letter, as long as that waits; after it was replayed or purged,
   another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxyfab.errors import AccessDenied, CapabilityError, Conflict, IntegrityError, ProxyfabError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Capability, Delivery, Position, Record, Topic
from proxyfab.patterns.stream.naming import opened
from proxyfab.patterns.stream.references import ref_in, state_of
from proxyfab.patterns.stream.strays import LETTERS, draw, marked
from proxyfab.ref import Ref
from proxyfab.wire.events import OBJECT, VALUE, Event, Frame, decode, encode, unpack_metadata

KEEP = "keep"
"""The attribute of an event whose object is somebody else's."""
TRACEBACK = 8 << 10
"""Characters of a traceback that are kept: its end."""
CAUSE = 1000
_OURS = "dlq"
_GONE = "letters/gone"
_COPIED = "copied"
_MOST = 64
_REPLAYER = "~replay"


def topic_of(topic: str) -> str:
    """Where the dead letters of a topic lie."""
    return f"{topic}{LETTERS}"


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
        if not self._publish(made, position) and said.get("dlqobject") == _COPIED:
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
            if place.offset not in _Gone(self._broker, name):
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
        return [store], state_of(mine, 0), _COPIED


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
    gone = _Gone(broker, name)
    at = gone.floor
    with broker.subscribe(name, group=None, start={0: at + 1} if at else EARLIEST) as reader:
        while at < last:
            found = reader.fetch(_MOST, 1.0)
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
    gone, count = _Gone(broker, topic_of(topic)), 0
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
    said = {word: text for word, text in letter.attributes.items() if not word.startswith(_OURS)}
    said |= {"id": f"{letter.id}~{letter.place.offset}", "replayof": letter.id}
    event = Event(old.kind, old.data, old.time, old.key, old.metadata, said)
    frame = letter._frame
    body = encode(Frame(name, 0, partition, 0, frame.source, frame.stores, [event]))
    broker.publish(topic, [Record(body, name, partition, old.key)])


def _evict(letter: DeadLetter) -> None:
    if letter.attributes.get("dlqobject") == _COPIED:
        try:
            ref = letter.ref
        except IntegrityError:
            return
        if ref is not None:
            ref.evict()


class _Gone:
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
