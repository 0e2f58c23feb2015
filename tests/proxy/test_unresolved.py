"""What never fetches, counted by factories that know how often they were called."""

from __future__ import annotations

import copyreg
import enum
import inspect
import json
import pickle
import subprocess
import sys
import textwrap
import typing
import weakref
from collections import abc
from dataclasses import is_dataclass
from pathlib import Path
from types import GeneratorType
from typing import Any

import cloudpickle
import pytest

from proxyfab.errors import ProxyfabError
from proxyfab.proxy import Kind, kind_of, make, resolve
from tests.proxy.things import Colour, Loud, Manager, Point, greet

TARGETS = [3, 2.5, "text", b"bytes", [1], (1,), {"a": 1}, {1}, Point(), Colour.RED, greet, Point, Manager(), Loud(),
           Path("/x"), range(3), iter([1]), (i for i in ()), len, {}.keys(), 1j, slice(1)]  # fmt: skip
PROBES: dict[str, Any] = {
    "repr": repr,
    "isinstance": lambda p: isinstance(p, list),
    "class": lambda p: p.__class__,
    "abc": lambda p: [isinstance(p, getattr(abc, name)) for name in abc.__all__ if name != "ByteString"],
    "typing": lambda p: [isinstance(p, t) for t in (typing.Mapping, typing.Sequence, typing.Hashable)],
    "callable": callable,
    "dunders": lambda p: [hasattr(p, n) for n in ("__len__", "__iter__", "__add__", "__call__", "__enter__")],
    "strange dunders": lambda p: [hasattr(p, n) for n in ("__nothing__", "__cuda_array_interface__", "__dask_graph__")],
    "dir": dir,
    "weakref": lambda p: weakref.ref(p)() is p,
    "weak key": lambda p: weakref.finalize(p, int).detach(),
    "identity": lambda p: (p is p, id(p), type(p)),
    "sizeof": sys.getsizeof,
    "inspect": lambda p: (inspect.isclass(p), inspect.isfunction(p), inspect.isgenerator(p), inspect.isawaitable(p)),
    "dataclass": is_dataclass,
    "copyreg": lambda p: (p.__reduce_ex__(2), copyreg.dispatch_table[type(p)]),
    "pickling probes": lambda p: [hasattr(p, n) for n in ("__getstate__", "__reduce__", "__deepcopy__")],
    "list": lambda p: ([p], {"k": p}, (p,))[0] is not None,
}  # fmt: skip


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_a_probe_does_not_fetch(px: Any, lazy: Any, target: Any, probe: str) -> None:
    if isinstance(target, type) and probe in {"dunders", "strange dunders", "pickling probes", "dataclass"}:
        return  # a class can have any name, and only it knows
    if isinstance(target, GeneratorType) and probe == "inspect":
        return  # whether one is awaitable is written in its code
    p, factory = lazy(target)
    PROBES[probe](p)
    assert factory.calls == 0
    assert not px.is_resolved(p)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: type(t).__name__)
def test_what_probes_say_is_true(lazy: Any, target: Any) -> None:
    p, factory = lazy(target)
    assert p.__class__ is type(target)
    assert isinstance(p, type(target))
    for name, value in [pair for base in type(target).__mro__ for pair in vars(base).items()]:
        if name.startswith("__") and callable(value):
            assert hasattr(p, name), name
    assert factory.calls == 0
    assert is_dataclass(p) == is_dataclass(target)
    for alias in (typing.Mapping, typing.MutableMapping, typing.MutableSequence, typing.AbstractSet):
        assert isinstance(p, alias) == isinstance(target, alias)
    if not isinstance(target, (str, bytes)):
        assert isinstance(p, typing.Sequence) == isinstance(target, typing.Sequence)
    assert factory.calls == isinstance(target, type)


