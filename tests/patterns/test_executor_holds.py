"""Who holds what a ProxyExecutor stored: what is given back lives on, and what is done with is let go at once."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab import Store, is_proxy, open_store, unwrap
from proxyfab.errors import RemoteError
from proxyfab.patterns import ProxyExecutor, proxied
from proxyfab.testing import until
from proxyfab.testing.content import held

BIG = np.arange(50_000.0)
LEASE = 0.8


@pytest.fixture
def store(shared_memory_root: Path) -> Iterator[Store]:
    with Store(name="test-executor-holds") as opened:
        yield opened
        opened.clear()


@pytest.fixture
def executor(store: Store) -> Iterator[ProxyExecutor]:
    with ProxyExecutor(ProcessPoolExecutor(1, get_context("fork")), store, above="10 KB") as made:
        yield made


def becomes(store: Store, count: int) -> None:
    gc.collect()
    assert until(lambda: held(store) == count, 10)


class Box:
    """Not searched for proxies."""

    def __init__(self, content: Any) -> None:
        self.content = content


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: Any) -> int:
        self.count += 1
        return self.count


class Panic(BaseException):
    """Cannot be unpickled, and is no Exception."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


def make(number: int) -> Any:
    return BIG + number


def same(x: Any) -> Any:
    return x


def looked_at(x: Any) -> Any:
    x.sum()
    return x


def beside(x: Any) -> Any:
    return [x, 1]


def boxed(x: Any) -> Any:
    return {"deep": [Box(x)]}


def changed(x: Any) -> Any:
    x["new"] = 1
    return x


def panic() -> None:
    raise Panic(1, "at the limit")


def doubled(x: Any) -> Any:
    return x * 2 if is_proxy(x) else None


# -- what is given back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [same, looked_at])
def test_an_argument_that_is_given_back_lives_on(function: Any, executor: ProxyExecutor, store: Store) -> None:
    back = executor.submit(function, BIG.copy()).result(30)
    gc.collect()
    executor.submit(same, 1).result(30)

    assert np.array_equal(back, BIG)
    del back
    becomes(store, 0)


def test_an_argument_that_is_given_back_in_something_lives_on(executor: ProxyExecutor, store: Store) -> None:
    beside_one = executor.submit(beside, BIG.copy()).result(30)
    deep = executor.submit(boxed, BIG.copy()).result(30)

    assert np.array_equal(beside_one[0], BIG)
    assert np.array_equal(deep["deep"][0].content, BIG)
    del beside_one, deep
    becomes(store, 0)


def test_a_result_that_is_given_back_lives_on(executor: ProxyExecutor, store: Store) -> None:
    step = executor.submit(make, 1).result(30)
    for _ in range(3):
        step = executor.submit(same, step).result(30)
        gc.collect()

    assert step[0] == 1
    del step
    becomes(store, 0)


def test_what_the_user_stored_and_gets_back_stays_the_users(executor: ProxyExecutor, store: Store) -> None:
    mine = store.proxy(BIG)

    back = executor.submit(same, mine).result(30)
    assert np.array_equal(back, BIG)
    del back
    gc.collect()
    executor.submit(same, 1).result(30)

    assert np.array_equal(pickle.loads(pickle.dumps(mine)), BIG)


def test_an_argument_that_is_changed_and_given_back_is_a_result(executor: ProxyExecutor, store: Store) -> None:
    table = {f"{number}": "x" * 100 for number in range(1000)}

    back = executor.submit(changed, table).result(30)

    assert back["new"] == 1
    assert "new" not in table
    del back
    becomes(store, 0)


def test_a_result_that_is_changed_here_and_sent_on_goes_with_it(executor: ProxyExecutor, store: Store) -> None:
    back = executor.submit(changed, {f"{number}": "x" * 100 for number in range(1000)}).result(30)
    back["here"] = 2

    assert executor.submit(len, back).result(30) == 1002
    del back
    becomes(store, 0)


def test_a_result_of_threads_that_is_sent_when_they_are_gone_is_renewed(store: Store) -> None:
    with ProxyExecutor(ThreadPoolExecutor(1), store, above="10 KB", lease=LEASE) as executor:
        result = executor.submit(make, 1).result(30)
    message = pickle.dumps(result)
    expired = store.proxy(0 * BIG + 3)  # who waits for its end has waited for longer than a lease and its grace
    late = Store(store.url).ref(BIG * 5, ttl=LEASE * 2)
    assert until(lambda: not late.exists(), 30)

    assert pickle.loads(message)[0] == 1
    del result, expired
    store.clear()


# -- executors within executors, and workers that are this very process ------------------------------------------------


def inside(kind: str, url: str, x: Any) -> Any:
    """Another executor's result: what that executor stored ends here."""
    workers = ThreadPoolExecutor(1) if kind == "threads" else ProcessPoolExecutor(1, get_context("fork"))
    with open_store(url) as store, ProxyExecutor(workers, store, above="10 KB") as executor:
        return executor.submit(make, x).result(30)


def inside_in_a_list(kind: str, url: str, x: Any) -> Any:
    result = inside(kind, url, x)
    result.sum()
    return [result, {"same": result}]


def given_on(kind: str, url: str, x: Any) -> Any:
    """An executor within keeps what it was given as long as it takes."""
    workers = ThreadPoolExecutor(1) if kind == "threads" else ProcessPoolExecutor(1, get_context("fork"))
    with open_store(url) as store, ProxyExecutor(workers, store, above="10 KB") as executor:
        return executor.submit(same, BIG + x).result(30)


