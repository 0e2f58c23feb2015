"""Waiting for keys without polling: the server is asked once, remembers that it was, and says when one of them changes.

That is Redis's client tracking (6.0 and later, RESP3): the question "is it there?" is remembered for this connection
whatever the answer, so that no put between question and wait can be missed, and a put costs the writer nothing. A
notice names its key and is not stored anywhere, so none can pile up. However many keys a thread waits for, it has one
connection to each server that has some of them.

Promises: awake within a round trip of the put; back when the time is over, whatever the server does, though a mere
look (no time at all) is answered. A server started anew ends no wait, and is looked for by one waiter of a process at a
time, for as long as a call may last; one that does not answer for five seconds, as an unreachable one, is an error of
its link. Every two seconds some question is asked again, which is the heartbeat, and all of them in turn. While a
cluster moves a key's slot nobody can be told of it: it is asked for.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf
from time import monotonic

from redis.exceptions import AskError, TimeoutError

from proxyfab.connectors.redis.rounds import there
from proxyfab.grace import grace
from proxyfab.resp.errors import Late
from proxyfab.resp.fleet import Fleet
from proxyfab.resp.link import SILENCE, Link, pack
from proxyfab.resp.parser import Push, checked

HEARTBEAT = 2.0
_MOVING = 0.02
"""Seconds between two looks for keys that are between two servers."""
_AT_ONCE = 500
_AGAIN = 1000
"""Questions that a heartbeat repeats."""
_MOST = 100_000
"""Keys that a link remembers to be missing."""
_PING = pack(b"PING")


class Watch:
    """Some keys of one server, and the link that is told of them.

    What a link was told to be missing, and nothing since, needs no question in the next wait either: one word of the
    server is enough, behind which nothing older can come.

    Args:
        link: Speaks RESP3 and tracks; it is left without anything under way.
        names: The keys.
    """

    def __init__(self, link: Link, names: Sequence[bytes]) -> None:
        self.link = link
        self.leaves = inf
        """When who waits goes on, whatever the server does, in monotonic seconds."""
        self.moving: list[bytes] = []
        """Keys that this server says are perhaps on another one already."""
        self._names = dict.fromkeys(names)
        self._doubtful = self._unknown()

    def look(self) -> list[bytes]:
        """Those of the keys in doubt that are there; at first these are all that are."""
        found: list[bytes] = []
        self.moving = []
        self._doubt()
        while True:
            names = list(islice(self._doubtful, _AT_ONCE))
            for name in names:
                del self._doubtful[name]
            self._begin()
            self.link.ask(b"".join([pack(b"EXISTS", name) for name in names]) or _PING)
            for name in names:
                self.link.missing[name] = None  # first: a notice may come before the answer
                reply = self._reply()
                if isinstance(reply, AskError):
                    self.moving.append(name)
                    self.link.missing.pop(name, None)
                elif checked(reply):
                    found.append(name)
                    self.link.missing.pop(name, None)
            if not names:
                checked(self._reply())
            if not self._doubtful:
                return found

    def take_notice(self) -> None:
        """Read what was said unasked."""
        self._begin()
        while True:
            self._noted(self.link.parser.read())
            if not self.link.parser.pending:
                return

    def _begin(self) -> None:
        """Allow the server what it may take: past the end of the wait only for an answer that is on its way."""
        self.link.begin(min(SILENCE, max(self.leaves - monotonic(), 0.0) + grace(self.link.pace, most=inf)))

    def _doubt(self) -> None:
        """Every two seconds: ask again for some of the keys, in turn for all."""
        if monotonic() - self.link.doubted < HEARTBEAT:
            return
        self.link.doubted = monotonic()
        if len(self.link.missing) > _MOST:
            self.link.missing.clear()
        for name in list(islice(self.link.missing, _AGAIN)):
            del self.link.missing[name]
        self._doubtful = self._unknown()

    def _unknown(self) -> dict[bytes, None]:
        return {name: None for name in self._names if name not in self.link.missing}

    def _reply(self) -> object:
        while isinstance(reply := self.link.parser.read(), Push):
            self._noted(reply)
        return reply

    def _noted(self, push: object) -> None:
        """Which keys have changed: all of them, where none is named (the database was flushed)."""
        if not isinstance(push, Push) or len(push) != 2 or push[0] != b"invalidate":
            return
        for name in list(self.link.missing) if push[1] is None else map(bytes, push[1]):
            self.link.missing.pop(name, None)
            if name in self._names:
                self._doubtful[name] = None


def first(fleet: Fleet, names: Sequence[bytes], timeout: float | None) -> set[bytes]:
    """Those of some keys, on whichever servers, that are there as soon as one is; none when the seconds are over."""
    deadline = None if timeout is None else monotonic() + timeout
    leaves = inf if deadline is None or timeout is None or timeout <= 0 else deadline  # a mere look is answered
    with suppress(Late):
        return fleet.run_watching(names, partial(_first, fleet, names, deadline, leaves), "wait", timeout, leaves)
    return set()


def _first(
    fleet: Fleet, names: Sequence[bytes], deadline: float | None, leaves: float, links: list[tuple[Link, list[int]]]
) -> set[bytes]:
    watches = [Watch(link, [names[place] for place in places]) for link, places in links]
    for watch in watches:
        watch.leaves = leaves
    try:
        return set(_wait_any(watches, deadline, lambda moving: there(fleet, moving, "wait")))
    except TimeoutError:
        if monotonic() < leaves:
            raise
        raise Late(links[0][0].address) from None


def _wait_any(
    watches: Sequence[Watch], deadline: float | None, ask: Callable[[list[bytes]], list[bool]]
) -> list[bytes]:
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
        for watch in _heard(watches, left):
            watch.take_notice()


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
