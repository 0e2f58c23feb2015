"""Objects of other sites are fetched to this one: each once, kept within a limit, and served like its own.

Rules:
1. Of all requests for one object of another site, one asks for it. The others wait for what becomes of that.
2. A copy is an entry like any other under its far name (`abroad`), so clients of this machine read it in shared memory.
   It never lives longer than its object would, nor `keep` seconds, and goes when its object is evicted from here.
3. Whatever is asked of another site ends within the time that its client gave, with a typed error if need be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError
from proxyfab.keys import Key
from proxyfab.link.peering import Peering
from proxyfab.link.question import Outcome, Question
from proxyfab.server import abroad
from proxyfab.server.abroad import Home, home_of
from proxyfab.server.copies import Copies
from proxyfab.server.host import Host, State
from proxyfab.server.index import Name
from proxyfab.server.options import Site
from proxyfab.server.sites import Sites
from proxyfab.server.storage import Later, Steps

_LANDING = "<landing>"
_TIDY = 30.0
_SOON = 5.0
"""Seconds, besides ten round trips, that a site may take to hand out a copy; then its home is asked."""


class Fetching:
    """Belongs to the loop's thread.

    Args:
        host: The server.
        state: What it knows.
        site: Of which site it is the gateway, and how much it keeps of others' objects.
        sites: The ways there.
    """

    def __init__(self, host: Host, state: State, site: Site, sites: Sites) -> None:
        self._host = host
        self._state = state
        self._options = site
        self._sites = sites
        self.copies = Copies(site.copies)
        self._flying: dict[Name, bool] = {}
        """What is being fetched, and whether it was evicted or replaced from here meanwhile."""
        self._tidied = time.monotonic()

    def bring(self, names: Sequence[Name], seconds: float) -> Steps:
        """See to it that copies of another site's objects are here, of those that are there.

        The names count as in use until `copies.leave` is called with them.
        """
        deadline = time.monotonic() + seconds
        self.copies.use(names)
        absent: set[Name] = set()
        try:
            while missing := [name for name in dict.fromkeys(names) if name not in absent and not self.has(name)]:
                mine = [name for name in missing if name not in self._flying]
                if mine:
                    absent |= yield from self._fly(mine, deadline, seconds)
                else:
                    yield self._landing(missing[0], deadline, seconds)
        except BaseException:
            self.release(names)
            raise

    def has(self, name: Name) -> bool:
        """Whether a copy is here."""
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

    def forget(self, home: Home, ids: Sequence[str]) -> None:
        """Have no copies of these any more."""
        names = [Name(str(home), id) for id in ids]
        for name in names:
            self.copies.forget(name)
            if name in self._flying:
                self._flying[name] = True
        self._drop(names)

    def sweep(self) -> None:
        """What is done about once a second."""
        if time.monotonic() - self._tidied > _TIDY:
            self._tidied = time.monotonic()
            for name in self.copies.names():
                if not self.has(name):
                    self.copies.forget(name)


def _home(name: Name) -> Home:
    home = home_of(name.namespace)
    assert home is not None
    return home
