"""ProxyExecutor: any executor's behaviour, with references for what is large; nothing is lost, and nothing stays."""

from __future__ import annotations

import copyreg
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from proxyfab import Store, is_proxy, is_resolved, open_store, ref_of, unwrap
from proxyfab.errors import BorrowError, ConfigurationError, ConnectorError, RemoteError, SerializationError
from proxyfab.patterns import ByRef, ByValue, ProxyExecutor, proxied
from proxyfab.patterns.ownership import borrow, borrow_mut, own, release
from proxyfab.testing import until
from proxyfab.testing.content import held
from proxyfab.testing.servers import RedisServer

BIG = np.arange(50_000.0)
SMALL = np.arange(3.0)
LEASE = 2.0
FORK = get_context("fork")


@pytest.fixture
def store(shared_memory_root: Path) -> Iterator[Store]:
    with Store(name="test-executor") as opened:
        yield opened
        opened.clear()


def pool(workers: int = 1) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, FORK)


@pytest.fixture
def executor(store: Store) -> Iterator[ProxyExecutor]:
    with ProxyExecutor(pool(), store, above="10 KB") as made:
        yield made


@pytest.fixture
def _no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frameworks that have been imported here may teach all exceptions to be pickled (tblib does)."""
    for kind, reduced in list(copyreg.dispatch_table.items()):
        if reduced.__module__.startswith("tblib"):
            monkeypatch.delitem(copyreg.dispatch_table, kind)


def empty(store: Store) -> None:
    """Wait until nothing is left."""
    gc.collect()
    assert until(lambda: held(store) == 0, 10)


# -- what tasks do -----------------------------------------------------------------------------------------------------


def nothing(*_: Any, **__: Any) -> None: ...


def seen(*args: Any, **kwargs: Any) -> list[Any]:
    return [(is_proxy(value), is_resolved(value)) for value in (*args, *kwargs.values())]


def double(x: Any) -> Any:
    return x * 2


def first(x: Any, *_: Any) -> float:
    return float(x[0])


def total(parts: Any) -> float:
    return float(sum(part.sum() for part in parts))


def kinds(*args: Any) -> list[str]:
    return [type(value).__name__ for value in args]


def two(x: Any) -> dict[str, Any]:
    return {"twice": x * 2, "one": 1}


def wishful(a: Annotated[int, ByRef], b: Annotated[Any, ByValue]) -> Annotated[Any, ByValue]:
    return is_proxy(a), is_proxy(b), BIG


@proxied("memory://", above="10 KB")
def decorated(x: Any) -> Any:
    return x * 2


def fail(error: BaseException) -> None:
    raise error


class Odd(Exception):
    """Cannot be unpickled: its __init__ takes more than its args."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Locked(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def raise_odd(*_: Any) -> None:
    raise Odd(7, "odd")


def raise_locked(*_: Any) -> None:
    raise Locked


def raise_because(*_: Any) -> None:
    try:
        raise Odd(7, "odd")
    except Odd as error:
        raise KeyError("because") from error


class Thing:
    def method(self, x: Any) -> Any:
        return x


def wait_for(path: str, *_: Any) -> str:
    assert until(lambda: os.path.exists(path), 30)
    return path


