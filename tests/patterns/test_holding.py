"""Who renews what lifetimes hold: whatever happens to one of them, the others are renewed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Key, Store
from proxyfab.connectors import FileConnector
from proxyfab.patterns import Lifetime
from proxyfab.patterns.holding import Holding, keeper_of
from proxyfab.testing.processes import until


class Buggy(FileConnector):
    """Fails in a way of its own to renew one key."""

    bad: Key | None = None
    failed = 0

    def renew_many(self, keys: Any, ttl: float | None) -> list[bool]:
        if self.bad in keys:
            self.failed += 1
            raise RuntimeError("a bug")
        return super().renew_many(keys, ttl)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(Buggy(str(tmp_path), name="holding")) as store:
        yield store
        store.clear()


def expiry(store: Store, key: Key) -> float:
    stat = store.connector.stat(key)
    assert stat is not None
    assert stat.expires is not None
    return stat.expires


def test_a_bug_in_a_connector_does_not_let_what_else_is_held_lapse(store: Store) -> None:
    with Lifetime(store, lease=0.6) as bad, Lifetime(store, lease=3.0) as good:
        connector: Any = store.connector
        connector.bad = bad.put("bad")
        key = good.put("good")
        first = expiry(store, key)
        assert until(lambda: expiry(store, key) > first + 0.5)
        assert connector.failed


def test_a_lease_may_be_endless(store: Store) -> None:
    with Lifetime(store, lease=float("inf")) as endless:
        key = endless.put("endless")
        other = Lifetime(store, lease=0.6)
        moving = other.put("moving")
        first = expiry(store, moving)
        assert until(lambda: expiry(store, moving) > first + 0.1)
        other.close()
        assert store.get(key) == "endless"
    assert not store.exists(key)


def test_who_is_held_next_is_renewed_in_his_own_time(store: Store) -> None:
    """What was held before him lay at the same address, and was due much later."""
    with Lifetime(store, lease=0.6) as other:
        other_key = other.put("so that their keeper goes on")
        keeper = keeper_of(store.url)
        holdings = [Holding(store, 1000.0) for _ in range(50)]
        for holding in holdings:
            keeper.keep(holding)
        began = expiry(store, other_key)
        assert until(lambda: expiry(store, other_key) > began + 0.1)  # now it has seen them all
        while holdings:
            keeper.drop(holdings.pop())
        del holding

        holdings = [Holding(store, 0.6) for _ in range(50)]
        for holding in holdings:
            keeper.keep(holding)
        for holding in holdings:
            holding.keys[store.put("next", ttl=holding.ttl)] = True
        keys = [key for holding in holdings for key in holding.keys]
        first = {key: expiry(store, key) for key in keys}
        assert until(lambda: all(expiry(store, key) > first[key] + 0.1 for key in keys))
        for holding in holdings:
            keeper.drop(holding)
