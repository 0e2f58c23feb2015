"""What travels by reference: sizes are estimated without touching anything, and containers are rebuilt as they were."""

from __future__ import annotations

import array
import threading
import time
from collections import OrderedDict, defaultdict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab import Proxy, is_proxy, unwrap
from proxyfab.errors import ConfigurationError
from proxyfab.patterns.passing import WHOLE, Limits, bare, changed, fill, limits, once, plan, proxies_in
from proxyfab.patterns.sizes import weigh

KB = 1000
BIG = bytes(100 * KB)
LIMIT = Limits(10 * KB, 1)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Scan:
    image: Any
    name: str = ""


@dataclass
class Checked:
    image: Any

    def __post_init__(self) -> None:
        if is_proxy(self.image):
            raise TypeError("nobody's __init__ may run")


class Sample:
    def __init__(self, image: Any) -> None:
        self.image = image


class Slotted:
    __slots__ = ("__hidden", "empty", "image")

    def __init__(self, image: Any) -> None:
        self.image = image
        self.__hidden = image


def mark(value: Any) -> str:
    return f"<{type(value).__name__}>"


def sent(value: Any, limit: Limits = LIMIT) -> Any:
    return fill(value, plan(value, limit), mark)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (None, 0, 16),
        (7, 1, 16),
        (1 << 80_000, 10_000, 10_001),
        ("x" * 500, 500, 600),
        (bytearray(500), 500, 600),
        (memoryview(bytes(500)), 500, 600),
        (np.zeros(1000), 8000, 8200),
        (np.float64(1), 1, 64),
        (array.array("d", range(1000)), 8000, 8600),
        ([1.5] * 1000, 8000, 9000),
        ({"a": np.zeros(1000)}, 8000, 8200),
        ({1: {2: {3: np.zeros(1000)}}}, 8000, 8300),
        (Sample(np.zeros(1000)), 8000, 9000),
        (Slotted(np.zeros(1000)), 16_000, 17_000),
        (Scan(np.zeros(1000)), 8000, 8300),
        (len, 0, 0),
        (Sample, 0, 0),
        (np, 0, 0),
        (Future[int](), 0, 0),
        (threading.Lock(), 0, 100),
        (Proxy(lambda: 5), 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_weight_is_about_the_size_as_bytes(value: Any, least: int, most: int) -> None:
    assert least <= weigh(value, 1 << 40) <= most


def test_a_dataframe_weighs_its_cells() -> None:
    pandas = pytest.importorskip("pandas")

    assert weigh(pandas.DataFrame({"a": range(1000), "b": range(1000)}), 1 << 40) == 16_000


def test_a_torch_module_weighs_its_parameters_however_deep_they_are() -> None:
    class Module:
        def __init__(self, *inside: Any) -> None:
            self._modules = dict(enumerate(inside))
            self._parameters = {} if inside else {"weight": np.zeros((100, 100), "f4")}

        def parameters(self) -> Any:
            yield from self._parameters.values()
            for module in self._modules.values():
                yield from module.parameters()

        def buffers(self) -> Any:
            return iter([np.zeros(10)])

    Module.__module__, Module.__name__ = "torch.nn.modules.module", "Module"
    nested = Module(Module(Module(Module(), Module())))
    assert 80_000 <= weigh(nested, 1 << 40) <= 81_000
    assert weigh(nested, 10_000) >= 10_000


def test_a_lazy_collection_weighs_nothing() -> None:
    dask_array = pytest.importorskip("dask.array")
    xarray = pytest.importorskip("xarray")

    assert weigh(dask_array.zeros(100_000), 1) == 0
    assert weigh(xarray.DataArray(dask_array.zeros(100_000)), 1) == 0
    assert weigh(xarray.DataArray(np.zeros(1000)), 1 << 40) == 8000


def test_weighing_ends_where_it_is_enough() -> None:
    asked = []

    class Counted:
        @property
        def nbytes(self) -> int:
            asked.append(self)
            return 1000

    assert weigh([Counted() for _ in range(100)], 5000) >= 5000
    assert len(asked) <= 5


def test_what_goes_round_in_circles_is_weighed_in_no_time() -> None:
    ring: list[Any] = []
    ring.extend([ring] * 1000)
    began = time.perf_counter()

    weigh(ring, 1 << 40)
    plan(ring, Limits(1 << 40, 1))

    assert time.perf_counter() - began < 10


def test_a_class_whose_nbytes_is_something_else() -> None:
    class Odd:
        nbytes = "many"

        def __init__(self) -> None:
            self.image = np.zeros(1000)

    assert weigh(Odd(), 1 << 40) >= 8000


def test_what_is_small_stays() -> None:
    for value in (None, True, 3, "text", [1, 2], {"a": 1}, Pair(1, 2), Scan(1), ..., NotImplemented):
        assert plan(value, LIMIT) is None
        assert sent(value) is value


def test_what_is_large_goes() -> None:
    assert plan(BIG, LIMIT) is WHOLE
    assert sent(BIG) == "<bytes>"


def test_containers_are_rebuilt_around_their_large_parts() -> None:
    ordered = OrderedDict(a=1, b=BIG)
    default = defaultdict(list, {"a": BIG})

    assert sent([1, BIG]) == [1, "<bytes>"]
    assert sent((1, BIG)) == (1, "<bytes>")
    assert sent({"a": BIG, "b": 2}) == {"a": "<bytes>", "b": 2}
    assert sent(Pair(BIG, 2)) == Pair("<bytes>", 2)
    assert type(sent(Pair(BIG, 2))) is Pair
    assert sent(Scan(BIG, "a")) == Scan("<bytes>", "a")
    assert list(sent(ordered).items()) == [("a", 1), ("b", "<bytes>")]
    assert type(sent(ordered)) is OrderedDict
    assert sent(default)["missing"] == []
    assert ordered["b"] is BIG, "the caller's own container is left alone"


def test_nobodys_init_runs() -> None:
    proxy = Proxy(lambda: 1)

    rebuilt = fill(Checked(BIG), plan(Checked(BIG), LIMIT), lambda _: proxy)

    assert is_proxy(rebuilt.image)


def test_depth_says_how_deep() -> None:
    nested = {"a": [BIG, 1]}

    assert sent(nested, Limits(10 * KB, 0)) == "<dict>"
    assert sent(nested, Limits(10 * KB, 1)) == {"a": "<list>"}
    assert sent(nested, Limits(10 * KB, 2)) == {"a": ["<bytes>", 1]}


def test_many_small_parts_go_together() -> None:
    crumbs = [bytes(500) for _ in range(100)]

    assert sent(crumbs) == "<list>"
    assert sent([BIG, *crumbs]) == "<list>"
    assert sent(list(range(100_000))) == "<list>"
    assert sent([crumbs, 1]) == ["<list>", 1]


def test_a_large_list_of_futures_stays_in_sight_of_its_framework() -> None:
    futures = [Future[int]() for _ in range(2000)]

    assert sent(futures) is futures
    assert sent([BIG, *futures])[0] == "<bytes>"


def test_sets_go_as_a_whole() -> None:
    assert sent({BIG}) == "<set>"


def test_nothing_is_fetched_on_the_way() -> None:
    def never() -> Any:
        raise AssertionError

    proxy = Proxy(never)
    value = [proxy, BIG, {"p": proxy}]

    assert [type(part) for part in sent(value)] == [type(proxy), str, dict]
    assert len([*proxies_in(value, 1)]) == 1
    assert len([*proxies_in(value, 2)]) == 2


def test_bare_is_the_way_back() -> None:
    proxy = Proxy(lambda: 5)
    many = list(range(1000))

    assert bare([proxy, 1], 1) == [5, 1]
    assert type(bare([proxy, 1], 1)[0]) is int
    assert type(bare(Pair(1, proxy), 1).right) is int
    assert type(bare({"a": [proxy]}, 2)["a"][0]) is int
    assert is_proxy(bare({"a": [proxy]}, 1)["a"][0])
    assert bare(many, 1) is many
    assert changed([proxy], 1, lambda _: "x") == ["x"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(BIG) | st.just("y" * 20_000),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.dictionaries(st.integers(), inner) | st.builds(Pair, inner, inner)
    ),
    max_leaves=20,
)


@given(values, st.integers(0, 3))
def test_what_was_taken_and_put_back_is_what_it_was(value: Any, depth: int) -> None:
    limit = Limits(10 * KB, depth)

    there = fill(value, plan(value, limit), lambda part: Proxy(lambda: part))

    assert bare(there, depth) == value
    assert all(unwrap(proxy) is not None for proxy in proxies_in(there, depth))


def test_what_stands_in_several_places_is_taken_once() -> None:
    taken: list[Any] = []
    value = {"a": BIG, "b": [BIG, bytearray(BIG)]}
    take = once(lambda part: taken.append(part) or Proxy(lambda: part))  # type: ignore[func-returns-value]

    there = fill(value, plan(value, Limits(10 * KB, 2)), take)

    assert len(taken) == 2
    assert there["a"] is there["b"][0]
    assert there["a"] is not there["b"][1]


def test_limits_are_checked() -> None:
    assert limits("1 MB", 2) == (1_000_000, 2)
    with pytest.raises(ConfigurationError, match="size"):
        limits("large", 1)
    with pytest.raises(ConfigurationError, match="levels"):
        limits(1, -1)
