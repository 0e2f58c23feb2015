"""bounded:// passes the suite; and what is its own: limits, moves, quotas, and a kill between two steps."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab.abc import BaseConnector, SupportsCompareAndSet, SupportsLease, SupportsReap, SupportsStatus
from proxyfab.buffers import Frames
from proxyfab.connectors.bounded import BoundedConnector
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, KeyExists
from proxyfab.keys import Key
from proxyfab.testing import Child, ConnectorTests, FaultyConnector, in_fork, until
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import at_once

KB = 1000


class TestBounded(ConnectorTests):
    """With a limit that most objects of the suite's larger tests exceed."""

    connector = BoundedConnector
    around = True
    reads_neighbours = False
    recovers = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory / "shm"))
        return f"bounded://?limit=200KB&fast=shm://&slow=file://{directory}/slow"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[BoundedConnector]:
    with BoundedConnector(MemoryConnector(), FileConnector(tmp_path), limit="100 KB", quota="300 KB") as one:
        yield one
        one.clear()


def places(one: BoundedConnector, keys: list[Key]) -> str:
    """Where each key's object lies: f, s, b (both) or - (nowhere)."""
    found = [(one.fast.exists(Key(key.id)), one.slow.exists(Key(key.id))) for key in keys]
    return "".join({(True, False): "f", (False, True): "s", (True, True): "b", (False, False): "-"}[at] for at in found)


def test_the_least_recently_used_goes_first(one: BoundedConnector) -> None:
    keys = [one.put(signed(30 * KB, seed)) for seed in range(3)]
    one.get(keys[0])
    keys.append(one.put(signed(30 * KB, 3)))

    assert places(one, keys) == "fsff"
    assert [is_whole(found) for found in one.get_many(keys) if found is not None] == [True] * 4
    status = one.status()
    assert (status.objects, status.limit, status.counters["spilled"]) == (4, 300_000, 1)
    assert status.nbytes == sum(stat.nbytes for stat in one.scan())


def test_what_is_larger_than_the_limit_goes_to_the_slow_place_at_once(one: BoundedConnector) -> None:
    small = one.put(signed(30 * KB))
    large = one.put(signed(120 * KB))

    assert places(one, [small, large]) == "fs"
    assert one.get(large) == signed(120 * KB)


def test_what_is_read_twice_comes_back(one: BoundedConnector) -> None:
    keys = [one.put(signed(40 * KB, seed)) for seed in range(3)]
    assert places(one, keys) == "sff"
    assert one.get(keys[0]) == signed(40 * KB, 0)
    assert places(one, keys) == "sff"
    assert one.get(keys[0]) == signed(40 * KB, 0)

    assert places(one, keys) == "fsf"
    assert one.status().counters["promoted"] == 1


def test_a_time_to_live_moves_along(one: BoundedConnector) -> None:
    key = one.put(signed(60 * KB), ttl=1000)
    brief = one.put(signed(10 * KB), ttl=0.05)
    assert until(lambda: not one.exists(brief))
    one.put(signed(60 * KB, 1))
    one.put(signed(60 * KB, 2))
    stat = one.stat(key)

    assert places(one, [key, brief]) == "s-"
    assert stat is not None
    assert stat.expires == pytest.approx(time.time() + 1000, abs=20)
    assert one.renew(key, None)
    assert one.stat(key).expires is None  # type: ignore[union-attr]


def test_a_quota_is_kept_over_both(one: BoundedConnector) -> None:
    keys = [one.put(signed(50 * KB, seed)) for seed in range(6)]
    with pytest.raises(CapacityError, match="300000"):
        one.put(signed(10 * KB))
    with pytest.raises(CapacityError):
        one.put(signed(60 * KB), key=keys[0], replace=True)
    assert [one.get(key) for key in keys] == [signed(50 * KB, seed) for seed in range(6)]

    one.put(signed(50 * KB, 9), key=keys[0], replace=True)
    assert one.evict(keys[1])
    assert one.get(one.put(signed(50 * KB, 10))) == signed(50 * KB, 10)
    assert one.get(keys[0]) == signed(50 * KB, 9)


