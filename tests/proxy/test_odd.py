"""Targets that few have: classes that mislead who asks them, memory of C, methods where Python does not expect them."""

from __future__ import annotations

import asyncio
import collections
import ctypes
from abc import ABCMeta
from collections import abc
from collections.abc import Callable
from typing import Any

import pytest

from proxyfab.errors import ProxyfabError


class Nowhere:
    """Says nothing of its module."""

    def __len__(self) -> int:
        return 2


Nowhere.__module__ = None  # type: ignore[assignment]  # the point


class Sulking(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Sulks(metaclass=Sulking):
    """Its class raises what no lookup expects."""

    def __len__(self) -> int:
        return 2


class Static:
    """A context manager without a self."""

    @staticmethod
    def __enter__() -> str:
        return "inside"

    @classmethod
    def __exit__(cls, *error: object) -> bool:
        return error[0] is KeyError


class Uncounted:
    """Has items, and is not to be walked over."""

    __iter__ = None

    def __getitem__(self, i: int) -> int:
        return i


class Chatty:
    """Tells NumPy too little, and fails when it is asked for more."""

    __array_struct__ = b""

    @property
    def dtype(self) -> Any:
        raise IndexError("asked too much")


@pytest.fixture(params=["lazy", "here", "untyped"])
def proxied(request: pytest.FixtureRequest, lazy: Any, here: Any, untyped: Any) -> Callable[[Any], Any]:
    return {"lazy": lambda target: lazy(target)[0], "here": here, "untyped": untyped}[request.param]


@pytest.mark.parametrize("cls", [Nowhere, Sulks])
def test_classes_that_mislead(proxied: Any, cls: Any) -> None:
    p = proxied(cls())
    assert len(p) == 2
    assert isinstance(p, cls)


def test_methods_without_a_self(proxied: Any) -> None:
    with proxied(Static()) as inside:
        assert inside == "inside"
    with proxied(Static()):
        raise KeyError("swallowed")


def test_unions_tell_their_members(proxied: Any) -> None:
    assert isinstance(5, proxied(int | str))
    assert not isinstance(2.5, proxied(int | str))
    assert issubclass(str, proxied(int | str))


def test_memory_of_c(exports_buffers: bool, proxied: Any) -> None:
    pair = (ctypes.c_short * 2)(1, 2)
    assert bytes(proxied(pair)) == bytes(pair)
    if exports_buffers:
        assert memoryview(proxied(pair)).nbytes == 4
        assert b"" + proxied(ctypes.c_short(3)) == bytes(ctypes.c_short(3))


def test_what_refuses_to_be_walked_refuses(lazy: Any, here: Any) -> None:
    for make in (lambda target: lazy(target)[0], here):
        p, q = make(Uncounted()), make(collections.ChainMap({"a": 1}))
        assert not isinstance(p, abc.Iterable)
        assert not isinstance(q, abc.Reversible)
        with pytest.raises(TypeError):
            list(p)
        with pytest.raises(TypeError):
            reversed(q)
    assert list(reversed(lazy({"a": 1, "b": 2})[0])) == ["b", "a"]


def test_a_proxy_of_anything_fails_as_its_target_where_a_protocol_is_missing(px: Any) -> None:
    async def enter(p: Any) -> None:
        async with p:
            pass

    async def wait(p: Any) -> Any:
        return await p

    async def step(p: Any) -> Any:
        return await anext(p)

    def enter_now(p: Any) -> None:
        with p:
            pass

    for use in (enter_now, *(lambda p, go=go: asyncio.run(go(p)) for go in (enter, wait, step))):
        for target in (3, px.Proxy(lambda: 3)):
            with pytest.raises(TypeError):
                use(target)


def test_an_error_about_the_type_that_came_does_not_look_like_an_answer(px: Any) -> None:
    with pytest.raises(ProxyfabError, match="asked too much"):
        list(px.Proxy(Chatty))


class Rows(metaclass=ABCMeta):  # noqa: B024  # as NumPy's arrays are from 2.5 on: matched, and no Sequence
    __abc_tpflags__ = 1 << 5

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> int:
        return [3, 4][i]


def test_what_is_matched_as_a_sequence_without_being_one(px: Any, here: Any, lazy: Any) -> None:
    for rows in (Rows(), here(Rows()), lazy(Rows())[0]):
        assert not isinstance(rows, abc.Sequence)
        match rows:
            case [a, b]:
                assert (a, b) == (3, 4)
            case _:
                pytest.fail("no match")
