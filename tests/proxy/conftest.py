"""The behaviour suite runs over every implementation of proxies: `px` is one of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

IMPLEMENTATIONS = ["proxyfab.proxy"]


@pytest.fixture(params=IMPLEMENTATIONS)
def px(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


class Counted:
    """A factory that counts how often it was called."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.target


@pytest.fixture
def lazy(px: ModuleType) -> Callable[[Any], tuple[Any, Counted]]:
    """An unresolved proxy that announces its target's kind, and its factory."""

    def make(target: Any) -> tuple[Any, Counted]:
        factory = Counted(target)
        return px.make(factory, px.kind_of(target)), factory

    return make


@pytest.fixture
def here(px: ModuleType) -> Callable[[Any], Any]:
    """A resolved proxy."""

    def make(target: Any) -> Any:
        proxy = px.make(Counted(target), px.kind_of(target))
        px.resolve(proxy)
        return proxy

    return make


@pytest.fixture
def untyped(px: ModuleType) -> Callable[[Any], Any]:
    """A proxy of which nothing is known before it resolves."""
    return lambda target: px.Proxy(Counted(target))
