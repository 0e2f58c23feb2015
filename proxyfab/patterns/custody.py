"""Custody: what one executor stored for tasks under way, and what they answered, kept exactly as long as it is needed.

Rules:
1. Inputs are stored when the task that takes them is sent, under keys of their own; an object that several tasks under
   way take is stored once, as long as it is unchanged. They are evicted when the last of those tasks is done.
2. Results arrive in this process as proxies of what a worker stored; they are evicted when the last of those is gone.
   So are inputs that a task gave back, wherever in its result.
3. Everything has a time to live, which a thread renews while it is needed: whichever process is killed, nothing is
   left behind one lease and its grace later. Where a place has no leases, that rests on this process alone.
4. A forked child takes no part.
5. A task whose own executors' results are in what it answers, however deep, gives them on as its own: they are stored
   once more when its answer is pickled in the thread that ran it, and kept by who gets that.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from proxyfab.abc import SupportsLease
from proxyfab.exit import Drain, Hold
from proxyfab.flight import SingleFlight
from proxyfab.fork import on_fork
from proxyfab.keys import Key
from proxyfab.members import Known
from proxyfab.patterns.holding import Holding, keeper_of
from proxyfab.patterns.parcel import Parcel
from proxyfab.proxy import Kind, factory_of, kind_of
from proxyfab.ref import Ref, is_frozen, load, mode_of
from proxyfab.serialize import dumps
from proxyfab.store import Store, received_store
from proxyfab.wire.payload import Payload, digest


class Kept:
    """What was stored of an object, as long as anybody refers to this."""

    __slots__ = ("mark", "ref")

    def __init__(self, ref: Ref[Any], mark: int | None) -> None:
        self.ref = ref
        self.mark = mark
        """A digest of the content; None of what cannot change."""


class Wanted:
    """An object that tasks under way take, as long as any of them is."""

    __slots__ = ("__weakref__", "call", "kept", "target")

    def __init__(self, target: Any) -> None:
        self.target = target
        self.kept: Kept | None = None
        self.call: object = None
        """The call of `map` that stored it last: it takes the object as it was then."""


class Custody:
    """Thread-safe. `home` names it in what workers answer.

    Args:
        store: Where inputs and results lie.
        lease: Seconds that they outlive a killed process, give or take the grace.
    """

    def __init__(self, store: Store, lease: float) -> None:
        self.home = uuid.uuid4().hex
        self.pid = os.getpid()
        self.holding = Holding(store, lease if isinstance(store.connector, SupportsLease) else None)
        self._drain: Drain[Key] = Drain(self._evict, "evicting")
        self._wanted: Known[int, Wanted] = Known()
        self._refs: weakref.WeakValueDictionary[Key, Ref[Any]] = weakref.WeakValueDictionary()
        self._holds: dict[Key, Hold[Key]] = {}
        self._sent: set[Key] = set()
        """What was put into messages within this process, and did not come out of one yet."""
        self._flights: SingleFlight[Kept] = SingleFlight("storing an argument")
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may come back here
        homes[self.home] = self
        _waiting.add(self)
        on_fork(self)

    def after_fork(self) -> None:
        """In a child: what it has copies of is its parent's."""
        _waiting.discard(self)

    # -- inputs --------------------------------------------------------------------------------------------------

    def wanted(self, target: Any) -> Wanted:
        """One answer for all who hold it and want the same object."""
        return self._wanted.setdefault(id(target), Wanted(target))  # which holds the object, so that its id is its own

    def keep(self, wanted: Wanted, call: object) -> Kept:
        """The object, stored, as long as the answer is held."""
        kept = wanted.kept
        if kept is not None and (kept.mark is None or (call is not None and wanted.call is call)):
            return kept
        return self._flights.do(id(wanted), self._keep, None, wanted, call)

    def _keep(self, wanted: Wanted, call: object) -> Kept:
        target, store = wanted.target, self.holding.store
        payload = dumps(target, mode=mode_of(store.url))
        mark = None if is_frozen(target) else digest(payload)
        wanted.call = call
        kept = wanted.kept
        if kept is None or kept.mark != mark:
            kept = wanted.kept = Kept(self.adopt(store.ref_payload(payload, target, ttl=self.holding.ttl)), mark)
        return kept

    # -- everything ----------------------------------------------------------------------------------------------

    def adopt(self, ref: Ref[Any]) -> Ref[Any]:
        """Keep what `ref` names alive as long as the answer is, and evict it then.

        Of what is adopted twice, as by a framework that delivers twice, the answer is the same.
        """
        key = ref.key
        if key is None:
            return ref
        with self._lock:
            self._sent.discard(key)
            known = self._refs.get(key)
            if known is not None:
                return known
            ref = self._refs[key] = Held(self.home, self.holding.ttl, ref, kept=True)
            self.holding.keys[key] = True
            keeper_of(self.holding.store.url).keep(self.holding)
            self._holds[key] = self._drain.hold(ref, key)
        return ref

    def complete(self) -> None:
        """Every result has arrived."""
        _waiting.discard(self)

    def flush(self, timeout: float) -> None:
        """Wait until what is not needed any more is gone."""
        self._drain.flush(timeout)

    def adopt_sent(self, ref: Ref[Any]) -> Ref[Any]:
        """Keep what goes into a message within this process: who gets that adopts it. If nobody has when the answer is
        gone, the message may still be on its way: then the object is left to its time to live.
        """
        with self._lock:
            kept = self.adopt(ref)
            if isinstance(kept, Held) and kept.key is not None:
                kept.kept = False  # it pickles so that who gets it adopts it
                self._sent.add(kept.key)
        return kept

    def _evict(self, keys: list[Key]) -> None:
        store = self.holding.store
        with self._lock:
            keys = [key for key in keys if not self._is_home(key)]
            left = self._sent.intersection(keys)
        store.evict_many([key for key in keys if key not in left])
        with self._lock:
            self._sent -= left
            for key in keys:
                self.holding.keys.pop(key, None)
                self._holds.pop(key, None)
            if not self.holding.keys:
                keeper_of(store.url).drop(self.holding)

    def _is_home(self, key: Key) -> bool:
        """Whether it came home meanwhile, and is held anew; what is only there still goes with the process."""
        hold = self._holds.get(key)
        return key in self._refs and hold is not None and hold.held


