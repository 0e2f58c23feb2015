"""Lifetimes and leases: what is in one is gone when it is over, in order, by force, in a child, behind everybody."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Store, is_proxy, open_store, ref_of
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import (
    CapabilityError,
    ConfigurationError,
    ConnectorError,
    KeyNotFound,
    LifetimeEnded,
    SerializationError,
)
from proxyfab.patterns import Future, own, release
from proxyfab.patterns.holding import drain_of, keeper_of
from proxyfab.patterns.lifetime import Lease, Lifetime
from proxyfab.testing import Child, in_fork, until
from proxyfab.testing.faults import FaultyConnector
from proxyfab.testing.interrupts import Interrupt
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import at_once
from proxyfab.testing.servers import RedisServer

BIG = b"x" * 10_000
LEASE = 0.9
"""Seconds of a short lease; what it holds lapses after 1.35."""


@pytest.fixture(scope="module")
def node_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    with NodeServer(environment={"PROXYFAB_SHM_DIR": str(tmp_path_factory.mktemp("shared"))}) as server:
        yield server


@pytest.fixture(params=["memory", "file", "shm", "redis", "zmq"])
def place(request: pytest.FixtureRequest, redis_server: RedisServer, node_server: NodeServer, tmp_path: Path) -> str:
    """The URL of a place, to be given a name."""
    if request.param == "redis":
        return redis_server.database()
    if request.param == "zmq":
        return node_server.url
    return f"file://{tmp_path}" if request.param == "file" else f"{request.param}://"


@pytest.fixture
def store(place: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A named one, which outlives its process."""
    with Store(place, name=f"n{abs(hash(request.node.name))}") as store:
        yield store
    with Store(place, name=store.name) as again:
        again.clear()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}", name="kept") as store:
        yield store


# -- a block -------------------------------------------------------------------------------------------------------


def test_what_is_in_a_lifetime_ends_with_its_block(store: Store) -> None:
    with Lifetime(store) as life:
        proxy, key, ref = life.proxy(list(range(5000))), life.put(1), life.ref(BIG)
        many, keys = life.proxy_many([BIG, BIG, 7]), life.put_many([1, 2])
        assert len(life.keys) == 7
        assert proxy[3] == 3
        assert all(store.exists_many(life.keys))
        assert [*map(bytes, many[:2]), many[2]] == [BIG, BIG, 7]
        assert not any(ref_of(each).once for each in many)
    assert life.closed
    assert not any(store.exists_many([key, *keys, *(ref_of(each).key for each in (proxy, *many[:2]))]))  # type: ignore[list-item]
    with pytest.raises(KeyNotFound):
        ref.resolve()


def test_a_lifetime_ends_with_an_error_too_and_says_nothing_of_its_own(files: Store) -> None:
    with pytest.raises(ZeroDivisionError), Lifetime(files) as life:
        key = life.put(1)
        raise ZeroDivisionError
    assert not files.exists(key)


def test_lifetimes_nest(files: Store) -> None:
    with Lifetime(files) as outer:
        first = outer.put(1)
        with Lifetime(files) as inner:
            second, third = inner.put(2), inner.put(3)
            outer.add(third)
            inner.forget(third)
        assert files.exists_many([first, second, third]) == [True, False, True]
    assert files.exists_many([first, third]) == [False, False]


def test_an_object_in_a_lifetime_is_nobody_elses(files: Store) -> None:
    for lease in (None, 60.0):
        array = list(range(5000))
        other = files.ref(array)
        with Lifetime(files, lease=lease) as life:
            mine, again = life.ref(array), life.proxy(array)
            assert len({mine.key, other.key, ref_of(again).key}) == 3
        assert other.resolve() == array


def test_what_is_no_object_of_its_own_is_not_taken(files: Store) -> None:
    with Lifetime(files) as life:
        proxy = files.proxy(BIG)
        assert life.proxy(proxy) is proxy
        assert life.ref(proxy).key == ref_of(proxy).key
        assert life.proxy(None) is None
        assert life.ref(None).resolve() is None
        assert is_proxy(life.proxy("small"))
        assert life.keys == []
    assert proxy == BIG