def kill_once(path: str, x: Any) -> float:
    """Dies at the first attempt."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return float(x.sum())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Fatal:
    def __reduce__(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def answer_and_die(x: Any) -> Any:
    """Dies while its result is sent, when the large part has been stored."""
    return [x * 2, Fatal()]


# -- by reference ------------------------------------------------------------------------------------------------------


def test_large_arguments_and_results_go_by_reference(executor: ProxyExecutor, store: Store) -> None:
    assert executor.submit(seen, BIG, SMALL, 1, x=BIG).result(30) == [
        (True, False),
        (False, True),
        (False, True),
        (True, False),
    ]
    result = executor.submit(double, BIG).result(30)

    assert is_proxy(result)
    assert not is_resolved(result)
    assert np.array_equal(result, BIG * 2)
    assert type(executor.submit(double, SMALL).result(30)) is np.ndarray


def test_containers_are_searched_both_ways(executor: ProxyExecutor) -> None:
    assert executor.submit(total, [BIG, SMALL]).result(30) == BIG.sum() + 3
    result = executor.submit(two, BIG).result(30)

    assert [type(result), is_proxy(result["twice"]), result["one"]] == [dict, True, 1]


def test_what_tasks_share_is_stored_once(executor: ProxyExecutor, store: Store) -> None:
    futures = [executor.submit(first, BIG, number) for number in range(20)]

    assert [future.result(30) for future in futures] == [0.0] * 20
    assert store.stats()["put"]["count"] == 1
    empty(store)


def test_what_was_changed_between_two_tasks_is_two_objects(
    executor: ProxyExecutor, store: Store, tmp_path: Path
) -> None:
    array = np.zeros(50_000)
    before = executor.submit(first, array)
    assert before.result(30) == 0
    blocked = executor.submit(wait_for, str(tmp_path / "go"), array)  # keeps the first one stored
    assert until(lambda: held(store) == 1, 10)

    array[0] = 1
    after = executor.submit(first, array)
    (tmp_path / "go").touch()

    assert after.result(30) == 1
    blocked.result(30)
    empty(store)


def same(x: Any, y: Any, *others: Any) -> bool:
    return all(each is x for each in (y, *(part for other in others for part in other)))


def pair(x: Any) -> list[Any]:
    twice = x * 2
    return [twice, twice]


@pytest.mark.parametrize("lazy", [True, False])
def test_what_stands_in_several_places_of_a_call_is_one_object_there_and_in_the_store(lazy: bool, store: Store) -> None:
    with ProxyExecutor(pool(), store, above="10 KB", lazy=lazy) as executor:
        mine, owned, decorated = store.proxy(BIG + 1), own(store, BIG + 2), proxied(store, above="10 KB")(double)(BIG)
        for value in (BIG, mine, owned, decorated):
            assert executor.submit(same, value, value, [value, value]).result(30)
        assert list(executor.map(same, [BIG] * 3, [BIG] * 3, chunksize=3)) == [True] * 3
        release(owned)

        mine = decorated = None
        store.clear()
        result = executor.submit(pair, BIG).result(30)

        assert result[0] is result[1]
        gc.collect()
        assert until(lambda: held(store) == 1, 10)


def test_inputs_go_when_the_future_is_done(executor: ProxyExecutor, store: Store, tmp_path: Path) -> None:
    future = executor.submit(wait_for, str(tmp_path / "go"), BIG)
    assert until(lambda: held(store) == 1, 10)

    (tmp_path / "go").touch()

    assert future.result(30)
    empty(store)


def test_what_the_user_stored_is_not_the_executors_to_evict(executor: ProxyExecutor, store: Store) -> None:
    mine = store.proxy(BIG)

    executor.submit(first, BIG).result(30)
    executor.submit(first, mine).result(30)
    assert until(lambda: held(store) == 1, 10)

    assert ref_of(mine).exists()


def test_a_result_lives_as_long_as_its_future_or_its_proxy(executor: ProxyExecutor, store: Store) -> None:
    future = executor.submit(double, BIG)
    proxy = future.result(30)
    del future
    gc.collect()
    assert proxy[1] == 2
    assert until(lambda: held(store) == 1, 10)

    del proxy

    empty(store)


def test_a_result_that_is_handed_on_lives_until_that_task_is_done(executor: ProxyExecutor, store: Store) -> None:
    chain: Any = BIG
    for _ in range(5):
        chain = executor.submit(double, chain).result(30)
    answer = executor.submit(total, [executor.submit(double, BIG).result(30), chain])
    del chain

    assert answer.result(30) == BIG.sum() * 34
    empty(store)


def test_a_result_may_be_sent_to_others(executor: ProxyExecutor, store: Store) -> None:
    result = executor.submit(double, BIG).result(30)

    copy = pickle.loads(pickle.dumps(result))

    assert np.array_equal(copy, BIG * 2)
    assert ref_of(copy) == ref_of(result)


def test_a_result_that_is_delivered_twice_is_evicted_once_nobody_has_it(store: Store) -> None:
    with ProxyExecutor(_Remembering(), store, above="10 KB") as executor:
        executor.submit(double, BIG)
        message = executor.executor.sent[0]  # type: ignore[attr-defined]
        one, other = pickle.loads(message), pickle.loads(message)
        del one
        gc.collect()

        assert np.array_equal(other, BIG * 2)
        del other
        empty(store)


class _Remembering(Executor):
    """Runs tasks as if in another process: what goes in and comes out was pickled."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call = pickle.loads(pickle.dumps(fn))
        done: Future[Any] = Future()
        self.sent.append(pickle.dumps(call(*args, **kwargs)))
        done.set_result(None)
        return done


