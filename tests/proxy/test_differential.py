"""Random operations on a target and on a proxy of an equal target give equal results, or errors of one type."""

from __future__ import annotations

import copy
import math
import operator
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proxy.things import Colour, Point, greet

BINARY: list[Callable[[Any, Any], Any]] = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, divmod, operator.and_,
    operator.or_, operator.xor, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    operator.contains, operator.getitem, operator.iadd, operator.isub, operator.ior, operator.iand, operator.ixor,
    operator.matmul, operator.delitem, getattr, hasattr, isinstance, operator.countOf, format,
]  # fmt: skip
UNARY: list[Callable[[Any], Any]] = [
    len, bool, hash, str, list, sorted, iter, next, reversed, abs, operator.neg, operator.pos, operator.invert, int,
    float, complex, round, math.floor, math.ceil, math.trunc, bytes, operator.index, callable, tuple, set, sum, min,
    operator.length_hint, lambda x: x(), dir, vars, bin, lambda x: [*x], lambda x: {**x}, lambda x: x.__class__,
    lambda x: x.__enter__(), lambda x: x.__await__(), lambda x: x.copy(), lambda x: x.pop(), lambda x: x.real,
    lambda x: x.upper(), lambda x: x.items(), lambda x: x.clear(), aiter,
]  # fmt: skip
SMALL = st.integers(-9, 40)  # shifts and powers by more would take the machine with them
SCALARS = st.one_of(SMALL, st.floats(-100, 100), st.text(max_size=4), st.binary(max_size=4), st.booleans(),
                    st.sampled_from(list(Colour)), st.complex_numbers(max_magnitude=9, allow_nan=False))  # fmt: skip
HASHABLE = st.one_of(SCALARS, st.tuples(SMALL, st.text(max_size=2)))
TARGETS = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.dictionaries(HASHABLE, SMALL, max_size=4),
    st.sets(HASHABLE, max_size=4),
    st.tuples(SMALL, SCALARS),
    st.builds(Point, SMALL, SMALL),
    st.sampled_from([PurePosixPath("/a/b"), greet, Point, range(4), b"ab", bytearray(b"ab")]),
)
ARGUMENTS = st.one_of(
    TARGETS, st.sampled_from(["x", "norm", "append", "__len__", "__nothing__", "d", ">8"]), st.slices(4), st.just(list)
)
WAYS = ["typed", "resolved", "untyped"]


def proxied(px: Any, target: Any, way: str) -> Any:
    p = px.Proxy(lambda: target) if way == "untyped" else px.make(lambda: target, px.kind_of(target))
    if way == "resolved":
        px.resolve(p)
    return p


def outcome(px: Any, call: Callable[..., Any], *args: Any) -> Any:
    try:
        found = px.unwrap(call(*args))
    except Exception as error:
        return type(error)
    if hasattr(found, "__next__"):
        found = list(found)
    if callable(found) and not isinstance(found, type):
        return getattr(found, "__name__", "callable")
    if isinstance(found, (set, dict)) or isinstance(args[0], (set, dict)):  # a copy of a set has an order of its own
        return type(found), sorted(repr(found))
    return type(found), repr(found) if isinstance(found, (float, complex)) or found != found else found


def same(a: Any, b: Any) -> bool:
    return bool(a == b)


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=TARGETS, call=st.sampled_from(UNARY), way=st.sampled_from(WAYS))
def test_of_one(px: Any, target: Any, call: Callable[[Any], Any], way: str) -> None:
    if way == "untyped" and call is callable:
        return  # it could be anything
    if way != "resolved" and call is dir:
        return  # the type's names only
    if isinstance(target, str) and call is bytes:
        return  # no encoding: an error for str itself, a sequence of non-integers otherwise, and '' is empty
    if isinstance(target, (str, bytes, bytearray)) and call in (math.floor, math.ceil, math.trunc, round):
        return  # so that float(p) reads text, a proxy of text has __float__, which these use too
    mine = copy.deepcopy(target)
    assert outcome(px, call, proxied(px, mine, way)) == outcome(px, call, target)
    assert same(mine, target)


