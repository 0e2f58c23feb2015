"""A link to one other site: questions asked and answered over all the streams there are, from any number of threads.

Promises: every question has a deadline and ends by it; an object is handed out when all of it is here and its digest is
right; what breaks is made up for by the streams that are left, or by those that come, for as long as there is time.
Leaves dialling and greeting to its owner, who is told when a stream has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from xxhash import xxh3_128

from proxyfab.background import start
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError, ResolveTimeout
from proxyfab.link.sending import Item, Segment
from proxyfab.link.session import SMALL, Asked, Broken, Dropped, Event, Has, Hasnt, Session, Want
from proxyfab.link.streams import Stream
from proxyfab.osio.memory import allocate

LARGEST = 1 << 40
"""Bytes of an object that is accepted, at most."""


class _Arrival:
    """An object on its way here."""

    __slots__ = ("complete", "digest", "into", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.into = allocate(size)
        self.digest: bytes | None = None
        self.complete = size == 0


class Outcome(NamedTuple):
    """How a question ended: with an object, with none, or with why it could not be read."""

    frames: Frames | None
    why: str = ""


class Line:
    """One side of a link between two sites. Thread-safe.

    Args:
        peer: The other site's name, for errors.
        source: Finds the objects that the other site asks for, by their keys. Called in a thread of its own; None where
            there is none; a ProxyfabError is told to who asks.
        ended: Told when a stream has ended, with its number and why.
        largest: Bytes of an object that is accepted, at most.
    """

    def __init__(
        self,
        peer: str,
        source: Callable[[Any], Frames | None],
        *,
        ended: Callable[[int, str], None] | None = None,
        largest: int = LARGEST,
    ) -> None:
        self.peer = peer
        self._source = source
        self._ended = ended
        self._largest = largest
        self._session = Session()
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._arrivals: dict[int, _Arrival] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._open: set[int] = set()
        """Questions that wait for their outcome."""
        self._landed = threading.Condition(self._lock)
        self._leaving: dict[int, Frames] = {}
        """Objects that are on their way to the other site."""
        self._closed = False

    @property
    def streams(self) -> int:
        """How many streams there are now."""
        return len(self._streams)

    @property
    def figures(self) -> dict[str, int]:
        """Bytes of segments `sent`, of those sent `again`, and `doubled`, which came although they were here."""
        sender, receiver = self._session.sender, self._session.receiver
        return {"sent": sender.sent, "again": sender.again, "doubled": receiver.doubled}

    def join(self, number: int, make: Callable[[Line], Stream]) -> bool:
        """Add a stream that both sides know of. False: the other side has given it up."""
        with self._lock:
            if self._closed or not self._session.join(number):
                return False
            stream = self._streams[number] = make(self)
            stream.start()  # so that whoever finds it may wait for its end
        return True

    def close(self) -> None:
        """End all streams; questions that wait fail."""
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
            self._landed.notify_all()
        for stream in streams:
            stream.close()
        for stream in streams:
            stream.join(5.0)

    def get_many(self, keys: Sequence[Any], timeout: float) -> list[Outcome]:
        """Ask the other site for objects.

        Args:
            keys: What it finds them by.
            timeout: Seconds in all.

        Raises:
            ResolveTimeout: Not all answers were here in time.
            ConnectorError: The link was closed.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            numbers = self._session.ask(keys)
            self._open.update(numbers)
        self._ring()
        try:
            with self._landed:
                while not all(number in self._outcomes for number in numbers):
                    self._wait(deadline, timeout, len(keys))
                return [self._outcomes[number] for number in numbers]
        finally:
            self._forget(numbers)

    def _wait(self, deadline: float, timeout: float, many: int) -> None:
        left = deadline - time.monotonic()
        what = f"{many} objects were asked of site {self.peer}"
        if self._closed:
            raise ConnectorError(f"{what}, and the link to it was closed; open it again.")
        if left <= 0:
            state = f"{len(self._streams)} streams are open" if self._streams else "no stream to it is open"
            raise ResolveTimeout(f"{what}, and not all came within {timeout:g} s: {state}. Is the link up?")
        self._landed.wait(left)

    def _forget(self, numbers: range) -> None:
        with self._lock:
            late = [number for number in numbers if number not in self._outcomes]
            for number in numbers:
                self._open.discard(number)
                self._outcomes.pop(number, None)
                self._arrivals.pop(number, None)
            if late and not self._closed:
                self._session.stop(late)
        if late:
            self._ring()

    def _ring(self) -> None:
        for stream in list(self._streams.values()):
            stream.ring()

    def next(self, stream: int) -> Item | None:
        with self._lock:
            return self._session.take(stream)

    def source(self, segment: Segment) -> tuple[Frames, int] | None:
        frames = self._leaving.get(segment.transfer)
        if frames is None:
            return None
        return frames.slice(segment.offset, segment.length), frames.nbytes

    def target(self, segment: Segment, size: int) -> memoryview | None:
        with self._lock:
            arrival = self._begin(segment.transfer, size)
            if arrival is None or not self._session.receiver.check(segment):
                return None
            return arrival.into[segment.offset : segment.offset + segment.length]

    def _begin(self, transfer: int, size: int) -> _Arrival | None:
        """What is known of an object that comes: by its letter or its first segment, whichever is sooner."""
        arrival = self._arrivals.get(transfer)
        if arrival is None and transfer in self._open and transfer not in self._outcomes:
            if size > self._largest:
                self._conclude(transfer, Outcome(None, f"it has {size} bytes, and {self._largest} are accepted"))
                self._session.stop([transfer])
                return None
            arrival = self._arrivals[transfer] = _Arrival(size)
            self._session.receiver.expect(transfer, size)
        if arrival is not None and arrival.size != size:
            raise IntegrityError(f"Site {self.peer} says that an object has {arrival.size} bytes, and {size}.")
        return arrival

    def landed(self, stream: int, segment: Segment) -> None:
        with self._lock:
            complete = self._session.arrived(stream, segment)
            arrival = self._arrivals.get(segment.transfer)
            if complete and arrival is not None:
                arrival.complete = True
        if complete and arrival is not None:
            self._check(segment.transfer, arrival)

    def _check(self, transfer: int, arrival: _Arrival) -> None:
        """An object is here, and what its digest should be, or one of the two."""
        with self._lock:
            if not arrival.complete or arrival.digest is None or self._arrivals.pop(transfer, None) is not arrival:
                return
        outcome = _checked(Frames([arrival.into]), arrival.digest)
        with self._lock:
            self._conclude(transfer, outcome)
            self._session.stop([transfer])
        self._ring()

    def _conclude(self, transfer: int, outcome: Outcome) -> None:
        if transfer in self._open:
            self._outcomes[transfer] = outcome
            self._arrivals.pop(transfer, None)
            self._landed.notify_all()

    def letter(self, stream: int, text: memoryview) -> None:
        with self._lock:
            events = self._session.read(stream, text)
        for event in events:
            self._heed(event)
        self._ring()

    def _heed(self, event: Event) -> None:
        match event:
            case Asked(wants):
                start(lambda: self._answer(wants), f"The answer to site {self.peer}")
            case Has(transfer, size, digest, None):
                with self._lock:
                    arrival = self._begin(transfer, size)
                    if arrival is None:
                        return
                    arrival.digest = digest
                self._check(transfer, arrival)
            case Has(transfer, _, digest, value) if value is not None:
                outcome = _checked(Frames(value), digest)
                with self._lock:
                    self._conclude(transfer, outcome)
            case Hasnt(transfer, why):
                with self._lock:
                    self._conclude(transfer, Outcome(None, why))
            case Dropped(transfers):
                for transfer in transfers:
                    self._leaving.pop(transfer, None)
            case Broken(number):
                stream = self._streams.get(number)
                if stream is not None:
                    stream.close("the other side gave it up")

    def _answer(self, wants: list[Want]) -> None:
        for want in wants:
            try:
                frames = self._source(want.key)
            except ProxyfabError as error:
                with self._lock:
                    self._session.fail(want, str(error))
            else:
                self._give(want, frames)
        self._ring()

    def _give(self, want: Want, frames: Frames | None) -> None:
        if frames is None:
            with self._lock:
                self._session.none(want)
            return
        digest = _digest(frames)
        small = frames.views if frames.nbytes <= SMALL else None
        with self._lock:
            if small is None:
                self._leaving[want.transfer] = frames
            self._session.have(want, frames.nbytes, digest, small)

    def over(self, stream: int, why: str) -> None:
        with self._lock:
            self._streams.pop(stream, None)
            self._session.leave(stream)
        self._ring()
        if self._ended is not None:
            self._ended(stream, why)


def _digest(frames: Frames) -> bytes:
    state = xxh3_128()
    for view in frames.views:
        state.update(view)
    return state.digest()


def _checked(frames: Frames, digest: bytes) -> Outcome:
    return Outcome(frames) if _digest(frames) == digest else Outcome(None, "it came damaged")
