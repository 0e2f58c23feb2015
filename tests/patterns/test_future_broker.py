"""Futures whose completion is told at a broker: who shares nothing else can wait, set, and read back."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, InvalidStateError
from concurrent.futures import wait as wait_for_any
from pathlib import Path

import pytest

from proxyfab.brokers import open_broker
from proxyfab.errors import CapabilityError, ConfigurationError, ObjectLost, ResolveTimeout
from proxyfab.events.broker import Broker
from proxyfab.events.handle import broker_of
from proxyfab.events.model import Capability
from proxyfab.keys import Key
from proxyfab.patterns.future import Future, as_completed, wait
from proxyfab.patterns.future.brokered import BrokerBoard
from proxyfab.proxy import unwrap
from proxyfab.ref import ref_of
from proxyfab.store import Store
from proxyfab.testing.processes import until
from proxyfab.testing.servers import RedisServer

BIG = b"x" * 100_000


@pytest.fixture
def broker() -> Iterator[Broker]:
    with open_broker("memory://futures") as broker:
        yield broker


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/home", name="home") as store:
        yield store


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Store]:
    with Store(f"file://{tmp_path}/far", name="far") as store:
        yield store


@pytest.mark.parametrize("value", [None, 7, "text", BIG], ids=["none", "int", "text", "big"])
def test_a_result_comes_by_the_broker(store: Store, broker: Broker, value: object) -> None:
    future: Future[object] = Future(store, broker=broker)
    assert not future.done()
    there = pickle.loads(pickle.dumps(future))

    there.set_result(value)

    assert future.result(5) == value
    assert future.done()
    assert there.result(0) == value


def test_nothing_large_lies_at_the_broker_and_nothing_small_in_the_store(store: Store, broker: Broker) -> None:
    small, large = Future(store, broker=broker), Future(store, broker=broker)
    small.set_result(b"y" * 100)
    assert store.clear() == 0
    large.set_result(BIG)
    assert all(len(kept.value) < 1000 for kept in broker.state().items("futures/").values())
    assert store.clear() == 1


def test_a_waiter_is_told(store: Store, broker: Broker) -> None:
    future = Future(store, broker=broker)
    threading.Timer(0.1, future.set_result, [BIG]).start()
    assert pickle.loads(pickle.dumps(future)).result(10) == BIG


def test_who_sets_it_may_keep_it_elsewhere(store: Store, far: Store, broker: Broker) -> None:
    future = Future(store, broker=broker)
    future.set_result(BIG, store=far)
    assert store.clear() == 0
    again = pickle.loads(pickle.dumps(future))
    assert again.result(5) == BIG
    assert far.clear() == 1
    with pytest.raises(ConfigurationError, match="with a broker"):
        Future(store).set_result(1, store=far)


def test_its_proxy_can_be_sent_ahead(store: Store, far: Store, broker: Broker) -> None:
    future: Future[bytes] = Future(store, broker=broker)
    proxy = pickle.loads(pickle.dumps(future.proxy()))
    future.set_result(BIG, store=far)
    assert proxy == BIG
    passed_on = pickle.loads(pickle.dumps(proxy))
    assert ref_of(passed_on).url == far.url, "what has come is passed on as what it is, wherever it lies"
    assert unwrap(passed_on) == BIG


def test_a_changed_result_is_sent_as_a_new_object(store: Store, broker: Broker) -> None:
    future: Future[list[int]] = Future(store, broker=broker)
    future.set_result([1])
    proxy = future.proxy()
    proxy.append(2)
    assert pickle.loads(pickle.dumps(proxy)) == [1, 2]
    assert future.result() == [1]


def test_one_outcome_wins(store: Store, broker: Broker) -> None:
    future: Future[bytes] = Future(store, broker=broker)
    others = [pickle.loads(pickle.dumps(future)) for _ in range(8)]
    lost = []

    def set_it(each: Future[bytes], number: int) -> None:
        try:
            each.set_result(bytes([number]) * 10_000)
        except InvalidStateError:
            lost.append(number)

    threads = [threading.Thread(target=set_it, args=(each, number)) for number, each in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lost) == 7
    assert future.result(5)[0] not in lost
    assert store.clear() == 1, "what came too late is not left in the store"


def test_an_exception_and_a_cancellation(store: Store, broker: Broker) -> None:
    failed, cancelled = Future(store, broker=broker), Future(store, broker=broker)
    failed.set_exception(KeyError("it"))
    assert pickle.loads(pickle.dumps(cancelled)).cancel()
    with pytest.raises(KeyError, match="it"):
        pickle.loads(pickle.dumps(failed)).result(5)
    with pytest.raises(CancelledError):
        cancelled.result(5)
    assert cancelled.cancelled()


def test_groups_callbacks_and_await(store: Store, broker: Broker) -> None:
    futures = [Future(store, broker=broker) for _ in range(4)]
    told: list[int] = []
    futures[0].add_done_callback(lambda future: told.append(future.result()))
    threading.Timer(0.05, lambda: [future.set_result(n) for n, future in enumerate(futures)]).start()
    twins = [pickle.loads(pickle.dumps(future)) for future in futures]

    assert {future.result() for future in as_completed(twins, 10)} == {0, 1, 2, 3}
    assert not wait(futures, 10).not_done
    assert not wait_for_any(futures, 10).not_done
    assert until(lambda: told == [0], 10)

    async def get() -> object:
        return await pickle.loads(pickle.dumps(futures[3]))

    assert asyncio.run(get()) == 3


def test_a_deadline_and_who_restarts(store: Store, broker: Broker) -> None:
    future = Future(store, broker=broker, key="run-7/result")
    with pytest.raises(ResolveTimeout, match="run-7"):
        future.result(0.1)
    future.set_result("done")
    assert Future(store, broker=broker, key="run-7/result").result(1) == "done"


def test_a_death_fails_the_future(store: Store, broker: Broker) -> None:
    future = Future(store, broker=broker, lease=0.3)
    future.board.beat(future.key, b"1@elsewhere  0", 0.3)  # and never again
    with pytest.raises(ObjectLost, match="1@elsewhere"):
        pickle.loads(pickle.dumps(future)).result(20)


def test_an_outcome_can_be_deleted(store: Store, broker: Broker) -> None:
    future = Future(store, broker=broker)
    future.set_result(BIG)
    assert future.ref().exists()
    assert future.ref().evict()
    assert not future.ref().exists()
    assert store.clear() == 0


def test_a_broker_without_values_is_refused(store: Store, broker: Broker) -> None:
    class Bare(type(broker_of(broker))):  # type: ignore[misc]  # of whatever class it is
        capabilities = Capability.GROUPS

    with pytest.raises(CapabilityError, match="futures"):
        Future(store, broker=Bare("bare"))


def test_what_comes_after_its_broker_was_closed_leaves_no_connection_open(
    store: Store, redis_server: RedisServer
) -> None:
    """Who tidies up may be that late. A socket that it left open would be seen by what looks after each test."""
    with open_broker(redis_server.url) as broker:
        future: Future[int] = Future(store, broker=broker)
        future.set_result(7)
    board = BrokerBoard(store.url, broker, store)
    bell = Key.draw()
    board.ring(bell)
    assert board.wait(bell, 5)
    board.silence(bell)
    assert not board.wait(bell, 0)
    assert future.result(5) == 7