def test_add_takes_keys_references_and_proxies_of_the_same_store(files: Store, tmp_path: Path) -> None:
    with Lifetime(files) as life:
        one, two, three, four = files.put(1), files.ref(BIG), files.proxy("y" * 9999), files.reserve()
        life.add(one, two, three, four, files.ref(1))
        life.add(str(one))
        assert life.keys == [one, two.key, ref_of(three).key, four]
        files.put("later", key=four)
        with Store(f"file://{tmp_path}", name="other") as other, pytest.raises(ConfigurationError, match="one store"):
            life.add(other.ref(BIG))
        with pytest.raises(ConfigurationError, match="no proxy"):
            life.add(3)
    assert not any(files.exists_many([one, four])), two.exists()


def test_what_is_forgotten_stays(store: Store) -> None:
    with Lifetime(store, lease=LEASE) as life:
        key, other = life.put(1), store.put(2)
        life.forget(key, other)
        stat = store.connector.stat(key)
        assert stat is not None
        assert stat.expires is None
    assert store.get_many([key, other]) == [1, 2]


def test_nothing_goes_into_what_is_over(files: Store) -> None:
    with Lifetime(files) as life:
        pass
    assert life.close() == 0
    for take in (life.put, life.proxy, life.ref, lambda x: life.add(files.put(x)), lambda _: life.__enter__()):
        with pytest.raises(LifetimeEnded, match="over"):
            take(BIG)


def test_what_makes_no_sense_is_refused(files: Store) -> None:
    for make in (lambda: Lifetime("shm://"), lambda: Lifetime(files, lease=0), lambda: Lease(files, -1)):  # type: ignore[arg-type, return-value]
        with pytest.raises(ConfigurationError):
            make()
    with pytest.raises(ConfigurationError, match="positive"):
        Lease(files, 5).extend(0)


@pytest.mark.parametrize("make", [Lifetime, lambda store: Lease(store, 5)])
def test_neither_pickles_nor_copies(make: Callable[[Store], Any], files: Store) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(SerializationError, match="belongs to the process"):
            attempt(make(files))


def test_a_put_that_races_with_the_end_is_either_held_or_refused(files: Store) -> None:
    for _ in range(20):
        life = Lifetime(files)
        results = at_once([partial(life.put, 1), partial(life.put_many, [2, 3]), life.close])
        life.close()
        assert all(
            isinstance(result, int | list | LifetimeEnded) or files.exists(result) is False for result in results
        )
    assert [stat.key for stat in files.connector.scan()] == []  # type: ignore[attr-defined]


# -- ends that fail, and other people's stores -----------------------------------------------------------------------


def test_a_store_that_is_closed_before_the_lifetime_is_opened_again(store: Store) -> None:
    with Lifetime(store) as life:
        key = life.put(1)
        store.close()
        second = life.put(2)
    with open_store(store.url) as again:
        assert again.exists_many([key, second]) == [False, False]


def test_an_end_that_fails_can_be_tried_again() -> None:
    connector = FaultyConnector(MemoryConnector())
    with Store(connector) as store:
        life = Lifetime(store, lease=None)
        key = life.put(1)
        connector.fail("evict_many", lambda: ConnectorError("cut"))
        with pytest.raises(ConnectorError, match="cut"), life:
            pass
        assert store.exists(key)
        assert life.close() == 1
        assert not store.exists(key)


def test_an_end_that_fails_behind_an_error_is_done_later() -> None:
    connector = FaultyConnector(MemoryConnector())
    with Store(connector) as store:
        with pytest.raises(ZeroDivisionError), Lifetime(store, lease=None) as life:
            key = life.put(1)
            connector.fail("evict_many", lambda: ConnectorError("cut"))
            raise ZeroDivisionError
        assert until(lambda: not store.exists(key))


