"""What the verbs need of the server that runs them, and the state they share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING, Protocol, TypeAlias

from proxyfab.server.answers import Answer, Answers
from proxyfab.server.index import Entry, Index, Name
from proxyfab.server.owners import Owners
from proxyfab.server.storage import Steps, Storage
from proxyfab.server.waiting import Waiters

if TYPE_CHECKING:
    from proxyfab.server.abroad import Home
    from proxyfab.server.line import Line
    from proxyfab.server.options import Options
    from proxyfab.server.peers import Peer
    from proxyfab.server.side import Side
    from proxyfab.wire.messages import Message

_SET = 0.5
"""Seconds; a clock that is off by less is not said to have been set, so that an object's times stay the same."""
Todo: TypeAlias = "Steps | Answer | None"
"""What does a request, or what it is answered with at once; None when it will be answered later."""


class Gateway(Protocol):
    """What a server that is a site's gateway has to do with other sites (`far`)."""

    site: str

    def bring(self, names: Sequence[Name], seconds: float) -> Steps:
        """See to it that copies of another site's objects are here; in use until `release`."""

    def release(self, names: Sequence[Name]) -> None:
        """What was brought is not in use any more."""

    def forward(self, peer: Peer, message: Message, home: Home) -> Todo:
        """A request about another site's objects."""

    def push(self, message: Message) -> Steps:
        """Bring objects to another site, or another site's to this one."""

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Totals and levels, for `status`."""


class Host(Protocol):
    """A node server, as its verbs see it."""

    options: Options
    storage: Storage
    line: Line
    side: Side
    peers: dict[bytes, Peer]
    incarnation: str
    address: str

    @property
    def far(self) -> Gateway | None:
        """What it has to do with other sites, if it is a gateway."""

    def start(self, todo: Todo, reply: Callable[[Answer], None]) -> None:
        """Do some steps and hand the answer to `reply`."""

    def post(self, todo: Callable[[], Todo], reply: Callable[[Answer], None]) -> None:
        """Do something in the loop's thread, and hand the answer to `reply` there. From any thread."""

    def send(self, peer: Peer, request: bytes, answer: Answer) -> None:
        """Send an answer; a peer that has gone or does not read is dropped."""

    def drop(self, peer: Peer) -> None:
        """Let go of everything that is held for a peer that has gone."""


class State:
    """What a server knows. Belongs to the loop's thread."""

    def __init__(self, owners: Owners) -> None:
        self.index = Index()
        self.answers = Answers()
        self.waiters = Waiters()
        self.owners = owners
        self.counters: Counter[str] = Counter()
        self.started = time.time()
        self._began = self.started - clock_gettime(CLOCK_BOOTTIME)
        self._ahead = 0.0

    def count(self, what: str, number: int = 1) -> None:
        """Count something for `status`."""
        self.counters[what] += number

    def now(self) -> float:
        """The index's time: the machine's as it was at the start, in seconds since the epoch, and what passed since.

        So whoever sets the machine's clock moves no object's end.
        """
        return self._began + clock_gettime(CLOCK_BOOTTIME)  # time in which the machine slept has passed, too

    def find(self, name: Name) -> Entry | None:
        """The live entry under a name."""
        return self.index.find(name, self.now())

    def ahead(self) -> float:
        """Seconds that the machine's clock was set ahead since the start; what clients are told of times has them."""
        ahead = time.time() - self.now()
        if abs(ahead - self._ahead) > _SET:
            self._ahead = ahead
        return self._ahead
