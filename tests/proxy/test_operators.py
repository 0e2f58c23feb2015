"""A resolved proxy does what its target does; an unresolved one first fetches, once, and then does the same."""

from __future__ import annotations

import array
import asyncio
import copy
import fractions
import functools
import inspect  # noqa: F401  # expressions below use it
import math
import operator  # noqa: F401  # so do they
import os
import pathlib
import re
import struct
from collections import abc, deque
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.proxy.things import Colour, Loud, Manager, Point, Promise, Ticker, greet

EXPRESSIONS: dict[str, tuple[Any, list[str]]] = {
    "int": (7, ["p + 1", "1 + p", "p - 2", "2 - p", "p * 3", "3 * p", "p / 2", "2 / p", "p // 2", "20 // p", "p % 4",
                "20 % p", "divmod(p, 2)", "divmod(20, p)", "p ** 2", "2 ** p", "pow(p, 2, 5)", "p << 1", "1 << p",
                "p >> 1", "1000 >> p", "p & 3", "3 & p", "p | 8", "8 | p", "p ^ 1", "1 ^ p", "-p", "+p", "~p", "abs(p)",
                "int(p)", "float(p)", "complex(p)", "bool(p)", "not p", "hash(p)", "p == 7", "7 == p", "p != 7",
                "p < 8", "8 > p", "p >= 7", "round(p, -1)", "math.trunc(p)", "math.floor(p)", "math.sqrt(p)",
                "range(p)", "'%d' % p", "f'{p:04d}'", "format(p, 'x')", "str(p)", "chr(p)", "[0] * p",
                "list(range(9))[p]", "p.bit_length()", "p.real", "sum([p, p])", "max([1, p])", "sorted([p, 3])",
                "{7: 'x'}[p]", "p in {7}", "struct.pack('i', p)", "bin(p)", "fractions.Fraction(p)", "bytes(p)",
                "'abc' * p", "p == p", "p + p", "p is p", "operator.index(p)"]),
    "float": (2.5, ["p * 2", "2 * p", "f'{p:.3f}'", "round(p)", "math.floor(p)", "math.ceil(p)", "math.trunc(p)",
                    "p.is_integer()", "complex(p)", "int(p)", "p // 1", "math.isclose(p, 2.5)", "-p", "p ** 2"]),
    "complex": (1 + 2j, ["complex(p)", "p * 1j", "abs(p)", "p.conjugate()", "p == 1 + 2j"]),
    "str": ("héllo", ["p + '!'", "'>' + p", "p[1]", "p[1:3]", "len(p)", "'l' in p", "p.upper()", "p % ()", "p * 2",
                      "list(p)", "reversed(p).__class__", "hash(p)", "p == 'héllo'", "f'{p:>9}'", "p < 'z'",
                      "{'héllo': 1}[p]", "str(p)", "os.fspath(p)", "pathlib.Path(p)", "bool(p)", "sorted(p)",
                      "p.encode()", "iter(p).__next__()"]),
    "text number": ("12", ["int(p)", "float(p)", "complex(p)"]),
    "bytes": (b"abc", ["p + b'd'", "b'x' + p", "p[0]", "p[:2]", "bytes(p)", "p.hex()", "b'a' in p", "list(p)",
                       "p == b'abc'", "hash(p)", "p % ()"]),
    "bytearray": (bytearray(b"ab"), ["bytes(p)", "p + b'c'", "len(p)", "list(p)"]),
    "list": ([3, 1, 2], ["p + [4]", "[4] + p", "p * 2", "2 * p", "p[0]", "p[-1]", "p[1:]", "len(p)", "3 in p",
                         "reversed(p).__class__", "list(reversed(p))", "sorted(p)", "p == [3, 1, 2]", "[3, 1, 2] == p",
                         "p < [4]", "p.index(2)", "[*p]", "max(p)", "sum(p)", "list(map(str, p))", "bool(p)", "str(p)",
                         "operator.length_hint(p)", "dict.fromkeys(p)", "isinstance(p, list)", "p.__len__()",
                         "list(zip(p, p))", "p[p[1]]", "list(enumerate(p))"]),
    "tuple": ((1, "a"), ["p + (2,)", "(0,) + p", "p[0]", "hash(p)", "len(p)", "p == (1, 'a')", "p.count(1)",
                         "list(reversed(p))", "(lambda *a: a)(*p)", "p * 2"]),
    "dict": ({"a": 1, "b": 2}, ["p['a']", "len(p)", "'a' in p", "list(p)", "p.get('z', 9)", "dict(p)", "{**p}",
                                "{'c': 3} | p", "(lambda **k: k)(**p)", "list(p.items())", "p == {'a': 1, 'b': 2}",
                                "list(reversed(p))", "bool(p)", "sorted(p)", "str(p)", "p.keys() & {'a'}"]),
    "set": ({1, 2, 3}, ["p | {4}", "{4} | p", "p & {1}", "{1} & p", "p - {1}", "{1, 9} - p", "p ^ {1}", "{1} ^ p",
                        "1 in p", "len(p)", "p <= {1, 2, 3, 4}", "p == {1, 2, 3}", "p.isdisjoint({4})", "sorted(p)"]),
    "range": (range(5), ["p[2]", "list(reversed(p))", "3 in p", "len(p)", "p.step", "hash(p)"]),
    "memoryview": (memoryview(b"abc"), ["p[0]", "bytes(p)", "p.nbytes", "p.tolist()"]),
    "array": (array.array("i", [1, 2]), ["bytes(p)", "p[0]", "p.tolist()", "list(p)"]),
    "deque": (deque([1, 2]), ["p[0]", "list(reversed(p))", "len(p)", "p.maxlen"]),
    "dataclass": (Point(3, 4), ["p.x", "p.norm()", "p == Point(3, 4)", "Point(3, 4) == p", "str(p)",
                                "hasattr(p, 'z')", "vars(p)", "p.__class__"]),
    "enum": (Colour.RED, ["p.name", "p.value", "p == Colour.RED", "Colour.RED == p", "p != Colour.BLUE", "hash(p)",
                          "{Colour.RED: 1}[p]", "str(p)", "isinstance(p, Colour)", "p == p"]),
    "function": (greet, ["p()", "p('me')", "p(name='me', loud=True)", "p.__name__", "inspect.signature(p)",
                         "inspect.isfunction(p)", "callable(p)", "p.__doc__", "functools.partial(p, 'x')()",
                         "p.__defaults__", "inspect.getdoc(p)", "list(map(p, 'ab'))"]),
    "class": (Point, ["p(5, 6)", "p.__name__", "isinstance(Point(), p)", "isinstance(3, p)", "issubclass(Point, p)",
                      "issubclass(p, object)", "type('Sub', (Point,), {}).__mro__[1] == p", "inspect.isclass(p)",
                      "isinstance(p, type)", "p.__mro__", "inspect.signature(p)"]),
    "callable": (functools.partial(greet, "you"), ["p()", "p(loud=True)", "inspect.signature(p)", "p.func"]),
    "getattr": (Loud(), ["p.anything", "hasattr(p, 'anything')", "hasattr(p, '__anything__')"]),
    "module": (math, ["p.pi", "p.sqrt(4)", "p.__name__"]),
    "path": (pathlib.Path("/tmp/x"), ["p / 'y'", "'/r' / p", "os.fspath(p)", "p.name", "os.path.join(p, 'z')",
                                      "p == pathlib.Path('/tmp/x')", "hash(p)", "str(p)", "pathlib.Path(p)"]),
    "fraction": (fractions.Fraction(1, 3), ["p + 1", "1 - p", "math.floor(p)", "round(p, 2)", "p ** 2", "float(p)"]),
}  # fmt: skip
CASES = [
    pytest.param(target, code, id=f"{name}: {code}") for name, (target, codes) in EXPRESSIONS.items() for code in codes
]