def test_who_drops_a_lifetime_ends_it(store: Store) -> None:
    life = Lifetime(store)
    keys = life.put_many(range(20))
    keeper = keeper_of(store.url)
    kept = len(keeper.kept)
    del life
    gc.collect()
    assert drain_of(store.url).flush(5)
    assert not any(store.exists_many(keys))
    assert len(keeper.kept) <= kept
    assert not keeper.kept


def test_an_interrupt_in_exit_loses_nothing(files: Store) -> None:
    """At every instruction of `__exit__`: what is left is held, and is evicted when the lifetime is collected."""
    number, interrupt = 1, None
    while interrupt is None or interrupt.came:
        life = Lifetime(files)
        keys = life.put_many([1, 2])
        interrupt = Interrupt(number)
        interrupt.run(lambda life=life: life.__exit__(None, None, None))  # type: ignore[misc]
        del life
        if any(files.exists_many(keys)):
            gc.collect()
            assert drain_of(files.url).flush(5)
            assert not any(files.exists_many(keys)), interrupt.where
        number += 7
    assert number > 50


# -- children ------------------------------------------------------------------------------------------------------


def test_a_child_ends_its_own_and_leaves_its_parents_alone(files: Store) -> None:
    with Lifetime(files) as life:
        theirs = life.put(1)
        process = Lifetime.process(files)
        kept = process.put(2)

        def child() -> Any:
            assert life.keys == []
            with life:
                mine = life.put(3)
                assert Lifetime.process(files) is not process
            gc.collect()
            drain_of(files.url).flush(5)
            return mine

        mine = in_fork(child)
        assert files.exists_many([theirs, kept, mine]) == [True, True, False]
    assert not files.exists(theirs)
    assert files.exists(kept)
    process.close()


# -- the process ---------------------------------------------------------------------------------------------------


def hold_for_ever(talk: Any, url: str, name: str | None) -> None:
    store = Store(url, name=name, inline_below=0)
    life = Lifetime.process(store, lease=LEASE)
    assert life is Lifetime.process(store)
    talk.send(([ref_of(life.proxy(BIG)).key, *life.put_many([1, 2])], store.url))
    talk.recv()


def lost(store: Store, keys: list[Any], ended: bool) -> bool:
    """Whether they are gone; of an unnamed store on this machine somebody looks whether its process has ended."""
    if ended and store.connector.scheme in ("file", "shm"):
        store.connector.reap()  # type: ignore[attr-defined]
    return not any(store.exists_many(keys))


@pytest.mark.parametrize("end", ["in order", "killed"])
@pytest.mark.parametrize("name", ["kept", None])
def test_a_process_takes_what_is_its_along_however_it_ends(place: str, name: str | None, end: str) -> None:
    if place == "memory://":
        return
    with Store(place, name="watching") as watching, Child(hold_for_ever, place, name) as child:
        keys, url = child.receive()
        with Store(url.partition("#")[0]) as store:
            assert not until(lambda: not all(store.exists_many(keys)), 2 * LEASE), "it was not renewed"
            if end == "killed":
                child.kill()
            else:
                child.send("go")
                child.result()
            assert until(lambda: lost(store, keys, ended=end == "killed" and not name), 5 * LEASE)
        watching.connector.reap()  # type: ignore[attr-defined]


_HOLD = """
import sys, os, time
from proxyfab import Store
from proxyfab.patterns.lifetime import Lease, Lifetime
url, name, pid, blow, number = sys.argv[1], sys.argv[2] or None, *map(int, sys.argv[3:])
store = Store(url, name=name, inline_below=0)
lives = [Lifetime(store) for _ in range(number)]
proxies = [life.proxy(number) for number, life in enumerate(lives)]
lease = Lease(store, 3600)
lease.put_many(range(10))
if blow:
    os.kill(pid, blow)
print(time.monotonic(), flush=True)
"""


