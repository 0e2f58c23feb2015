"""Futures on every connector: set here or elsewhere, awaited here or elsewhere, written once."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import CancelledError, InvalidStateError, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from proxyfab import Key, Store, is_resolved, prefetch, ref_of, resolve
from proxyfab.errors import KeyNotFound, ProxyfabError, RemoteError, ResolveTimeout
from proxyfab.patterns import Future, as_completed, wait
from proxyfab.ref import Ref
from proxyfab.testing.processes import DEADLINE, Child, at_once, run, until
from tests.patterns import future_roles as roles


def elsewhere(future: Future[Any]) -> Future[Any]:
    """Another handle of it, as another process has."""
    return pickle.loads(pickle.dumps(future))  # type: ignore[no-any-return]


def soon(call: Callable[[], object]) -> threading.Timer:
    """Call it in a moment, when the others wait; nothing fails if they do not yet."""
    timer = threading.Timer(0.05, call)
    timer.start()
    return timer


def crosses(store: Store) -> None:
    if "memory://" in store.url:
        pytest.skip("memory:// does not claim crosses_processes")


# -- on every connector ------------------------------------------------------------------------------------------


def test_a_result_is_what_was_set_on_another_handle(anywhere: Store) -> None:
    for value in (None, True, [1, "two", b"three"], {"a": np.arange(100_000.0)}["a"]):
        future: Future[Any] = Future(anywhere)
        assert not future.done()
        assert not elsewhere(future).done()
        elsewhere(future).set_result(value)
        assert elsewhere(future).done()
        for one in (future, elsewhere(future)):
            np.testing.assert_equal(one.result(), value)
            assert one.exception() is None
            assert one.done()
            assert not one.cancelled()
            assert one.result() is one.result()


def test_who_waits_is_told(anywhere: Store) -> None:
    future: Future[Any] = Future(anywhere)
    called: list[Any] = []
    future.add_done_callback(lambda one: called.append(one.result()))
    waiters = [
        lambda: future.result(DEADLINE),
        lambda: elsewhere(future).result(DEADLINE),
        lambda: resolve(future.proxy()) and 5,
        lambda: future.ref().resolve(),
        lambda: next(iter(as_completed([elsewhere(future)], DEADLINE))).result(),
        lambda: wait([elsewhere(future)], DEADLINE).done.pop().result(),
        lambda: futures.wait([future], DEADLINE).done.pop().result(),
        lambda: asyncio.run(awaited(future)),
    ]

    async def awaited(one: Future[Any]) -> Any:
        results = await asyncio.gather(one, elsewhere(one), one.ref(), asyncio.wrap_future(elsewhere(one)))
        assert results == [5, 5, 5, 5]
        return results[0]

    *results, _ = at_once([*waiters, lambda: soon(lambda: elsewhere(future).set_result(5))])

    assert results == [5] * len(waiters)
    assert until(lambda: called == [5])


def test_another_process_sets_it(anywhere: Store) -> None:
    crosses(anywhere)
    future: Future[Any] = Future(anywhere)
    with Child(roles.set_when_told, future, list(range(1000))) as child:
        child.receive()
        child.send("now")
        assert sum(future.proxy()) == 499_500
        assert future.result(DEADLINE) == list(range(1000))
        child.result()


def test_another_process_waits_for_it(anywhere: Store) -> None:
    crosses(anywhere)
    future: Future[Any] = Future(anywhere)
    array = np.arange(50_000)
    with Child(roles.result_of, future) as waiting, Child(roles.touch, future.proxy()) as touching:
        waiting.receive()
        touching.receive()
        future.set_result(array)
        np.testing.assert_array_equal(waiting.result(), array)
        assert touching.result() == array.sum()


def test_another_process_collects_what_a_third_one_sets(anywhere: Store) -> None:
    crosses(anywhere)
    many = [Future(anywhere) for _ in range(30)]
    with Child(roles.collect, many) as collecting, Child(roles.set_all, many) as setting:
        collecting.receive()
        setting.receive()
        setting.send("now")
        assert sorted(collecting.result()) == list(range(30))
        setting.result()


EXCEPTIONS = ("ours", "cause", "unpicklable", "deceptive", "mute", "large", "local")


def test_every_exception_crosses(anywhere: Store) -> None:
    many: dict[str, Future[Any]] = {kind: Future(anywhere) for kind in EXCEPTIONS}
    if "memory://" in anywhere.url:
        roles.set_errors(None, {kind: elsewhere(one) for kind, one in many.items()})  # type: ignore[arg-type]
    else:
        run(roles.set_errors, many)

    for kind, future in many.items():
        assert_crossed(future, kind, safe="serializer=safe" in anywhere.url)


def assert_crossed(future: Future[Any], kind: str, *, safe: bool) -> None:
    error = future.exception(DEADLINE)
    assert error is not None
    with pytest.raises(type(error)):
        future.result()
    told = f"{error if kind != 'mute' or isinstance(error, RemoteError) else ''}\n{error.__cause__}"
    assert "in fail" in told, "the traceback of the process that raised it"
    whole = kind in ("ours", "cause", "large") or (kind in ("mute", "local") and not isinstance(error, RemoteError))
    if whole and not safe:
        assert isinstance(error.__cause__, RemoteError)
        if kind == "ours":
            assert isinstance(error, roles.Ours)
            assert error.code == 7
        if kind == "cause":
            assert "KeyError: 'missing'" in told
    else:
        assert isinstance(error, RemoteError)
        assert {"ours": "Ours", "cause": "ValueError", "large": "ValueError"}.get(kind, kind.title()) in str(error)

    assert future.exception() is error
    assert type(elsewhere(future).exception()) is type(error)
    with pytest.raises(type(error)):
        resolve(future.proxy())
    with pytest.raises(type(error)):
        asyncio.run(_await(elsewhere(future)))


async def _await(one: Any) -> Any:
    return await one


def test_cancelled_everywhere(anywhere: Store) -> None:
    future: Future[Any] = Future(anywhere)
    other = elsewhere(future)
    waiting = ThreadPoolExecutor(1)
    told = waiting.submit(other.exception, DEADLINE)
    soon(lambda: elsewhere(future).cancel())

    with pytest.raises(CancelledError):
        future.result(DEADLINE)
    with pytest.raises(CancelledError):
        told.result(DEADLINE)
    with pytest.raises(CancelledError):
        resolve(future.proxy())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_await(future))
    assert future.cancelled()
    assert elsewhere(future).cancelled()
    assert elsewhere(future).cancel()
    assert not elsewhere(future).set_running_or_notify_cancel()
    for again in (lambda: future.set_result(1), lambda: elsewhere(future).set_exception(ValueError())):
        with pytest.raises(InvalidStateError, match=future.key.id):
            again()
    waiting.shutdown()


def test_of_all_who_set_it_one_wins(anywhere: Store) -> None:
    many = [Future(anywhere) for _ in range(6)]
    names = "abcdefgh" if anywhere.url.startswith("shm://") and "serializer" not in anywhere.url else "abc"

    def work(name: str) -> list[Any]:
        return [roles._won(elsewhere(one), name, number) for number, one in enumerate(many)]

    if "memory://" in anywhere.url:
        won = at_once([lambda name=name: work(name) for name in names])
    else:
        children = [Child(roles.race, many, name) for name in names]
        for child in children:
            child.receive()
        for child in children:
            child.send("now")
        won = [child.result() for child in children]
        for child in children:
            child.__exit__(None, None, None)

    for number, future in enumerate(many):
        winners = [name for name, wins in zip(names, won, strict=True) if wins[number] is True]
        cancelled = any(wins[number] == "cancelled by us" for wins in won)
        assert len(winners) == (0 if cancelled else 1)
        if cancelled:
            assert future.cancelled()
        elif future.exception() is None:
            assert future.result() == winners[0]
        else:
            assert str(future.exception()).splitlines()[0].endswith(winners[0])


def test_what_is_never_set_is_told_in_time(anywhere: Store) -> None:
    future: Future[Any] = Future(anywhere, timeout=0.1)
    for use in (
        lambda: future.result(0.1),
        lambda: future.exception(0.1),
        lambda: future.proxy() + 1,
        lambda: future.ref()(),
        lambda: resolve(Future(anywhere).proxy(), timeout=0.1),
        lambda: asyncio.run(_await(future.ref())),
    ):
        started = time.monotonic()
        with pytest.raises(ResolveTimeout, match="not set within 0.1 s"):
            use()
        assert 0.09 < time.monotonic() - started < 5
    with pytest.raises(ResolveTimeout, match=re.escape(f"{future.key.id} in {anywhere.url.partition('?')[0]}")):
        future.result(0)
    with pytest.raises(TimeoutError):
        list(as_completed([future], 0.05))
    assert wait([future], 0.05).not_done == {future}
    assert not future.done()


def test_a_thousand_at_once(anywhere: Store) -> None:
    plain = anywhere.url.startswith(("memory:", "shm:", "redis:")) and "seal" not in anywhere.url
    count = 1000 if plain else 100
    many = [Future(anywhere) for _ in range(count)]

    def set_all() -> None:
        for number, one in enumerate(many):
            elsewhere(one).set_result(number)

    collected, setting = at_once([lambda: [one.result() for one in as_completed(many, 100)], set_all], timeout=100)

    assert setting is None
    assert sorted(collected) == list(range(count))
    done, pending = wait([elsewhere(one) for one in many], 0)
    assert (len(done), len(pending)) == (count, 0)


def test_a_result_expires(anywhere: Store) -> None:
    future: Future[Any] = Future(anywhere, ttl=0.2)
    other = elsewhere(future)
    other.set_result("soon gone")
    assert until(lambda: not anywhere.exists(future.key))
    with pytest.raises(KeyNotFound, match="expired"):
        other.result()
    with pytest.raises(ResolveTimeout):
        future.result(0.05)


# -- what needs one connector only -------------------------------------------------------------------------------


@pytest.fixture
def store() -> Any:
    with Store() as store:
        yield store
        store.clear()


def test_a_callback_is_called_once_and_what_it_raises_goes_no_further(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Any] = []

    def broken(_: object) -> None:
        called.append("broken")
        raise RuntimeError("mine")

    future: Future[int] = Future(store)
    future.add_done_callback(broken)
    future.add_done_callback(called.append)
    elsewhere(future).set_result(1)
    assert until(lambda: len(called) == 2)
    assert called == ["broken", future]
    assert "mine" in caplog.text
    future.add_done_callback(called.append)
    assert called == ["broken", future, future]
    assert future.result() == 1


def test_who_sets_it_calls_back_before_he_goes_on(store: Store) -> None:
    called: list[Any] = []
    for finish in (lambda f: f.set_result(1), lambda f: f.set_exception(ValueError()), lambda f: f.cancel()):
        future: Future[int] = Future(store)
        future.add_done_callback(called.append)
        finish(future)
        assert called.pop() is future


def test_who_sets_it_calls_back_also_where_it_was_seen_before_he_knew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    future: Future[int] = Future(store)
    called: list[int] = []
    future.add_done_callback(lambda _: called.append(threading.get_ident()))
    kind = type(future.board)
    announce = kind.announce

    def seen_at_once(*args: Any) -> None:
        announce(*args)
        future.tell(None)

    monkeypatch.setattr(kind, "announce", seen_at_once)
    future.set_result(1)
    assert called == [threading.get_ident()]


def test_a_callback_that_takes_long_holds_up_no_waiter(store: Store) -> None:
    slow: Future[int] = Future(store)
    begun, go_on = threading.Event(), threading.Event()
    slow.add_done_callback(lambda _: (begun.set(), go_on.wait(DEADLINE)))
    elsewhere(slow).set_result(1)
    assert begun.wait(DEADLINE)

    other: Future[int] = Future(store)
    soon(lambda: elsewhere(other).set_result(2))
    assert [one.result() for one in as_completed([other], DEADLINE)] == [2]
    assert asyncio.run(_await(elsewhere(other))) == 2
    go_on.set()


def test_a_callback_may_wait_for_another_future(store: Store) -> None:
    first, second = Future(store), Future(store)
    results: list[Any] = []
    first.add_done_callback(lambda one: results.append((one.result(), second.result(DEADLINE))))
    elsewhere(first).set_result(1)
    soon(lambda: elsewhere(second).set_result(2))
    assert until(lambda: results == [(1, 2)])


def test_mixed_with_the_futures_of_an_executor(store: Store) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        ours: Future[str] = Future(store)
        theirs = pool.submit(lambda: go_on.wait(DEADLINE) and "theirs")
        assert futures.wait([ours, theirs], 0.02).done == set()
        soon(lambda: elsewhere(ours).set_result("ours"))
        for one in (futures.wait, wait):
            done, pending = one([ours, theirs], DEADLINE, futures.FIRST_COMPLETED)
            assert (done, pending) == ({ours}, {theirs})
        go_on.set()
        assert {one.result() for one in as_completed([ours, theirs], DEADLINE)} == {"ours", "theirs"}


def test_the_first_exception_ends_a_wait_for_it(store: Store) -> None:
    failing, cancelled, pending = Future(store), Future(store), Future(store)
    soon(lambda: (elsewhere(cancelled).cancel(), elsewhere(failing).set_exception(ValueError("first"))))
    done, left = futures.wait([failing, cancelled, pending], DEADLINE, futures.FIRST_EXCEPTION)
    assert done >= {failing}
    assert pending in left


def test_a_cancelled_wait_leaves_the_future_alone(store: Store) -> None:
    future: Future[int] = Future(store)

    async def give_up() -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_await(future), 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await future
        assert not future.done()
        soon(lambda: elsewhere(future).set_result(3))
        return await future

    assert asyncio.run(give_up()) == 3


def test_a_closed_loop_is_not_rung(store: Store) -> None:
    future: Future[int] = Future(store)

    async def leave() -> None:
        task = asyncio.ensure_future(_await(future))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    elsewhere(future).set_result(1)
    assert future.result() == 1


def test_many_awaits_need_no_thread_each(store: Store) -> None:
    many = [Future(store) for _ in range(200)]
    before = threading.active_count()  # other tests' may idle still

    async def gather() -> list[Any]:
        gathering = asyncio.gather(*[elsewhere(one) for one in many], *[one.ref() for one in many])
        await asyncio.sleep(0.05)
        assert threading.active_count() < before + 20
        for number, one in enumerate(many):
            one.set_result(number)
        return await gathering

    assert asyncio.run(gather()) == [*range(200), *range(200)]


def test_a_proxy_of_what_is_not_there_yet(store: Store) -> None:
    future: Future[list[int]] = Future(store)
    proxy = future.proxy()
    sent = pickle.loads(pickle.dumps(proxy))
    assert len(pickle.dumps(proxy)) < 250
    assert not is_resolved(sent)
    assert ref_of(sent) == future.ref() == store.ref_from_key(future.key)
    soon(lambda: elsewhere(future).set_result([1, 2, 3]))

    assert isinstance(sent, list)  # which waits
    assert sent == [1, 2, 3]
    assert proxy + [4] == [1, 2, 3, 4]  # noqa: RUF005 - the operator of the proxy


def test_a_resolved_proxy_goes_on_as_a_plain_one(store: Store) -> None:
    future: Future[list[int]] = Future(store)
    future.set_result(list(range(5000)))
    proxy = future.proxy()
    assert len(proxy) == 5000
    again = pickle.loads(pickle.dumps(proxy))
    assert type(ref_of(again)) is Ref
    assert isinstance(again, list)
    assert not is_resolved(again)
    proxy.append(-1)
    changed = pickle.loads(pickle.dumps(proxy))
    assert changed[-1] == -1
    assert future.result()[-1] == 4999
    assert copy.deepcopy(again) == future.result()


def test_an_announced_type_is_known_without_waiting(store: Store) -> None:
    future = Future(store, of=np.ndarray)
    proxy = pickle.loads(pickle.dumps(future.proxy()))
    assert isinstance(proxy, np.ndarray)
    assert isinstance(elsewhere(future).proxy(), np.ndarray)
    assert not callable(proxy)
    assert not is_resolved(proxy)
    future.set_result(np.arange(3))
    assert (proxy + 1).tolist() == [1, 2, 3]


def test_singletons_come_inside_their_proxy(store: Store) -> None:
    future: Future[None] = Future(store)
    future.set_result(None)
    assert resolve(future.proxy()) is None
    assert future.result() is None
    flag: Future[bool] = Future(store)
    flag.set_result(False)
    assert not flag.proxy()


def test_a_result_that_is_a_proxy_stays_one(store: Store) -> None:
    target = store.proxy(np.arange(100_000))
    target = pickle.loads(pickle.dumps(target))
    future: Future[Any] = Future(store)
    future.set_result(target)
    assert not is_resolved(target), "the data stay where they are"
    result = elsewhere(future).result()
    assert not is_resolved(result)
    assert ref_of(result) == ref_of(target)
    assert future.proxy().sum() == 4_999_950_000


def test_a_future_of_a_future(store: Store) -> None:
    inner, outer = Future(store), Future(store)
    outer.set_result(inner)
    elsewhere(inner).set_result(7)
    assert outer.result().result() == 7


def test_a_large_result_is_not_copied_on_its_way_in(store: Store) -> None:
    array = np.ones(20_000_000 // 8)
    future: Future[Any] = Future(store)
    future.set_result(array)
    result = elsewhere(future).result()
    assert not result.flags.owndata
    assert not result.flags.writeable
    assert store.connector.stat(future.key).nbytes < array.nbytes + 4096  # type: ignore[union-attr]


def test_prefetched_ahead_of_its_time(store: Store) -> None:
    many = [Future(store) for _ in range(20)]
    proxies = [one.proxy() for one in many]
    prefetch(*proxies)
    ready = store.proxy(list(range(5000)))
    ready = pickle.loads(pickle.dumps(ready))
    prefetch(ready)  # is not held up by those that wait
    assert ref_of(ready)._ahead.result(DEADLINE) is not None  # type: ignore[union-attr]
    for number, one in enumerate(many):
        one.set_result(number)
    assert sum(proxies) == 190


def test_named_futures_need_not_be_sent(store: Store) -> None:
    one, other = Future(store, key="run-1"), Future(store, key=Key("run-1"))
    one.set_result("found")
    assert other.result(DEADLINE) == "found"


def test_a_result_that_cannot_be_stored_leaves_it_pending(store: Store) -> None:
    future: Future[Any] = Future(store)
    with pytest.raises(ProxyfabError):
        future.set_result(threading.Lock())
    assert not future.done()
    future.set_exception(TypeError("it could not be stored"))
    with pytest.raises(TypeError, match="could not"):
        elsewhere(future).result()


@pytest.mark.parametrize("wrong", [None, ValueError, "text"])
def test_only_exceptions_are_exceptions(store: Store, wrong: Any) -> None:
    with pytest.raises(TypeError, match="instance of an exception"):
        Future(store).set_exception(wrong)


def test_running_is_told_here_only(store: Store) -> None:
    future: Future[int] = Future(store)
    assert future.set_running_or_notify_cancel()
    assert future.running()
    assert not elsewhere(future).running()
    assert not future.cancel()
    with pytest.raises(InvalidStateError):
        future.set_running_or_notify_cancel()
    future.set_result(1)
    assert future.done()
    assert not future.running()


def test_what_has_gone_is_told_so(store: Store) -> None:
    future: Future[int] = Future(store)
    future.set_result(1)
    store.evict(future.key)
    with pytest.raises(KeyNotFound, match="was set"):
        future.result()
    assert future.exception() is None, "which is known, and was not asked for the data"
    assert future.done()


def test_it_says_what_it_is(store: Store) -> None:
    future: Future[int] = Future(store)
    assert future.key.id in repr(future)
    assert "pending" in repr(future)
    future.set_result(1)
    assert "finished" in repr(future)
    assert len(pickle.dumps(future)) < 250
