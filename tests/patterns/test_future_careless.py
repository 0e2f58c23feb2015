"""Futures in careless hands: odd exceptions and callbacks, readers who may only read, waits and leases without end."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxyfab import Store, resolve
from proxyfab.connectors import MemoryConnector
from proxyfab.errors import AccessDenied, ConfigurationError, ObjectLost, RemoteError, ResolveTimeout
from proxyfab.patterns import Future, as_completed, wait
from proxyfab.patterns.future import promise
from proxyfab.patterns.future.board import Board
from proxyfab.testing.processes import DEADLINE, until


def elsewhere(future: Future[Any]) -> Future[Any]:
    """Another handle of it, as another process has."""
    return pickle.loads(pickle.dumps(future))  # type: ignore[no-any-return]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store


# -- exceptions --------------------------------------------------------------------------------------------------


class Text(str):
    """Text that is not quite a str."""

    __slots__ = ()


class Oddly(Exception):
    """Says what it says in a class of its own; and does not pickle."""

    def __str__(self) -> str:
        return Text("odd")

    def __reduce__(self) -> Any:
        raise TypeError("never")


class Unreadable(Oddly):
    """With the name of a file that is no text, as the system has them."""

    def __str__(self) -> str:
        return "cannot open \udcff.dat"


@pytest.mark.parametrize(("error", "told"), [(Oddly(), ": odd"), (Unreadable(), "cannot open \\udcff.dat")])
def test_whatever_an_exception_says_crosses(store: Store, error: Exception, told: str) -> None:
    future: Future[Any] = Future(store)
    future.set_exception(error)
    with pytest.raises(RemoteError, match=re.escape(told)):
        elsewhere(future).result(0)


@pytest.mark.parametrize("form", [lambda future: future, lambda future: future.ref()])
def test_what_no_coroutine_can_raise_is_told(store: Store, form: Callable[[Future[Any]], Any]) -> None:
    future: Future[Any] = Future(store)
    future.set_exception(StopIteration(3))

    async def ask() -> Any:
        async with asyncio.timeout(DEADLINE):
            return await form(elsewhere(future))

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        asyncio.run(ask())
    assert isinstance(caught.value.__cause__, StopIteration)
    with pytest.raises(StopIteration):
        elsewhere(future).result(0)


def leave(future: Future[Any], end: BaseException) -> None:
    with future.promise():
        raise end


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_however_a_promised_block_is_left_the_future_fails(store: Store, end: BaseException) -> None:
    future: Future[Any] = Future(store, lease=5.0)
    with pytest.raises(type(end)):
        leave(future, end)
    with pytest.raises(type(end)):
        elsewhere(future).result(0)


# -- callbacks ---------------------------------------------------------------------------------------------------


def test_a_callback_that_wants_to_end_it_all_ends_nothing(store: Store) -> None:
    def bad(_: object) -> None:
        raise SystemExit(1)

    first, second = Future[int](store), Future[int](store)
    called: list[int] = []
    first.add_done_callback(bad)
    first.add_done_callback(lambda _: called.append(1))
    second.add_done_callback(lambda _: called.append(2))
    elsewhere(first).set_result(1)
    assert until(lambda: 1 in called)
    elsewhere(second).set_result(2)
    assert until(lambda: called == [1, 2])


# -- deadlines and leases ----------------------------------------------------------------------------------------


def test_a_deadline_that_has_passed_is_told_as_none(store: Store) -> None:
    with pytest.raises(ResolveTimeout, match="was not set within 0 s"):
        Future(store).result(-1)


def test_a_promise_may_be_for_ever(store: Store) -> None:
    future: Future[int] = Future(store, lease=float("inf"))
    other: Future[int] = Future(store, lease=0.3)
    with future.promise(), other.promise():
        assert elsewhere(future).ref().limit == 60
        before = Board(store.url, store).listen(other.key)
        assert until(lambda: Board(store.url, store).listen(other.key) != before), "its thread lives"
        with pytest.raises(ResolveTimeout):
            elsewhere(future).result(0.05)


def test_what_a_waiter_sets_for_the_dead_expires_as_the_result_would(store: Store) -> None:
    future: Future[int] = Future(store, lease=0.3, ttl=100.0)
    promise.Promise(future.board, future.key, 0.3, 100.0).beat()  # and never again
    with pytest.raises(ObjectLost):
        elsewhere(future).result(DEADLINE)
    stat = store.connector.stat(future.key)
    assert stat is not None
    assert stat.expires is not None
    assert 0 < stat.expires - time.time() <= 100


def test_who_was_stopped_himself_takes_nobody_for_dead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    future: Future[int] = Future(store, lease=1.0)
    now = time.monotonic()
    monkeypatch.setattr(promise, "time", Clock(times := iter([now, now + 0.4, now + 60.0, now + 60.4, now + 60.8])))
    listener = promise.Listener(future.board, future.key, 1.0)
    future.board.beat(future.key, b"1@here  0", 1.0)
    for _ in range(5):  # all were stopped for a minute, and who waits is the first to go on
        listener.listen()
    assert not future.done()
    assert list(times) == []
    future.board.hush(future.key)


class Clock:
    """Says what it is told to say."""

    def __init__(self, times: Iterator[float]) -> None:
        self._times = times

    def monotonic(self) -> float:
        return next(self._times)


def test_one_who_cannot_be_given_up_holds_up_no_other() -> None:
    class ReadOnly(MemoryConnector):
        closed = False

        def put(self, *args: Any, **options: Any) -> Any:
            if self.closed and threading.current_thread().name == "proxyfab-futures":
                raise AccessDenied("This place may be read only.")
            return super().put(*args, **options)

    with Store(ReadOnly("readers-with-leases")) as store:
        lost, other = Future[int](store, lease=0.2), Future[int](store)
        lost.board.beat(lost.key, b"1@gone  0", 0.2)
        ReadOnly.closed = True
        waiting = as_completed([elsewhere(lost), handle := elsewhere(other)], DEADLINE)
        first = next(waiting)
        assert isinstance(first.exception(), AccessDenied), "it is told why"
        other.set_result(1)
        assert next(waiting) is handle
        store.clear()


def test_nothing_is_its_own_result(store: Store) -> None:
    future: Future[Any] = Future(store)
    with pytest.raises(ValueError, match="proxy of itself"):
        elsewhere(future).set_result(future.proxy())
    future.set_result(1)
    assert elsewhere(future).result(0) == 1


# -- arguments that make no sense ------------------------------------------------------------------------------------


def test_a_wait_that_would_never_end_is_refused(store: Store) -> None:
    future: Future[int] = Future(store)
    never = float("nan")

    for waiting in (
        lambda: future.result(never),
        lambda: resolve(future.proxy(), timeout=never),
        lambda: wait([future], never),
        lambda: list(as_completed([future], never)),
        lambda: Future(store, timeout=never),
        lambda: store.connector.wait(future.key, never),
    ):
        with pytest.raises(ConfigurationError, match="not nan"):
            waiting()


@pytest.mark.parametrize("place", [None, "shm://"])
def test_what_is_no_store_is_refused_in_words(place: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs a Store"):
        Future(place)