def test_what_expired_or_went_elsewhere_gives_its_quota_back(one: BoundedConnector) -> None:
    for seed in range(5):
        one.put(signed(50 * KB, seed), ttl=0.2)
    kept = one.put(signed(50 * KB))
    with BoundedConnector.from_url(f"{one.spec}") as other:
        assert other.evict(kept)
    assert until(lambda: not list(one.scan()))

    assert [one.put(signed(50 * KB, seed)) for seed in range(6)]


def test_bounds_hold_for_many_threads_at_once(one: BoundedConnector) -> None:
    def put() -> int:
        stored = 0
        for seed in range(20):
            try:
                one.put(signed(9 * KB, seed))
                stored += 1
            except CapacityError:
                pass
            assert sum(stat.nbytes for stat in one.fast.scan()) <= 100 * KB
        return stored

    assert sum(at_once([put] * 4)) == 33
    assert sum(stat.nbytes for stat in one.scan()) <= 300 * KB


def test_every_object_can_be_read_while_all_are_on_the_move(tmp_path: Path) -> None:
    """Readers bring objects back, which moves others out: for as long as anybody reads."""
    stop = threading.Event()
    with BoundedConnector(MemoryConnector(), FileConnector(tmp_path), limit="30 KB") as one:
        keys = [one.put(signed(9 * KB, seed)) for seed in range(10)]

        def read(first: int) -> int:
            bad = 0
            for round in range(150):
                number = (first * 3 + round * 7) % 10
                bad += one.get(keys[number]) != signed(9 * KB, number)
                bad += not one.exists(keys[(number + 1) % 10])
            return bad

        assert at_once([lambda first=first: read(first) for first in range(4)]) == [0] * 4
        assert one.status().counters["promoted"] > 0
        assert one.clear() == 10
    stop.set()


def test_of_a_replaced_and_moved_object_nothing_old_is_seen(tmp_path: Path) -> None:
    with BoundedConnector(MemoryConnector(), FileConnector(tmp_path), limit="30 KB") as one:
        key = one.put(signed(9 * KB), key=Key("k"))

        def replace() -> None:
            for seed in range(60):
                one.put(signed(9 * KB, seed), key=key, replace=True)
                assert one.get(key) == signed(9 * KB, seed)

        def stir() -> None:
            for seed in range(60):
                one.put(signed(9 * KB, 100 + seed))

        assert at_once([replace, stir, stir]) == [None] * 3
        one.clear()


def test_an_evicted_object_stays_evicted_while_it_moves(tmp_path: Path) -> None:
    slow = FaultyConnector(FileConnector(tmp_path))
    with BoundedConnector(MemoryConnector(), slow, limit="100 KB") as one:
        key = one.put(signed(60 * KB))
        gate = slow.hold("put")
        answers: list[bool] = []
        mover = threading.Thread(target=lambda: one.put(signed(60 * KB, 1)))
        mover.start()
        assert until(lambda: slow.calls["put"])
        assert one.get(key) == signed(60 * KB)
        evictor = threading.Thread(target=lambda: answers.append(one.evict(key)))
        evictor.start()
        gate.set()
        mover.join(20)
        evictor.join(20)

        assert answers == [True]
        assert places(one, [key]) == "-"
        one.clear()


def test_a_slow_place_that_fails_loses_nothing(tmp_path: Path) -> None:
    slow = FaultyConnector(FileConnector(tmp_path))
    with BoundedConnector(MemoryConnector(), slow, limit="100 KB") as one:
        key = one.put(signed(60 * KB))
        slow.fail("put", lambda: CapacityError("full, as the test wanted"))
        with pytest.raises(CapacityError):
            one.put(signed(60 * KB, 1))
        assert one.get(key) == signed(60 * KB)
        other = one.put(signed(60 * KB, 2))

        assert places(one, [key, other]) == "sf"
        one.clear()