def seconds_to_exit(url: str, name: str, number: int, pid: int = 0, blow: int = 0) -> float:
    command = [sys.executable, "-W", "error", "-c", _HOLD, url, name, str(pid), str(blow), str(number)]
    done = subprocess.run(command, capture_output=True, timeout=100, check=True)
    took = time.monotonic() - float(done.stdout)
    assert done.stderr == b""
    return took


def test_a_lease_does_not_keep_the_interpreter_alive(files: Store) -> None:
    """Neither do the lifetimes, whose objects are gone then; the lease's are there until it ends."""
    assert seconds_to_exit(files.connector.spec.partition("?")[0], "kept", 30) < 3.5
    assert len(list(files.connector.scan())) == 10  # type: ignore[attr-defined]


@pytest.mark.parametrize("blow", ["SIGSTOP", "SIGKILL"])
@pytest.mark.parametrize("place", [RedisServer, NodeServer])
def test_many_lifetimes_and_a_dead_server_do_not_hold_up_the_end(
    place: type[RedisServer | NodeServer], blow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path))
    with place() as server:
        pid = server.pid
        took = seconds_to_exit(server.url, "kept", 1000, pid, signal.Signals[blow])
        if blow == "SIGSTOP":
            os.kill(pid, signal.SIGCONT)
        else:
            server.kill()
    assert took < 6, "two seconds of waiting, and the end of an interpreter"


# -- leases --------------------------------------------------------------------------------------------------------


def test_a_lease_ends_by_itself(store: Store) -> None:
    lease = Lease(store, LEASE)
    key, proxy = lease.put(1), lease.proxy(BIG)
    assert 0 < lease.remaining <= LEASE
    assert store.get(key) == 1
    assert until(lambda: not store.exists(key))
    assert until(lambda: lease.closed)
    assert until(lambda: not ref_of(proxy).exists())
    assert lease.remaining == 0
    for late in (lambda: lease.extend(5), lambda: lease.put(1), lambda: lease.add(store.put(1))):
        with pytest.raises(LifetimeEnded, match=r"ended \d+\.\d s ago.*gone"):
            late()
    lease.close()


def test_a_lease_lasts_as_long_as_it_is_extended_and_no_longer(store: Store) -> None:
    lease = Lease(store, LEASE)
    keys = lease.put_many(range(5))
    assert lease.extend(LEASE) > LEASE
    store.evict(keys[0])
    late = store.put("added")
    lease.add(late)
    assert not until(lambda: lease.remaining < LEASE / 3, LEASE), "it was to last"
    assert all(store.exists_many([*keys[1:], late]))
    assert lease.extend(0.1) > 0
    assert keys[0] not in lease.keys
    assert until(lambda: not any(store.exists_many([*keys, late])), 3 * LEASE)


def test_a_lease_can_be_ended_early(store: Store) -> None:
    with Lease(store, 3600) as lease:
        key = lease.put(1)
    assert not store.exists(key)
    assert lease.remaining == 0
    with pytest.raises(LifetimeEnded, match="over"):
        lease.extend(1)


def test_nobody_who_drops_a_lease_ends_it(files: Store) -> None:
    key = Lease(files, 3600).put(1)
    gc.collect()
    drain_of(files.url).flush(1)
    assert files.exists(key)


def test_threads_that_extend_a_lease_add_up(files: Store) -> None:
    lease = Lease(files, 10)
    results = at_once([lambda: lease.extend(10)] * 4 + [lambda: lease.put(1)] * 4)
    assert 49 < lease.remaining <= 50
    assert not [result for result in results if isinstance(result, BaseException)]
    assert all((files.connector.stat(key).expires or 0) > time.time() + 45 for key in lease.keys)  # type: ignore[union-attr]


def test_an_extension_that_fails_moves_nothing() -> None:
    connector = FaultyConnector(MemoryConnector())
    with Store(connector) as store:
        lease = Lease(store, 10)
        lease.put(1)
        connector.fail("renew_many", lambda: ConnectorError("cut"))
        with pytest.raises(ConnectorError, match="cut"):
            lease.extend(100)
        assert lease.remaining <= 10
        assert lease.extend(10) > 10


