"""Objects without an event: who sent them was killed after they were stored, and before the broker had their event.

Rules:
1. The ids of what producers store for a topic, and of what is copied for its dead letters, begin with its mark, which
   is drawn once and kept beside the topic, with the stores that they use. So strays can be told from everybody else's
   objects.
2. A stray has the mark, no record of the topic or of its dead letters refers to it, and it is older than what any
   producer still tries to send. Stores are listed first and records read then, so that what is sent meanwhile is none.
   If records cannot be read to the last, nothing is evicted.
3. Listing a store and reading a topic cost what they hold: nothing here happens unless it is asked for.
4. Of a topic that releases nothing (`release="never"`) records may go before their objects: nothing is a stray there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from proxyfab.abc import Reclaimed, SupportsScan
from proxyfab.errors import CapabilityError, Conflict, ConnectorError, IntegrityError, ProxyfabError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability
from proxyfab.exit import Drain
from proxyfab.keys import Fresh, Key
from proxyfab.patterns.stream.releasing import Held, evict, objects_of
from proxyfab.ref import openers
from proxyfab.spec import ConnectorSpec, StoreSpec
from proxyfab.store import Store, open_store
from proxyfab.wire.events import decode

MARK = "release/mark"
LETTERS = ".dlq"
"""Behind the name of a topic: where its dead letters lie."""
OLD = 3600.0
"""Seconds after which an object without an event is a stray. Producers try for a minute, unless told otherwise."""
_MARK, _REST = 6, 10
_STORES = 64
_BATCH, _WAIT = 256, 10.0


class _Marked(msgspec.Struct):
    mark: str
    stores: list[str]


def marked(broker: Broker, topic: str, url: str) -> str:
    """How the ids of a topic's objects begin; the store is written down, if its objects outlive their process."""
    state = broker.state(topic)
    lasts = ConnectorSpec.parse(StoreSpec.parse(url).connector).scheme != "memory"
    while True:
        kept = state.get(MARK)
        known = _Marked(os.urandom(_MARK).hex(), []) if kept is None else _read(kept.value)
        if kept is not None and (url in known.stores or not lasts or len(known.stores) >= _STORES):
            return known.mark
        known.stores += [url] if lasts else []
        try:
            state.put(MARK, msgspec.msgpack.encode(known), revision=0 if kept is None else kept.revision)
        except Conflict:
            continue
        return known.mark


def draw(mark: str) -> Fresh:
    """A key that nobody else has, with a mark."""
    return Fresh.of(Key(mark + os.urandom(_REST).hex()))


def _read(value: bytes) -> _Marked:
    try:
        return msgspec.msgpack.decode(value, type=_Marked)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"What is kept of the stores of a topic is damaged: {error}.") from error


def sweep_strays(broker: Broker, topic: str, *, older: float = OLD, dry_run: bool = False) -> list[Reclaimed]:
    """Take back the objects that producers stored for a topic and did not live to send.

    Args:
        broker: Where the topic is.
        topic: Its name.
        older: Seconds that an object has been there at least; longer than any producer tries to send (`timeout=`).
        dry_run: Only tell.

    Raises:
        CapabilityError: The broker cannot read records again.
        ProxyfabError: The broker or a store cannot be reached.
    """
    if Capability.REPLAY not in broker.capabilities:
        raise CapabilityError(f"{broker.url} cannot read records again, so nobody can know what they refer to.")
    described = broker.describe(topic).topic
    kept = broker.state(topic).get(MARK) if Capability.STATE in broker.capabilities else None
    if kept is None or described.release == "never":
        return []
    found = _listed(_read(kept.value), time.time() - older)
    letters = f"{topic}{LETTERS}"  # first: what is replayed is in the topic before it is not among them any more
    for name in (letters, topic) if found and letters in broker.topics() else (topic,) if found else ():
        for id in _referred(broker, name):
            found.pop(id, None)
    if not dry_run:
        evict(found.values())
    why = "whoever stored it did not live to send its event"
    return [Reclaimed(f"{held.key} of topic {topic}", held.nbytes, why) for held in found.values()]


def _listed(known: _Marked, before: float) -> dict[str, Held]:
    """What has the mark and is that old, in all stores that can be reached."""
    found: dict[str, Held] = {}
    for url in known.stores:
        try:
            store: Store = openers[0](url)
            there = list(store.connector.scan()) if isinstance(store.connector, SupportsScan) else []
        except ProxyfabError:  # one that has gone with its process, as likely as not
            continue
        for stat in there:
            if stat.key.id.startswith(known.mark) and stat.created <= before:
                found[stat.key.id] = Held(url, stat.key, stat.nbytes)
    return found


def _referred(broker: Broker, topic: str) -> Iterator[str]:
    """The ids of all objects that a topic's records refer to."""
    for number, extent in broker.describe(topic).extents.items():
        if extent.first > extent.last:
            continue
        with broker.subscribe(topic, group=None, start={number: extent.first}, partitions=[number]) as reader:
            at = 0
            while at < extent.last:
                batch = reader.fetch_surely(_BATCH, _WAIT)
                if not batch:
                    raise ConnectorError(f"Topic {topic} could not be read to its end; nothing was evicted. Try again.")
                at = batch[-1].position.offset
                for delivery in batch:
                    try:
                        yield from [held.key.id for held in objects_of(decode(delivery.body))]
                    except IntegrityError:  # no frame of ours
                        continue


def unwanted(store: Store, key: Key) -> None:
    """Evict, in the background, an object whose event did not come through."""
    url = store.url
    drain = _drains.get(url)
    if drain is None:
        drain = _drains.setdefault(url, Drain(lambda keys: open_store(url).evict_many(keys), "evicting"))
    drain.add([key])


_drains: dict[str, Drain[Key]] = {}
