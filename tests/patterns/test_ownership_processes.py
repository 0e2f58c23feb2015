"""Ownership among real processes that are killed, stopped, forked and end, at places that several can reach."""

from __future__ import annotations

import os
import pickle
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.errors import BorrowError, ProxyfabError
from proxyfab.patterns import borrow, borrow_mut, own, reclaim, release, scope, update
from proxyfab.patterns.ownership.verbs import held
from proxyfab.testing import Child, in_fork, until
from tests.patterns import ownership_roles as roles

everywhere = pytest.mark.parametrize("anywhere", ["shm", "file", "redis", "zmq"], indirect=True)
LEASE = 1.0


def tell(child: Child, *question: Any) -> Any:
    """What the child answers; its error is raised here."""
    well, answer = child.ask(*question)
    if not well:
        raise answer
    return answer


@everywhere
class TestKilled:
    def test_a_killed_owners_object_goes_after_lease_and_grace(self, anywhere: Store) -> None:
        with Child(roles.hold, anywhere.url) as child:
            record, data = tell(child, "own", "o", list(range(2000)), LEASE)
            assert not until(lambda: not anywhere.exists(data), timeout=2 * LEASE)  # it is kept while its owner lives
            began = time.monotonic()
            child.kill()
            assert until(lambda: not anywhere.exists(data) and not anywhere.exists(record), timeout=30)
            assert time.monotonic() - began < 1.5 * LEASE + 2

    def test_a_killed_borrower_is_not_in_the_way(self, anywhere: Store) -> None:
        o = own(anywhere, [1], lease=LEASE)
        with Child(roles.hold, anywhere.url) as child:
            tell(child, "load", "r", pickle.dumps(borrow(o)))
            assert tell(child, "read", "r") == [1]
            with pytest.raises(BorrowError, match=f"{child.pid}@"):
                borrow_mut(o, timeout=0)
            child.kill()
            m = borrow_mut(o, timeout=20)
        m.append(2)
        update(m)
        release(m)
        assert o == [1, 2]

    def test_a_retried_message_finds_its_input_when_its_taker_was_killed(self, anywhere: Store) -> None:
        o = own(anywhere, [1], lease=LEASE)
        message = pickle.dumps(o)
        with Child(roles.hold, anywhere.url) as first, Child(roles.hold, anywhere.url) as second:
            tell(first, "load", "o", message)
            assert tell(first, "read", "o") == [1]
            tell(second, "load", "o", message)
            with pytest.raises(BorrowError, match=f"already used by {first.pid}@"):
                tell(second, "read", "o")
            first.kill()
            assert tell(second, "read", "o") == [1]
            tell(second, "append", "o", 2)
            _, data = tell(second, "keys", "o")
            tell(second, "release", "o")
            assert not anywhere.exists(data)

    def test_a_retried_task_adopts_what_a_killed_one_had_adopted(self, anywhere: Store) -> None:
        key = str(anywhere.put([1], ttl=60))
        with Child(roles.hold, anywhere.url) as first, Child(roles.hold, anywhere.url) as second:
            tell(first, "adopt", "o", key, LEASE)
            with pytest.raises(BorrowError, match=f"owned already by {first.pid}@"):
                tell(second, "adopt", "o", key, LEASE)
            first.kill()
            assert until(lambda: second.ask("adopt", "o", key, LEASE)[0], 20)
            assert tell(second, "read", "o") == [1]
            tell(second, "release", "o")
            assert not anywhere.exists(key)

    def test_who_sent_it_takes_it_back_from_the_dead(self, anywhere: Store) -> None:
        o = own(anywhere, [1], lease=LEASE)
        with Child(roles.hold, anywhere.url) as child:
            tell(child, "load", "o", pickle.dumps(o))
            tell(child, "append", "o", 2)
            with pytest.raises(BorrowError, match="already used"):
                reclaim(o)
            child.kill()
            assert until(lambda: _reclaimed(o), timeout=20)
        assert o == [1, 2]

    def test_borrowers_outlive_a_killed_owner(self, anywhere: Store) -> None:
        with Child(roles.hold, anywhere.url) as child:
            _, data = tell(child, "own", "o", [1], LEASE)
            tell(child, "borrow", "r", "o")
            r = pickle.loads(tell(child, "dump", "r"))
            held(r).here("Reading")  # claimed, and not read yet
            child.kill()
        assert not until(lambda: not anywhere.exists(data), timeout=3 * LEASE)
        assert r == [1]
        release(r)
        assert until(lambda: not anywhere.exists(data), timeout=20)


def _reclaimed(o: Any) -> bool:
    try:
        reclaim(o)
    except BorrowError:
        return False
    return True