@pytest.mark.parametrize(("target", "code"), CASES)
def test_an_expression_has_the_value_it_has_on_the_target(
    px: Any, lazy: Any, here: Any, target: Any, code: str
) -> None:
    expected = eval(code, globals() | {"p": target})
    proxy, factory = lazy(target)

    for p in (here(target), proxy, px.Proxy(lambda: target)):
        found = eval(code, globals() | {"p": p})
        found = px.unwrap(found)
        assert type(found) is type(expected)
        assert found == expected or repr(found) == repr(expected)
    assert factory.calls <= 1


@pytest.mark.parametrize(
    ("target", "code", "kept"),
    [
        ([1], "p += [2]", True),
        ([1], "p *= 2", True),
        ({1}, "p |= {2}", True),
        ({1, 2}, "p &= {2}", True),
        ({1, 2}, "p -= {2}", True),
        ({1, 2}, "p ^= {2, 3}", True),
        ({"a": 1}, "p |= {'b': 2}", True),
        (bytearray(b"a"), "p += b'b'", True),
        (1, "p += 1", False),
        ("a", "p += 'b'", False),
        ((1,), "p *= 2", False),
        (7, "p **= 2", False),
        (7, "p >>= 1", False),
    ],
    ids=str,
)
def test_in_place_keeps_the_proxy_of_what_changed_in_place(
    px: Any, lazy: Any, target: Any, code: str, kept: bool
) -> None:
    for make in (lambda t: lazy(t)[0], lambda t: px.Proxy(lambda: t)):
        bare, mine = {"p": copy.copy(target)}, copy.copy(target)
        proxy = make(mine)
        names = {"p": proxy}
        exec(code, bare)
        exec(code, names)

        assert names["p"] == bare["p"]
        assert (names["p"] is proxy) is kept
        if kept:
            assert mine == bare["p"]