def test_an_object_that_lies_in_both_is_one_when_opened_anew(tmp_path: Path) -> None:
    """As a kill between the two steps of a move, or of a replacement, leaves it."""
    with BoundedConnector(SharedMemoryConnector("twice"), FileConnector(tmp_path, name="twice"), limit="1 MB") as one:
        one.put(Frames([b"new"]), key=Key("k"))
        one.slow.put(Frames([b"old"]), key=Key("k"))
        with BoundedConnector.from_url(one.spec) as again:
            assert [stat.nbytes for stat in again.scan()] == [3]
            assert again.get(Key("k")) == Frames([b"new"])
            assert places(again, [Key("k")]) == "f"
            assert again.evict(Key("k"))
            assert again.clear() == 0


def _churn(talk: Any, spec: str) -> None:
    one = BoundedConnector.from_url(spec)
    seed = 0
    while True:
        key = one.put(signed(20 * KB, seed), key=Key(f"{os.getpid()}-{seed}"))
        talk.send((key, seed))
        one.get(key)
        seed += 1


@pytest.mark.parametrize("after", [3, 7, 12])
def test_a_kill_in_the_midst_of_moving_loses_nothing(tmp_path: Path, after: int) -> None:
    fast, slow = SharedMemoryConnector("churn"), FileConnector(tmp_path, name="churn")
    with BoundedConnector(fast, slow, limit="50 KB") as one:
        with Child(_churn, one.spec) as child:
            acknowledged = [child.receive() for _ in range(after)]
            child.kill()
            acknowledged += child.pending()
        with BoundedConnector.from_url(one.spec) as again:
            assert [again.get(key) for key, _ in acknowledged] == [signed(20 * KB, seed) for _, seed in acknowledged]
            assert len({stat.key.id for stat in again.scan()}) == len(list(again.scan()))
        one.clear()


def _live_here(talk: Any, spec: str, rounds: int, seed: int) -> list[str]:
    """Put, read, replace and evict objects of one's own in a place that others use, too; what was wrong."""
    one, rng, wrong = BoundedConnector.from_url(spec), random.Random(seed), []
    mine: dict[Key, Frames] = {}
    for number in range(rounds):
        frames = signed(rng.choice([2, 9, 40]) * KB, 1000 * seed + number)
        key = one.put(frames, key=rng.choice([None, Key(f"{seed}-{number}")]))
        mine[key] = frames
        chosen = rng.choice(list(mine))
        if one.get(chosen) != mine[chosen]:
            wrong.append(f"{chosen} is not what was put")
        if number % 3 == 0:
            mine[chosen] = signed(8 * KB, number)
            one.put(mine[chosen], key=chosen, replace=True)
        elif number % 5 == 0 and (not one.evict(chosen) or one.get(chosen) is not None):
            wrong.append(f"{chosen} cannot be evicted")
        elif number % 5 == 0:
            del mine[chosen]
    return wrong + [f"{key} is lost" for key, frames in mine.items() if one.get(key) != frames]


def test_processes_that_move_the_same_objects_lose_nothing(tmp_path: Path) -> None:
    with BoundedConnector(
        SharedMemoryConnector("crowd"), FileConnector(tmp_path, name="crowd", sync=False), limit="100 KB"
    ) as one:
        with Child(_live_here, one.spec, 150, 1) as first, Child(_live_here, one.spec, 150, 2) as second:
            assert _live_here(None, one.spec, 150, 3) == []
            assert [first.result(60), second.result(60)] == [[], []]
        assert one.clear() > 0


def test_what_lies_there_is_counted_when_opened(tmp_path: Path) -> None:
    fast, slow = SharedMemoryConnector("found"), FileConnector(tmp_path, name="found")
    with BoundedConnector(fast, slow, limit="1 MB", quota="1 MB") as one:
        keys = [one.put(signed(90 * KB, seed)) for seed in range(5)]
        with BoundedConnector(
            SharedMemoryConnector("found"), FileConnector(tmp_path, name="found"), limit="100 KB", quota="500 KB"
        ) as less:
            assert less.status().nbytes == one.status().nbytes
            with pytest.raises(CapacityError):
                less.put(signed(90 * KB))
            less.put(signed(10 * KB))
            assert [less.get(key) for key in keys] == [signed(90 * KB, seed) for seed in range(5)]
            assert sum(stat.nbytes for stat in less.fast.scan()) <= 100 * KB
        one.clear()


