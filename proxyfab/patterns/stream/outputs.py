"""What a checkpoint sends on: frames under deterministic ids, that can be published again and again and count once.

Rules:
1. A frame is made once, for one commit, and kept with it until it is known to be published; its number is the next one
   of the checkpoint on that topic and partition. So the same bytes go out under the same id, whoever sends them.
2. Who publishes what another may have published looks first what is there behind the last position that was noted.
   That, unlike the broker's window for ids, has no end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from proxyfab.errors import ConfigurationError, Conflict, IntegrityError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Record
from proxyfab.keys import Key
from proxyfab.patterns.stream.identity import PREFIX, entry
from proxyfab.patterns.stream.loading import Loader
from proxyfab.patterns.stream.naming import partition_of
from proxyfab.patterns.stream.references import KEEP
from proxyfab.store import Store
from proxyfab.trace import here
from proxyfab.wire.events import END, EVENTS, NBYTES, Event, Frame, decode, encode, pack_metadata
from proxyfab.wire.payload import Payload

BATCH = 64
_WAIT = 1.0


class Output(NamedTuple):
    """An object that a commit sends on.

    Attributes:
        topic: Where to; it has to exist.
        obj: Anything that a producer sends.
        metadata: What is said of it.
        key: What it belongs to.
        partition: Where it goes, whatever the key.
    """

    topic: str
    obj: Any
    metadata: Mapping[str, Any] | None = None
    key: str | None = None
    partition: int | None = None


Sent: TypeAlias = "Output | tuple[str, Any] | tuple[str, Any, Mapping[str, Any]]"


class Outgoing(msgspec.Struct, array_like=True):
    """A frame that is to be published.

    Attributes:
        topic: Where to.
        partition: Which.
        id: What it is known by.
        body: Its bytes.
        end: Whether its producer ends with it.
    """

    topic: str
    partition: int
    id: str
    body: bytes
    end: bool = False


class Named(Loader):
    """Stores objects under names that whoever takes over can work out.

    Args:
        store: Where large objects go.
        above: Bytes from which on they are large.
        prefix: Of their keys; a number follows.
        ttl: Seconds that they are stored for.
    """

    def __init__(self, store: Store | None, above: int, prefix: str, ttl: Mapping[str, float | None]) -> None:
        super().__init__(store, above)
        self.prefix = prefix
        self.count = 0
        self.topic = ""
        self._ttl = ttl

    def put(self, payload: Payload) -> Key:
        """Under the next name; what a commit that failed has left there is overwritten."""
        assert self.store is not None
        key = Key(f"{self.prefix}{self.count}")
        self.count += 1
        return self.store.put_payload(payload, key, ttl=self._ttl.get(self.topic), replace=True)


def as_output(sent: Sent) -> Output:
    """An Output from what a user may write.

    Raises:
        ConfigurationError: It is none.
    """
    if isinstance(sent, Output):
        return sent
    if len(sent) in (2, 3) and sent[0].__class__ is str:
        return Output(*sent)
    raise ConfigurationError(f"{sent!r} is no output: say (topic, object), (topic, object, metadata) or Output(...).")


class Numbers:
    """The next numbers of one producer, by topic and partition. Changed as frames are made: work on a copy.

    Args:
        packed: As `packed` wrote them.
    """

    def __init__(self, packed: Mapping[str, Mapping[int, int]]) -> None:
        self.next = {topic: dict(numbers) for topic, numbers in packed.items()}
        self.turn = 0

    def take(self, topic: str, partition: int, count: int) -> int:
        """The first of so many numbers."""
        numbers = self.next.setdefault(topic, {})
        first = numbers.get(partition, 0)
        numbers[partition] = first + count
        return first


def frames_of(
    outputs: Iterable[Output], producer: str, numbers: Numbers, partitions: Mapping[str, int], loader: Named
) -> list[Outgoing]:
    """The frames of some outputs; objects are stored meanwhile.

    Raises:
        SerializationError: One cannot become bytes, or is large and there is no store.
        ConnectorError: The store cannot be reached.
    """
    open_: dict[tuple[str, int], _Draft] = {}
    frames: list[Outgoing] = []
    for output in outputs:
        place = output.topic, _partition(output, partitions[output.topic], numbers.turn)
        event, url = _event(output, loader)
        size = len(msgspec.msgpack.encode(event))
        draft = open_.setdefault(place, _Draft())
        if draft.events and (len(draft.events) >= EVENTS or draft.nbytes + size > NBYTES):
            frames.append(_frame(producer, numbers, place, draft))
            draft = open_[place] = _Draft()
        draft.add(event, url, size)
    return [*frames, *[_frame(producer, numbers, place, draft) for place, draft in open_.items()]]


class _Draft:
    """A frame that is filled."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stores: list[str] = []
        self.nbytes = 0

    def add(self, event: Event, url: str | None, nbytes: int = 0) -> None:
        if url is not None:
            if url not in self.stores:
                self.stores.append(url)
            event.data[0] = self.stores.index(url)
        self.events.append(event)
        self.nbytes += nbytes


