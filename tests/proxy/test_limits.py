"""What docs/proxies.md says a Python proxy cannot do. When one of these begins to work, its line there goes."""

from __future__ import annotations

import array
import datetime
import json
import operator
import re
import sys
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.proxy.things import Colour, Point

FAILING: list[tuple[Any, Callable[[Any], Any]]] = [
    ("a", lambda p: ", ".join([p])),
    ("a", lambda p: "abc".startswith(p)),
    ("a", lambda p: p in "abc"),
    ("a", lambda p: re.match(p, "abc")),
    ("ff", lambda p: int(p, 16)),
    ((1, 2), lambda p: "%s %s" % p),  # noqa: UP031  # the point
    (slice(1), lambda p: [1, 2][p]),
    ([1], json.dumps),
    (3, lambda p: datetime.timedelta(seconds=p)),
    ("x", lambda p: getattr(Point(), p)),
    (list, lambda p: p[int]),
    (3, lambda p: pow(2, p, 5)),
    ([1], lambda p: list.append(p, 2)),
    ("a", lambda p: str.upper(p)),
    (3, lambda p: np.random.default_rng(p)),
]
if sys.version_info < (3, 12):  # which have no `__buffer__`
    FAILING.append((np.float32(1), memoryview))
WRONG: list[tuple[Any, Callable[[Any], Any]]] = [
    (Colour.RED, lambda p: p is Colour.RED),
    (Point, lambda p: issubclass(p, Point)),
    ("a", lambda p: isinstance(p, typing.Sequence)),
    ([1], lambda p: type(p) is list),
    ((0, 1), lambda p: np.zeros((2, 2))[p].ndim == 0),
    ("a", np.isscalar),
    ([1], lambda p: isinstance(np.int64(3) * p, list)),
    (b"1234", lambda p: len(array.array("i", p)) == 1),
]


@pytest.mark.parametrize("i", range(len(FAILING)))
def test_it_fails_on_a_proxy_and_works_on_the_target(px: Any, here: Any, i: int) -> None:
    target, use = FAILING[i]
    use(px.unwrap(here(target)))
    with pytest.raises(TypeError):
        use(here(target))


@pytest.mark.parametrize("i", range(len(WRONG)))
def test_it_differs_on_a_proxy(px: Any, here: Any, i: int) -> None:
    target, use = WRONG[i]
    assert use(px.unwrap(here(target)))
    assert not use(here(target))


def test_errors_are_raised_and_caught_unwrapped(px: Any, here: Any) -> None:
    error, kind = here(ValueError("inside")), here(ValueError)
    with pytest.raises(TypeError):
        raise error
    with pytest.raises(ValueError, match="inside"):
        raise px.unwrap(error)
    with pytest.raises(px.unwrap(kind)):
        raise px.unwrap(error)


def test_an_in_place_function_cannot_be_told_from_a_binary_one(here: Any) -> None:
    numbers = [1]
    assert operator.iadd(numbers, here([2])) == [1, 2]
    assert numbers == [1]


def test_an_enum_is_not_asked_for_a_member_by_a_proxy_of_it(px: Any, here: Any) -> None:
    assert Colour(here(Colour.RED.value)) is Colour.RED
    with pytest.raises(ValueError, match="is not a valid"):
        Colour(here(Colour.RED))
    assert Colour(px.unwrap(here(Colour.RED))) is Colour.RED