def test_a_mutable_left_operand_is_changed_in_place(lazy: Any, here: Any, untyped: Any) -> None:
    for make in (lambda t: lazy(t)[0], here, untyped):
        for left, code, right in [
            ([1], "x += p", [2]),
            ([1], "x += p", (2,)),
            ([], "x += p", "ab"),
            ([1], "x *= p", 2),
            ({1}, "x |= p", {2}),
            ({1, 2}, "x &= p", {2}),
            ({1, 2}, "x -= p", {2}),
            ({1, 2}, "x ^= p", {2, 3}),
            ({"a": 1}, "x |= p", {"b": 2}),
            (bytearray(b"a"), "x += p", b"b"),
            (deque([1]), "x += p", [2]),
            (array.array("i", [1]), "x += p", array.array("i", [2])),
        ]:
            bare, mine = {"x": copy.copy(left), "p": right}, copy.copy(left)
            names = {"x": mine, "p": make(right)}
            exec(code, bare)
            exec(code, names)
            assert names["x"] == bare["x"]
            assert names["x"] is mine
    numbers = [1]
    assert (numbers + here([2]), numbers) == ([1, 2], [1])


def test_items_and_attributes_are_set_and_deleted_on_the_target(lazy: Any) -> None:
    numbers, point, table = [1, 2, 3], Point(), {"a": 1}
    p, q, r = lazy(numbers)[0], lazy(point)[0], lazy(table)[0]
    p[0] = 9
    del p[1]
    q.x = 5
    q.new = 6
    del q.y
    r["b"] = 2
    del r["a"]

    assert numbers == [9, 3]
    assert (point.x, point.new, "y" in vars(point)) == (5, 6, False)  # type: ignore[attr-defined]  # set above
    assert table == {"b": 2}


@pytest.mark.parametrize("resolve_first", [True, False])
def test_what_the_target_cannot_fails_as_it_does(px: Any, lazy: Any, resolve_first: bool) -> None:
    for target, code in [
        (3, "len(p)"), (3, "p[0]"), (3, "iter(p)"), (3, "p()"), ([], "p + 1"), ([], "hash(p)"), ({}, "p['x']"),
        ([1], "p[5]"), ("a", "p + 1"), (3, "p.nothing"), ([], "p < 3"), (3, "p / 0"), ((1,), "p.append"), ([], "p()"),
        ("abc", "range(p)"), (object(), "p + 1"), ([], "next(p)"), (3, "with_(p)"),
    ]:  # fmt: skip
        with pytest.raises(Exception) as bare:  # noqa: PT011  # the type is what is compared
            eval(code, {"p": target, "with_": enter})
        p = lazy(target)[0]
        if resolve_first:
            px.resolve(p)
        with pytest.raises(bare.type):
            eval(code, {"p": p, "with_": enter})


def enter(p: Any) -> None:
    with p:
        pass


def test_context_managers_and_generators(lazy: Any) -> None:
    manager = Manager()
    p = lazy(manager)[0]
    with p as inside:
        assert inside == "inside"
    with p:
        raise KeyError("swallowed")
    generator = lazy(i * i for i in range(3))[0]
    assert next(generator) == 0

    def delegate() -> Any:
        yield from generator

    assert list(delegate()) == [1, 4]
    assert (manager.entered, manager.exited) == (2, 2)


def test_async(lazy: Any, untyped: Any) -> None:
    async def five() -> int:
        return 5

    async def use(proxy_of: Any) -> list[Any]:
        found = [i async for i in proxy_of(Ticker(3))]
        async with proxy_of(Manager()) as inside:
            found.append(inside)
        found += [await proxy_of(five()), await proxy_of(Promise()), await anext(proxy_of(Ticker(1)))]
        return found

    expected = [2, 1, 0, "inside", 5, None, 0]
    assert asyncio.run(use(lambda t: lazy(t)[0])) == expected
    assert asyncio.run(use(untyped)) == expected


def test_match(lazy: Any) -> None:
    def kind(x: Any) -> Any:
        match x:
            case Point(x=a, y=b):
                return "point", a, b
            case {"a": a, **rest}:
                return "mapping", a, rest
            case str():
                return "text"
            case [a, *_]:
                return "sequence", a
            case 7:
                return "seven"
            case Colour.RED:
                return "red"
        return None

    for target in (
        Point(3, 4),
        {"a": 1, "b": 2},
        "text",
        [1, 2],
        (1, 2),
        range(3),
        7,
        Colour.RED,
        b"x",
        {1},
        deque([1]),
    ):
        assert kind(lazy(target)[0]) == kind(target)


