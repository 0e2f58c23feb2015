"""What the garbage collector ends may come back to the connector in the middle of any of its calls: owners evict."""

from __future__ import annotations

import gc
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Key, Store
from proxyfab.buffers import Frames
from proxyfab.errors import ConnectorError
from proxyfab.opening import open_connector
from proxyfab.osio import owner
from proxyfab.osio.objects import guard
from proxyfab.osio.owner import try_lock
from proxyfab.testing import in_fork
from proxyfab.testing.content import signed


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what is forked leaves its namespaces behind."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "shared"))


class Owner:
    """In a cycle, so that only the collector ends it, wherever that comes; then it uses the connector."""

    busy = False
    ended = 0

    def __init__(self, use: Any) -> None:
        self.use, self.me = use, self

    def __del__(self) -> None:
        if not Owner.busy:
            Owner.busy = True
            try:
                self.use()
                Owner.ended += 1
            finally:
                Owner.busy = False


def live(connector: Any, frames: Frames, name: str) -> None:
    """Some of everything, under names of one's own; content is checked."""
    drawn, named = connector.put(frames), Key(name)
    connector.put(frames, key=named, replace=True)
    views = [connector.get(drawn), connector.get(drawn), connector.get(named)]
    assert all(frames == view for view in views)
    connector.evict(drawn)
    assert frames == views[0]
    views.clear()
    connector.evict(named)


def end_owners_everywhere(url: str, nbytes: int) -> int:
    """How many owners ended, within a second and at least one."""
    connector = open_connector(url)
    mine, theirs = signed(nbytes, 1), signed(nbytes, 2)
    live(connector, mine, "mine")
    begun = time.monotonic()
    gc.freeze()  # else each collection looks at all that the tests have loaded
    while time.monotonic() < begun + (1.0 if Owner.ended else 10.0):
        gc.set_threshold(random.randrange(2, 100), 1, 1)
        Owner(lambda: live(connector, theirs, "theirs"))
        live(connector, mine, "mine")
    gc.set_threshold(700, 10, 10)
    Owner.busy = True
    connector.close()
    return Owner.ended


@pytest.mark.parametrize(
    ("place", "nbytes"),
    [
        ("memory://", 1000),
        ("shm://", 1000),
        ("shm://", 300_000),
        ("file://{}", 1000),
        ("file://{}", 300_000),
        ("bounded://?limit=1MB&fast=shm://&slow=file://{}", 300_000),
        ("tiers://?to=memory://;limit=1MB&to=file://{}", 10_000),
        ("tiers://?to=memory://;limit=1MB&to=file://{}&write=back", 10_000),
        ("routed://?to=shm://;below=1KiB&to=file://{}&prefer=cheapest", 10_000),
        ("retry+file://{}", 1000),
    ],
)
def test_a_finalizer_may_use_the_connector_it_interrupts(place: str, nbytes: int, tmp_path: Path) -> None:
    """No lock is waited for by its own holder, and nothing gets mixed up."""
    assert in_fork(lambda: end_owners_everywhere(place.format(tmp_path), nbytes), timeout=15) > 0


def first_uses(directory: Path) -> int:
    """Of many stores, each opened in the midst of another one's opening."""
    count = 0

    def use(number: int) -> None:
        with Store(f"file://{directory}/{number}") as store:
            store.evict(store.put(b"x" * 10_000))
        with Store("shm://") as store:
            store.evict(store.put(b"x" * 300_000))

    gc.freeze()  # else each collection looks at all that the tests have loaded
    for number in range(0, 60, 2):
        gc.set_threshold(random.randrange(2, 200), 1, 1)
        Owner(lambda number=number: use(number + 1))
        use(number)
        count += 1
    gc.set_threshold(700, 10, 10)
    Owner.busy = True
    return count


def test_a_finalizer_may_open_a_store_while_one_is_opened(tmp_path: Path) -> None:
    """Both are there then."""
    assert in_fork(lambda: first_uses(tmp_path), timeout=15) == 30


def test_what_ends_amid_a_change_of_files_does_not_wait_for_its_own_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "PATIENCE", 0.2)
    with Store(f"file://{tmp_path}/f", inline_below=0) as store:
        key = store.put(1, key="expired", ttl=0.001)
        connector: Any = store.connector
        directory = connector._lodging.find().path
        time.sleep(0.002)  # what has expired is replaced under the guard
        with pytest.raises(ZeroDivisionError), guard(directory):
            store.put(2, key=key)
            _ = 1 / 0
        assert store.get(key) == 2

        fd = os.open(f"{directory}/.lock", os.O_RDWR)  # of somebody else
        assert try_lock(fd)
        with pytest.raises(ConnectorError, match="has held"), guard(directory):
            pass
        os.close(fd)