homes: weakref.WeakValueDictionary[str, Custody] = weakref.WeakValueDictionary()
"""The custodies by name."""
_waiting: set[Custody] = set()
"""Those that wait for results, which are theirs also when nobody has their executor any more."""


def custody_of(home: str) -> Custody | None:
    """The custody of that name, where it is this process's."""
    custody = homes.get(home)
    return custody if custody is not None and custody.pid == os.getpid() else None


class Answer(NamedTuple):
    """Where what a worker's thread has just answered goes, until its next task."""

    url: str
    home: str
    ttl: float | None
    by_value: bool
    """Whether results go as they are."""


class _Answering(threading.local):
    """Each thread's own: executors pickle an answer in the thread that has it, and a task's arguments in others."""

    answer: Answer | None = None


answering = _Answering()


def given_on(home: str, target: Callable[[], Any]) -> tuple[Any, ...] | None:
    """How the proxy of what the custody `home` keeps pickles in a task's answer (rule 5); None where it is in none."""
    answer = answering.answer
    if answer is None or home == answer.home or custody_of(home) is None:
        return None
    if answer.by_value:
        return _as_it_is, (target(),)
    found = target()
    ref = Result(found, received_store(answer.url), answer.ttl, answer.home, away=True).as_ref()
    return ref.reduce_proxy(kind_of(found), False, None)


def _as_it_is(target: Any) -> Any:
    """Unpickle what goes by value."""
    return target


class Input(Parcel):
    """An argument that is stored when its task is sent, and let go when the task is done.

    Args:
        target: The object.
        custody: Who keeps it.
        call: The call of `map` that it belongs to.
    """

    __slots__ = ("_call", "_custody", "_kept", "_wanted")

    def __init__(self, target: Any, custody: Custody, call: object = None) -> None:
        super().__init__(target, custody.holding.given)
        self._custody = custody
        self._call = call
        self._wanted: Wanted | None = custody.wanted(target)
        self._kept: Kept | None = None

    def put(self, target: Any) -> Ref[Any]:
        self._kept = self._custody.keep(self._wanted or self._custody.wanted(target), self._call)
        return self._kept.ref

    def reduce_proxy(self, kind: Kind | None, _resolved: bool, _target: Any) -> tuple[Any, ...]:
        """As what was sent first: a task that is tried again gets what it got."""
        return given_on(self.home, self) or self.as_ref().reduce_proxy(kind, False, None)

    @property
    def home(self) -> str:
        """The name of the custody that keeps it."""
        return self._custody.home

    def release(self) -> None:
        """Its task is done."""
        self._wanted = self._kept = self._ref = None


