"""The behaviour suite runs over both cores of proxies: `px` is one of them.

The one that this process does not use is a second copy of the package, which stands in its place while a test runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

import proxyfab
from proxyfab.proxy import core

NAME = "proxyfab.proxy"


def _modules() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name == NAME or name.startswith(NAME + ".")}


@cache
def _copy(pure: str) -> dict[str, ModuleType]:
    """The package imported once more, with the other core; nothing that is imported by now changes."""
    usual = _modules()
    with mock.patch.dict(sys.modules), mock.patch.dict(os.environ, {"PROXYFAB_PURE": pure}):
        for name in usual:
            del sys.modules[name]
        importlib.import_module(NAME)
        copies = _modules()
    proxyfab.proxy = usual[NAME]
    return copies


@pytest.fixture(params=["C", "Python"])
def px(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    if (core.compiled is not None) == (request.param == "C"):
        yield proxyfab.proxy
        return
    modules = _copy("0" if request.param == "C" else "1")
    if (modules[NAME + ".core"].compiled is None) == (request.param == "C"):  # type: ignore[attr-defined]  # a module
        pytest.skip(f"no C core: {modules[NAME + '.core'].why_pure}")  # type: ignore[attr-defined]  # as above
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(proxyfab, "proxy", modules[NAME])
    monkeypatch.setattr(proxyfab, "_again", modules[NAME].again)
    yield modules[NAME]


@pytest.fixture
def exports_buffers(px: ModuleType) -> bool:
    """Whether proxies export buffers: before 3.12 a class of Python cannot."""
    return sys.version_info >= (3, 12) or sys.modules[NAME + ".core"].compiled is not None  # type: ignore[attr-defined]


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
