"""Consumer: a topic's events as a stream of objects, each until somebody has said what became of it.

    for item in Consumer(broker, "frames", group="reconstruct"):
        work(item.proxy, **item.metadata)
        item.ack()                                              # or nack(delay), reject(reason), extend()
    for obj in Consumer(broker, "frames").objects(): ...        # acknowledged when the next one is asked for

Rules:
1. An event that was not acknowledged comes again: to this member or another, after `ack_wait` seconds or as soon as who
   held it is closed or dies. So an event may come twice, never not at all.
2. Iteration ends when all producers have ended and nothing is left for this member, not counting what it holds itself.
3. What is malformed, or never works, is a dead letter; it stops nobody.
4. A Consumer that nobody refers to any more, nor to its items, is closed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from proxyfab.brokers import open_broker
from proxyfab.coroutines import in_thread
from proxyfab.errors import ConfigurationError, IntegrityError, ProxyfabError, ResolveTimeout, SerializationError
from proxyfab.events.broker import ACK_WAIT, TIMEOUT, Broker
from proxyfab.events.model import EARLIEST, Position, Start, Topic, check_group, check_start
from proxyfab.fork import on_fork
from proxyfab.patterns.stream.burying import Undertaker
from proxyfab.patterns.stream.continuity import Continuity, Gap
from proxyfab.patterns.stream.endings import Endings, Fences
from proxyfab.patterns.stream.fetching import Fetching, Pace
from proxyfab.patterns.stream.filtering import Where, wanted_by
from proxyfab.patterns.stream.item import Item
from proxyfab.patterns.stream.lanes import Lanes
from proxyfab.patterns.stream.naming import broker_given, topic_named
from proxyfab.patterns.stream.selecting import Allocator, Selector, choice_of
from proxyfab.patterns.stream.settling import Desk
from proxyfab.patterns.stream.supply import Supply
from proxyfab.patterns.stream.trials import Trials
from proxyfab.patterns.stream.unpacking import Burying, Unpacking, warn
from proxyfab.spec import nbytes
from proxyfab.trace import Link, here

if TYPE_CHECKING:
    from typing import Self

ATTEMPTS = 5
PATIENCE = 60.0
LEASE = 10.0
"""Seconds of silence after which a member of an ordered group is taken for dead."""
EVENTS = 4096
NBYTES = "8 MiB"


class Consumer:
    """A member of a group, or a reader of its own, at one topic. Thread-safe; belongs to the process that made it.

    Making one does no I/O: the subscription begins with `with`, iteration, or the first call that needs it.

    Args:
        broker: A Broker, or the URL of one.
        topic: Its name; or what it is, to be made so if it does not exist.
        group: Members of one group share its events.
        start: Where a new group, or a reader, begins: EARLIEST, LATEST, offsets by partition, or seconds since 1970.
        ack_wait: Seconds to settle an event, which `Item.extend` begins anew.
        attempts: After how many an event that never was acknowledged is buried.
        dead_letter: Whether such events are kept in the topic `<topic>.dlq`; otherwise they are dropped.
        where: Which events: JMESPath over their metadata (see `filtering`), or a function of an item. Others are
            acknowledged without a look at their data.
        partitions: Just these; None for all.
        ordered: Members claim whole partitions, so that the order of each key holds across all of them; whoever dies,
            or is silent for ten seconds (or `ack_wait`, if that is less), is replaced. An event that is given back
            comes again before all others of its partition.
        prefetch: Events that are fetched ahead at most, about.
        prefetch_bytes: Bytes likewise, as a number or `"8 MiB"`. Of objects only what travels in events counts.
        timeout: Seconds without an event after which iteration raises; None waits.
        observe: Read without being counted: nothing is owed, acknowledging does nothing, and no object is kept for this
            reader.
        on_gap: Called with each Gap: in what producers have sent, by a reader of whole partitions; and, when a member
            begins, in what its group was to read and has gone (`overtaken`). None tells observers.
        select: What of objects: called with metadata and item, answers None for nothing, `...` for everything, or a
            part, of which only the bytes move: a slice, a range, a list of such (see `selecting`).
        allocate: Called with metadata and shape, answers with the buffer that an object lands in.
        patience: Seconds for a broker that cannot be reached, when it is asked for events, and at first.
        member: A name to show.

    Raises:
        ConfigurationError: An argument makes no sense.
        MissingDependency: An expression needs jmespath.
    """

    def __init__(
        self,
        broker: Broker | str,
        topic: str | Topic,
        *,
        group: str = "default",
        start: Start = EARLIEST,
        ack_wait: float = ACK_WAIT,
        attempts: int = ATTEMPTS,
        dead_letter: bool = True,
        where: Where = None,
        partitions: Sequence[int] | None = None,
        prefetch: int = EVENTS,
        prefetch_bytes: int | str = NBYTES,
        timeout: float | None = None,
        ordered: bool = False,
        observe: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
        select: Selector | None = None,
        allocate: Allocator | None = None,
        patience: float = PATIENCE,
        member: str = "",
    ) -> None:
        _check(attempts, ack_wait=ack_wait, patience=patience, timeout=1.0 if timeout is None else timeout)
        wanted = topic_named(topic)
        self.broker = open_broker(broker) if isinstance(broker, str) else broker_given(broker)
        self.group = None if observe else check_group(group)
        self.timeout = timeout
        name = wanted.name
        link = Link(name, here(), self.broker.url.partition(":")[0])
        undertaker = Undertaker(self.broker, name, group) if dead_letter and not observe else None
        self._burying = burying = Burying(undertaker, link)
        self._desk = Desk(ack_wait=ack_wait, attempts=attempts, bury=burying.event, observing=observe)
        self._desk.choice = choice_of(select, allocate)
        own = list(partitions) if partitions is not None else None
        if ordered and (observe or own is not None):
            raise ConfigurationError("Members of an ordered group claim partitions: give none, and do not observe.")
        alone = observe or ordered or own is not None
        report = _reporter(on_gap, link, group)
        continuity = Continuity(report if alone else None, Fences(self.broker, name))
        trials = None if observe else Trials(self.broker, name, group, attempts)
        fetching = Fetching(
            self.broker,
            wanted,
            group=self.group,
            start=check_start(start),
            partitions=own,
            ack_wait=ack_wait,
            patience=patience,
            member=member or f"{here()}.{os.getpid()}",
            missed=_counting(report, self._desk.counts),
        )
        unpacking = Unpacking(self._desk, burying, continuity, trials, wanted_by(where))
        endings = Endings(self.broker, name, own, fetching.timeout)
        pace = Pace(prefetch, nbytes(prefetch_bytes))
        if ordered:
            me, lease = f"{member or here()}.{os.urandom(6).hex()}", min(ack_wait, LEASE)
            self._supply: Supply = Lanes(fetching, self._desk, unpacking, endings, pace, member=me, lease=lease)
        else:
            self._supply = Supply(fetching, self._desk, unpacking, endings, pace)
        on_fork(self)

    def after_fork(self) -> None:
        """A child's copy is closed: what it holds is its parent's."""
        self._supply.after_fork()
        self._supply.fetching.after_fork()

    # -- events ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Item]:
        """Events as they come, until the stream is over.

        Raises:
            ResolveTimeout: None came for `timeout` seconds.
            ConnectorError: The broker could not be reached for as long as there is patience; iterate again later.
        """
        return chain.from_iterable(self._frames())

    def _frames(self) -> Iterator[Iterator[Item]]:
        supply = self._supply
        while (items := supply.next(self.timeout)) is not None:
            try:
                yield items
            except GeneratorExit:  # who iterates next goes on here
                supply.put_back(items)
                raise

    def objects(self) -> Iterator[object]:
        """Proxies of the events' objects, each acknowledged when the next one is asked for.

        If the work on one raises, or the loop is left, that one is not acknowledged: it comes again.
        """
        for item in self:
            try:
                found = item.proxy
            except IntegrityError as error:
                item.reject(str(error))
                continue
            yield found
            item.ack()

    def fetch(self, most: int = 64, timeout: float | None = None) -> list[Item]:
        """Up to `most` events as soon as there is one; [] when the stream is over, or `timeout` seconds have passed.

        Args:
            most: How many at most.
            timeout: Seconds; None for as long as it takes.
        """
        found = self._here(most)
        try:
            if not found and most > 0 and self._supply.stocked(timeout, most):
                found = self._here(most)
        except ResolveTimeout:
            pass
        return found

    def _here(self, most: int) -> list[Item]:
        """Up to `most` items of what was fetched."""
        found: list[Item] = []
        while len(found) < most and (items := self._supply.ready()) is not None:
            found += islice(items, most - len(found))
            if len(found) >= most:
                self._supply.put_back(items)
        return found

    async def __aiter__(self) -> AsyncIterator[Item]:
        supply = self._supply
        while True:
            items = supply.ready()
            if items is None:
                if not await in_thread(lambda: supply.stocked(self.timeout), waits=True):
                    return
                continue
            try:
                for item in items:
                    yield item
            except GeneratorExit:
                supply.put_back(items)
                raise

    async def afetch(self, most: int = 64, timeout: float | None = None) -> list[Item]:
        """`fetch`, for event loops."""
        found = self._here(most)
        try:
            if not found and most > 0 and await in_thread(lambda: self._supply.stocked(timeout, most), waits=True):
                found = self._here(most)
        except ResolveTimeout:
            pass
        return found

    @property
    def topic(self) -> Topic:
        """What is read; as the broker has it, once the subscription has begun."""
        return self._supply.fetching.topic

    @property
    def over(self) -> bool:
        """Whether the stream was over when it was last asked for events."""
        return self._supply.over

    # -- the whole ---------------------------------------------------------------------------------------------------

    def seek(self, to: Start | Position | datetime) -> None:
        """Go on from elsewhere: EARLIEST, LATEST, a position, offsets, or a moment. Of a group this moves all members.

        Events that were fetched before are not owed any more; acknowledging them does nothing.

        Raises:
            ConfigurationError: The position is another topic's.
        """
        skip = {(to.partition, to.offset): to.event} if isinstance(to, Position) and to.event else {}
        self._supply.seek(self._start(to), skip)

    def _start(self, to: Start | Position | datetime) -> Start:
        if isinstance(to, datetime):
            return to.timestamp()
        if not isinstance(to, Position):
            return float(to) if isinstance(to, int) else check_start(to, "to")
        if to.topic != self.topic.name:
            raise ConfigurationError(f"{to} is a position of topic {to.topic}; this consumer reads {self.topic.name}.")
        floors = self._supply.info().floor
        return {**{number: floor + 1 for number, floor in floors.items()}, to.partition: to.offset}

    def lag(self) -> int:
        """Frames (of up to 64 events) that the group, or this reader, has not acknowledged."""
        self._desk.flush()
        return self._supply.info().lag

    def flush(self, timeout: float = TIMEOUT) -> None:
        """Return when the broker knows what was settled.

        Raises:
            ConnectorError: It cannot be reached; it is told later.
        """
        self._desk.flush(timeout)

    def stats(self) -> dict[str, int]:
        """So far: frames, events, duplicates, stale, gaps, missing, filtered, nacked, buried, dropped."""
        return {**self._desk.counts, "buried": self._burying.buried, "dropped": self._burying.dropped}

    def open(self, patience: float | None = None) -> Self:
        """Begin the subscription now; what `with` does.

        Args:
            patience: Seconds for a broker that cannot be reached; None: the consumer's.

        Raises:
            ConnectorError: It could not be reached for so long.
        """
        self._supply.open(patience)
        return self

    def close(self) -> None:
        """Tell what is settled, and give back at once what is not. Idempotent."""
        self._supply.close()

    async def aclose(self) -> None:
        """`close`, for event loops."""
        await in_thread(self.close)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._supply.fetching.closing.is_set()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ProxyfabError:
            if error is None:
                raise

    async def __aenter__(self) -> Self:
        return await in_thread(self.open)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await in_thread(lambda: self.__exit__(kind, error, traceback))

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            "A Consumer belongs to the process that made it; send the broker, and make another one there."
        )

    def __repr__(self) -> str:
        return f"<Consumer: {self._supply.who} at {self.broker.url}{', closed' if self.closed else ''}>"


def _check(attempts: int, **seconds: float) -> None:
    if attempts < 1:
        raise ConfigurationError(f"An event has one attempt at least, not {attempts}.")
    for name, value in seconds.items():
        if not value > 0:
            raise ConfigurationError(f"{name} is a positive number of seconds, not {value!r}.")


def _reporter(on_gap: Callable[[Gap], None] | None, link: Link, group: str) -> Callable[[Gap], None]:
    def tell(gap: Gap) -> None:
        at = gap.position
        if gap.producer:
            story = f"Producer {gap.producer} skipped {gap.missing} events from {gap.first} before {at}."
        else:
            what = f"Up to {gap.missing} records of {at.topic}/{at.partition}, from offset {gap.first} on"
            story = f"{what}, went before group {group} had read them: it goes on at {at}."
        warn("gap", link, story)

    return on_gap or tell


def _counting(report: Callable[[Gap], None], counts: Counter[str]) -> Callable[[Gap], None]:
    def tell(gap: Gap) -> None:
        counts["gaps"] += 1
        report(gap)

    return tell