def test_a_process_on_the_way_passes_a_result_on_and_owns_nothing(store: Store) -> None:
    with ProxyExecutor(_Remembering(), store, above="10 KB") as executor:
        executor.submit(double, BIG)
        message = executor.executor.sent[0]  # type: ignore[attr-defined]
        passed = subprocess.run(
            [sys.executable, "-c", _PASS_ON], input=message, capture_output=True, check=True, timeout=60
        ).stdout

        assert held(store) == 1
        result = pickle.loads(passed)
        assert np.array_equal(result, BIG * 2)
        del result
        empty(store)


_PASS_ON = """
import pickle, sys
result = pickle.loads(sys.stdin.buffer.read())
assert result[1] == 2
from proxyfab import ref_of
assert ref_of(result).exists()
sys.stdout.buffer.write(pickle.dumps(result))
"""


# -- map ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 2, 100])
def test_map_takes_elements(executor: ProxyExecutor, store: Store, chunksize: int) -> None:
    images = [BIG, BIG + 1, BIG, SMALL, BIG + 2]

    found = list(executor.map(seen, images, range(5), chunksize=chunksize))
    numbers = list(executor.map(first, images, chunksize=chunksize))

    assert [pair[0][0] for pair in found] == [True, True, True, False, True]
    assert numbers == [0, 1, 0, 0, 2]
    empty(store)


def test_map_stores_what_is_shared_once(executor: ProxyExecutor, store: Store) -> None:
    assert list(executor.map(first, [BIG] * 20)) == [0.0] * 20
    assert store.stats()["put"]["count"] == 1


def test_map_of_nothing_and_of_unequal_lengths(executor: ProxyExecutor) -> None:
    assert list(executor.map(double, [])) == []
    assert list(executor.map(first, [SMALL, SMALL], [1])) == [0.0]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(double, [1], chunksize=0)


def test_map_has_a_deadline(executor: ProxyExecutor, store: Store, tmp_path: Path) -> None:
    results = executor.map(wait_for, [str(tmp_path / "go")], [BIG], timeout=0.2)

    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()
    empty(store)


