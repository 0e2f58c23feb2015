"""`proxied`: functions of every kind keep what they are, and what is large in them travels by reference."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cloudpickle
import numpy as np
import pytest

from proxyfab import Store, is_proxy, is_resolved, ref_of
from proxyfab.errors import ConfigurationError, SerializationError
from proxyfab.patterns.proxied import proxied
from proxyfab.patterns.wishes import REF, ByRef, ByValue, Wishes
from proxyfab.testing.content import held

if TYPE_CHECKING:
    from somewhere import Unknown

BIG = np.arange(50_000.0)
SMALL = np.arange(3.0)
store = Store("memory://", name="test-proxied")


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    yield
    store.clear()


def stored() -> int:
    return held(store)


@dataclass
class Scan:
    image: Any
    number: int = 0


@proxied(store, above="10 KB")
def seen(*args: Any, **kwargs: Any) -> list[Any]:
    """Which of its arguments are proxies."""
    return [is_proxy(value) for value in (*args, *kwargs.values())]


@proxied(store, above="10 KB")
def double(x: Any) -> Any:
    """Twice x."""
    return x * 2


@proxied(store, above="10 KB", lazy=False)
def kinds(*args: Any, **kwargs: Any) -> list[type]:
    return [type(value) for value in (*args, *kwargs.values())]


@proxied(store, above="10 KB")
def down(x: Any, depth: int) -> Any:
    return x if depth == 0 else down(x, depth - 1)


@proxied(store, above="10 KB")
def wishful(
    a: Annotated[int, ByRef],
    b: Annotated[np.ndarray, "pixels", ByValue()],
    c: Unknown = None,
    *rest: Annotated[Unknown, ByRef],
    d: Any = BIG,
    **others: Annotated[Any, ByValue],
) -> Annotated[list[bool], ByValue]:
    return [is_proxy(x) for x in (a, b, c, *rest, d, *others.values())]


@proxied(store, above="10 KB")
def by_value() -> Annotated[Any, ByValue]:
    return BIG


@proxied(store, above="10 KB")
def frames(x: Any, count: int) -> Iterator[Any]:
    for number in range(count):
        yield x + number
    return x


@proxied(store, above="10 KB")
def talk() -> Any:
    """Yields what it is told, until it is told to stop."""
    told = yield "ready"
    try:
        while True:
            try:
                told = yield told
            except ValueError as error:
                told = f"caught {error}"
    finally:
        closed.append(told)


closed: list[Any] = []


@proxied(store, above="10 KB")
async def slow(x: Any) -> Any:
    await asyncio.sleep(0)
    return x * 2, is_proxy(x)


@proxied(store, above="10 KB", lazy=False)
async def slow_kind(x: Any) -> type:
    return type(x)


@proxied(store, above="10 KB")
async def stream(x: Any, count: int) -> AsyncIterator[Any]:
    try:
        for number in range(count):
            told = yield x + number
            if told:
                yield told
    finally:
        closed.append("stream")


class Lab:
    """Methods of all kinds, on an object that is large itself."""

    def __init__(self) -> None:
        self.memory = BIG

    @proxied(store, above="10 KB")
    def measure(self, x: Any) -> Any:
        return is_proxy(self), is_proxy(x), x + self.memory

    @proxied(store, above="10 KB")
    @classmethod
    def name(cls, x: Any) -> Any:
        return cls.__name__, is_proxy(x)

    @classmethod
    @proxied(store, above="10 KB")
    def name_inside(cls, x: Any) -> Any:
        return cls.__name__, is_proxy(x)

    @proxied(store, above="10 KB")
    @staticmethod
    def free(x: Any) -> Any:
        return is_proxy(x)

    @staticmethod
    @proxied(store, above="10 KB")
    def free_inside(image: Any) -> Any:
        return is_proxy(image)


def test_large_arguments_and_results_are_proxies_and_nothing_is_stored_before_it_travels() -> None:
    result = double(BIG)

    assert seen(BIG, 1, x=BIG, y=SMALL) == [True, False, True, False]
    assert is_proxy(result)
    assert is_resolved(result)
    assert np.array_equal(result, BIG * 2)
    assert not is_proxy(double(SMALL))
    assert stored() == 0


def test_a_result_is_stored_when_it_is_sent_and_once() -> None:
    result = double(BIG)

    message = pickle.dumps(result)
    again = pickle.dumps(result)

    assert len(message) < 300
    assert message == again
    assert stored() == 1
    assert np.array_equal(pickle.loads(message), BIG * 2)
    assert ref_of(result).exists()


def test_a_result_that_was_changed_after_it_was_sent_goes_as_another() -> None:
    result = double(BIG)
    first = pickle.dumps(result)

    result[0] = -1
    second = pickle.dumps(result)

    assert pickle.loads(first)[0] == 0
    assert pickle.loads(second)[0] == -1


def test_containers_are_searched() -> None:
    @proxied(store, above="10 KB")
    def parts(items: list[Any], table: dict[str, Any], scan: Scan) -> list[bool]:
        return [is_proxy(items), is_proxy(items[0]), is_proxy(table["a"]), is_proxy(scan.image), is_proxy(scan)]

    scan = Scan(BIG)

    assert parts([BIG, 1], {"a": BIG}, scan) == [False, True, True, True, False]
    assert scan.image is BIG
    assert is_proxy(double([1] * 50_000))


def test_real_objects_where_proxies_do_not_do() -> None:
    proxy = store.proxy(BIG)

    assert kinds(proxy, [proxy], x=proxy) == [np.ndarray, list, np.ndarray]
    assert kinds(BIG) == [np.ndarray]


def test_name_signature_and_documentation_stay() -> None:
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice x."
    assert list(inspect.signature(wishful).parameters) == ["a", "b", "c", "rest", "d", "others"]
    assert inspect.isgeneratorfunction(frames)
    assert inspect.iscoroutinefunction(slow)
    assert inspect.isasyncgenfunction(stream)
    assert not inspect.iscoroutinefunction(double)


def test_what_stands_in_several_places_is_stored_once_and_stays_one_object() -> None:
    @proxied(store, above="10 KB", ttl=60)
    def several() -> Any:
        made = BIG + 1
        return {"a": made, "b": made}

    message = pickle.dumps(several())

    assert stored() == 1
    there = pickle.loads(message)
    assert there["a"] is there["b"]


def test_annotations_decide_for_one_argument() -> None:
    assert wishful(1, BIG, SMALL, "x", 2, e=BIG) == [True, False, False, True, True, False, False]
    assert wishful(1, BIG) == [True, False, False, False]
    assert wishful(a=1, b=BIG, d=BIG) == [True, False, False, True]
    assert not is_proxy(by_value())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
def test_a_type_statement_is_an_alias() -> None:
    space: dict[str, Any] = {"Annotated": Annotated, "ByRef": ByRef}
    exec("type Alias = Annotated[int, ByRef]\ndef function(x: Alias): ...", space)
    assert Wishes(space["function"]).of(0) == REF


def test_a_reference_asked_for_travels_inside_when_it_is_small() -> None:
    @proxied(store)
    def small() -> Annotated[int, ByRef]:
        return 12_345

    message = pickle.dumps(small())

    assert stored() == 0
    assert pickle.loads(message) == 12_345


def test_only_one_direction() -> None:
    @proxied(store, above="10 KB", args=False)
    def out(x: Any) -> Any:
        return [is_proxy(x), x]

    @proxied(store, above="10 KB", result=False)
    def back(x: Any) -> Any:
        return [is_proxy(x), np.array(x)]

    assert out(BIG)[0] is False
    assert is_proxy(out(BIG)[1])
    assert back(BIG)[0] is True
    assert not is_proxy(back(BIG)[1])


def test_methods_of_all_kinds() -> None:
    lab = Lab()

    own, passed, result = lab.measure(BIG)

    assert (own, passed, is_proxy(result)) == (False, True, True)
    assert lab.name(BIG) == Lab.name(BIG) == ("Lab", True)
    assert lab.name_inside(BIG) == Lab.name_inside(BIG) == ("Lab", True)
    assert lab.free(BIG) is Lab.free(BIG) is True
    assert lab.free_inside(BIG) is Lab.free_inside(BIG) is True
    assert proxied(store, above="10 KB")(lab.measure)(BIG)[1] is True


def test_partials_builtins_and_callables() -> None:
    class Adder:
        def __call__(self, x: Any) -> Any:
            return x + 1

    assert is_proxy(proxied(store, above="10 KB")(functools.partial(np.add, 1))(BIG))
    assert is_proxy(proxied(store, above="10 KB")(Adder())(BIG))
    assert proxied(store, above="10 KB")(len)(BIG) == 50_000


def test_a_generator_yields_proxies_and_returns_one() -> None:
    items = frames(BIG, 2)

    first, second = next(items), next(items)
    with pytest.raises(StopIteration) as end:
        next(items)

    assert is_proxy(first)
    assert second[0] == 1
    assert is_proxy(end.value.value)


def test_a_generator_is_talked_to_through() -> None:
    closed.clear()
    speaker = talk()

    assert next(speaker) == "ready"
    assert speaker.send("hello") == "hello"
    assert speaker.throw(ValueError("oh")) == "caught oh"
    assert is_proxy(speaker.send(BIG))
    with pytest.raises(KeyError):
        speaker.throw(KeyError("k"))
    assert len(closed) == 1


def test_a_generator_that_is_left_early_is_closed_at_once() -> None:
    closed.clear()
    speaker = talk()
    next(speaker)
    speaker.send("last")

    speaker.close()

    assert closed == ["last"]


def test_coroutines() -> None:
    (twice, was_proxy) = asyncio.run(slow(BIG))

    assert was_proxy
    assert is_proxy(twice)
    assert asyncio.run(slow_kind(store.proxy(BIG))) is np.ndarray
    assert asyncio.run(slow_kind(pickle.loads(pickle.dumps(store.proxy(BIG))))) is np.ndarray


def test_asynchronous_generators() -> None:
    async def run() -> list[Any]:
        closed.clear()
        found = [item async for item in stream(BIG, 3)]
        assert closed == ["stream"]
        items = stream(SMALL, 3)
        await anext(items)
        assert await items.asend("told") == "told"
        with pytest.raises(ZeroDivisionError):
            await items.athrow(ZeroDivisionError())
        left = stream(SMALL, 3)
        await anext(left)
        await left.aclose()
        assert closed == ["stream"] * 3
        return found

    found = asyncio.run(run())

    assert [is_proxy(item) for item in found] == [True] * 3
    assert [item[0] for item in found] == [0, 1, 2]


def test_a_decorated_function_calls_itself_and_another() -> None:
    result = down(BIG, 5)

    assert is_proxy(result)
    assert np.array_equal(result, BIG)
    assert stored() == 0
    assert is_proxy(double(double(BIG)))


def test_errors_of_the_function_are_its_own() -> None:
    @proxied(store)
    def wrong() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        wrong()
    with pytest.raises(TypeError, match="argument"):
        double()  # type: ignore[call-arg]


def test_what_cannot_be_stored_says_so_when_it_is_sent() -> None:
    class Holder:
        def __init__(self) -> None:
            self.data = BIG
            self.file = open(__file__)  # noqa: SIM115

        def __reduce__(self) -> Any:
            raise TypeError("no")

    @proxied(store, above="10 KB")
    def hold(x: Any) -> Any:
        return x

    holder = Holder()
    result = hold(holder)
    holder.file.close()

    assert is_proxy(result)
    with pytest.raises(SerializationError):
        pickle.dumps(result)


def test_threads_share_it() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(double, [BIG] * 8))

    assert all(np.array_equal(result, BIG * 2) for result in results)
    assert stored() == 0


def test_a_function_by_value_takes_its_store_along() -> None:
    factor = 3

    @proxied(store, above="10 KB")
    def scaled(x: Any) -> Any:
        return x * factor

    copy = pickle.loads(cloudpickle.dumps(scaled))

    assert is_proxy(copy(BIG))
    assert ref_of(copy(BIG)).url == store.url


def test_a_closed_store_is_opened_again_for_what_is_sent() -> None:
    closing = Store("memory://", name="test-proxied-closing")

    @proxied(closing, above="10 KB")
    def keep(x: Any) -> Any:
        return x

    result = keep(BIG)
    closing.close()
    copy = pickle.loads(pickle.dumps(result))

    assert np.array_equal(copy, BIG)
    ref_of(copy).store.clear()


def test_a_time_to_live() -> None:
    @proxied(store, above="10 KB", ttl=100)
    def brief(x: Any) -> Any:
        return x * 1

    key = ref_of(brief(BIG)).key

    assert key is not None
    assert store.connector.stat(key).expires is not None  # type: ignore[union-attr]


def test_a_store_may_be_a_url() -> None:
    @proxied(store.url, above="10 KB")
    def same(x: Any) -> Any:
        return x * 1

    assert ref_of(same(BIG)).url == store.url


@pytest.mark.parametrize("thing", [5, Lab, "name"])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="function"):
        proxied(store)(thing)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        proxied(store, above="large")
    with pytest.raises(ConfigurationError):
        proxied(store, depth=-1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_functions_of_a_script_travel(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from proxyfab import Store, is_proxy, is_resolved
from proxyfab.patterns import proxied
store = Store(name="test-script")

@proxied(store, above="1 KB")
def grow(text):
    return is_proxy(text), text * 1000

@proxied(store, above="1 KB", lazy=False)
def kind(text):
    return type(text)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context(sys.argv[1])) as pool:
        given, result = pool.submit(grow, store.proxy("abcd" * 2000)).result()
        assert given and is_proxy(result) and not is_resolved(result)
        assert result == "abcd" * 2_000_000
        assert pool.submit(kind, store.proxy("abcd" * 2000)).result() is str
    store.clear()
    print("done")
"""
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), method], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "done\n", done.stderr
