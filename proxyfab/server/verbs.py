"""What clients can ask of a server, one method a verb. Each is steps: it yields what may take long (`storage.Job`)."""

# ruff: noqa: ARG002 - a verb's method is given peer and message, whether it needs them or not

from __future__ import annotations

import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from proxyfab.abc import check_ttl
from proxyfab.buffers import Frames
from proxyfab.errors import CapabilityError, CapacityError, ConfigurationError, ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.osio.machine import sight_of
from proxyfab.osio.memory import give_back
from proxyfab.osio.shared import default_root
from proxyfab.retry import Backoff
from proxyfab.server.abroad import home_of
from proxyfab.server.answers import Answer
from proxyfab.server.host import Gateway, Host, State, Todo
from proxyfab.server.index import Entry, Name
from proxyfab.server.moves import Moves
from proxyfab.server.owners import can_look_up
from proxyfab.server.peers import Peer
from proxyfab.server.storage import Job, Steps
from proxyfab.trace import here
from proxyfab.wire.messages import MAX_HEADER, VERSION, Message, pieces

T = TypeVar("T")
_SWAPPED = 1 << 20
_SWAPPING = 30.0
"""Seconds in which a swap has to find the object as nobody else changes it."""
_PAUSES = Backoff(first=0.001, longest=0.05)
_WAITS = 1024
"""Waits of one connection at most; what they wait for is bounded by what a header can name."""
_ROWS = 500
_TIDY = 30.0
_GRACE = 5.0
"""Seconds that what expired stays, for `reap` to tell of it."""