def test_repr_names_type_and_source(lazy: Any, untyped: Any) -> None:
    assert repr(lazy(Point())[0]).startswith("<Proxy[tests.proxy.things.Point] of <")
    assert repr(lazy(3)[0]).startswith("<Proxy[int] of <")
    assert repr(untyped(3)).startswith("<Proxy[?] of <")
    assert repr(untyped(3)).endswith("not resolved>")


def test_repr_of_a_resolved_proxy_is_the_targets(here: Any) -> None:
    assert (repr(here(Point())), str(here("a")), repr(here("a"))) == (repr(Point()), "a", "'a'")


def test_doc_of_the_type_or_of_the_object(lazy: Any) -> None:
    p, factory = lazy(Point())
    assert p.__doc__ == Point.__doc__
    assert factory.calls == 0
    assert lazy(greet)[0].__doc__ == "Says hello."


def test_a_method_found_by_name_fetches_when_called(lazy: Any) -> None:
    p, factory = lazy([3, 1])
    size = p.__len__
    assert factory.calls == 0
    assert size() == 2
    assert factory.calls == 1


def test_pickling_does_not_fetch(px: Any) -> None:
    target = [1, 2]
    for dumps in (pickle.dumps, cloudpickle.dumps, lambda p: pickle.dumps(p, 2), lambda p: pickle._dumps(p)):  # type: ignore[attr-defined]  # the Python pickler, as dill derives from
        p = px.make(list, px.kind_of(target))
        q = pickle.loads(dumps(p))
        assert not px.is_resolved(p)
        assert not px.is_resolved(q)
        assert px.is_proxy(q)
        assert q.__class__ is list
        assert q == []
        assert px.is_resolved(pickle.loads(dumps(q))) is False


def test_a_hook_decides_how_a_proxy_pickles(px: Any) -> None:
    class Factory:
        def __call__(self) -> Any:
            return [1]

        def reduce_proxy(self, kind: Any, resolved: bool, target: Any) -> Any:
            seen.append((kind, resolved, target))
            return list, ((5,),)

    seen: list[Any] = []
    p = px.make(Factory(), px.kind_of([]))
    assert pickle.loads(pickle.dumps(p)) == [5]
    px.resolve(p)
    assert pickle.loads(pickle.dumps(p)) == [5]
    assert seen == [(px.kind_of([]), False, None), (px.kind_of([]), True, [1])]


def test_dask_does_not_fetch(lazy: Any) -> None:
    base = pytest.importorskip("dask.base")
    for target in ([1], {"a": 1}, Point(), greet, 3):
        p, factory = lazy(target)
        assert not base.is_dask_collection(p)
        assert base.tokenize(p) == base.tokenize(p)
        assert factory.calls == 0


def test_a_local_class_is_fetched_to_know_it(px: Any, lazy: Any) -> None:
    class Local:
        pass

    p, factory = lazy(Local())
    assert not hasattr(p, "__dask_graph__")
    assert factory.calls == 0
    assert isinstance(p, Local)
    assert factory.calls == 1


class Hidden(enum.IntEnum):
    A = 1


def test_a_proxy_passes_where_its_type_cannot_be_imported(px: Any, lazy: Any) -> None:
    kind = px.Kind("nowhere.at_all:Thing", px.kind_of([]).mask)
    p = px.make(list, kind)
    assert p.__class__ is type(p)
    assert not isinstance(p, list)
    assert isinstance(p, abc.Iterable)
    assert not callable(p)
    assert hasattr(p, "__len__")
    assert not hasattr(p, "__array__")
    assert not hasattr(p, "__dask_graph__")
    assert px.kind_of(pickle.loads(pickle.dumps(p))) == kind
    assert not px.is_resolved(p)
    assert dir(p)
    assert len(p) == 0