def inside_deep(kind: str, url: str, x: Any) -> Any:
    """Where nobody looks for proxies."""
    return {"deep": [Box(inside(kind, url, x))]}


def owes_nothing(kind: str, url: str, before: int) -> bool:
    """In the worker: what its own executors let go is gone."""
    gc.collect()
    return until(lambda: held(open_store(url)) <= before, 10)


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("function", [inside, given_on])
def test_a_result_of_an_executor_within_a_task_lives_as_others(
    function: Any, kind: str, executor: ProxyExecutor, store: Store
) -> None:
    back = executor.submit(function, kind, store.url, 7).result(30)

    assert executor.submit(owes_nothing, kind, store.url, 1).result(30)
    assert np.array_equal(back, BIG + 7)
    del back
    becomes(store, 0)


def test_results_of_an_executor_within_a_task_are_found_in_containers(executor: ProxyExecutor, store: Store) -> None:
    back = executor.submit(inside_in_a_list, "processes", store.url, 7).result(30)

    assert executor.submit(owes_nothing, "processes", store.url, 2).result(30)
    assert np.array_equal(back[0], BIG + 7)
    assert np.array_equal(back[1]["same"], BIG + 7)
    del back
    becomes(store, 0)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_results_of_an_executor_within_a_task_live_however_deep_they_are(
    kind: str, executor: ProxyExecutor, store: Store
) -> None:
    """Deeper than containers are searched, and in objects of the user's."""
    back = executor.submit(inside_deep, kind, store.url, 7).result(30)

    assert executor.submit(owes_nothing, kind, store.url, 1).result(30)
    assert np.array_equal(back["deep"][0].content, BIG + 7)
    del back
    becomes(store, 0)


def test_deep_results_of_an_executor_within_a_task_go_by_value_where_results_do(store: Store) -> None:
    with ProxyExecutor(ProcessPoolExecutor(1, get_context("fork")), store, above="10 KB", result=False) as executor:
        back = executor.submit(inside_deep, "processes", store.url, 7).result(30)

        assert type(back["deep"][0].content) is np.ndarray
        becomes(store, 0)


def test_a_result_of_an_executor_within_a_task_goes_by_value_where_results_do(store: Store) -> None:
    with ProxyExecutor(ProcessPoolExecutor(1, get_context("fork")), store, above="10 KB", result=False) as executor:
        back = executor.submit(inside, "processes", store.url, 7).result(30)

        assert type(back) is np.ndarray
        assert np.array_equal(back, BIG + 7)
        becomes(store, 0)


class Inside(Executor):
    """As threads that were sent a pickled task, such as Dask's workers within the client's process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call, taken = pickle.loads(pickle.dumps((fn, args)))
        done: Future[Any] = Future()
        done.set_result(call(*taken, **kwargs))
        return done


def test_a_result_that_never_left_this_process_may_be_sent_often(store: Store) -> None:
    with ProxyExecutor(Inside(), store, above="10 KB") as executor:
        result = executor.submit(bytes, 100_000).result(30)
        for _ in range(2):
            assert executor.submit(len, result).result(30) == 100_000
            gc.collect()
            executor._custody.flush(10)
        message = pickle.dumps(result)
        arrived = pickle.loads(message)
        del result
        gc.collect()
        executor._custody.flush(10)

        assert arrived[-1] == 0
        del arrived
        becomes(store, 0)


# -- what is let go ----------------------------------------------------------------------------------------------------


def test_a_future_that_is_done_holds_no_argument(executor: ProxyExecutor) -> None:
    argument = BIG.copy()
    gone = weakref.ref(argument)

    future = executor.submit(len, argument)
    assert future.result(30) == len(BIG)
    del argument

    assert until(lambda: gc.collect() >= 0 and gone() is None, 10)


ENDS = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from proxyfab import Store
from proxyfab.patterns import ProxyExecutor

def double(text):
    return text * 2

executor = ProxyExecutor(ProcessPoolExecutor(1, get_context("fork")), Store(sys.argv[1]), above="10 KB")
futures = [executor.submit(double, "a" * 100_000) for _ in range(2)]
assert len(futures[0].result()) == 200_000
"""


def test_results_go_with_the_process_that_holds_them(store: Store) -> None:
    """Also where nobody shut the executor down."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS, store.url], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert held(store) == 0


def test_results_of_a_chunk_go_one_by_one(executor: ProxyExecutor, store: Store) -> None:
    results = executor.map(make, range(3), chunksize=3)

    for left in (3, 2, 1):
        assert unwrap(next(results))[0] == 3 - left
        if left > 1:
            becomes(store, left - 1)
    assert list(results) == []
    becomes(store, 0)


# -- functions ---------------------------------------------------------------------------------------------------------


def test_a_callable_with_a_state_comes_anew_with_every_task(executor: ProxyExecutor) -> None:
    counter = Counter()

    assert [executor.submit(counter.add).result(30) for _ in range(3)] == [1, 1, 1]
    assert [executor.submit(counter.add, BIG).result(30) for _ in range(3)] == [1, 1, 1]


def test_what_is_no_exception_and_does_not_travel_is_told(executor: ProxyExecutor) -> None:
    with pytest.raises((RemoteError, Panic), match="at the limit"):  # itself, where tblib teaches it to pickle
        executor.submit(panic).result(30)

    assert executor.submit(same, 1).result(30) == 1, "the pool works on"


def test_a_bound_method_has_all_its_arguments_by_reference() -> None:
    class Machine:
        def run(self, x: Any) -> bool:
            return is_proxy(x)

    with Store() as store:
        assert proxied(store, above="10 KB")(Machine().run)(BIG)
