"""Factories that say what a copy of their proxy is, and take its target back."""

from __future__ import annotations

import copy
from typing import Any

import pytest


class Counting:
    """Another list at each call, and copies that are told apart."""

    def __init__(self, hooked: bool) -> None:
        self.calls = 0
        if hooked:
            self.copy_proxy = lambda: "a copy"
            self.deepcopy_proxy = lambda memo: f"a deep copy, {type(memo).__name__}"

    def __call__(self) -> Any:
        self.calls += 1
        return [self.calls]


class Deep:
    """Copies itself its own way."""

    def __deepcopy__(self, memo: dict[int, Any]) -> str:
        return "its own"


@pytest.mark.parametrize("resolved", [False, True])
def test_a_factory_says_what_copies_are(px: Any, resolved: bool) -> None:
    factory = Counting(hooked=True)
    proxy = px.make(factory, px.kind_of_type(list))
    if resolved:
        px.resolve(proxy)

    assert copy.copy(proxy) == "a copy"
    assert copy.deepcopy(proxy) == "a deep copy, dict"
    assert copy.deepcopy({"inside": [proxy]}) == {"inside": ["a deep copy, dict"]}
    assert factory.calls == int(resolved)


def test_also_where_the_target_copies_itself(px: Any) -> None:
    proxy = px.make(Deep, px.kind_of_type(Deep))
    assert copy.deepcopy(proxy) == "its own"
    assert copy.deepcopy(px.resolve(proxy)) == "its own"

    class Hooked:
        def __call__(self) -> Deep:
            return Deep()

        def deepcopy_proxy(self, _: dict[int, Any]) -> str:
            return "the factory's"

    hooked = px.make(Hooked(), px.kind_of_type(Deep))
    assert isinstance(px.resolve(hooked), Deep)
    assert copy.deepcopy(hooked) == "the factory's"


def test_copies_of_others_are_their_targets(px: Any) -> None:
    proxy = px.make(Counting(hooked=False), px.kind_of_type(list))
    deep, shallow = copy.deepcopy(proxy), copy.copy(proxy)

    assert deep == shallow == [1]
    assert not px.is_proxy(deep)
    assert deep is not px.resolve(proxy)


def test_a_target_that_was_taken_back_is_fetched_again(px: Any) -> None:
    factory = Counting(hooked=False)
    proxy = px.make(factory)
    px.unsettle(proxy)
    assert proxy == [1]
    px.unsettle(proxy)
    assert not px.is_resolved(proxy)
    assert isinstance(proxy, list)
    assert proxy == [2]
    assert len(proxy) == 1
    px.unsettle(proxy)
    px.unsettle(proxy)
    assert repr(proxy).endswith("not resolved>")
    assert factory.calls == 2