class Result(Parcel):
    """What a task answered: stored when it is sent, and owned by whoever gets it in the process of that custody.

    Args:
        target: The object.
        store: Where it goes.
        ttl: Seconds until it expires, unless it has arrived.
        home: The custody's name.
        away: Whether it was answered by a worker: it is sent, then, and who gets it owns it; else this process does.
            (A worker may be a thread of this very process: then both do.)
    """

    __slots__ = ("_away", "_custody", "_home")

    def __init__(self, target: Any, store: Store, ttl: float | None, home: str, away: bool) -> None:
        super().__init__(target, store, ttl)
        self._home = home
        self._away = away
        self._custody = custody_of(home)  # now: it may be sent when its executor is gone

    @property
    def home(self) -> str:
        """The name of the custody that keeps it, if that is this process's."""
        return "" if self._custody is None else self._home

    def reduce_proxy(self, kind: Kind | None, resolved: bool, target: Any) -> tuple[Any, ...]:
        """As a parcel's, but in another task's answer."""
        return given_on(self.home, self) or super().reduce_proxy(kind, resolved, target)

    def put(self, target: Any) -> Ref[Any]:
        ref, custody = super().put(target), self._custody
        if self._away and custody is not None:
            return custody.adopt_sent(ref)
        return kept_by(custody, self._home, self._ttl, ref)


class Held(Ref[Any]):
    """A Ref to what a custody keeps. Its proxies pickle with that custody's name: one that comes home, such as an
    argument that was given back, keeps the object on, and one that was changed elsewhere is a result like others.

    Args:
        home: The custody's name.
        ttl: Seconds until what it is changed to expires, unless that arrives.
        ref: The plain Ref.
        kept: Whether the custody keeps the object as long as this is.
    """

    __slots__ = ("home", "kept", "ttl")

    def __init__(self, home: str, ttl: float | None, ref: Ref[Any], kept: bool = False) -> None:
        super().__init__(ref.url, ref.key, source=ref._source, nbytes=ref.nbytes, kind=ref.kind)
        self.home = home
        self.ttl = ttl
        self.kept = kept

    def reduce_proxy(self, kind: Kind | None, resolved: bool, target: Any) -> tuple[Any, ...]:
        """As any Ref's, with the custody's name; what leaves home is lent, what others send may have come home."""
        given = given_on(self.home, lambda: target if resolved else self.resolve()) if self.kept else None
        if given is not None:
            return given
        _, state = super().reduce_proxy(kind, resolved, target)
        return (lend if self.kept else receive), (self.home, self.ttl, *state)

    def _anew(self, payload: Payload, target: Any) -> Ref[Any]:
        ref: Ref[Any] = self.store.ref_payload(payload, target, ttl=self.ttl)
        return kept_by(custody_of(self.home), self.home, self.ttl, ref)


def kept_by(custody: Custody | None, home: str, ttl: float | None, ref: Ref[Any]) -> Ref[Any]:
    """What a custody keeps from now on, or will when it comes home."""
    if ref.key is None:
        return ref  # it travels inside
    return Held(home, ttl, ref) if custody is None else custody.adopt(ref)


def is_kept_here(proxy: Any, beside: str) -> bool:
    """Whether what is behind a proxy goes when this process lets it go: a custody of its own keeps it, not `beside`."""
    source: Any = factory_of(proxy)
    known = isinstance(source, (Input, Result)) or (isinstance(source, Held) and source.kept)
    return known and source.home != beside and custody_of(source.home) is not None


def lend(home: str, ttl: float | None, *state: Any) -> Any:
    """Unpickle the proxy of what is kept elsewhere, or by others here, such as a scheduler that remembers arguments."""
    return kept_by(None, home, ttl, load(*state)).proxy()


def receive(home: str, ttl: float | None, *state: Any) -> Any:
    """Unpickle the proxy of what a custody keeps; in its own process it is kept as long as the answer."""
    return kept_by(custody_of(home), home, ttl, load(*state)).proxy()
