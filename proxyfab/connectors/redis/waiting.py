"""Waiting for keys without polling: the server is asked once, remembers that it was, and says when one of them changes.

That is Redis's client tracking (6.0 and later, RESP3): the question "is it there?" is remembered for this connection
whatever the answer, so that no put between question and wait can be missed, and a put costs the writer nothing. A
notice names its key and is not stored anywhere, so none can pile up. However many keys a thread waits for, it has one
connection to each server that has some of them.

Promises: awake within a round trip of the put; back when the time is over; a server that does not answer for five
seconds, as an unreachable one, is an error of its link. Every two seconds some question is asked again, which is the
heartbeat, and all of them in turn. While a cluster moves a key's slot nobody can be told of it: it is asked for.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic

from redis.exceptions import AskError

from proxyfab.connectors.redis.link import Link, pack
from proxyfab.connectors.redis.parser import Push, checked

HEARTBEAT = 2.0
SILENCE = 5.0
_MOVING = 0.02
"""Seconds between two looks for keys that are between two servers."""
_AT_ONCE = 500
_AGAIN = 100
"""Questions that a heartbeat repeats."""


class Watch:
    """Some keys of one server, and the link that is told of them.

    Args:
        link: Speaks RESP3 and tracks; it is left without anything under way.
        names: The keys.
    """

    def __init__(self, link: Link, names: Sequence[bytes]) -> None:
        self.link = link
        self.moving: list[bytes] = []
        """Keys that this server says are perhaps on another one already."""
        self._names = dict.fromkeys(names)
        self._doubtful = list(self._names)

    def look(self) -> list[bytes]:
        """Those of the keys in doubt that are there; at first these are all."""
        found: list[bytes] = []
        while self._doubtful:
            names, self._doubtful = self._doubtful[:_AT_ONCE], self._doubtful[_AT_ONCE:]
            self.link.begin(SILENCE)
            self.link.ask(b"".join([pack(b"EXISTS", name) for name in names]))
            for name in names:
                reply = self._reply()
                if isinstance(reply, AskError):
                    self.moving.append(name)
                elif checked(reply):
                    found.append(name)
        return found

    def doubt(self) -> None:
        """Ask again for some keys, in turn for all."""
        if not self._doubtful:
            some = list(islice(self._names, _AGAIN))
            for name in some:  # to the end of the line
                self._names[name] = self._names.pop(name)
            self._doubtful, self.moving = some, []

    def take_notice(self) -> None:
        """Read what was said unasked."""
        self.link.begin(SILENCE)
        while True:
            self._noted(self.link.parser.read())
            if not self.link.parser.pending:
                return

    def _reply(self) -> object:
        while isinstance(reply := self.link.parser.read(), Push):
            self._noted(reply)
        return reply

    def _noted(self, push: object) -> None:
        """Which keys have changed: all of them, where none is named (the database was flushed)."""
        if isinstance(push, Push) and len(push) == 2 and push[0] == b"invalidate":
            changed = self._names if push[1] is None else map(bytes, push[1])
            self._doubtful += [name for name in changed if name in self._names and name not in self._doubtful]


def wait_any(watches: Sequence[Watch], deadline: float | None, ask: Callable[[list[bytes]], list[bool]]) -> list[bytes]:
    """Those of the keys that are there, as soon as one is; none of them at the deadline (monotonic seconds).

    Args:
        watches: For each server its keys.
        deadline: None for none.
        ask: Says of keys that are between two servers which are there.
    """
    while True:
        found = [name for watch in watches for name in watch.look()]
        moving = [name for watch in watches for name in watch.moving]
        if moving:
            found += [name for name, there in zip(moving, ask(moving), strict=True) if there]
        if found:
            return found
        pause = _MOVING if moving else HEARTBEAT
        left = pause if deadline is None else min(pause, deadline - monotonic())
        if left <= 0:
            return []
        heard = _heard(watches, left)
        for watch in heard:
            watch.take_notice()
        if not heard:
            for watch in watches:
                watch.doubt()


def _heard(watches: Sequence[Watch], seconds: float) -> list[Watch]:
    """Those whose server said something within so many seconds."""
    if len(watches) == 1:
        return list(watches) if watches[0].link.wait(seconds) else []
    heard = [watch for watch in watches if watch.link.wait(0)]
    if not heard:
        poll = select.poll()
        for watch in watches:
            poll.register(watch.link.fileno(), select.POLLIN)
        poll.poll(seconds * 1000)
        heard = [watch for watch in watches if watch.link.wait(0)]
    return heard
