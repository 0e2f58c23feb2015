"""A gateway's view of other sites: what its clients want of their objects is asked there, and answered here.

Their bytes are for `fetching`, what they ask of this one for `others`. Belongs to the loop's thread, like all that a
server knows; links have threads of their own and come back by `post`. Whatever is asked of another site ends within the
time that its client gave, with a typed error if need be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.errors import CapabilityError, ConfigurationError, ObjectLost
from proxyfab.keyring import Keyring
from proxyfab.link.line import Line
from proxyfab.link.session import Want
from proxyfab.server import abroad
from proxyfab.server.abroad import PATIENCE, Home, home_of
from proxyfab.server.answers import Answer
from proxyfab.server.fetching import Fetching
from proxyfab.server.host import Host, State, Todo
from proxyfab.server.index import Name
from proxyfab.server.options import Site
from proxyfab.server.others import Others
from proxyfab.server.peers import Peer
from proxyfab.server.sites import Sites
from proxyfab.server.storage import Steps
from proxyfab.wire.messages import Message

_TURN = 20.0
"""Seconds of one wait at another site; then it is asked anew."""


class Far:
    """Other sites. Belongs to the loop's thread.

    Args:
        host: The server.
        state: What it knows.
        site: Of which site it is the gateway, and which others there are.
    """

    def __init__(self, host: Host, state: State, site: Site) -> None:
        self.site = site.name
        self._host = host
        self.others = Others(self, host, state, site.peers)
        self._sites = Sites(site, Keyring(), self._asked)
        self._fetching = Fetching(host, state, site, self._sites)

    def open(self, perform: Callable[[Peer, Message], Todo]) -> None:
        """Listen and dial.

        Args:
            perform: Does a verb for another gateway.
        """
        self.others.perform = perform
        self._sites.open()

    @property
    def listening(self) -> str:
        """Host and port where other sites dial; `""` where they cannot."""
        return self._sites.listening

    def _asked(self, line: Line, wants: list[Want]) -> None:
        """Another site asks; in a stream's thread."""
        self._host.post(lambda: self.others.answer(line, wants), lambda fault: self.others.fail(line, wants, fault))

    def bring(self, names: Sequence[Name], seconds: float) -> Steps:
        """See to it that copies of another site's objects are here; in use until `release`."""
        return self._fetching.bring(names, seconds)

    def release(self, names: Sequence[Name]) -> None:
        """What was brought is not in use any more."""
        self._fetching.release(names)

    # -- verbs of clients --------------------------------------------------------------------------------------------

    def forward(self, peer: Peer, message: Message, home: Home) -> Todo:
        """A request about another site's objects."""
        if home.site == self.site:
            raise ConfigurationError(f"{home} is of this very site; its gateway is asked for {home.namespace!r}.")
        if message.verb in abroad.DONE:
            return self._do(message, home)
        if message.verb == "wait":
            return self._wait(peer, message, home)
        if message.verb == "give":
            return self._give(message, home)
        raise CapabilityError(
            f"Objects of site {home.site} can be put, read, waited for and evicted from site {self.site}, and not "
            f"{message.verb}: do that at their site."
        )

    def _do(self, message: Message, home: Home) -> Steps:
        ids = [id for _, id in message.names()]
        rest = {name: value for name, value in message.fields.items() if name not in ("ns", "ids", "within")}
        if message.verb == "evict":
            self._fetching.forget(home, ids)
            rest["request"] = message.request
        fields = yield from self._told(home, abroad.do(home, message.verb, ids, rest), _within(message))
        if message.verb == "evict":
            self._fetching.forget(home, ids)  # what was fetched before it was gone there
        if message.verb == "stat":
            return Answer("ok", {"rows": abroad.rows(fields, home, ids)})
        return Answer("ok", {"found": abroad.flags(fields, len(ids))})

    def _told(self, home: Home, key: list[Any], seconds: float, site: str = "") -> Any:
        """The fields that another site answers with."""
        peering = self._sites.peering(site or home.site)
        (question,) = yield from self._fetching.ask(peering, [key], time.monotonic() + seconds, seconds)
        outcome = question.outcome
        if outcome.why:
            raise outcome.error()
        if outcome.frames is None:
            raise ObjectLost(f"Site {home.site} knows nothing of {home}.")
        return abroad.unpacked(outcome.frames)

    def _wait(self, peer: Peer, message: Message, home: Home) -> Steps:
        """Wait at the other site, in turns, as long as the client does."""
        ids, timeout, request = [id for _, id in message.names()], message.seconds("timeout"), message.request
        ends = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        there = [number for number, id in enumerate(ids) if self._fetching.has(Name(str(home), id))]
        if there:
            return Answer("ok", {"found": there})
        gone = False

        def stop() -> None:
            nonlocal gone
            gone = True

        peer.waits[request] = stop
        try:
            while not gone:
                left = _TURN if ends is None else max(min(ends - time.monotonic(), _TURN), 0.0)
                fields = yield from self._told(home, abroad.wait(home, ids, left), left + PATIENCE)
                found = abroad.places(fields, len(ids))
                if found or (ends is not None and time.monotonic() >= ends):
                    return Answer("ok", {"found": found})
        finally:
            peer.waits.pop(request, None)
        return None

    def _give(self, message: Message, home: Home) -> Steps:
        """Have another site put an object under a name of its own that was put here for that."""
        fields = {name: message.fields.get(name) for name in ("ttl", "replace")}
        ((_, id),), seconds = message.names(), _within(message)
        staged = (self.site, message.text("staged_ns"), self._host.incarnation, message.text("staged"))
        key = abroad.take(home, id, staged, fields, seconds)
        with self.others.offering(home.site, Name(staged[1], staged[3])):
            yield from self._told(home, key, seconds)
        self._fetching.forget(home, [id])  # it may be a copy of what was replaced
        return Answer("ok", {})

    def push(self, message: Message) -> Steps:
        """Have another site fetch objects now, or fetch another site's to this one."""
        to, seconds = message.text("to"), _within(message)
        names = message.names()
        home = home_of(names[0][0]) if names else None
        ids = [id for _, id in names]
        if to != self.site:
            home = home or Home(self.site, names[0][0], self._host.incarnation)
            if home.site == to:
                return Answer("ok", {"found": [True] * len(ids)})  # it is at home there
            key = abroad.fetch(home, ids, seconds)
            fields = yield from self._told(home, key, seconds + 1.0, to)
            return Answer("ok", {"found": abroad.flags(fields, len(ids))})
        far = [Name(*name) for name in names]
        if home is not None:
            yield from self.bring(far, seconds)
        found = [self._fetching.has(name) for name in far]
        if home is not None:
            self.release(far)
        return Answer("ok", {"found": found})

    # -- the whole -----------------------------------------------------------------------------------------------

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Totals and levels, for `status`."""
        totals, levels = self._sites.figures()
        copies = self._fetching.copies
        return totals, {**levels, "copies": len(copies), "copies_bytes": copies.nbytes}

    def sweep(self) -> None:
        """What is done about once a second."""
        self._sites.sweep()
        self.others.sweep()
        self._fetching.sweep()

    def close(self) -> None:
        """Hear and dial no more."""
        self._sites.close()


def _within(message: Message) -> float:
    return message.seconds("within") or PATIENCE