def test_numpy_is_not_imported_to_pass_its_arrays_on(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    from proxyfab import proxy

    p = proxy.make(greet, proxy.kind_of(np.arange(3)))
    (tmp_path / "p").write_bytes(pickle.dumps(p))
    code = f"""
        import pickle, sys
        from proxyfab import proxy
        p = pickle.load(open({str(tmp_path / "p")!r}, "rb"))
        assert repr(p).startswith("<Proxy[numpy.ndarray] of "), repr(p)
        assert not callable(p) and hasattr(type(p), "__matmul__") and not proxy.is_resolved(p)
        q = pickle.loads(pickle.dumps(p))
        assert "numpy" not in sys.modules
        sys.modules["numpy"] = None  # as if it were not installed
        assert p.__class__ is type(p) and not isinstance(p, list)
        assert pickle.dumps(p) == pickle.dumps(q)
        assert not proxy.is_resolved(p)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True, cwd=Path.cwd())


def test_a_proxy_of_anything(px: Any, untyped: Any) -> None:
    p = untyped([1])
    assert callable(p)
    assert not hasattr(p, "__dask_graph__")
    assert pickle.loads(pickle.dumps(px.Proxy(list))) == []
    assert not px.is_resolved(p)
    assert isinstance(p, list)
    assert not callable(p)
    assert isinstance(px.Proxy[int](int), px.Proxy)
    with pytest.raises(TypeError, match="callable"):
        px.Proxy([1])


def test_what_came_decides(px: Any) -> None:
    p = px.make(lambda: {"a": 1}, px.kind_of(3))
    assert isinstance(p, int)
    with pytest.raises(TypeError, match="dict"):
        p + 0
    assert isinstance(p, dict)
    assert len(p) == 1
    assert not hasattr(type(p), "__add__")


def test_errors_of_a_fetch_do_not_look_like_answers(px: Any) -> None:
    for error in (AttributeError("inside"), IndexError("inside"), StopIteration("inside")):

        def fail(error: Exception = error) -> Any:
            raise error

        for use in (lambda p: p.name, lambda p: hasattr(p, "name"), lambda p: list(p), lambda p: next(p), len):
            with pytest.raises(ProxyfabError, match="inside"):
                use(px.make(fail, px.kind_of(iter([])) if use is not len else px.kind_of([])))


def test_json(px: Any, lazy: Any) -> None:
    document = {"a": lazy([1, 2])[0], "b": [lazy(3)[0], lazy("x")[0]], "c": lazy({"d": None})[0]}
    assert json.loads(json.dumps(document, default=px.json_default)) == {"a": [1, 2], "b": [3, "x"], "c": {"d": None}}
    with pytest.raises(TypeError, match="object is not JSON"):
        json.dumps(object(), default=px.json_default)


def test_singletons_and_questions(px: Any, lazy: Any) -> None:
    assert [px.is_singleton(x) for x in (None, True, False, ..., NotImplemented, 0, 1, "", ())] == [True] * 5 + [
        False
    ] * 4
    p, factory = lazy([1])
    assert px.is_proxy(p)
    assert not px.is_proxy([1])
    assert px.is_resolved([1])
    assert px.factory_of(p) is factory
    assert px.kind_of(p) == px.kind_of([1]) == px.kind_of_type(list)
    assert px.kind_of(list) == px.kind_of_type(type)
    assert px.unwrap(p) is px.resolve(p) is factory.target
    assert px.unwrap(5) == px.resolve(5) == 5


@pytest.mark.parametrize("kind", [None, Kind("nowhere:Missing", kind_of(5).mask), Kind("", kind_of([]).mask)])
def test_another_thread_may_resolve_it_amid_a_question(kind: Kind | None) -> None:
    class Name(str):
        """Lets somebody resolve the proxy at one of the times that it is looked up."""

        __slots__ = ()
        left = 0

        def __hash__(self) -> int:
            Name.left -= 1
            if not Name.left:
                resolve(proxy)
            return str.__hash__(self)

        __eq__ = str.__eq__

    for look in range(1, 12):
        proxy = make(object, kind)
        Name.left = look
        hasattr(proxy, Name("__len__"))  # what it was, or what it is; and no other error
        hasattr(proxy, "__getitem__")
