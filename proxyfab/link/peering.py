"""All that goes to one other site and comes from it, over whichever link there is to it now.

A link is a line with a name of 16 bytes that its dialler drew. Streams of one name belong together: when all of them
break, those that are dialled next under that name go on where they stopped. When one side has forgotten the name,
because it was started anew or the silence was too long, a new line takes the place of the old one, and what was asked
and not answered is asked again, but for the bytes that are here.

Rules:
1. There is one link at a time. Of two sites that dial one another at once, the link of the one whose name sorts first
   stays. A site that lets go of a link never hears of it again: a later stream of it is one of a new link.
2. A question ends by its outcome or because its owner drops it; no break ends it.
3. Nothing here waits but the thread that dials.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import ssl
import threading
import time
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from proxyfab.errors import ProxyfabError, ResolveTimeout
from proxyfab.link.doors import LINK, Hello, refuse, welcome
from proxyfab.link.line import Answerer, Line
from proxyfab.link.question import Outcome, Question
from proxyfab.link.room import Room
from proxyfab.link.streams import Stream
from proxyfab.waiting import Flag

STREAMS = 8
MOST = 32
"""Streams of one link at most."""
_FORGOTTEN = 300.0
"""Seconds without a stream after which what is on its way to the other side is let go."""
_LEAST, _LONGEST = 0.05, 5.0
"""Seconds between dials that fail."""
_GREETING = 10.0
_FAREWELL = 1.0
"""Seconds that an end waits for a dial that is under way; it ends by itself."""

Knock = Callable[[Hello], "tuple[ssl.SSLSocket, bool]"]
"""Opens a stream to the other site, by whichever way leads there; see `doors.knock`."""


class Options(NamedTuple):
    """How a site treats its links."""

    streams: int = STREAMS
    room: Room | None = None
    """For what all other sites send, where links share it."""


class Peering:
    """One other site. Thread-safe.

    Args:
        site: This site's name.
        peer: The other one's.
        asked: Takes what the other site asks.
        knock: Opens streams; None where the other site has to dial.
        options: Streams and limits.
    """

    def __init__(
        self, site: str, peer: str, asked: Answerer, *, knock: Knock | None = None, options: Options | None = None
    ) -> None:
        self.site, self.peer = site, peer
        self._asked = asked
        self._knock = knock
        self._options = options or Options()
        self._room = self._options.room or Room()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._totals: dict[str, int] = {}
        self._closed = False
        self._waiting: deque[Sequence[Question]] = deque()
        """Questions that came while one line took another's place."""
        self._bell = Flag()
        self._link = b""
        self._mine = False
        """Whether this side dialled the link that there is now."""
        self._met = False
        """Whether the other side was ever reached over it."""
        self._line = self._make()
        self._alone_since = time.monotonic()
        self.trouble = ""
        """Why the last dial failed; `""` when it did not."""
        self.rtt = math.inf
        """Seconds of a round trip, the shortest that a greeting took."""
        self.links = 0
        """How many there were."""
        self._thread = threading.Thread(target=self._dial, name=f"proxyfab-dial-{peer}", daemon=True)

    def start(self) -> None:
        """Begin to dial, if this side does."""
        if self._knock is not None:
            self._thread.start()

    def _make(self) -> Line:
        return Line(self.peer, asked=self._asked, ended=self._ended, room=self._room)

    def _ended(self, number: int, why: str) -> None:  # noqa: ARG002 - the signature of a line's owner
        self._alone_since = time.monotonic()
        if "does not keep to the protocol" in why:
            self._met, self._link = False, b""  # the two sides do not agree on what was said: from the start
        self._bell.set()

    @property
    def streams(self) -> int:
        """How many streams there are now."""
        return self._line.streams

    @property
    def figures(self) -> dict[str, int]:
        """Totals of all links: see `Line.figures`."""
        now = self._line.figures
        return {name: self._totals.get(name, 0) + number for name, number in now.items()}

    # -- asking --------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask the other site, now or as soon as there is a link."""
        line = self._line
        if line.ask(questions):
            return
        if self._closed:
            self._refuse(questions)
            return
        self._waiting.append(questions)  # another line is just taking this one's place
        if self._line is not line:
            self._ask_waiting()

    def _ask_waiting(self) -> None:
        while self._waiting:
            try:
                questions = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            self.ask(questions)

    def _refuse(self, questions: Sequence[Question]) -> None:
        for question in questions:
            question.end(Outcome(None, f"The links to site {self.peer} were closed.", "ConnectorError"))

    def drop(self, questions: Sequence[Question]) -> None:
        """Nobody waits for these any more; they end without a word."""
        self._line.drop(questions)

    def get_many(self, keys: Sequence[Any], timeout: float) -> list[Outcome]:
        """Ask, and wait.

        Raises:
            ResolveTimeout: Not all answers were here in time.
        """
        landed: SimpleQueue[None] = SimpleQueue()
        questions = [Question(key, lambda _: landed.put(None)) for key in keys]
        deadline = time.monotonic() + timeout
        self.ask(questions)
        try:
            for _ in questions:
                landed.get(timeout=max(deadline - time.monotonic(), 0.0))
        except Empty:
            raise self.late(len(keys), timeout) from None
        finally:
            self.drop(questions)
        return [question.outcome for question in questions if question.outcome is not None]

    def late(self, many: int, timeout: float) -> ResolveTimeout:
        """What is said when answers did not come in time."""
        streams = self.streams
        state = f"{streams} streams to it are open" if streams else "no stream to it is open"
        trouble = f"; the last dial failed: {self.trouble}" if self.trouble and not streams else ""
        return ResolveTimeout(
            f"{many} objects were asked of site {self.peer}, and not all came within {timeout:.4g} s: {state}{trouble} "
            f"(`proxyfab doctor --peer` tells which way leads there)"
        )

    # -- links ---------------------------------------------------------------------------------------------------

    def take(self, connection: ssl.SSLSocket, hello: Hello) -> None:
        """A stream of the other site's is here: let it in, or say why not."""
        with self._lock:
            known = hello.link == self._link and self._met
            if not known and self._mine and self._line.streams and self.peer > self.site:
                why = f"Site {self.site} has dialled a link of its own."
            elif self._line.streams >= MOST:
                why = f"There are {MOST} streams already."
            elif self._closed:
                why = "This site is stopping."
            else:
                why = ""
            line = self._line if known or why else self._replace(hello.link, mine=False)
        if why:
            refuse(connection, why, timeout=_GREETING)
            return
        try:
            welcome(connection, fresh=not known, timeout=_GREETING)
            self._join(line, hello.stream, connection)
        except (ProxyfabError, ValueError):  # it broke off, or uses a number twice: it will dial again
            connection.close()

    def _join(self, line: Line, number: int, connection: ssl.SSLSocket) -> None:
        self.rtt = min(self.rtt, getattr(connection, "rtt", math.inf))
        if not line.join(number, partial(Stream, number, connection)):
            connection.close()

    def _replace(self, link: bytes, *, mine: bool) -> Line:
        """Another link takes the place of the one there was; under the lock."""
        old, new = self._line, self._make()
        self._link, self._mine, self._met = link, mine, True
        open_ones = old.close()
        for name, number in old.figures.items():
            self._totals[name] = self._totals.get(name, 0) + number
        self._line = new
        self.links += 1
        new.ask(open_ones)
        self._ask_waiting()
        return new

    # -- dialling, in a thread of its own ----------------------------------------------------------------------------

    def _dial(self) -> None:
        pause = _LEAST
        while not self._closed:
            self._bell.clear()
            if self._is_complete():
                self._bell.wait()
                continue
            try:
                self._open_streams()
            except ProxyfabError as error:
                self.trouble = str(error)
                self._bell_within(random.uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST)
            else:
                self.trouble, pause = "", _LEAST

    def _bell_within(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closed and time.monotonic() < until:
            self._bell.wait(until - time.monotonic())
            self._bell.clear()

    def _is_complete(self) -> bool:
        streams = self._line.streams
        return streams >= self._options.streams or (bool(streams) and not self._mine)

    def _open_streams(self) -> None:
        """Open the first stream of a link, or all that are missing, each in a thread of its own."""
        with self._lock:
            if not (self._mine and self._met and self._link):
                link, known = os.urandom(LINK), False
            else:
                link, known = self._link, True
        if not known or not self._line.streams:
            self._open_one(link, known=known)
            return
        troubles: list[ProxyfabError] = []

        def one() -> None:
            try:
                self._open_one(link, known=True)
            except ProxyfabError as error:
                troubles.append(error)

        missing = self._options.streams - self._line.streams
        threads = [threading.Thread(target=one, name="proxyfab-knock", daemon=True) for _ in range(missing)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if troubles:
            raise troubles[0]

    def _open_one(self, link: bytes, *, known: bool) -> None:
        """Dial one stream.

        Args:
            link: Its name.
            known: Whether this side has a line of that name, which the other side should have, too.
        """
        assert self._knock is not None
        number = next(self._numbers)
        connection, fresh = self._knock(Hello(self.site, link, number))
        with self._lock:
            line = self._line
            if known and fresh and link == self._link:
                self._met = False  # forgotten there: the next dial begins a new link, and asks for what is missing
            if self._closed or known == fresh or (known and link != self._link):
                connection.close()
                return
            if not known:
                if self._met and not self._mine and line.streams and self.peer < self.site:
                    connection.close()  # it was faster, and its link is the one that stays
                    return
                line = self._replace(link, mine=True)
        self._join(line, number, connection)

    # -- its end -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Let go of what waits for a site that has long been gone; to be called now and then."""
        with self._lock:
            line = self._line
            if line.streams or not self._link or time.monotonic() - self._alone_since < _FORGOTTEN:
                return
            self._replace(b"", mine=False)
            self._met = False

    def close(self) -> None:
        """End all streams; what is open fails."""
        self._closed = True
        self._bell.set()
        with self._lock:
            questions = self._line.close()
        self._refuse(questions)
        self._ask_waiting()
        if self._thread.is_alive():
            self._thread.join(_FAREWELL)
