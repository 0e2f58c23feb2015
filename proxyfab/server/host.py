"""What the verbs need of the server that runs them, and the state they share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from proxyfab.server.answers import Answer, Answers
from proxyfab.server.index import Entry, Index, Name
from proxyfab.server.owners import Owners
from proxyfab.server.storage import Steps, Storage
from proxyfab.server.waiting import Waiters

if TYPE_CHECKING:
    from proxyfab.server.line import Line
    from proxyfab.server.options import Options
    from proxyfab.server.peers import Peer
    from proxyfab.server.side import Side

Todo: TypeAlias = "Steps | Answer | None"
"""What does a request, or what it is answered with at once; None when it will be answered later."""


class Host(Protocol):
    """A node server, as its verbs see it."""

    options: Options
    storage: Storage
    line: Line
    side: Side
    peers: dict[bytes, Peer]
    incarnation: str
    address: str

    def start(self, todo: Todo, reply: Callable[[Answer], None]) -> None:
        """Do some steps and hand the answer to `reply`."""

    def send(self, peer: Peer, request: bytes, answer: Answer) -> None:
        """Send an answer; a peer that has gone or does not read is dropped."""

    def settle(self, request: bytes, answer: Answer) -> None:
        """Answer a request that changed something to all who asked, and remember the answer."""

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

    def count(self, what: str, number: int = 1) -> None:
        """Count something for `status`."""
        self.counters[what] += number

    def find(self, name: Name) -> Entry | None:
        """The live entry under a name."""
        return self.index.find(name, time.time())