def ends_of(producer: str, numbers: Numbers, partitions: Mapping[str, int]) -> list[Outgoing]:
    """Frames that say that nothing more comes, to each partition."""
    found = []
    for topic, count in partitions.items():
        for partition in range(count):
            draft = _Draft()
            draft.add(Event(END, time=_now()), None)
            found.append(_frame(producer, numbers, (topic, partition), draft, end=True))
    return found


def _partition(output: Output, count: int, turn: int) -> int:
    if output.partition is not None:
        return output.partition
    return turn % count if output.key is None else partition_of(output.key, count)


def _event(output: Output, loader: Named) -> tuple[Event, str | None]:
    loader.topic = output.topic
    load = loader.load(output.obj)
    event = Event(load.kind, load.data, _now(), output.key)
    if load.foreign:
        event.attributes = {KEEP: "1"}
    if output.metadata:
        event.metadata = pack_metadata(dict(output.metadata))
    return event, load.url


def _now() -> int:
    return time.time_ns() // 1000


def _frame(producer: str, numbers: Numbers, place: tuple[str, int], draft: _Draft, *, end: bool = False) -> Outgoing:
    topic, partition = place
    first = numbers.take(topic, partition, len(draft.events))
    frame = Frame(producer, 0, partition, first, f"//{here()}", draft.stores, draft.events)
    return Outgoing(topic, partition, frame.id, encode(frame), end)


# -- publishing ----------------------------------------------------------------------------------------------------


def publish(broker: Broker, frames: Iterable[Outgoing]) -> dict[str, dict[int, int]]:
    """Publish frames; the last offset in each partition of each topic."""
    by_topic: dict[str, list[Outgoing]] = {}
    for frame in frames:
        by_topic.setdefault(frame.topic, []).append(frame)
    last: dict[str, dict[int, int]] = {}
    for topic, some in by_topic.items():
        for start in range(0, len(some), BATCH):
            records = [Record(frame.body, frame.id, frame.partition) for frame in some[start : start + BATCH]]
            for position in broker.publish(topic, records):
                offsets = last.setdefault(topic, {})
                offsets[position.partition] = max(offsets.get(position.partition, 0), position.offset)
    return last


def published(broker: Broker, topic: str, after: Mapping[int, int]) -> dict[str, int]:
    """The frames that lie in a topic behind some offsets: where each is, by its id.

    Where the broker cannot read again, nothing: its window for ids has to do.
    """
    if Capability.REPLAY not in broker.capabilities:
        return {}
    found: dict[str, int] = {}
    extents = broker.describe(topic).extents
    for partition, extent in extents.items():
        low = max(after.get(partition, 0) + 1, extent.first)
        if low > extent.last:
            continue
        with broker.subscribe(topic, group=None, start={partition: low}, partitions=[partition]) as reader:
            at = low - 1
            while at < extent.last and (batch := reader.fetch_surely(BATCH, _WAIT)):
                at = batch[-1].position.offset
                for delivery in batch:
                    try:
                        found[decode(delivery.body).id] = delivery.position.offset
                    except IntegrityError:  # somebody else's
                        continue
    return found


def register(broker: Broker, topic: str, producer: str, *, ended: bool) -> None:
    """Say that a checkpoint sends to a topic, or that it has ended. It has one epoch for ever."""
    if Capability.STATE not in broker.capabilities:
        return
    state = broker.state(topic)
    while True:
        kept = state.get(PREFIX + producer)
        if kept is not None and entry(kept.value)["ended"] is ended:
            return
        value = msgspec.msgpack.encode({"epoch": 0, "ended": ended, "at": time.time()})
        try:
            state.put(PREFIX + producer, value, revision=0 if kept is None else kept.revision)
        except Conflict:
            continue
        return
