"""A Hypothesis state machine that compares a connector with a dict under random operations.

The model is `{id: bytes}`. Two connectors on the same namespace take turns, so that what one does the other sees, and
either may be reopened from its spec or by pickling at any time.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxyfab.abc import SupportsCompareAndSet, SupportsLease, SupportsReap, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.errors import KeyExists
from proxyfab.keys import Key
from proxyfab.testing.content import content

IDS = strategies.sampled_from(["a", "b", "A", "../c", "d e"])
DATA = strategies.one_of(
    strategies.binary(max_size=40),
    strategies.integers(0, 20_000).map(lambda nbytes: bytes(range(256)) * (nbytes // 256) + bytes(nbytes % 256)),
)
OPTIONAL = strategies.one_of(strategies.none(), DATA)
LONG = strategies.sampled_from([None, 1000.0])


class ConnectorMachine(RuleBasedStateMachine):
    """Drives a fresh namespace; `machine(open)` makes one for a connector.

    Args:
        open: Makes a fresh connector whose namespace nobody else uses.
    """

    tells_own_puts: ClassVar[bool] = True
    """Whether a put of the very bytes that are there is refused, too. Who puts again because an answer was lost cannot
    tell them from what he has put before."""

    def __init__(self, open: Callable[[], Any]) -> None:
        super().__init__()
        self.open = open
        self.model: dict[str, bytes] = {}
        self.expires: dict[str, bool] = {}
        self.drawn: list[Key] = []

    @initialize()
    def start(self) -> None:
        first = self.open()
        self.connectors = [first, type(first).from_url(first.spec)]

    @property
    def one(self) -> Any:
        """The connector whose turn it is."""
        self.connectors.reverse()
        return self.connectors[0]

    def keep(self, id: str, data: bytes, ttl: float | None) -> None:
        self.model[id] = data
        self.expires[id] = ttl is not None

    @rule(data=DATA, ttl=LONG)
    def put_drawn(self, data: bytes, ttl: float | None) -> None:
        key = self.one.put(Frames([data]), ttl=ttl)
        assert key.id not in self.model
        self.drawn.append(key)
        self.keep(key.id, data, ttl)

    @rule(id=IDS, data=DATA, ttl=LONG, replace=strategies.booleans())
    def put_named(self, id: str, data: bytes, ttl: float | None, replace: bool) -> None:
        try:
            key = self.one.put(Frames([data]), key=Key(id), ttl=ttl, replace=replace)
        except KeyExists:
            assert id in self.model
            assert not replace
        else:
            assert replace or id not in self.model or (not self.tells_own_puts and self.model[id] == data)
            assert key.id == id
            self.keep(id, data, ttl)

    @rule(many=strategies.lists(DATA, max_size=4))
    def put_batch(self, many: list[bytes]) -> None:
        keys = self.one.put_many([Frames([data]) for data in many])
        for key, data in zip(keys, many, strict=True):
            self.drawn.append(key)
            self.keep(key.id, data, None)

    @rule(data=DATA)
    def put_reserved(self, data: bytes) -> None:
        key = self.one.reserve()
        assert not self.one.exists(key)
        self.one.put(Frames([data]), key=key)
        self.drawn.append(key)
        self.keep(key.id, data, None)

    @rule(id=IDS)
    def evict(self, id: str) -> None:
        assert self.one.evict(Key(id)) == (self.model.pop(id, None) is not None)

    @precondition(lambda self: self.drawn)
    @rule(choice=strategies.integers(0, 99))
    def evict_drawn(self, choice: int) -> None:
        key = self.drawn[choice % len(self.drawn)]
        assert self.one.evict(key) == (self.model.pop(key.id, None) is not None)

    @rule(ids=strategies.lists(IDS, max_size=4))
    def evict_batch(self, ids: list[str]) -> None:
        expected = [self.model.pop(id, None) is not None for id in ids]
        assert self.one.evict_many([Key(id) for id in ids]) == expected

    @rule(id=IDS)
    def get(self, id: str) -> None:
        assert content(self.one.get(Key(id))) == self.model.get(id)
        assert self.one.exists(Key(id)) == (id in self.model)
        assert self.one.wait(Key(id), 0) == (id in self.model)

    @rule(id=IDS, offset=strategies.integers(0, 300), length=strategies.integers(0, 300))
    def get_range(self, id: str, offset: int, length: int) -> None:
        data = self.model.get(id)
        expected = None if data is None else data[offset : offset + length]
        assert content(self.one.get_range(Key(id), offset, length)) == expected

    @rule(id=IDS)
    def stat(self, id: str) -> None:
        stat = self.one.stat(Key(id))
        assert (None if stat is None else stat.nbytes) == (len(self.model[id]) if id in self.model else None)
        assert stat is None or (stat.expires is not None) == self.expires[id]

    @precondition(lambda self: isinstance(self.connectors[0], SupportsCompareAndSet))
    @rule(id=IDS, guess=OPTIONAL, right=strategies.booleans(), new=OPTIONAL, ttl=LONG)
    def compare_and_set(self, id: str, guess: bytes | None, right: bool, new: bytes | None, ttl: float | None) -> None:
        lies = self.model.get(id)
        old = lies if right else guess
        frames = [None if data is None else Frames([data]) for data in (old, new)]
        assert self.one.compare_and_set(Key(id), *frames, ttl=ttl) == (old == lies)
        if old == lies and new is not None:
            self.keep(id, new, ttl)
        elif old == lies:
            self.model.pop(id, None)

    @precondition(lambda self: isinstance(self.connectors[0], SupportsLease))
    @rule(id=IDS, ttl=LONG)
    def renew(self, id: str, ttl: float | None) -> None:
        assert self.one.renew(Key(id), ttl) == (id in self.model)
        self.expires[id] = ttl is not None

    @precondition(lambda self: isinstance(self.connectors[0], SupportsReap))
    @rule()
    def reap(self) -> None:
        assert self.one.reap() == []

    @rule(pickled=strategies.booleans())
    def reopen(self, pickled: bool) -> None:
        old = self.one
        new = pickle.loads(pickle.dumps(old)) if pickled else type(old).from_url(old.spec)
        old.close()
        assert new.spec == old.spec
        self.connectors[0] = new

    @rule()
    def clear(self) -> None:
        assert self.one.clear() == len(self.model)
        self.model.clear()

    @invariant()
    def all_is_there(self) -> None:
        keys = [*(Key(id) for id in self.model), Key("never")]
        assert [content(found) for found in self.one.get_many(keys)] == [*self.model.values(), None]

    @invariant()
    def nothing_else_is_there(self) -> None:
        assert self.one.exists_many(self.drawn) == [key.id in self.model for key in self.drawn]
        if isinstance(self.one, SupportsScan):
            assert {stat.key.id: stat.nbytes for stat in self.own_stats()} == {
                id: len(data) for id, data in self.model.items()
            }

    def own_stats(self) -> list[Any]:
        """A connector without a namespace in its URL lists its neighbours too."""
        stats = list(self.one.scan())
        spaces = {stat.namespace for stat in stats if stat.key.id in self.model}
        return [stat for stat in stats if stat.namespace in spaces]

    def teardown(self) -> None:
        for connector in getattr(self, "connectors", ()):
            connector.clear()
            connector.close()


def quick() -> settings:
    """As many examples as the loaded profile says, and no deadline: the machine may be busy."""
    return settings(deadline=None, stateful_step_count=min(settings.default.stateful_step_count, 40))