def test_a_clock_that_is_set_ends_nothing(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(redis_server.database(), name="kept") as store, Lifetime(store, lease=LEASE) as life:
        lease = Lease(store, 30)
        keys = [lease.put(1), life.put(2)]
        real = time.time
        for jump in (86_400.0, -86_400.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            assert 25 < lease.remaining <= 31
            lease.extend(0.5)
            keys += [lease.put(3), life.put(4)]
            assert not until(lambda keys=list(keys): not all(store.exists_many(keys)), 0.8 * LEASE)
        monkeypatch.undo()
        lease.close()


class NoLease:
    """A connector that cannot move an expiry."""

    def __init__(self) -> None:
        self._inner = MemoryConnector()

    renew = None
    renew_many = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_connector_that_cannot_move_an_expiry(files: Store) -> None:
    """Lifetimes do without, and a lease is as long as it was said to be."""
    store = Store(NoLease())  # type: ignore[arg-type]
    with Lifetime(store) as life:
        key = life.put(1)
        life.add(store.put(2))
    assert not store.exists(key)
    lease = Lease(store, 10)
    lease.put(1)
    with pytest.raises(CapabilityError, match="no expiry that could be moved"):
        lease.extend(1)
    with pytest.raises(CapabilityError, match="no expiry that could be moved"):
        lease.add(store.put(1))
    lease.close()


def test_who_keeps_something_takes_back_what_expired(
    files: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, where it is only hidden; by lifetimes as by owners."""
    monkeypatch.setattr("proxyfab.patterns.holding._REAP_EVERY", 0.1)

    def lie() -> int:
        return sum(path.is_file() for path in (tmp_path / "kept").rglob("[0-9a-f][0-9a-f]/*"))

    files.put(BIG, ttl=0.2)
    with Lifetime(files, lease=LEASE) as life:
        life.put(1)
        assert lie() == 2
        assert until(lambda: lie() == 1)
    files.put(BIG, ttl=0.2)
    mine = own(files, BIG, lease=LEASE)
    assert lie() == 4, "the object, its record, a sign of life and what expires"
    assert until(lambda: lie() == 3)
    release(mine)


def test_a_time_to_live_is_kept_by_whatever_stores(tmp_path: Path) -> None:
    """Also by those made of others, and by each way to store."""
    files = f"file://{tmp_path}"
    for url in (
        files,
        f"lz4+{files}",
        f"routed://?to={files}/a&to={files}/b",
        f"tiers://?to=memory://&to={files}/c",
        f"bounded://?limit=1MB&fast=memory://&slow={files}/d",
    ):
        with Store(url, inline_below=0) as store:
            keys = [
                store.put(1, ttl=60),
                *store.put_many([1, 2], ttl=60),
                store.ref(BIG, ttl=60).key,
                ref_of(store.proxy(BIG, ttl=60)).key,
                *[ref_of(proxy).key for proxy in store.proxy_many([BIG, "x"], ttl=60)],
                asyncio.run(store.aput(1, ttl=60)),
                ref_of(asyncio.run(store.aproxy(BIG, ttl=60))).key,
            ]
            future = Future[int](store, ttl=60)
            future.set_result(1)
            for key in [*keys, future.key]:
                stat = store.connector.stat(key)  # type: ignore[arg-type]  # all are stored
                assert stat is not None
                assert stat.expires == pytest.approx(time.time() + 60, abs=10), url


def test_no_thread_is_left_when_nothing_is_held(files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyfab.exit._IDLE", 0.05)

    def threads() -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return [name for name in names if name.endswith(("-keeper", "-evicting"))]

    assert until(lambda: not threads(), 15)
    with Lifetime(files) as life:
        life.put(1)
        assert len(threads()) == 2
    assert until(lambda: not threads(), 15)