def test_operators_are_only_those_of_the_type(lazy: Any, here: Any) -> None:
    for target in (
        3,
        2.5,
        "s",
        b"b",
        [],
        {},
        set(),
        (),
        greet,
        Point(),
        Colour.RED,
        iter(()),
        Manager(),
        Ticker(1),
        math,
    ):
        for p in (lazy(target)[0], here(target)):
            assert callable(p) == callable(target)
            for name in ("Iterable", "Sized", "Container", "Hashable", "Callable", "Iterator", "Awaitable", "Mapping",
                         "Sequence", "MutableSequence", "Set", "Reversible", "AsyncIterator"):  # fmt: skip
                cls = getattr(abc, name)
                assert isinstance(p, cls) == isinstance(target, cls), (target, name)
            for name in ("__len__", "__iter__", "__getitem__", "__add__", "__index__", "__call__", "__enter__"):
                assert hasattr(p, name) == hasattr(target, name), (target, name)


def test_a_class_kept_in_a_proxy_can_be_derived_from(lazy: Any) -> None:
    for p in (lazy(Point)[0], lazy(Point)[0]):

        class Sub(p):  # type: ignore[misc]  # that is the point
            pass

        assert Sub.__mro__[1] is Point


def test_a_function_kept_in_a_proxy_can_be_a_method(lazy: Any) -> None:
    class Host:
        method = lazy(lambda self: self)[0]

    host = Host()
    assert host.method() is host


def test_singledispatch(lazy: Any) -> None:
    @functools.singledispatch
    def name(x: object) -> str:
        return "object"

    name.register(list, lambda x: "list")
    name.register(int, lambda x: "int")
    p, factory = lazy([])

    assert (name(p), name(lazy(3)[0]), name(lazy("")[0])) == ("list", "int", "object")
    assert factory.calls == 0


# A proxy of bytes exports their buffer, which Python 3.11 does not like to see in a path, and says so.
@pytest.mark.filterwarnings("ignore:.*should be string, bytes.*:DeprecationWarning")
def test_paths(lazy: Any, here: Any, tmp_path: pathlib.Path) -> None:
    for target in (str(tmp_path), os.fsencode(tmp_path), tmp_path):
        for p in (lazy(target)[0], here(target)):
            assert os.path.exists(p)
            assert os.path.isdir(p)
            assert os.listdir(p) == []
    (tmp_path / "f").write_text("x")
    with open(lazy(str(tmp_path / "f"))[0]) as file:
        assert file.read() == "x"
    assert not os.path.exists(lazy("/nowhere/at/all")[0])


def test_buffers(lazy: Any, here: Any, exports_buffers: bool) -> None:
    if not exports_buffers:
        with pytest.raises(TypeError):
            memoryview(here(b"abc"))
        return
    import hashlib
    import zlib

    for make in (lambda t: lazy(t)[0], here):
        p = make(b"abc")
        assert memoryview(p) == b"abc"
        assert b"-".join([p, b"d"]) == b"abc-d"
        assert hashlib.sha256(p).digest() == hashlib.sha256(b"abc").digest()
        assert zlib.crc32(p) == zlib.crc32(b"abc")
        with pytest.raises(TypeError, match="read-write"):
            struct.pack_into("b", p, 0, 1)
        target = bytearray(2)
        struct.pack_into("b", make(target), 1, 7)
        assert target == b"\0\7"
    with pytest.raises(TypeError):
        memoryview(lazy("text")[0])  # type: ignore[arg-type]  # that is the point


def test_what_has_items_need_not_be_iterable(lazy: Any, here: Any) -> None:
    class Counts:
        def __getitem__(self, i: int) -> int:
            return [1, 2][i]

    class Refuses(Counts):
        __iter__ = None

    match = re.match("(a)(b)", "ab")
    for make in (lambda t: lazy(t)[0], here):
        assert list(make(Counts())) == [1, 2]
        for target in (Refuses(), match):
            with pytest.raises(TypeError, match="not iterable"):
                list(make(target))
        assert make(match)[1] == "a"


def test_calling_a_proxys_class_makes_the_targets_type(px: Any, lazy: Any, here: Any) -> None:
    """`type(x)(...)` is how containers are rebuilt by those who do not know them: dataclasses, Dask, JAX."""
    for make in (lambda target: lazy(target)[0], here):
        assert type(make([1]))((2, 3)) == [2, 3]
        assert type(type(make({}))(a=1)) is dict

        @dataclass
        class Scan:
            angles: list[int]

        assert asdict(Scan(make([1, 2]))) == {"angles": [1, 2]}
        with pytest.raises(TypeError, match="Scan"):
            type(make(Scan([])))([1])  # a local class: its name leads nowhere
    with pytest.raises(TypeError, match="needs a callable"):
        px.Proxy([1])