class Verbs:
    """The requests of clients. Belongs to the loop's thread."""

    def __init__(self, host: Host, state: State) -> None:
        self.host = host
        self.state = state
        self.index = state.index
        self.owners = state.owners
        self.moves = Moves(host, state)
        self._tidied = time.monotonic()
        self._verbs: dict[str, tuple[Callable[[Peer, Message], Todo], bool]] = {
            # verb: what does it, and whether it changes something, so that it must not be done twice
            "hello": (self.hello, False),
            "put": (self.moves.put, True),
            "upload": (self.moves.upload, True),
            "grant": (self.moves.grant, False),
            "commit": (self.moves.commit, True),
            "get": (self.moves.get, False),
            "exists": (self.exists, False),
            "evict": (self.evict, True),
            "stat": (self.stat, False),
            "renew": (self.renew, True),
            "wait": (self.wait, False),
            "swap": (self.swap, True),
            "scan": (self.scan, False),
            "clear": (self.clear, True),
            "leave": (self.leave, True),
            "reap": (self.reap, True),
            "status": (self.status, False),
            "push": (self.push, False),
            "give": (self.give, True),
        }

    # -- requests in general -------------------------------------------------------------------------------------

    def changes(self, verb: str) -> bool:
        """Whether a verb changes something."""
        return verb in self._verbs and self._verbs[verb][1]

    def steps(self, peer: Peer, message: Message) -> Todo:
        """What does a request."""
        if message.verb not in self._verbs:
            raise ConfigurationError(f"This node server does not know {message.verb[:40]!r}; is it older than you?")
        space = message.fields.get("ns")
        home = home_of(space) if space.__class__ is str else None  # of text only, which a verb may want to be
        if home is not None and message.verb not in ("get", "push"):
            return self._gateway().forward(peer, message, home)
        return self._verbs[message.verb][0](peer, message)

    def _gateway(self) -> Gateway:
        if self.host.far is None:
            raise CapabilityError("This node server is no gateway to other sites; start it with --site.")
        return self.host.far

    def notice(self, peer: Peer, message: Message) -> bool:
        """Take a message that is no request of its own; whether it was one."""
        if message.verb == "data":
            self.moves.data(peer, message)
        elif message.verb == "ack":
            self.moves.ack(peer, message)
        elif message.verb == "cancel":
            self._cancel(peer, message.request)
        else:
            if message.verb == "upload":
                self.moves.supersede(message.request)
            return False
        return True

    def _cancel(self, peer: Peer, request: bytes) -> None:
        peer.downloads.pop(request, None)
        self.moves.abandon(peer, request)
        stop = peer.waits.pop(request, None)
        if stop is not None:
            stop()

    def release(self, peer: Peer) -> None:
        """Let go of all that is held for a peer."""
        self.moves.release(peer)
        for stop in peer.waits.values():
            stop()
        peer.waits.clear()
        self.owners.leave(peer.process)

    def sweep(self, now: float) -> None:
        """What is done about once a second."""
        self.moves.sweep(now)
        expired = self.index.expired(self.state.now(), _GRACE)
        if expired:
            self._purge([name for name, _ in expired])
        for namespace in self.owners.dead(self.index.namespaces(), now):
            self._purge([name for name, _ in self.index.within(namespace)])
        if now - self._tidied > _TIDY:
            self._tidied = now
            self.host.start(self._tidy(), lambda _: None)

    def _tidy(self) -> Steps:
        yield self.host.storage.tidy()
        yield Job(give_back, quick=False)

    def _purge(self, names: list[Name]) -> None:
        entries = [entry for name in names if (entry := self.index.remove(name)) is not None]
        self.host.start(self.moves.drop(entries), lambda _: None)

    def farewell(self) -> None:
        """Tell those who still wait that there is nothing to wait for."""
        for peer in self.host.peers.values():
            for request in [*peer.waits, *peer.uploads]:
                kind = "ObjectLost" if request in peer.waits else "ConnectorError"
                text = "The node server has stopped; what it held is lost."
                peer.send("error", request, {"kind": kind, "text": text})

    def places(self) -> list[Key]:
        """Where everything lies that has a name."""
        return [entry.place for _, entry in self.index.within(None)]

    # -- verbs ---------------------------------------------------------------------------------------------------

    def hello(self, peer: Peer, message: Message) -> Answer:
        """Who is there, and what both can do."""
        self.owners.leave(peer.process)  # who says hello again is one connection still
        peer.name, peer.process = message.text("name", "")[:80], message.text("process", "")[:80]
        if self.owners.come(peer.process, peer.name):
            for namespace in self.owners.dead(self.index.namespaces()):
                self._purge([name for name, _ in self.index.within(namespace)])
        storage = self.host.storage
        return Answer(
            "ok",
            {
                "version": VERSION,
                "incarnation": self.host.incarnation,
                "address": self.host.address,
                "host": here(),
                "pid": os.getpid(),
                "time": time.time(),
                "sight": sight_of(default_root()) if storage.namespace else "",
                "space": storage.namespace,
                "sees": can_look_up(peer.process),
                "site": "" if self.host.far is None else self.host.far.site,
                **self.host.side.said(peer),
            },
        )

    def push(self, peer: Peer, message: Message) -> Steps:
        """Bring objects to another site, or another site's to this one."""
        return self._gateway().push(message)

    def give(self, peer: Peer, message: Message) -> Steps:
        """Put what lies here under another site's name; `forward` has it, and only it."""
        raise IntegrityError("What is given goes to another site, and this names none.")

    def exists(self, peer: Peer, message: Message) -> Answer:
        """Whether objects are there."""
        return Answer("ok", {"found": [self.state.find(Name(*name)) is not None for name in message.names()]})

    def evict(self, peer: Peer, message: Message) -> Steps:
        """Delete objects."""
        now, found, gone = self.state.now(), [], []
        for name in message.names():
            entry = self.index.remove(Name(*name))
            found.append(entry is not None and entry.alive(now))
            gone += [] if entry is None else [entry]
        self.state.count("evict", sum(found))
        yield from self.moves.drop(gone)
        return Answer("ok", {"found": found})

    def stat(self, peer: Peer, message: Message) -> Answer:
        """What is known of objects."""
        return Answer("ok", {"rows": [self._row(Name(*name)) for name in message.names()]})

    def _row(self, name: Name) -> list[Any] | None:
        entry = self.state.find(name)
        if entry is None:
            return None
        return _row(name, entry, self.owners.of(name.namespace), self.state.ahead())

    def renew(self, peer: Peer, message: Message) -> Answer:
        """Move an object's expiry."""
        ttl = message.seconds("ttl")
        check_ttl(ttl)
        found = [self.index.renew(Name(*name), self.state.now(), ttl) for name in message.names()]
        return Answer("ok", {"found": found})

    def wait(self, peer: Peer, message: Message) -> Answer | None:
        """Answer with which of some objects are there as soon as one is, or with none when the time is over."""
        names = [Name(*name) for name in message.names()]
        there = [number for number, name in enumerate(names) if self.state.find(name) is not None]
        timeout = message.seconds("timeout")
        if not names or (timeout is not None and math.isnan(timeout)):
            raise IntegrityError("A wait has no number as its timeout, or nothing to wait for.")
        if there:
            return Answer("ok", {"found": there})
        request = message.request
        if request in peer.waits:
            peer.waits.pop(request)()
        if len(peer.waits) >= _WAITS:
            raise CapacityError(f"{_WAITS} waits of this connection are under way; wait for them first.")

        def wake(name: Name | None) -> None:
            peer.waits.pop(request, None)
            found = [] if name is None else [number for number, wanted in enumerate(names) if wanted == name]
            self.host.send(peer, request, Answer("ok", {"found": found}))

        deadline = None if timeout is None else time.monotonic() + max(timeout, 0)
        peer.waits[request] = self.state.waiters.add(names, wake, deadline)
        return None

    def swap(self, peer: Peer, message: Message) -> Steps:
        """Put or evict a small object if it is still what the client believes it is."""
        name = Name(*message.name())
        has_old, has_new = message.fields.get("old") is not None, message.fields.get("new") is not None
        old_size, new_size = message.count("old") if has_old else 0, message.count("new") if has_new else 0
        if old_size + new_size != message.nbytes or max(old_size, new_size) > _SWAPPED:
            raise IntegrityError(f"A swap names other sizes than it brings, or more than {_SWAPPED} bytes.")
        old = Frames(pieces(message.body, 0, old_size))
        new = Frames(pieces(message.body, old_size, new_size)) if has_new else None
        wish = self.moves.wish(message, name, new_size)
        ends = time.monotonic() + _SWAPPING
        times = 0
        while True:
            times += 1
            entry = self.state.find(name)
            if (entry is not None) != has_old or (entry is not None and entry.nbytes != old_size):
                return Answer("ok", {"done": False})
            if entry is not None:
                (frames,) = yield self.host.storage.get([entry.place])
                if self._version(name) != entry.version:
                    yield _giving_way(times, ends)
                    continue
                if frames != old:
                    return Answer("ok", {"done": False})
            place = None if new is None else (yield from self.moves.store(new))
            if self._version(name) == (None if entry is None else entry.version):
                if place is not None:
                    yield from self.moves.keep(wish._replace(replace=True), place)
                elif entry is not None:
                    yield from self.moves.drop([entry for entry in [self.index.remove(name)] if entry is not None])
                return Answer("ok", {"done": True})
            if place is not None:  # somebody was faster while the new one was stored
                yield self.host.storage.evict([place])
            yield _giving_way(times, ends)

    def _version(self, name: Name) -> int | None:
        entry = self.state.find(name)
        return None if entry is None else entry.version

    def scan(self, peer: Peer, message: Message) -> Answer | None:
        """Every object of a namespace, or of all: rows in the body."""
        from msgpack import packb

        now, space = self.state.now(), None if message.fields.get("ns") is None else message.text("ns")
        ahead = self.state.ahead()
        owner = functools.cache(self.owners.of)  # of each namespace once: to look one up takes ten times a row
        rows = [
            _row(name, entry, owner(name.namespace), ahead)
            for name, entry in self.index.within(space)
            if entry.alive(now) and "/" not in name.namespace  # copies of other sites' objects
        ]
        table = packb(rows)
        return self.moves.deliver(peer, message.request, {}, [memoryview(table)])

    def clear(self, peer: Peer, message: Message) -> Steps:
        """Delete a namespace's objects."""
        now = self.state.now()
        gone = [self.index.remove(name) for name, _ in self.index.within(message.text("ns"))]
        entries = [entry for entry in gone if entry is not None]
        yield from self.moves.drop(entries)
        return Answer("ok", {"count": sum(entry.alive(now) for entry in entries)})

    def leave(self, peer: Peer, message: Message) -> Steps:
        """A process ends, and takes along the namespaces that live with it."""
        for namespace in message.items("spaces"):
            if str(namespace).startswith("~"):
                yield from self.moves.drop(
                    [entry for name, _ in self.index.within(str(namespace)) if (entry := self.index.remove(name))]
                )
        return Answer("ok", {})

    def reap(self, peer: Peer, message: Message) -> Steps:
        """Take back what expired, and what processes left that have ended."""
        found = [(name, entry, "its time to live passed") for name, entry in self.index.expired(self.state.now())]
        for namespace in self.owners.dead(self.index.namespaces()):
            why = f"its owner {self.owners.of(namespace)} has ended"
            found += [(name, entry, why) for name, entry in self.index.within(namespace)]
        if not message.flag("dry"):
            yield from self.moves.drop([entry for name, _, _ in found if (entry := self.index.remove(name))])
        rows = [[f"{name.id}@{name.namespace}", entry.nbytes, why] for name, entry, why in found]
        return Answer("ok", {"rows": _fitting(rows[:_ROWS])})

    def status(self, peer: Peer, message: Message) -> Answer:
        """What the server holds and does."""
        totals, levels = self.host.storage.figures()
        line, side = self.host.line, self.host.side
        ended = {"dropped": line.dropped + side.dropped, "denied": line.gate.denied, "floods": line.connections.ended}
        if self.host.far is not None:
            far_totals, far_levels = self.host.far.figures()
            totals, levels = {**totals, **far_totals}, {**levels, **far_levels}
        counters = {**totals, **self.state.counters, **ended}
        gauges = {**levels, "uploading_bytes": self.moves.room.used, "waiting": len(self.state.waiters)}
        rows = [{"name": peer.name, "address": peer.address, **peer.counters} for peer in self.host.peers.values()]
        fields = {"objects": self.index.count, "nbytes": self.index.nbytes, "started": self.state.started}
        figures = {"limit": self.host.storage.limit, "counters": counters, "gauges": gauges}
        return Answer("ok", {**fields, **figures, "peers": _fitting(rows[:_ROWS])})


def _row(name: Name, entry: Entry, owner: str, ahead: float) -> list[Any]:
    """What `stat` and `scan` say of an entry, in the time that the machine's clock shows."""
    expires = None if entry.expires is None else entry.expires + ahead
    return [*name, entry.nbytes, entry.created + ahead, expires, owner]


def _giving_way(times: int, ends: float) -> Job:
    """A pause before a swap looks again at what others changed while it looked, so many times."""
    left = ends - time.monotonic()
    if left <= 0:
        raise ConnectorError(
            f"The object was changed by others {times} times within {_SWAPPING:g} s, each time while it was looked at; "
            "change it less often, or from fewer places."
        )
    return Job(functools.partial(time.sleep, min(_PAUSES.pause(times), left)), quick=False)


def _fitting(rows: list[T]) -> list[T]:
    """So many of the rows as a header has room for."""
    room = (MAX_HEADER // 2 - total for total in itertools.accumulate(len(repr(row).encode()) for row in rows))
    return [row for row, left in zip(rows, room, strict=False) if left >= 0]
