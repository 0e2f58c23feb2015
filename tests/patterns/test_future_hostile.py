"""Futures where things go wrong: forks, dead servers, ends of interpreters, damaged and unreachable outcomes."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np
import pytest

from proxyfab import Store, resolve
from proxyfab.connectors import MemoryConnector, SharedMemoryConnector
from proxyfab.errors import AccessDenied, ConnectorError, IntegrityError, ObjectLost, ProxyfabError, ResolveTimeout
from proxyfab.patterns import Future, as_completed, wait
from proxyfab.patterns.future import hub
from proxyfab.testing import FaultyConnector
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import DEADLINE, Child, in_fork, until
from proxyfab.testing.servers import RedisServer
from tests.patterns import future_roles as roles


def elsewhere(future: Future[Any]) -> Future[Any]:
    """Another handle of it, as another process has."""
    return pickle.loads(pickle.dumps(future))  # type: ignore[no-any-return]


def hub_of(store: Store) -> hub.Hub:
    return hub._hubs[store.url]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


async def _await(one: Any) -> Any:
    return await one


# -- forks -------------------------------------------------------------------------------------------------------


def test_a_fork_amid_waiting_waits_for_itself(store: Store) -> None:
    future, other = Future(store), Future(store)
    called: list[int] = []
    future.add_done_callback(lambda _: called.append(os.getpid()))
    waiting = threading.Thread(target=lambda: [*as_completed([future, other], DEADLINE)])
    waiting.start()
    assert until(lambda: hub_of(store)._bell is not None)

    def child() -> Any:
        assert not future.done()
        mine: list[int] = []
        future.add_done_callback(lambda _: mine.append(os.getpid()))
        threading.Timer(0.05, lambda: elsewhere(future).set_result("the child")).start()
        assert [one.result() for one in as_completed([future], DEADLINE)] == ["the child"]
        assert until(lambda: mine)
        return called, mine == [os.getpid()], asyncio.run(_await(elsewhere(future)))

    assert in_fork(child) == ([], True, "the child")
    assert future.result(DEADLINE) == "the child"
    other.set_result(1)
    waiting.join(DEADLINE)
    assert not waiting.is_alive()
    assert until(lambda: called == [os.getpid()])


def test_a_fork_while_a_future_is_locked(store: Store) -> None:
    future: Future[int] = Future(store)
    with future._condition:
        assert in_fork(lambda: [future.set_result(3), future.result(), future.done()]) == [None, 3, True]
    assert future.result() == 3


def test_a_fork_amid_a_callback_does_not_run_the_rest(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()
    future: Future[int] = Future(store)
    future.add_done_callback(lambda _: (begun.set(), go_on.wait(DEADLINE)))
    elsewhere(future).set_result(1)
    assert begun.wait(DEADLINE)

    mine: Future[int] = Future(store)

    def child() -> list[int]:
        called: list[int] = []
        mine.add_done_callback(lambda one: called.append(one.result()))
        elsewhere(mine).set_result(2)
        assert until(lambda: called)
        return called

    assert in_fork(child) == [2]
    go_on.set()


# -- servers that die --------------------------------------------------------------------------------------------


def _everyone_is_told(store: Store, kill: Any) -> list[BaseException | None]:
    watched, awaited, called = Future(store), Future(store), Future(store)
    told: list[Any] = []
    called.add_done_callback(told.append)
    with futures.ThreadPoolExecutor(4) as pool:
        blocked = pool.submit(Future(store).result, DEADLINE)
        touched = pool.submit(resolve, Future(store).proxy())
        collected = pool.submit(lambda: next(iter(as_completed([watched], DEADLINE))).exception())
        looped = pool.submit(lambda: asyncio.run(_await(awaited)))
        assert until(lambda: store.url in hub._hubs and hub_of(store)._bell is not None)
        kill()
        errors = [one.exception(DEADLINE) for one in (blocked, touched, looped)]
        errors.append(collected.result(DEADLINE))
    assert until(lambda: told == [called])
    assert called.done()
    return [*errors, called.exception()]


def test_a_node_server_killed_while_all_wait() -> None:
    with NodeServer() as server, Store(f"{server.url}?timeout=1") as store:
        for error in _everyone_is_told(store, server.kill):
            assert isinstance(error, (ConnectorError, ObjectLost)), repr(error)


def test_a_redis_killed_while_all_wait() -> None:
    with RedisServer() as server, Store(f"{server.url}?timeout=2", name="killed") as store:
        for error in _everyone_is_told(store, server.kill):
            assert isinstance(error, ConnectorError), repr(error)


def test_what_could_not_be_waited_for_is_waited_for_anew() -> None:
    connector = FaultyConnector(MemoryConnector("anew"))
    with Store(connector) as store:
        future: Future[int] = Future(store)
        connector.cut()
        waiting = threading.Thread(target=lambda: [*as_completed([future], DEADLINE)])
        waiting.start()
        waiting.join(DEADLINE)
        assert not waiting.is_alive()
        assert future.done()
        assert isinstance(future.exception(), ConnectorError)
        assert not future.cancelled()
        with pytest.raises(ConnectorError, match="cut"):
            future.result()
        connector.mend()

        assert not future.done()
        threading.Timer(0.05, lambda: future.set_result(5)).start()
        assert future.result(DEADLINE) == 5
        store.clear()


def test_one_damaged_outcome_holds_up_no_other(tmp_path: Any) -> None:
    with Store(f"file://{tmp_path}/place") as store:
        damaged, sound = Future(store), Future(store)
        store.connector.put(_noise(), key=damaged.key)
        path = next(path for path in tmp_path.rglob(damaged.key.id))
        path.write_bytes(b"nothing that anybody wrote" * 10)
        threading.Timer(0.1, lambda: elsewhere(sound).set_result("fine")).start()
        outcomes = {one: one.exception() for one in as_completed([damaged, sound], DEADLINE)}
        assert isinstance(outcomes[damaged], IntegrityError)
        assert outcomes[sound] is None
        assert sound.result() == "fine"


def _noise() -> Any:
    from proxyfab.buffers import Frames

    return Frames([b"noise"])


def test_who_may_not_write_is_told_all_the_same() -> None:
    class ReadOnly(MemoryConnector):
        def put(self, *args: Any, **options: Any) -> Any:
            if options.get("ttl") == 60.0:  # the bell
                raise AccessDenied("This place may be read only.")
            return super().put(*args, **options)

    with Store(ReadOnly("readers")) as store:
        first, second = Future(store), Future(store)
        waiting = threading.Thread(target=lambda: [*as_completed([first], DEADLINE)])
        waiting.start()
        assert until(lambda: store.url in hub._hubs and hub_of(store)._bell is not None)
        done: list[float] = []
        second.add_done_callback(lambda _: done.append(time.monotonic()))
        third: Future[int] = Future(store)
        third.add_done_callback(lambda _: done.append(time.monotonic()))
        for one in (second, third, first):
            elsewhere(one).set_result(1)
        assert until(lambda: len(done) == 2)
        waiting.join(DEADLINE)
        assert not waiting.is_alive()
        store.clear()


def test_a_store_closed_while_somebody_waits(store: Store) -> None:
    future: Future[int] = Future(store)
    other = elsewhere(future)
    results: list[Any] = []
    waiting = threading.Thread(
        target=lambda: results.extend(one.exception() for one in as_completed([other], DEADLINE))
    )
    waiting.start()
    assert until(lambda: store.url in hub._hubs and hub_of(store)._bell is not None)
    with Store(f"shm://{store.connector.namespace}") as again:  # type: ignore[attr-defined]
        store.close()
        again.put(5, key=future.key)
        waiting.join(DEADLINE)
    assert results == [None]
    assert other.result() == 5


# -- the hub -----------------------------------------------------------------------------------------------------


def test_one_thread_serves_all_and_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_IDLE", 0.05)
    before = set(threading.enumerate())
    many = [Future(store) for _ in range(50)]
    for one in many:
        one.add_done_callback(lambda _: None)
    threads = [thread for thread in threading.enumerate() if thread.name == "proxyfab-futures" and thread not in before]
    assert len(threads) == 1
    assert threads[0].daemon
    for one in many:
        elsewhere(one).set_result(1)
    threads[0].join(DEADLINE)
    assert not threads[0].is_alive()
    assert hub_of(store)._thread is None

    again: Future[int] = Future(store)
    again.add_done_callback(lambda _: None)
    elsewhere(again).set_result(1)
    assert until(lambda: again._state == "FINISHED")


def test_who_comes_while_it_waits_is_told_promptly(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SLICE", 60.0)  # without the bell the test would be over
    never: Future[int] = Future(store)
    never.add_done_callback(lambda _: None)
    for _ in range(10):
        assert until(lambda: hub_of(store)._bell is not None)
        one: Future[int] = Future(store)
        told = threading.Event()
        one.add_done_callback(lambda _, told=told: told.set())
        elsewhere(one).set_result(1)
        assert told.wait(20)
    never.set_result(0)
    stats = [stat for stat in store.connector.scan() if stat.nbytes == 1]  # type: ignore[attr-defined]
    assert len(stats) <= 1, "bells do not pile up"


def test_what_nobody_wants_is_not_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SLICE", 0.02)
    future: Future[int] = Future(store)
    with pytest.raises(TimeoutError):
        [*as_completed([future], 0.05)]
    assert wait([future], 0.05).not_done
    gone = weakref.ref(future)
    del future
    assert until(lambda: gc.collect() is not None and gone() is None)


def test_a_result_goes_with_its_last_handle(store: Store) -> None:
    for wait_for in (
        lambda one: one.result(),
        lambda one: next(iter(as_completed([one]))).result(),
        lambda one: futures.wait([one]).done.pop().result(),
        lambda one: asyncio.run(_await(one)),
    ):
        future = Future(store, of=np.ndarray)
        elsewhere(future).set_result(np.ones(100_000))
        gc.collect()
        gc.disable()
        try:
            gone = weakref.ref(wait_for(future))
            assert gone() is not None
            del future
            assert until(lambda gone=gone: gone() is None), wait_for
        finally:
            gc.enable()


def test_a_bug_in_a_connector_leaves_nobody_waiting() -> None:
    class Broken(MemoryConnector):
        def wait_any(self, keys: Any, timeout: float | None = None) -> Any:
            raise RuntimeError("a bug")

    with Store(Broken("bug")) as store:
        future: Future[int] = Future(store)
        assert isinstance(next(futures.as_completed([future], DEADLINE)).exception(), RuntimeError)


def test_a_place_without_watching_says_so() -> None:
    class Blind(MemoryConnector):
        wait = None  # type: ignore[assignment]
        wait_any = None  # type: ignore[assignment]

    with Store(Blind("blind")) as store, pytest.raises(ProxyfabError, match="wait_any"):
        Future(store).result(1)


# -- ends of interpreters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["shm", "redis", "zmq"])
@pytest.mark.parametrize("how", ["end", "kill"])
def test_an_interpreter_that_ends_while_it_waits(
    place: str, how: str, redis_server: RedisServer, futures_node: NodeServer
) -> None:
    url = {"shm": "shm://", "redis": redis_server.database(), "zmq": futures_node.url}[place]
    with Store(url) as store:
        future: Future[int] = Future(store)
        with Child(roles.wait_and_leave, future, how) as child:
            assert child.receive() >= 4
            started = time.monotonic()
            child.send("leave")
            if how == "end":
                child.result()
            child.process.wait(DEADLINE)
            assert time.monotonic() - started < 5
            assert child._said() == ""
            assert child.process.returncode == (0 if how == "end" else -9)
        future.set_result(1)
        assert future.result() == 1
        store.clear()


SCRIPT = """
import atexit, threading
from proxyfab import Store
from proxyfab.patterns import Future, as_completed

store = Store()
futures = [Future(store) for _ in range(100)]
for future in futures:
    future.add_done_callback(lambda one: one.result())
threading.Thread(target=lambda: list(as_completed(futures)), daemon=True).start()
threading.Thread(target=lambda: [future.set_result(bytes(300_000)) for future in futures], daemon=True).start()
print("end")
"""


def test_an_interpreter_that_ends_amid_callbacks_says_nothing() -> None:
    for _ in range(5):
        ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.stdout, ended.stderr, ended.returncode) == ("end\n", "", 0)


def test_the_owner_of_an_unnamed_store_has_ended() -> None:
    with Store() as mine:
        future: Future[int] = Future(mine)
        spec = mine.connector.spec
    assert spec
    orphan = pickle.dumps(future)
    lone: Future[int] = pickle.loads(orphan)
    with pytest.raises(ResolveTimeout):
        lone.result(0.05)
    SharedMemoryConnector.from_url(spec).close()
