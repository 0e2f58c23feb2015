"""The thread that publishes what was gathered: numbered frames, tried again with the same ids until a deadline.

Rules:
1. A frame is numbered and encoded once. What is tried again are the same bytes under the same id.
2. A place that cannot be reached, or a topic that is full, is tried again until `timeout` seconds after a frame was
   sealed, at least once; any other refusal is final. Of several frames each is then tried by itself, so that one
   answers for no other.
3. What a named producer has published is acknowledged when its epoch was still the latest after that: so of what one
   has acknowledged nothing lies behind its successor's beginning, and consumers may drop what does.
4. The thread is a daemon and ends when nothing was sent for ten seconds. It keeps the gathering, not the producer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from proxyfab.errors import BackPressureError, ConnectorError, ProxyfabError, ResolveTimeout, StaleEpoch
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Position, Record, Topic
from proxyfab.exit import Drain
from proxyfab.patterns.stream.gathering import Gathering
from proxyfab.patterns.stream.identity import Identity
from proxyfab.patterns.stream.limits import Limits
from proxyfab.patterns.stream.receipt import Draft
from proxyfab.patterns.stream.strays import marked
from proxyfab.retry import Backoff
from proxyfab.trace import Link, here, span
from proxyfab.waiting import Flag
from proxyfab.wire.events import END, NBYTES, Frame, joined

R = TypeVar("R")
_LEAST = 1.0
_BACKOFF = Backoff(0.02, 2.0, 2.0)
_ROOM = 2 * NBYTES
"""Bytes that are kept, as long as the thread lives, to put frames together in."""
_UNREACHED = (ConnectorError, ResolveTimeout)


class Sending:
    """One producer's way to one topic, in one process. Thread-safe.

    Args:
        broker: Where to.
        topic: Made if it does not exist.
        identity: Who sends.
        source: The CloudEvents source of all its events.
        limits: How much may wait.
        timeout: Seconds until what cannot be delivered is given up.
    """

    def __init__(
        self, broker: Broker, topic: Topic, identity: Identity, source: str, limits: Limits, timeout: float
    ) -> None:
        self.broker = broker
        self.topic = topic
        self.identity = identity
        self.source = source
        self.timeout = timeout
        self.gathering = Gathering(topic.name, broker.url, limits, self._start)
        self._limits = limits
        self._again = _UNREACHED if limits.full == "error" else (*_UNREACHED, BackPressureError)
        self.opened = False
        self._opening = threading.RLock()  # reentrant: collecting garbage inside may send something
        self._numbers: dict[int, int] = {}
        self._room = bytearray()
        self._thread: threading.Thread | None = None
        self._stopping = Flag()

    def again(self) -> Sending:
        """The same for a forked child, under another name; nothing is sent yet."""
        identity = self.identity.child()
        return Sending(self.broker, self.topic, identity, self.source, self._limits, self.timeout)

    # -- before the first event --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the topic and register, once; tried until the deadline.

        Raises:
            ConnectorError: The broker could not be reached in time.
            ConfigurationError: The topic exists, and is another one.
        """
        with self._opening:
            if self.opened:
                return
            until = time.monotonic() + self.timeout
            self.topic = self._trying(lambda: self.broker.ensure(self.topic), until)
            self._trying(lambda: self.identity.register(self.broker, self.topic.name), until)
            self.gathering.partitions = self.topic.partitions
            self.opened = True

    def marked(self, store: str) -> str:
        """How the ids of the topic's objects begin; "" where the broker keeps no values."""
        if Capability.STATE not in self.broker.capabilities:
            return ""
        until = time.monotonic() + self.timeout
        return self._trying(lambda: marked(self.broker, self.topic.name, store), until)

    def _trying(self, call: Callable[[], R], until: float) -> R:
        """What `call` answers, which is tried again while the place cannot be reached."""
        attempt = 0
        while True:
            try:
                return call()
            except self._again:
                attempt += 1
                pause = _BACKOFF.pause(attempt)
                if time.monotonic() + pause >= until:
                    raise
                self._stopping.wait(pause)
                if self._stopping.is_set():
                    raise

    # -- the thread --------------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Whether there is a thread now."""
        thread = threading.Thread(
            target=self._work, name=f"proxyfab-background-producer-{self.topic.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread can be had: the limit is reached, or the interpreter is ending
            return False
        self._thread = thread
        return True

    def _work(self) -> None:
        while drafts := self.gathering.take():
            self.publish(drafts)
            del drafts  # waiting keeps nothing of what was sent
            if len(self._room) > _ROOM:
                self._room = bytearray()
        self._room = bytearray()

    def publish(self, drafts: Sequence[Draft]) -> None:
        """Publish and settle them; raises nothing."""
        try:
            records = [self._record(draft) for draft in drafts]
            positions = self._delivered(drafts, records)
        except StaleEpoch as error:
            self.gathering.close_for(error)
            self.gathering.settle(drafts, (), error)
            self.gathering.abandon(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody is left waiting
            if len(drafts) > 1 and isinstance(error, ProxyfabError) and not isinstance(error, self._again):
                for draft in drafts:  # one of them is to blame, and the others are not
                    self.publish([draft])
                return
            self.gathering.settle(drafts, (), self._told(error))
        else:
            self.gathering.settle(drafts, positions, None)

    def _record(self, draft: Draft) -> Record:
        if not draft.body:
            draft.first = self._numbers.get(draft.partition, 0)
            self._numbers[draft.partition] = draft.first + draft.count
            draft.body = joined(self._frame(draft), draft.events, self._room)
            draft.events = []
        return Record(draft.body, self._frame(draft).id, draft.partition)

    def _frame(self, draft: Draft) -> Frame:
        identity = self.identity
        return Frame(identity.name, identity.epoch, draft.partition, draft.first, self.source, draft.stores, [])

    def _delivered(self, drafts: Sequence[Draft], records: Sequence[Record]) -> list[Position]:
        until = min([draft.sealed for draft in drafts]) + self.timeout
        link = Link(here(), self.broker.url, "events")

        def attempt() -> list[Position]:
            left = max(until - time.monotonic(), _LEAST)
            with span("publish", link, self.topic.name, sum([len(record.body) for record in records])):
                try:
                    found = self.broker.publish(self.topic.name, records, timeout=left)
                except BaseException as error:
                    self._doubt(drafts, error)
                    raise
                self._doubt(drafts, None)  # it is there; but is it ours to say so?
                return found

        positions = self._trying(attempt, until)
        self._trying(lambda: self.identity.check(self.broker, self.topic.name, self.timeout), until)
        return positions

    def _doubt(self, drafts: Sequence[Draft], error: BaseException | None) -> None:
        """Note that the broker may have these; not where it refused them, or nobody could find strays.

        Of several that are refused some may be there: each is tried by itself then, but not where the topic is full.
        """
        refused = isinstance(error, ProxyfabError) and not isinstance(error, _UNREACHED)
        sure = refused and (len(drafts) == 1 or not isinstance(error, self._again))
        if Capability.STATE in self.broker.capabilities and not sure:
            for draft in drafts:
                draft.tried = True

    def _told(self, error: BaseException) -> BaseException:
        if isinstance(error, ProxyfabError):
            return error
        told = ProxyfabError(f"Publishing to topic {self.topic.name} of {self.broker.url} failed: {error!r}.")
        told.__cause__ = error
        return told

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Publish to each partition that nothing more comes; what was sent before is there already.

        Raises:
            ProxyfabError: It could not be published.
        """
        drafts = []
        for partition in range(self.topic.partitions):
            drafts.append(self.gathering.last(END, partition))
        if not self.gathering.wait_for(drafts, self.timeout + _LEAST):
            raise ConnectorError(f"The end of topic {self.topic.name} was not acknowledged by {self.broker.url}.")
        self.gathering.raise_trouble()
        until = time.monotonic() + self.timeout
        self._trying(lambda: self.identity.end(self.broker, self.topic.name), until)

    def stop(self, timeout: float) -> None:
        """Give up what waits for another attempt, and wait for the thread."""
        self._stopping.set()
        self.gathering.finish()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)


def _leave(producers: list[Sending]) -> None:
    """What was sent is delivered although nobody closed the producer; at exit as far as it goes in two seconds."""
    for sending in producers:
        sending.gathering.finish()
    for sending in producers:
        sending.gathering.wait_for(sending.gathering.pending(), sending.timeout)


leaving: Drain[Sending] = Drain(_leave, "producers")