def test_map_that_is_left_cancels_what_has_not_begun(executor: ProxyExecutor, store: Store, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    results = executor.map(wait_for, [str(tmp_path), *[go] * 20], [BIG + n for n in range(21)])
    assert next(results) == str(tmp_path)

    results.close()  # type: ignore[attr-defined]
    (tmp_path / "go").touch()

    empty(store)
    assert store.stats()["put"]["count"] < 10


def test_an_error_in_map_comes_where_it_happened(executor: ProxyExecutor) -> None:
    results = executor.map(fail, [KeyError("a"), KeyError("b")])

    with pytest.raises(KeyError, match="a"):
        next(results)


# -- errors and ends ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_help")
def test_exceptions_cross_whatever_they_are(executor: ProxyExecutor, store: Store) -> None:
    with pytest.raises(KeyError, match="mine") as plain:
        executor.submit(fail, KeyError("mine")).result(30)
    with pytest.raises(RemoteError, match=r"Odd: odd\n(.|\n)*raise_odd"):
        executor.submit(raise_odd, BIG).result(30)
    with pytest.raises(RemoteError, match="Locked: locked") as locked:
        executor.submit(raise_locked).result(30)
    with pytest.raises(KeyError, match="because"):
        executor.submit(raise_because).result(30)

    assert "fail" in str(plain.value.__cause__)
    assert "raise_locked" in str(locked.value)
    assert executor.submit(first, SMALL).result(30) == 0, "the pool works on"
    empty(store)


def test_what_cannot_be_stored_is_the_futures_error(executor: ProxyExecutor) -> None:
    class Holder:
        def __init__(self) -> None:
            self.data = BIG

        def __reduce__(self) -> Any:
            raise TypeError("never")

    with pytest.raises(SerializationError, match="never"):
        executor.submit(nothing, Holder()).result(30)
    assert executor.submit(first, SMALL).result(30) == 0


def test_a_cancelled_task_stores_nothing(executor: ProxyExecutor, store: Store, tmp_path: Path) -> None:
    blockers = [executor.submit(wait_for, str(tmp_path / "go")) for _ in range(4)]
    future = executor.submit(first, BIG)

    assert future.cancel()
    (tmp_path / "go").touch()

    with pytest.raises(CancelledError):
        future.result(30)
    assert [blocker.result(30) for blocker in blockers]
    assert "put" not in store.stats()


def test_shutting_down_waits_or_cancels(store: Store, tmp_path: Path) -> None:
    executor = ProxyExecutor(pool(), store, above="10 KB")
    futures = [executor.submit(wait_for, str(tmp_path / "go"), BIG + n) for n in range(8)]
    assert until(lambda: held(store) > 0, 10)
    threading.Timer(0.2, (tmp_path / "go").touch).start()

    executor.shutdown(cancel_futures=True)

    assert futures[0].result() == str(tmp_path / "go")
    assert futures[-1].cancelled()
    assert held(store) == 0
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(first, BIG)
    assert held(store) == 0


def test_shutting_down_without_waiting_lets_tasks_end(store: Store) -> None:
    executor = ProxyExecutor(pool(), store, above="10 KB")
    future = executor.submit(double, BIG)

    executor.shutdown(wait=False)

    assert np.array_equal(future.result(30), BIG * 2)
    executor.executor.shutdown()


def test_results_outlive_the_executor(store: Store) -> None:
    with ProxyExecutor(pool(), store, above="10 KB") as executor:
        future = executor.submit(double, BIG)
    del executor
    gc.collect()

    result = future.result()
    assert np.array_equal(result, BIG * 2)
    del future, result
    empty(store)


def test_results_outlive_an_executor_that_nobody_has_any_more(store: Store, tmp_path: Path) -> None:
    inner = pool()
    executor = ProxyExecutor(inner, store, above="10 KB")
    blocked = executor.submit(wait_for, str(tmp_path / "go"))
    future = executor.submit(double, BIG)
    del executor
    gc.collect()
    (tmp_path / "go").touch()

    assert blocked.result(30)
    assert np.array_equal(future.result(30), BIG * 2)
    del future
    empty(store)
    inner.shutdown()


def test_a_method_is_not_remembered_and_its_object_is_let_go(executor: ProxyExecutor) -> None:
    thing = Thing()
    gone = weakref.ref(thing)

    assert executor.submit(thing.method, 5).result(30) == 5
    del thing
    gc.collect()

    assert until(lambda: gone() is None, 10)


def test_a_closed_store_is_told_where_something_is_large() -> None:
    store = Store()
    with ProxyExecutor(pool(), store, above="10 KB") as executor:
        store.close()

        assert executor.submit(first, SMALL).result(30) == 0
        with pytest.raises(ConnectorError, match="closed"):
            executor.submit(first, BIG)


def test_arguments_that_make_no_sense(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="submit"):
        ProxyExecutor(5, store)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(ConfigurationError, match="lease"):
            ProxyExecutor(threads, store, lease=0)
        with pytest.raises(ConfigurationError):
            ProxyExecutor(threads, store, above="large")
        with pytest.raises(ConfigurationError, match="'None' is not"):
            ProxyExecutor(threads, None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_no_help")
def test_no_cause_that_cannot_be_unpickled_travels_along(store: Store) -> None:
    with ProxyExecutor(_Remembering(), store, above="10 KB") as executor:
        for function in (raise_odd, raise_because):
            with pytest.raises((RemoteError, KeyError)) as caught:
                executor.submit(function)
            link: BaseException | None = caught.value
            while link is not None:
                pickle.loads(pickle.dumps(link))
                link = link.__cause__ or link.__context__


# -- killed ------------------------------------------------------------------------------------------------------------


def test_a_task_whose_worker_was_killed_finds_its_input_again(store: Store, tmp_path: Path) -> None:
    flag = str(tmp_path / "killed")
    result = ProxyExecutor(pool(), store, above="10 KB").submit(double, BIG).result(30)
    with ProxyExecutor(pool(), store, above="10 KB") as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(kill_once, flag, result).result(30)
    with ProxyExecutor(pool(), store, above="10 KB") as executor:
        assert executor.submit(kill_once, flag, result).result(30) == BIG.sum() * 2
        assert executor.submit(kill_once, flag, BIG).result(30) == BIG.sum()

    del result
    empty(store)


def test_what_a_killed_worker_answered_and_nobody_got_lapses(store: Store) -> None:
    with ProxyExecutor(pool(), store, above="10 KB", lease=LEASE) as executor:
        with pytest.raises(BrokenProcessPool):
            executor.submit(answer_and_die, BIG).result(30)
        assert until(lambda: held(store) == 0, 20)


def test_inputs_and_results_outlive_many_leases(store: Store, tmp_path: Path) -> None:
    with ProxyExecutor(pool(2), store, above="10 KB", lease=LEASE) as executor:
        result = executor.submit(double, BIG).result(30)
        assert until(lambda: held(store) == 1, 10)
        blocked = executor.submit(wait_for, str(tmp_path / "go"), BIG)
        assert until(lambda: held(store) == 2, 10)
        began = time.monotonic()

        assert until(lambda: time.monotonic() > began + 3 * LEASE or held(store) != 2, 20)

        assert held(store) == 2
        assert np.array_equal(pickle.loads(pickle.dumps(result)), BIG * 2)
        (tmp_path / "go").touch()
        blocked.result(30)
        del result
        empty(store)


# -- threads, options, ownership ---------------------------------------------------------------------------------------


def test_threads_are_given_what_is_there_and_nothing_is_stored(store: Store) -> None:
    with ProxyExecutor(ThreadPoolExecutor(2), store, above="10 KB") as executor:
        assert executor.submit(seen, BIG, SMALL).result(30) == [(True, True), (False, True)]
        result = executor.submit(double, BIG).result(30)
        assert [is_proxy(result), is_resolved(result)] == [True, True]
        assert list(executor.map(first, [BIG, BIG + 1], chunksize=2)) == [0, 1]
        with pytest.raises(Locked):
            executor.submit(raise_locked).result(30)
        assert held(store) == 0

        copy = pickle.loads(pickle.dumps(result))
        assert np.array_equal(copy, BIG * 2)
        assert held(store) == 1
        del result, copy
        empty(store)


def test_real_objects_on_request(store: Store) -> None:
    with ProxyExecutor(pool(), store, above="10 KB", lazy=False) as executor:
        assert executor.submit(kinds, BIG, SMALL, [BIG]).result(30) == ["ndarray", "ndarray", "list"]
        assert list(executor.map(kinds, [BIG, SMALL], chunksize=2)) == [["ndarray"], ["ndarray"]]


def test_only_one_direction(store: Store) -> None:
    with ProxyExecutor(pool(), store, above="10 KB", args=False) as executor:
        assert executor.submit(seen, BIG).result(30) == [(False, True)]
        assert is_proxy(executor.submit(double, BIG).result(30))
    with ProxyExecutor(pool(), store, above="10 KB", result=False) as executor:
        assert executor.submit(seen, BIG).result(30) == [(True, False)]
        assert type(executor.submit(double, BIG).result(30)) is np.ndarray


def test_annotations_decide_for_one_argument(executor: ProxyExecutor) -> None:
    by_reference, by_value, result = executor.submit(wishful, 1, BIG).result(30)

    assert [by_reference, by_value, type(result)] == [True, False, np.ndarray]


def test_a_decorated_function_answers_to_the_future(executor: ProxyExecutor, store: Store) -> None:
    result = executor.submit(decorated, BIG).result(30)

    assert ref_of(result).url == store.url
    assert np.array_equal(result, BIG * 2)
    again = executor.submit(first, decorated(BIG)).result(30)
    assert again == 0
    del result
    empty(store)


def test_what_is_owned_is_lent_for_as_long_as_the_task_takes(executor: ProxyExecutor, store: Store) -> None:
    owner = own(store, BIG)

    assert executor.submit(seen, owner).result(30) == [(True, False)]
    assert executor.submit(total, [owner, owner]).result(30) == 2 * BIG.sum()
    shared = borrow(owner)
    assert executor.submit(first, shared).result(30) == 0
    release(shared)
    assert list(executor.map(first, [owner] * 3, chunksize=3)) == [0] * 3
    assert owner[1] == 1
    changed = borrow_mut(owner)
    with pytest.raises(BorrowError):
        executor.submit(first, owner)
    release(changed)
    release(owner)
    assert until(lambda: held(store) <= 1, 10)  # the session stays for a while


def test_a_task_that_cannot_be_submitted_gives_back_what_it_borrowed(store: Store) -> None:
    owner = own(store, BIG)
    executor = ProxyExecutor(pool(), store, above="10 KB")
    executor.shutdown()

    with pytest.raises(RuntimeError):
        executor.submit(first, owner)

    release(owner, timeout=1)


def test_functions_that_cannot_be_remembered(executor: ProxyExecutor) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, x: Any) -> Any:
            return x

    with ProxyExecutor(ThreadPoolExecutor(1), executor.store) as threads:
        assert threads.submit(Unhashable(), 5).result(30) == 5
        assert threads.submit(lambda x: x + 1, 5).result(30) == 6
    with pytest.raises((pickle.PicklingError, AttributeError)):
        executor.submit(lambda: 1).result(30)


def test_an_executor_in_as_completed_and_a_url(store: Store) -> None:
    with ProxyExecutor(pool(2), store.url, above="10 KB") as executor:
        futures = {executor.submit(first, BIG + n): n for n in range(6)}

        assert {futures[future]: future.result() for future in as_completed(futures, 30)} == {n: n for n in range(6)}
        assert executor.store is open_store(store.url)


def test_recursion_of_tasks_in_threads(store: Store) -> None:
    with ProxyExecutor(ThreadPoolExecutor(4), store, above="10 KB") as executor:

        def deeper(x: Any, depth: int) -> Any:
            return x if depth == 0 else executor.submit(deeper, x, depth - 1).result(30)

        assert np.array_equal(unwrap(executor.submit(deeper, BIG, 3).result(30)), BIG)


def test_many_threads_submit_at_once(executor: ProxyExecutor, store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(lambda n: executor.submit(first, BIG, n), range(40)))

    assert [future.result(30) for future in futures] == [0] * 40
    assert store.stats()["put"]["count"] == 1
    empty(store)


# -- prefetching -------------------------------------------------------------------------------------------------------


def computing(x: Any, url: str, fetched: int) -> float:
    """Computes until so many objects have been fetched by this process."""
    store = open_store(url)
    assert until(lambda: store.stats().get("get", {}).get("count", 0) >= fetched, 20)
    return float(x[0])


def test_the_next_tasks_input_comes_while_this_one_computes(redis_server: RedisServer, tmp_path: Path) -> None:
    with (
        Store(redis_server.database(), name="prefetch") as store,
        ProxyExecutor(pool(), store, above="10 KB") as executor,
    ):
        blockers = [executor.submit(wait_for, str(tmp_path / "go")) for _ in range(4)]
        futures = [executor.submit(computing, BIG + n, store.url, n + 1 + (n < 2)) for n in range(3)]
        (tmp_path / "go").touch()

        assert [future.result(30) for future in futures] == [0, 1, 2]
        assert [blocker.result(30) for blocker in blockers]
    with (
        Store(redis_server.database(), name="chunks") as store,
        ProxyExecutor(pool(), store, above="10 KB") as executor,
    ):
        wanted = [2, 3, 3]
        assert list(executor.map(computing, [BIG, BIG + 1, BIG + 2], [store.url] * 3, wanted, chunksize=3)) == [0, 1, 2]


# -- a fresh interpreter -----------------------------------------------------------------------------------------------


def test_spawned_processes(store: Store) -> None:
    with ProxyExecutor(ProcessPoolExecutor(1, get_context("spawn")), store, above="10 KB") as executor:
        result = executor.submit(double, BIG).result(60)
        assert np.array_equal(result, BIG * 2)
        assert executor.submit(first, result).result(60) == 0
        assert [first(x) for x in executor.map(double, [BIG + 1, SMALL, BIG + 2], chunksize=2)] == [2, 0, 4]
        with pytest.raises(RemoteError, match="odd"):
            executor.submit(raise_odd, BIG).result(60)
        del result
        empty(store)
