"""A link to one other site: questions asked and answered over all the streams there are, from any number of threads.

Promises: every question has a deadline and ends by it; an object is handed out when all of it is here and its digest is
right; what breaks is made up for by the streams that are left, or by those that come, for as long as there is time.
Leaves dialling and greeting to its owner, who is told when a stream has ended, and who takes what is not finished to
another link when this one is over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.background import start
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError, ResolveTimeout
from proxyfab.link.desk import Desk
from proxyfab.link.question import Arrival, Outcome, Question, Rest, checked
from proxyfab.link.room import Room
from proxyfab.link.sending import Item, Letter, Segment
from proxyfab.link.session import Asked, Broken, Dropped, Event, Has, Hasnt, Session, Want
from proxyfab.link.streams import Stream
from proxyfab.waiting import Condition

_FAREWELL = 5.0
"""Seconds in which streams that were told to end should have."""
Answerer = Callable[["Line", list[Want]], None]
"""Takes what the other site asks, in a stream's thread, and answers with `Line.give` whenever it can."""


class Line:
    """One side of a link between two sites. Thread-safe.

    Args:
        peer: The other site's name, for errors.
        source: Finds the objects that the other site asks for, by their keys. Called in a thread of its own; None where
            there is none; a ProxyfabError is told to who asks.
        asked: Takes what the other site asks, in place of `source`.
        ended: Told when a stream has ended, with its number and why.
        room: Memory for objects that come, which may be that of other links, too.
    """

    def __init__(
        self,
        peer: str,
        source: Callable[[Any], Frames | None] = lambda _: None,
        *,
        asked: Answerer | None = None,
        ended: Callable[[int, str], None] | None = None,
        room: Room | None = None,
    ) -> None:
        self.peer = peer
        self._source = source
        self._asked = asked
        self._ended = ended
        self._room = room or Room()
        self._session = Session()
        self._lock = Condition()
        self._streams: dict[int, Stream] = {}
        self._arrivals: dict[int, Arrival] = {}
        self._open: dict[int, Question] = {}
        """Questions that wait for their outcome."""
        self._settled: deque[tuple[Question, Outcome]] = deque()
        """Those that have it, and whose owners were not told yet: that happens outside the lock."""
        self._desk = Desk(peer, self._session, self._lock, self._work, self._ring)
        self._closed = False

    @property
    def streams(self) -> int:
        """How many streams there are now."""
        return len(self._streams)

    @property
    def figures(self) -> dict[str, int]:
        """Bytes of segments `sent`, of those sent `again`, `received`, and `doubled`, which came although they were
        here.
        """
        sender, receiver = self._session.sender, self._session.receiver
        return {
            "sent": sender.sent,
            "again": sender.again,
            "received": receiver.landed_bytes,
            "doubled": receiver.doubled,
        }

    def join(self, number: int, make: Callable[[Line], Stream]) -> bool:
        """Add a stream that both sides know of. False: the other side has given it up."""
        with self._lock:
            if self._closed or not self._session.join(number):
                return False
            stream = self._streams[number] = make(self)
            stream.start()  # so that whoever finds it may wait for its end
        return True

    def close(self) -> list[Question]:
        """End all streams; `get_many` fails. Returns the questions that are open, to be asked elsewhere.

        What is here of their objects goes along, unless a stream did not end in time: it may still write there, also
        when all of an object came over another link, and somebody reads it. Such objects are asked for anew.
        """
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
            self._lock.notify_all()
        for stream in streams:
            stream.close()
        until = time.monotonic() + _FAREWELL
        ended = all([stream.join(max(until - time.monotonic(), 0.0)) for stream in streams])
        with self._lock:
            self._desk.close()
            open_ones, self._open = self._open, {}
            for number, question in open_ones.items():
                question.rest = self._rest(number) if ended else None
            return list(open_ones.values())

    def _rest(self, number: int) -> Rest | None:
        arrival = self._arrivals.pop(number, None)
        missing = self._session.receiver.missing(number)
        return Rest(arrival.into, arrival.digest, missing) if arrival is not None and missing else None

    # -- asking --------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question]) -> bool:
        """Ask the other site. False: this link was closed, and nothing is asked."""
        with self._lock:
            if self._closed:
                return False
            questions = [question for question in questions if not question.dropped]
            rests = [question.rest for question in questions]
            parts = [None if rest is None else rest.missing for rest in rests]
            numbers = self._session.ask([question.key for question in questions], parts)
            for number, question in zip(numbers, questions, strict=True):
                question.number = number
                self._open[number] = question
                if question.rest is not None:
                    rest, question.rest = question.rest, None
                    self._arrivals[number] = Arrival(rest.into, rest.digest, resumed=True)
                    self._session.receiver.expect(number, rest.into.nbytes, rest.missing)
        self._ring()
        return True

    def drop(self, questions: Sequence[Question]) -> None:
        """Nobody waits for these any more; they end without a word."""
        with self._lock:
            for question in questions:
                question.drop()
            late = [each.number for each in questions if self._open.get(each.number) is each]
            for number in late:
                del self._open[number]
                self._arrivals.pop(number, None)
            if late and not self._closed:
                self._session.stop(late)
        if late:
            self._ring()

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
        left = len(keys)

        def done(_: Question) -> None:
            nonlocal left
            with self._lock:
                left -= 1
                if not left:
                    self._lock.notify_all()

        questions = [Question(key, done) for key in keys]
        self.ask(questions)
        try:
            with self._lock:
                while left:
                    self._wait(deadline, timeout, len(keys))
        finally:
            self.drop(questions)
        return [question.outcome for question in questions if question.outcome is not None]

    def _wait(self, deadline: float, timeout: float, many: int) -> None:
        left = deadline - time.monotonic()
        what = f"{many} objects were asked of site {self.peer}"
        if self._closed:
            raise ConnectorError(f"{what}, and the link to it was closed; open it again.")
        if left <= 0:
            state = f"{len(self._streams)} streams are open" if self._streams else "no stream to it is open"
            raise ResolveTimeout(f"{what}, and not all came within {timeout:.4g} s: {state}. Is the link up?")
        self._lock.wait(left)

    def _conclude(self, transfer: int, outcome: Outcome) -> None:
        """A question has its outcome; its owner is told by `_tell`, outside the lock."""
        question = self._open.pop(transfer, None)
        arrival = self._arrivals.pop(transfer, None)
        if question is not None and arrival is not None and arrival.resumed and outcome.kind == "IntegrityError":
            self._session.stop([transfer])  # parts of two objects, perhaps: once more, all of it
            (question.number,) = self._session.ask([question.key])
            self._open[question.number] = question
        elif question is not None:
            self._settled.append((question, outcome))

    def _tell(self) -> None:
        while self._settled:
            try:
                question, outcome = self._settled.popleft()
            except IndexError:  # another stream's thread was faster
                return
            question.end(outcome)

    def _ring(self) -> None:
        for stream in list(self._streams.values()):
            stream.ring()

    # -- what streams want and bring -------------------------------------------------------------------------------

    def next(self, stream: int, most: int) -> Item | None:
        with self._lock:
            item = self._session.take(stream, most)
        if self._desk.waits and isinstance(item, Letter):
            self._desk.admit()
        return item

    def ample(self) -> bool:
        return self._session.sender.ample

    def source(self, segment: Segment) -> tuple[Frames, int] | None:
        frames = self._desk.leaving(segment.transfer)
        if frames is None:
            return None
        return frames.slice(segment.offset, segment.length), frames.nbytes

    def target(self, segment: Segment, size: int) -> memoryview | None:
        with self._lock:
            arrival = self._begin(segment.transfer, size)
            wanted = arrival is not None and self._session.receiver.check(segment)
            place = arrival.into[segment.offset : segment.offset + segment.length] if arrival and wanted else None
        self._tell()
        return place

    def _begin(self, transfer: int, size: int) -> Arrival | None:
        """What is known of an object that comes: by its letter or its first segment, whichever is sooner."""
        arrival = self._arrivals.get(transfer)
        if arrival is None and transfer in self._open:
            into = self._room.allocate(self.peer, size)
            if into is None:
                why = (
                    f"An object of site {self.peer} has {size} bytes, and {self._room.left(self.peer)} of "
                    f"{self._room.most} are left for it."
                )
                self._conclude(transfer, Outcome(None, why, "CapacityError"))
                self._session.stop([transfer])
                return None
            arrival = self._arrivals[transfer] = Arrival(into)
            self._session.receiver.expect(transfer, size)
        if arrival is not None and arrival.size != size:
            if not arrival.resumed:
                raise IntegrityError(f"Site {self.peer} says that an object has {arrival.size} bytes, and {size}.")
            self._conclude(transfer, Outcome(None, "it is another object now", "IntegrityError"))
            return None
        return arrival

    def landed(self, stream: int, segment: Segment) -> None:
        with self._lock:
            complete = self._session.arrived(stream, segment)
            arrival = self._arrivals.get(segment.transfer)
            if complete and arrival is not None:
                arrival.complete = True
        if complete and arrival is not None:
            self._check(segment.transfer, arrival)

    def _check(self, transfer: int, arrival: Arrival) -> None:
        """An object is here, and what its digest should be, or one of the two."""
        with self._lock:
            if not arrival.complete or arrival.digest is None or self._arrivals.get(transfer) is not arrival:
                return
            arrival.complete = False  # one thread checks it
        outcome = checked(Frames([arrival.into]), arrival.digest)
        with self._lock:
            self._conclude(transfer, outcome)
            self._session.stop([transfer])
        self._tell()
        self._ring()

    def letter(self, stream: int, text: memoryview) -> None:
        with self._lock:
            events = self._session.read(stream, text)
        small = [event for event in events if isinstance(event, Has) and event.value is not None]
        if small:
            outcomes = [checked(Frames([has.value]), has.digest) for has in small if has.value is not None]
            with self._lock:
                for has, outcome in zip(small, outcomes, strict=True):
                    self._conclude(has.transfer, outcome)
        else:
            for event in events:
                self._heed(event)
        self._tell()
        if not self._session.sender.idle:
            self._ring()

    def _heed(self, event: Event) -> None:
        match event:
            case Asked(wants, nbytes):
                self._desk.asked(wants, nbytes)
            case Has(transfer, size, digest, _):
                self._announced(transfer, size, digest)
            case Hasnt(transfer, why, kind):
                with self._lock:
                    self._conclude(transfer, Outcome(None, why, kind))
            case Dropped(transfers):
                self._desk.dropped(transfers)
            case Broken(number):
                stream = self._streams.get(number)
                if stream is not None:
                    stream.close("the other side gave it up")

    def _announced(self, transfer: int, size: int, digest: bytes) -> None:
        """An object is on its way, or here already but for the word that it is this one."""
        with self._lock:
            arrival = self._begin(transfer, size)
            if arrival is None:
                if transfer not in self._open:  # that nobody waits for it was said too early to be heard
                    self._session.stop([transfer])
                return
            if arrival.resumed and arrival.digest not in (None, digest):
                self._conclude(transfer, Outcome(None, "it is another object now", "IntegrityError"))
                return
            arrival.digest = digest
        self._check(transfer, arrival)

    def over(self, stream: int, why: str) -> None:
        with self._lock:
            self._streams.pop(stream, None)
            self._session.leave(stream)
        self._ring()
        if self._ended is not None:
            self._ended(stream, why)

    # -- answering -----------------------------------------------------------------------------------------------

    def _work(self, wants: list[Want]) -> None:
        if self._asked is not None:
            self._asked(self, wants)
        else:
            start(lambda: self._answer(wants), f"The answer to site {self.peer}")

    def _answer(self, wants: list[Want]) -> None:
        for want in wants:
            try:
                self.give(want, self._source(want.key))
            except ProxyfabError as error:
                self.give(want, error)

    def give(self, want: Want, found: Frames | ProxyfabError | None) -> None:
        """Answer what was asked: an object, that there is none, or why it cannot be read. From any thread."""
        self._desk.give_many([(want, found)])

    def give_many(self, answers: Sequence[tuple[Want, Frames | ProxyfabError | None]]) -> None:
        """`give` of each."""
        self._desk.give_many(answers)

    def is_asked(self, transfer: int) -> bool:
        """Whether the other side still waits for the answer to a question."""
        return self._desk.is_asked(transfer)

    def defer(self, want: Want) -> None:
        """An answer takes long, and is not to hold up others."""
        self._desk.defer(want)