def test_a_fork_counts_for_itself(one: BoundedConnector) -> None:
    key = one.put(signed(60 * KB))

    def work() -> bool:
        one.put(signed(60 * KB, 1))
        return one.get(key) == signed(60 * KB)

    assert in_fork(work)


def test_it_claims_what_both_children_have(tmp_path: Path) -> None:
    class Bare(MemoryConnector):
        renew = None  # type: ignore[assignment]

    both = BoundedConnector(MemoryConnector(), FileConnector(tmp_path), limit=1)
    less = BoundedConnector(Bare(), FileConnector(tmp_path), limit=1)

    assert all(isinstance(both, one) for one in (SupportsLease, SupportsReap, SupportsStatus, SupportsCompareAndSet))
    assert not isinstance(less, SupportsLease)
    assert isinstance(less, SupportsReap)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    class Blind(BaseConnector):
        scheme = "blind"
        spec = "blind://"

    for make in (
        lambda: BoundedConnector(FileConnector(tmp_path, name="a"), FileConnector(tmp_path, name="a"), limit=1),
        lambda: BoundedConnector(MemoryConnector(), Blind(), limit=1),
        lambda: BoundedConnector(MemoryConnector(), FileConnector(tmp_path), limit="much"),
        lambda: BoundedConnector.from_url("bounded://?limit=1"),
        lambda: BoundedConnector.from_url("bounded://?slow=memory://"),
    ):
        with pytest.raises(ConfigurationError):
            make()


def test_who_waits_too_long_for_a_key_is_told(one: BoundedConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    one.put(Frames([b"x"]), key=Key("k"))
    with pytest.raises(KeyExists):
        one.put(Frames([b"y"]), key=Key("k"))
    turns = one._use()._turns

    def late() -> None:
        with turns.take("it", patience=0.01):
            pass

    with turns.take("it"), turns.try_take("it") as mine, turns.try_take("other") as other:
        assert (mine, other) == (False, True)
        (told,) = at_once([late])
    assert type(told) is ConnectorError
    assert "it for 0 s" in str(told)


def test_who_puts_into_the_fast_place_himself_is_granted_room(tmp_path):
    with BoundedConnector(SharedMemoryConnector(), FileConnector(str(tmp_path)), limit=1000, quota=1500) as one:
        old = one.put(Frames([bytes(600)]))
        room = one.grant(600)
        assert room is not None
        assert one.lies_fast(old.id) is None, "it made room"
        one.fast.put(Frames([bytes(600)]), key=Key("mine"))
        assert one.adopt("mine", room) is True
        assert (one.lies_fast("mine"), one.get(Key("mine")).nbytes, one.status().nbytes) == (600, 600, 1200)
        with pytest.raises(CapacityError):
            one.grant(600)
        second = one.grant(100)
        assert one.adopt("never put", second) is False
        assert one.status().nbytes == 1200
        third = one.grant(100)
        one.fast.put(Frames([bytes(100)]), key=Key("late"))
        one.revoke("late", third)
        assert one.fast.get(Key("late")) is None


def test_a_reference_from_elsewhere_has_nothing_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its URL may name a place of the reader's as the fast one, and a place of its writer's behind it."""
    from proxyfab import Ref, Store

    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "shm"))
    with Store("shm://", name="mine") as mine, Store(f"file://{tmp_path}/theirs", name="theirs") as theirs:
        keys = [mine.put(os.urandom(20 * KB)) for _ in range(5)]
        bait = theirs.put(bytes(20 * KB), key="bait")
        url = f"bounded://?limit=40KB&fast=shm://mine&slow=file://{tmp_path}/theirs?ns=theirs#cache=0"
        for _ in range(4):
            token = Ref(url, Key(bait.id)).to_token()
            assert Ref.from_token(token).resolve() == bytes(20 * KB)
        store = Ref.from_token(token).store
        more = store.put(bytes(20 * KB))
        assert store.get(more) == bytes(20 * KB)
        store.close()

        assert all(mine.exists_many(keys))
        assert not any(theirs.exists(Key(key.id)) for key in keys)
        mine.clear()
        theirs.clear()