@everywhere
class TestStopped:
    def test_a_zombie_is_fenced(self, anywhere: Store) -> None:
        o = own(anywhere, [1], lease=LEASE)
        with Child(roles.hold, anywhere.url) as child:
            tell(child, "load", "o", pickle.dumps(o))
            assert tell(child, "read", "o") == [1]
            os.kill(child.pid, signal.SIGSTOP)
            try:
                assert until(lambda: _reclaimed(o), timeout=20)
                o.append(2)
                update(o)
            finally:
                os.kill(child.pid, signal.SIGCONT)
            for question in (("append", "o", 3), ("borrow", "r", "o"), ("dump", "o"), ("release", "o"), ("read", "o")):
                with pytest.raises(BorrowError, match=r"silent|lapsed"):
                    tell(child, *question)
            tell(child, "drop", "o")
            assert tell(child, "own", "new", [7], LEASE)
            assert tell(child, "read", "new") == [7]
            child.send(("leave",))
            child.process.wait(20)
        r = borrow(o)
        assert pickle.loads(pickle.dumps(r)) == [1, 2]

    def test_a_short_stop_costs_nothing(self, anywhere: Store) -> None:
        with Child(roles.hold, anywhere.url) as child:
            tell(child, "own", "o", [1], 6.0)
            os.kill(child.pid, signal.SIGSTOP)
            assert not until(lambda: False, timeout=1.0)
            os.kill(child.pid, signal.SIGCONT)
            assert tell(child, "read", "o") == [1]


@everywhere
def test_what_a_process_owns_goes_when_it_ends(anywhere: Store) -> None:
    scan = anywhere.connector.scan  # type: ignore[attr-defined]  # it scans
    before = {stat.key for stat in scan()}  # of others, where one place has several namespaces
    with Child(roles.hold, anywhere.url) as child:
        record, data = tell(child, "own", "o", [1], 60.0)
        _, other = tell(child, "own", "lent", [1], 60.0)
        tell(child, "borrow", "r", "lent")
        child.send(("leave",))
        assert child.process.wait(20) == 0
    assert not any(anywhere.exists_many([record, data, other]))
    assert {stat.key for stat in scan()} <= before, "the session is gone, too"


@everywhere
def test_a_forked_child_reads_and_does_nothing_else(anywhere: Store) -> None:
    o = own(anywhere, [1])
    r = borrow(o)

    def child() -> list[Any]:
        found: list[Any] = [list(o), list(r)]
        for call in (lambda: update(o), lambda: borrow_mut(o), lambda: pickle.dumps(o), lambda: release(o)):
            try:
                call()
            except BorrowError as error:
                found.append(str(error))
        return found

    mine, borrowed, *refused = in_fork(child)
    assert mine == borrowed == [1]
    assert len(refused) == 4
    assert all("forked" in line or "silent" in line for line in refused)
    release(r)
    m = borrow_mut(o, timeout=20)
    m.append(2)
    update(m)
    release(m)
    assert o == [1, 2]


@pytest.mark.parametrize("anywhere", ["shm", "redis"], indirect=True)
@pytest.mark.parametrize("method", ["spawn", "fork"])
class TestPools:
    def test_tasks_with_borrows(self, anywhere: Store, method: str) -> None:
        o = own(anywhere, list(range(100)))
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            r = borrow(o, scoped=True)
            futures = [pool.submit(roles.total, r) for _ in range(10)]
            for future in futures:
                scope(future, borrow(o, scoped=True))
            assert {future.result(60) for future in futures} == {4950}
            release(r)
            assert pool.submit(roles.total, borrow(o)).result(60) == 4950
            assert until(lambda: _not_borrowed(o), timeout=20)

    def test_an_owner_there_and_back(self, anywhere: Store, method: str) -> None:
        o = own(anywhere, [1])
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
            back = pool.submit(roles.grown, o).result(60)
            assert back == [1, 99]
            with pytest.raises(BorrowError):
                o.append(2)
        _, data = held(back).key, held(back).account.data
        release(back)
        assert not anywhere.exists(data)

    def test_a_task_that_is_run_again_finds_its_input(self, anywhere: Store, method: str, tmp_path: Path) -> None:
        o = own(anywhere, list(range(100)))
        r = borrow(o, scoped=True)
        marker = str(tmp_path / "died")
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool, pytest.raises(BrokenProcessPool):
            pool.submit(roles.fails_once, r, marker).result(60)
        with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
            assert pool.submit(roles.fails_once, r, marker).result(60) == 4950


def _not_borrowed(o: Any) -> bool:
    try:
        release(borrow_mut(o, timeout=0))
    except BorrowError:
        return False
    return True


@pytest.mark.slow
@everywhere
def test_owners_and_borrowers_that_are_killed_at_random_leave_nothing(anywhere: Store) -> None:
    import random

    chance = random.Random(7)
    o = own(anywhere, [0], lease=LEASE)
    total = 0
    for _ in range(8):
        with Child(roles.hold, anywhere.url) as first, Child(roles.hold, anywhere.url) as second:
            message = pickle.dumps(o)
            tell(first, "load", "o", message)
            tell(first, "own", "mine", [1] * 1000, LEASE)
            tell(first, "append", "o", total)
            total += 1
            if chance.random() < 0.5:
                tell(first, "borrow_mut", "m", "o")
                tell(first, "append", "m", "never mind")
            first.kill()
            tell(second, "load", "o", message)
            assert until(lambda: _answers(second, "read", "o"), timeout=20)
            tell(second, "borrow", "r", "o")
            second.kill()
            assert until(lambda: _reclaimed(o), timeout=20)
    release(o, timeout=20)
    assert until(lambda: len(list(anywhere.connector.scan())) <= 1, timeout=20)  # type: ignore[attr-defined]  # it scans


def _answers(child: Child, *question: Any) -> bool:
    try:
        tell(child, *question)
    except ProxyfabError:
        return False
    return True
