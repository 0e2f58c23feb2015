"""Promised results: whose process dies, hangs or fails."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from concurrent import futures
from typing import Any

import pytest

from proxyfab import Store, resolve
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import ConfigurationError, ObjectLost, ResolveTimeout
from proxyfab.patterns import Future, as_completed
from proxyfab.patterns.future import promise
from proxyfab.testing import FaultyConnector
from proxyfab.testing.processes import DEADLINE, Child, in_fork, until
from tests.patterns import future_roles as roles

LEASE = 0.5


def elsewhere(future: Future[Any]) -> Future[Any]:
    """Another handle of it, as another process has."""
    return pickle.loads(pickle.dumps(future))  # type: ignore[no-any-return]


async def _await(one: Any) -> Any:
    return await one


def traces(store: Store) -> list[str]:
    return [stat.key.id for stat in store.connector.scan() if stat.key.id.endswith(".promise")]  # type: ignore[attr-defined]


def test_a_killed_promiser_fails_the_future_for_all_who_wait(anywhere: Store) -> None:
    if "memory://" in anywhere.url:
        pytest.skip("memory:// does not claim crosses_processes")
    future: Future[Any] = Future(anywhere, lease=LEASE)
    with Child(roles.promise_and_hang, future, "hang") as child, futures.ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(elsewhere(future).result, DEADLINE),
            pool.submit(resolve, elsewhere(future).proxy()),
            pool.submit(asyncio.run, _await(elsewhere(future))),
            pool.submit(lambda: next(iter(as_completed([elsewhere(future)], DEADLINE))).result()),
        ]
        child.receive()
        assert futures.wait(waiting, 2 * LEASE).done == set(), "it is alive, and says so"
        child.kill()
        for one in waiting:
            assert isinstance(one.exception(DEADLINE), ObjectLost)
    with pytest.raises(ObjectLost, match=f"{child.pid}@.*said nothing for 0.5 s"):
        future.result(0)
    assert traces(anywhere) == []


@pytest.fixture
def store() -> Any:
    with Store() as store:
        yield store


def test_who_was_only_paused_comes_too_late(store: Store) -> None:
    future: Future[Any] = Future(store, lease=LEASE)
    with Child(roles.promise_and_hang, future, "stopped") as child:
        child.receive()
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(ObjectLost):
            future.result(DEADLINE)
        os.kill(child.pid, signal.SIGCONT)
        child.send("a result")
        assert child.result() == "too late"
    assert isinstance(elsewhere(future).exception(), ObjectLost)


def test_what_the_block_raises_is_set_and_raised(store: Store) -> None:
    for lease in (None, LEASE):
        future: Future[Any] = Future(store, lease=lease)
        with Child(roles.promise_and_hang, future, "fail") as child:
            child.receive()
            child.send("go on")
            with pytest.raises(roles.Ours):
                future.result(DEADLINE)
            assert child.result() == "failed"
    assert traces(store) == []


def test_a_kept_promise_leaves_nothing(store: Store) -> None:
    future: Future[Any] = Future(store, lease=LEASE)
    with Child(roles.promise_and_hang, future, "set") as child:
        child.receive()
        child.send("done")
        assert future.result(DEADLINE) == "done"
        assert child.result() == "left"
    assert traces(store) == []


def test_a_promise_that_is_taken_back_may_be_given_by_another(store: Store) -> None:
    future: Future[Any] = Future(store, lease=1.0)
    with elsewhere(future).promise():
        assert traces(store)
    with pytest.raises(ResolveTimeout):  # nobody has to answer for it, however long that takes
        future.result(1.5)
    with elsewhere(future).promise():
        elsewhere(future).set_result(1)
    assert future.result(0) == 1


def test_a_promise_outlives_a_link_that_is_down_for_less_than_a_lease() -> None:
    connector = FaultyConnector(MemoryConnector("beats"))
    with Store(connector) as store, Store("memory://beats") as theirs:
        future: Future[int] = Future(store, lease=1.5)
        other: Future[int] = Future(theirs, key=future.key, lease=1.5)
        with future.promise():
            connector.cut()
            with pytest.raises(ResolveTimeout):
                other.result(0.7)
            connector.mend()
            with pytest.raises(ResolveTimeout):
                other.result(2.0)
        store.clear()


def test_many_promises_need_one_thread_that_ends(store: Store) -> None:
    many = [Future(store, lease=LEASE) for _ in range(20)]
    promises = [one.promise() for one in many]
    for one in promises:
        one.__enter__()
    threads = [thread for thread in threading.enumerate() if thread.name == "proxyfab-promises"]
    assert len(threads) == 1
    assert threads[0].daemon
    for one in promises:
        one.__exit__(None, None, None)
    threads[0].join(DEADLINE)
    assert not threads[0].is_alive()
    assert traces(store) == []


def test_a_fork_keeps_none_of_its_parents_promises(store: Store) -> None:
    future: Future[int] = Future(store, lease=LEASE)
    with future.promise():
        assert in_fork(lambda: promise._pulse._promises) == []
        assert until(lambda: promise._pulse._thread is not None)
        future.set_result(1)


def test_a_lease_is_a_number_of_seconds(store: Store) -> None:
    with pytest.raises(ConfigurationError):
        Future(store, lease=0)


def test_a_long_name_can_be_promised(store: Store) -> None:
    future: Future[int] = Future(store, key="n" * 200, lease=LEASE)
    with future.promise():
        assert len(traces(store)) == 1
        future.set_result(1)