@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=TARGETS, other=ARGUMENTS, call=st.sampled_from(BINARY), way=st.sampled_from(WAYS), both=st.booleans())
def test_of_two(px: Any, target: Any, other: Any, call: Callable[[Any, Any], Any], way: str, both: bool) -> None:
    if way == "untyped" and call in (hasattr, getattr):
        return
    if both and call is operator.mod and isinstance(target, (str, bytes, bytearray)):
        return  # formatting reads its right side by type
    mine, theirs = copy.deepcopy((target, other))
    right = proxied(px, theirs, way) if both and not needs_the_real_one(call, other) else theirs
    assert outcome(px, call, proxied(px, mine, way), right) == outcome(px, call, target, other)
    assert same(mine, target)


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(target=TARGETS, other=TARGETS, call=st.sampled_from(BINARY[:16]), way=st.sampled_from(WAYS))
def test_on_the_right(px: Any, target: Any, other: Any, call: Callable[[Any, Any], Any], way: str) -> None:
    if call is operator.mod and isinstance(other, (str, bytes, bytearray)):
        return  # formatting reads its right side by type
    mine, theirs = copy.deepcopy((target, other))
    assert outcome(px, call, theirs, proxied(px, mine, way)) == outcome(px, call, other, target)
    assert same(mine, target)
    assert same(theirs, other)


def needs_the_real_one(call: Any, other: Any) -> bool:
    """What C code reads by its type: names, formats, slices and classes, and text sought in text."""
    return call in (getattr, hasattr, format, isinstance) or isinstance(other, (slice, str, bytes, bytearray, type))


@pytest.mark.parametrize("seed", range(3))
def test_a_list_and_its_proxy_walk_together(px: Any, seed: int) -> None:
    import random

    rng = random.Random(seed)
    target: list[int] = [3, 1, 2]
    mine = list(target)
    p = px.make(lambda: mine, px.kind_of(mine))
    steps: list[Callable[[Any, int], Any]] = [
        lambda x, i: x.append(i), lambda x, i: x.pop(), lambda x, i: x.insert(0, i), lambda x, i: x.sort(),
        lambda x, i: x.__setitem__(i, i), lambda x, i: x.__delitem__(i), lambda x, i: x.extend([i]), lambda x, i: x[i],
        lambda x, i: operator.iadd(x, [i]) is x, lambda x, i: operator.imul(x, 1) is x, lambda x, i: x.index(i),
        lambda x, i: x.reverse(), lambda x, i: list(x), lambda x, i: x[::2], lambda x, i: i in x,
    ]  # fmt: skip
    for _ in range(400):
        step, i = rng.choice(steps), rng.randrange(5)
        assert outcome(px, step, p, i) == outcome(px, step, target, i)
        assert p == target == mine


ARRAYS = ["np.arange(6.0).reshape(2, 3)", "np.arange(3)", "np.array(2.5)", "np.array([True, False, True])",
          "np.zeros((0, 3))",
          "np.array(['a', 'b', 'c'])", "np.ma.array([1, 2, 3], mask=[0, 1, 0])", "np.float32(1.5)",
          "np.array([1, 'x', None], object)",
          "np.asfortranarray(np.ones((3, 3)))", "pd.Series([1, 2, 3])", "pd.DataFrame({'a': [1, 2, 3]})"]  # fmt: skip
OTHERS = ["2", "0", "1.5", "'a'", "[1, 2, 3]", "slice(1)", "None", "(0, 0)", "np.arange(3)", "np.ones((3, 3))", "True"]


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    code=st.sampled_from(ARRAYS),
    other=st.sampled_from(OTHERS + ARRAYS),
    call=st.sampled_from([*BINARY[:24], *UNARY]),
    way=st.sampled_from(WAYS),
    swap=st.booleans(),
)
def test_of_arrays_and_frames(px: Any, code: str, other: str, call: Any, way: str, swap: bool) -> None:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    names = {"np": np, "pd": pd}
    if way != "resolved" and call in (dir, callable):
        return
    if code == "np.array(2.5)" and other.startswith("pd."):
        return  # pandas takes the scalar out of an array without dimensions, which it knows by its exact type

    def attempt(target: Any) -> Any:
        x = eval(other, names)
        try:
            found = call(target) if call in UNARY else call(x, target) if swap else call(target, x)
            found = px.unwrap(found)
            return type(found), repr(list(found)) if hasattr(found, "__next__") else repr(found)
        except Exception as error:
            return type(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dividing by zero and the like
        assert attempt(proxied(px, eval(code, names), way)) == attempt(eval(code, names))
