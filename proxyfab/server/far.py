"""A gateway's view of other sites: their objects are fetched once, kept within a limit, and served like its own.

Rules:
1. Belongs to the loop's thread, like all that a server knows. Links have threads of their own and come back by `post`.
2. Of all requests for one object of another site, one asks for it. The others wait for what becomes of that.
3. A copy is an entry like any other under its far name (`abroad`), so clients of this machine read it in shared memory.
   It never lives longer than its object would, nor `keep` seconds, and goes when its object is evicted from here.
4. Whatever is asked of another site ends within the time that its client gave, with a typed error if need be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import CapabilityError, ConfigurationError, ObjectLost, ProxyfabError
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.link.line import Line
from proxyfab.link.peering import Peering
from proxyfab.link.question import Outcome, Question
from proxyfab.link.session import Want
from proxyfab.server import abroad
from proxyfab.server.abroad import PATIENCE, Home, home_of
from proxyfab.server.answers import Answer
from proxyfab.server.copies import Copies
from proxyfab.server.host import Host, State, Todo
from proxyfab.server.index import Name
from proxyfab.server.options import Site
from proxyfab.server.others import Others
from proxyfab.server.peers import Peer
from proxyfab.server.sites import Sites
from proxyfab.server.storage import Later, Steps
from proxyfab.wire.messages import Message

_TURN = 20.0
"""Seconds of one wait at another site; then it is asked anew."""
_LANDING = "<landing>"
_TIDY = 30.0
_SOON = 5.0
"""Seconds, besides ten round trips, that a site may take to hand out a copy; then its home is asked."""


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
        self._state = state
        self._options = site
        self.copies = Copies(site.copies)
        self.others = Others(self, host, state, site.peers)
        self._sites = Sites(site, Keyring(), self._asked)
        self._flying: dict[Name, bool] = {}
        """What is being fetched, and whether it was evicted or replaced from here meanwhile."""
        self._tidied = time.monotonic()

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

    # -- reading -------------------------------------------------------------------------------------------------

    def bring(self, names: Sequence[Name], seconds: float) -> Steps:
        """See to it that copies of another site's objects are here, of those that are there.

        The names count as in use until `copies.leave` is called with them.
        """
        deadline = time.monotonic() + seconds
        self.copies.use(names)
        absent: set[Name] = set()
        try:
            while missing := [name for name in dict.fromkeys(names) if name not in absent and not self._has(name)]:
                mine = [name for name in missing if name not in self._flying]
                if mine:
                    absent |= yield from self._fly(mine, deadline, seconds)
                else:
                    yield self._landing(missing[0], deadline, seconds)
        except BaseException:
            self.release(names)
            raise

    def _has(self, name: Name) -> bool:
        return self._state.find(name) is not None

    def release(self, names: Sequence[Name]) -> None:
        """What was brought is not in use any more."""
        self.copies.leave(names)
        victims = self.copies.victims()
        if victims:
            self._drop(victims)

    def _drop(self, names: Sequence[Name]) -> None:
        entries = [entry for name in names if (entry := self._state.index.remove(name)) is not None]

        def steps() -> Steps:
            for entry in entries:
                yield self._host.storage.evict([entry.place], entry.nbytes)

        self._host.start(steps(), lambda _: None)

    def _landing(self, name: Name, deadline: float, seconds: float) -> Later:
        """The end of another request's flight."""
        peering = self._sites.peering(_home(name).site)

        def begin(done: Callable[[Any, BaseException | None], None]) -> None:
            def wake(told: Name | None) -> None:
                done(None, None if told is not None else peering.late(1, seconds))

            self._state.waiters.add([Name(_LANDING + name.namespace, name.id)], wake, deadline)

        return Later(begin)

    def _fly(self, names: list[Name], deadline: float, seconds: float) -> Any:
        """Fetch objects that nobody else is fetching; answers with those that are not there."""
        self._flying.update(dict.fromkeys(names, False))
        try:
            home = _home(names[0])
            peering = self._sites.peering(home.site)
            near = self._sites.nearer(peering)
            asked = time.monotonic()
            found: dict[Name, Outcome] = {}
            if not peering.streams:  # whoever has a copy is asked first, and then there is time to wait for its home
                for other in near:
                    rest = [name for name in names if name not in found]
                    found |= yield from self._copies_at(other, home, rest, deadline)
            rest = [name for name in names if name not in found]
            keys = [abroad.get(home, name.id, [other.peer for other in near]) for name in rest]
            questions = (yield from self.ask(peering, keys, deadline, seconds)) if rest else []
            found |= {name: each.outcome for name, each in zip(rest, questions, strict=True)}
            found |= yield from self._from_elsewhere(home, found, peering, deadline, seconds)
            return (yield from self._keep(names, [found[name] for name in names], asked))
        finally:
            for name in names:
                self._flying.pop(name, None)
                self._state.waiters.tell(Name(_LANDING + name.namespace, name.id))

    def _copies_at(self, other: Peering, home: Home, names: list[Name], deadline: float) -> Any:
        """The copies that another site has of some objects, if it says so soon."""
        seconds = min(_SOON + 10 * min(other.rtt, 1.0), max(deadline - time.monotonic(), 0.0) / 2)
        if not names:
            return {}
        try:
            keys = [abroad.get(home, name.id) for name in names]
            questions = yield from self.ask(other, keys, time.monotonic() + seconds, seconds)
        except ProxyfabError:
            return {}
        self._state.count("far_nearer", sum(each.outcome.frames is not None for each in questions))
        outcomes = {name: each.outcome for name, each in zip(names, questions, strict=True)}
        return {name: outcome for name, outcome in outcomes.items() if outcome.frames is not None}

    def _from_elsewhere(
        self, home: Home, found: dict[Name, Outcome], peering: Peering, deadline: float, seconds: float
    ) -> Any:
        """What their home says that a nearer site has; from home after all, where that site has it no more."""
        sites: dict[str, list[Name]] = {}
        for name, outcome in found.items():
            if outcome.kind == abroad.Elsewhere.__name__:
                sites.setdefault(outcome.why, []).append(name)
        brought: dict[Name, Outcome] = {}
        for site, names in sites.items():
            brought |= yield from self._copies_at(self._sites.peering(site), home, names, deadline)
            rest = [name for name in names if name not in brought]
            if rest:
                questions = yield from self.ask(
                    peering, [abroad.get(home, name.id) for name in rest], deadline, seconds
                )
                brought |= {name: each.outcome for name, each in zip(rest, questions, strict=True)}
        return brought

    def ask(self, peering: Peering, keys: Sequence[Any], deadline: float, seconds: float) -> Any:
        """Ask another site; comes back with the questions when all have ended."""
        lock, left = threading.Lock(), len(keys)
        stops: list[Callable[[], None]] = []

        def begin(done: Callable[[Any, BaseException | None], None]) -> None:
            def ended(_: Question) -> None:
                nonlocal left
                with lock:
                    left -= 1
                    last = left == 0
                if last:
                    done(questions, None)

            def late(_: Name | None) -> None:
                nonlocal left
                with lock:
                    over, left = left > 0, -len(keys)
                if over:
                    peering.drop(questions)
                    done(None, peering.late(len(keys), seconds))

            questions = [Question(key, ended) for key in keys]
            stops.append(self._state.waiters.add([Name(_LANDING, str(id(questions)))], late, deadline))
            peering.ask(questions)

        try:
            return (yield Later(begin))
        finally:
            for stop in stops:  # or what came would be held until the deadline
                stop()

    def _keep(self, names: list[Name], outcomes: list[Outcome], asked: float) -> Any:
        """Publish what came as copies; answers with the names of what is not there, and raises what went wrong."""
        absent: set[Name] = set()
        came: list[tuple[Name, Frames, float | None]] = []
        wrong: list[ProxyfabError] = []
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome.why:
                wrong.append(outcome.error())
            elif outcome.frames is None:
                absent.add(name)
            else:
                came.append((name, *abroad.without_life(outcome.frames)))
        self._state.count("far_get", len(came))
        self._state.count("far_get_bytes", sum(frames.nbytes for _, frames, _ in came))
        places = yield self._host.storage.put([frames for _, frames, _ in came])
        for (name, frames, left), place in zip(came, places, strict=True):
            if isinstance(place, Key):
                since = time.monotonic() - asked  # and no less, as it is not known when the other site looked
                self._publish(name, place, frames.nbytes, None if left is None else left - since)
            else:
                wrong.append(place)
        if wrong:
            raise wrong[0]
        return absent

    def _publish(self, name: Name, place: Key, nbytes: int, left: float | None) -> None:
        if self._flying.get(name):  # it may be what was there before, and is asked for again
            self._host.storage.evict([place], nbytes).call()
            return
        ttl = self._options.keep if left is None else min(left, self._options.keep)
        if ttl <= 0:
            ttl = 0.001
        before = self._state.index.publish(name, place, nbytes, self._state.now(), ttl, replace=True)
        self.copies.add(name, nbytes)
        if before is not None:
            self._host.storage.evict([before.place], before.nbytes).call()

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
            self._let_go(home, ids)
            rest["request"] = message.request
        fields = yield from self._told(home, abroad.do(home, message.verb, ids, rest), _within(message))
        if message.verb == "evict":
            self._let_go(home, ids)  # what was fetched before it was gone there
        if message.verb == "stat":
            return Answer("ok", {"rows": abroad.rows(fields, home, ids)})
        return Answer("ok", {"found": abroad.flags(fields, len(ids))})

    def _told(self, home: Home, key: list[Any], seconds: float, site: str = "") -> Any:
        """The fields that another site answers with."""
        peering = self._sites.peering(site or home.site)
        (question,) = yield from self.ask(peering, [key], time.monotonic() + seconds, seconds)
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
        there = [number for number, id in enumerate(ids) if self._has(Name(str(home), id))]
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
        self._let_go(home, [id])  # it may be a copy of what was replaced
        return Answer("ok", {})

    def _let_go(self, home: Home, ids: Sequence[str]) -> None:
        """Have no copies of these any more."""
        names = [Name(str(home), id) for id in ids]
        for name in names:
            self.copies.forget(name)
            if name in self._flying:
                self._flying[name] = True
        self._drop(names)

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
        found = [self._has(name) for name in far]
        if home is not None:
            self.release(far)
        return Answer("ok", {"found": found})

    # -- the whole -----------------------------------------------------------------------------------------------

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """Totals and levels, for `status`."""
        totals, levels = self._sites.figures()
        return totals, {**levels, "copies": len(self.copies), "copies_bytes": self.copies.nbytes}

    def sweep(self) -> None:
        """What is done about once a second."""
        self._sites.sweep()
        self.others.sweep()
        if time.monotonic() - self._tidied > _TIDY:
            self._tidied = time.monotonic()
            for name in self.copies.names():
                if not self._has(name):
                    self.copies.forget(name)

    def close(self) -> None:
        """Hear and dial no more."""
        self._sites.close()


def _home(name: Name) -> Home:
    home = home_of(name.namespace)
    assert home is not None
    return home


def _within(message: Message) -> float:
    return message.seconds("within") or PATIENCE
