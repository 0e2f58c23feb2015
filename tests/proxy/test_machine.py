"""A proxy and its target walk through the same random life: equal results, or errors of one type, at every step."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import operator
import re
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.proxy.things import Colour, Manager, Point, Ticker, greet

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")


class Room(Manager):
    """A context manager that tells how it was used."""

    def __repr__(self) -> str:
        return f"Room({self.entered}, {self.exited})"


def count() -> Any:
    """A generator that listens."""
    heard = 0
    while heard < 40:
        heard += (yield heard) or 1


EXAMPLES = 80
MAKERS: dict[str, Callable[[], Any]] = {
    "int": lambda: 7,
    "float": lambda: 2.5,
    "str": lambda: "some text",
    "bytes": lambda: b"bytes",
    "list": lambda: [3, 1, 2],
    "dict": lambda: {"a": 1, 2: "b"},
    "set": lambda: {1, 2, 3},
    "tuple": lambda: (1, "a", 2.5),
    "dataclass": lambda: Point(3, 4, ["tag"]),
    "array": lambda: np.arange(6.0).reshape(2, 3),
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": [3.0, 4.0]}),
    "function": lambda: greet,
    "generator": count,
    "context manager": Room,
    "async iterator": lambda: Ticker(3),
    "path": lambda: PurePosixPath("/a/b"),
    "enum": lambda: Colour.RED,
}
VALUES = [
    "0", "1", "2", "-1", "2.5", "'a'", "'x'", "b'b'", "[1]", "(1, 2)", "{1, 9}", "{'a': 2}", "None", "slice(1, 3)",
    "Point(3, 4)", "Colour.BLUE", "PurePosixPath('c')", "np.arange(3)", "range(2)", "True",
]  # fmt: skip
UNARY: list[Callable[[Any], Any]] = [
    len, bool, hash, str, repr, list, sorted, reversed, abs, operator.neg, operator.pos, operator.invert, int, float,
    complex, round, bytes, operator.index, tuple, set, sum, min, operator.length_hint, next, iter, callable, copy.copy,
    copy.deepcopy, lambda x: x(), lambda x: x("you"), lambda x: [*x], lambda x: {**x}, lambda x: x.__class__, vars,
    lambda x: f"{x}", lambda x: format(x, ">12"), lambda x: x.__doc__,
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow, divmod,
    operator.and_, operator.or_, operator.xor, operator.matmul, operator.lshift, operator.rshift, operator.eq,
    operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.contains, operator.getitem,
]  # fmt: skip
METHODS = [
    ("append", "1"), ("pop", ""), ("insert", "0, 5"), ("sort", ""), ("reverse", ""), ("extend", "[1, 2]"),
    ("clear", ""), ("index", "1"), ("count", "1"), ("copy", ""), ("get", "'a', 9"), ("items", ""), ("keys", ""),
    ("add", "4"), ("update", "{'c': 3}"), ("setdefault", "'d', 4"), ("discard", "1"), ("union", "{8}"),
    ("upper", ""), ("split", ""),
    ("join", "['a', 'b']"), ("hex", ""), ("bit_length", ""), ("is_integer", ""), ("sum", ""), ("mean", ""),
    ("norm", ""),
    ("tolist", ""), ("fill", "2.0"), ("send", "3"), ("close", ""), ("with_name", "'z'"), ("nothing", ""),
    ("__len__", ""), ("__iter__", ""), ("__enter__", ""), ("__contains__", "1"), ("__repr__", ""),
]  # fmt: skip
NAMES = ["x", "y", "tags", "real", "name", "value", "shape", "T", "parts", "columns", "n", "new", "__name__", "nothing"]
IN_PLACE = ["+=", "-=", "*=", "/=", "//=", "%=", "&=", "|=", "^=", "**="]


def show(x: Any) -> Any:
    """A result, so that two of them can be compared."""
    if hasattr(x, "__next__") and not isinstance(x, Ticker):
        return type(x)
    if callable(x) and not isinstance(x, type):
        return type(x), getattr(x, "__name__", "")
    if isinstance(x, (Room, Ticker)):
        return type(x), repr(vars(x))
    return type(x), sorted(map(repr, x)) if isinstance(x, (set, frozenset)) else re.sub(" at 0x[0-9a-f]+", "", repr(x))


class Lives(RuleBasedStateMachine):
    """Two equal objects; one of them hides behind a proxy."""

    px: Any
    names: dict[str, Any]

    @initialize(kind=st.sampled_from(sorted(MAKERS)), way=st.sampled_from(["typed", "resolved", "untyped"]))
    def begin(self, kind: str, way: str) -> None:
        self.bare, mine = MAKERS[kind](), MAKERS[kind]()
        self.way = way
        self.proxy = (
            self.px.Proxy(lambda: mine) if way == "untyped" else self.px.make(lambda: mine, self.px.kind_of(mine))
        )
        if way == "resolved":
            self.px.resolve(self.proxy)
        self.names = {"np": np, "Point": Point, "Colour": Colour, "PurePosixPath": PurePosixPath}

    def value(self, code: str) -> Any:
        if isinstance(self.bare, dict) and code.startswith("np."):
            code = "None"  # NumPy takes a dict for one object, and a stranger that walks like one for its keys
        return eval(code, dict(self.names))

    def alike(self, step: Callable[[Any], Any]) -> None:
        def outcome(x: Any) -> Any:
            try:
                return show(self.px.unwrap(step(x)))
            except Exception as error:
                return type(error)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dividing by zero and the like
            assert outcome(self.proxy) == outcome(self.bare)

    @rule(call=st.sampled_from(UNARY))
    def one(self, call: Callable[[Any], Any]) -> None:
        text = isinstance(self.bare, (str, bytes))
        if (call is callable and not self.px.is_resolved(self.proxy)) or (text and call in (bytes, round)):
            return  # it could be anything; str and bytes have what lets int() read them
        if call is hash and type(self.bare).__hash__ is object.__hash__:
            return  # by identity
        self.alike(call)

    @precondition(lambda self: self.exports)
    @rule()
    def memory(self) -> None:
        self.alike(lambda x: memoryview(x).tobytes())

    @rule(call=st.sampled_from(BINARY), code=st.sampled_from(VALUES), proxied=st.booleans())
    def two(self, call: Callable[[Any, Any], Any], code: str, proxied: bool) -> None:
        right = self.value(code)
        if proxied and not isinstance(right, (slice, str, bytes, type(None), bool)):
            kind = self.px.kind_of(right)
            self.alike(lambda x: call(x, self.px.make(lambda: right, kind) if x is self.proxy else right))
        else:
            self.alike(lambda x: call(x, right))

    @rule(call=st.sampled_from(BINARY[:20]), code=st.sampled_from(VALUES))
    def reflected(self, call: Callable[[Any, Any], Any], code: str) -> None:
        if call is operator.mod and code[:1] in "'b":
            return  # formatting reads its right side by type
        self.alike(lambda x: call(self.value(code), x))

    @rule(method=st.sampled_from(METHODS))
    def method(self, method: tuple[str, str]) -> None:
        self.alike(lambda x: getattr(x, method[0])(*self.value(f"({method[1]}{',' if method[1] else ''})")))

    @rule(name=st.sampled_from(NAMES))
    def read(self, name: str) -> None:
        self.alike(lambda x: getattr(x, name))

    @rule(name=st.sampled_from(NAMES[:3] + NAMES[10:12]), code=st.sampled_from(VALUES))
    def write(self, name: str, code: str) -> None:
        if self.bare is not greet and not isinstance(self.bare, (Colour, pd.DataFrame)):  # these two are shared
            self.alike(lambda x: setattr(x, name, self.value(code)))

    @rule(code=st.sampled_from(VALUES), value=st.sampled_from(VALUES))
    def set_item(self, code: str, value: str) -> None:
        self.alike(lambda x: operator.setitem(x, self.value(code), self.value(value)))

    @rule(code=st.sampled_from(VALUES))
    def delete_item(self, code: str) -> None:
        self.alike(lambda x: operator.delitem(x, self.value(code)))

    @rule(sign=st.sampled_from(IN_PLACE), code=st.sampled_from(VALUES))
    def in_place(self, sign: str, code: str) -> None:
        """Both, also where the proxy stands on the right of something mutable."""
        if sign == "*=" and getattr(self.bare, "__len__", int)() > 50:
            return  # enough
        for statement in (f"left {sign} right", f"right {sign} left"):
            found = []
            for x in (self.proxy, self.bare):
                names = {"left": x, "right": self.value(code)}
                if statement[0] == "r" and sign == "%=" and code[:1] in "'b":
                    continue
                before = names["right" if statement[0] == "r" else "left"]
                with warnings.catch_warnings(), contextlib.suppress(Exception):
                    warnings.simplefilter("ignore")
                    exec(statement, names)
                after = names["right" if statement[0] == "r" else "left"]
                kept = isinstance(self.px.unwrap(before), (list, set, dict, np.ndarray)) and after is before
                found.append((kept, show(self.px.unwrap(after))))
            assert not found or found[0] == found[1]

    def told(self) -> None:
        """What is asked of the type is asked when the type is known."""
        if self.way == "untyped":
            self.px.resolve(self.proxy)

    @rule()
    def enter(self) -> None:
        self.told()

        def step(x: Any) -> Any:
            with x as inside:
                return inside

        self.alike(step)

    @rule()
    def wait(self) -> None:
        self.told()

        async def step(x: Any) -> Any:
            return [i async for i in x]

        async def one(x: Any) -> Any:
            return await anext(x)

        for each in (one, step):
            self.alike(lambda x, each=each: asyncio.run(each(x)))

    @rule()
    def pickled(self) -> None:
        assert self.px.is_proxy(self.px.make(MAKERS["list"], self.px.kind_of([])))
        found = copy.copy(self.proxy.__reduce_ex__(2)) if not self.px.is_resolved(self.proxy) else None
        assert found is None or found[0] is self.px.again

    def teardown(self) -> None:
        if hasattr(self, "bare"):
            self.alike(lambda x: x)


def test_a_proxy_and_its_target_live_alike(px: Any, exports_buffers: bool) -> None:
    machine = type("Lives", (Lives,), {"px": px, "exports": exports_buffers})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # Hypothesis is skipped by mypy
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a failing life is short enough to read
            suppress_health_check=list(HealthCheck),
        ),
    )
