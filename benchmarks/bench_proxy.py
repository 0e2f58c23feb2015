"""What a proxy costs, operation by operation, beside the bare object, ProxyStore, wrapt and lazy-object-proxy.

`python -m benchmarks.bench_proxy [--json FILE] [--rounds N]` prints a markdown table of its own: the bare time, and for
each system the median time added to it, with the ratio to what ProxyStore adds. Also run by `python -m benchmarks`.

Where the C core is in use, pure Python is measured beside it; `PROXYFAB_PURE=1` measures that alone, pickling included.
lazy-object-proxy's pickle lines are of its target: what comes back is a list, and no factory and no proxy travels.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import random
import statistics
import sys
import timeit
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest import mock

from benchmarks.harness import Outcome, Place, Row, Settings, Skipped, interleaved, machine, row
from proxyfab import Store
from proxyfab.proxy import core, kind_of, make

BENCH = "proxy"
OURS = "proxyfab"
PURE = "proxyfab (Python)"
PEER = "proxystore"


class Thing:
    """A plain object with an attribute, a method and a call."""

    def __init__(self) -> None:
        self.x = 1

    def method(self) -> int:
        return 1

    def __call__(self) -> int:
        return 1


class Operation(NamedTuple):
    """One line of the table: a statement over `p`, and what `p` stands for."""

    name: str
    statement: str
    target: Callable[[], Any]
    limit: float | None = 15e-9
    """Seconds that the C core may add to the bare object."""
    pure: float | None = 120e-9
    """Seconds that pure Python may add."""


def _numpy() -> Any:
    import numpy

    return numpy


OPERATIONS = (
    Operation("attribute", "p.x", Thing, 25e-9, 170e-9),
    Operation("method call", "p.method()", Thing, 50e-9, 170e-9),
    Operation("set attribute", "p.x = 1", Thing, 25e-9),
    Operation("call", "p()", Thing, 30e-9),
    Operation("len", "len(p)", lambda: list(range(10))),
    Operation("getitem", "p[5]", lambda: list(range(10))),
    Operation("getitem of a dict", "p[5]", lambda: dict.fromkeys(range(10))),
    Operation("contains", "5 in p", lambda: list(range(10))),
    Operation("iteration over 100", "for _ in p: pass", lambda: list(range(100))),
    Operation("add", "p + 1", lambda: 7),
    Operation("reflected add", "1 + p", lambda: 7),
    Operation("negate", "-p", lambda: 7),
    Operation("equal", "p == 7", lambda: 7),
    Operation("less", "p < 8", lambda: 7),
    Operation("bool", "not p", lambda: 7),
    Operation("str", "str(p)", lambda: "text"),
    Operation("hash", "hash(p)", lambda: "text"),
    Operation("isinstance", "isinstance(p, list)", lambda: [1], 40e-9),
    Operation("array attribute", "p.shape", lambda: _numpy().arange(10.0), 25e-9),
    Operation("array getitem", "p[3]", lambda: _numpy().arange(10.0)),
    Operation("array + 1", "p + 1", lambda: _numpy().arange(10.0), 15e-9, None),
    Operation("array + proxy", "a + p", lambda: _numpy().arange(10.0), None, None),
    Operation("np.add", "np.add(p, 1)", lambda: _numpy().arange(10.0), 1.2e-6, None),
    Operation("np.sum", "np.sum(p)", lambda: _numpy().arange(10.0), None, None),
    Operation("np.asarray", "np.asarray(p)", lambda: _numpy().arange(10.0), 300e-9, None),
)
LIVES = ("create", "create and resolve", "pickle", "unpickle", "unpickle and resolve")
STORED = "pickle and unpickle, stored"
"""Of a proxy of an object in a store."""
_COMPILED = core.compiled is not None
LIMITS = {operation.name: operation.limit if _COMPILED else operation.pure for operation in OPERATIONS} | {
    "create": 200e-9 if _COMPILED else 1.5e-6,
    "create and resolve": 300e-9 if _COMPILED else 1.8e-6,
    STORED: 8e-6,
}


def one() -> list[int]:
    """A factory that another process can import."""
    return [1]


class System(NamedTuple):
    """A kind of proxy, by what wraps a factory."""

    make: Callable[[Callable[[], Any]], Any]
    pickles: bool = True
    stored: Callable[[ExitStack], Any] | None = None
    """A proxy of an object in this system's own store, which closes with the stack."""
    creation: tuple[str, dict[str, Any]] = ("make(one)", {})
    """How its users make one, and what the statement names beside a factory `one`."""


def systems() -> tuple[dict[str, System], list[Skipped]]:
    """Every system that is installed, ours first."""
    makers = {OURS: _ours, PURE: _pure, PEER: _proxystore, "wrapt (C)": _wrapt, "lazy-object-proxy (C)": _lazy_c,
              "lazy-object-proxy (Python)": _lazy_python}  # fmt: skip
    found, skipped = {}, []
    if not _COMPILED:
        del makers[PURE]  # it is what stands first
    for name, maker in makers.items():
        try:
            found[name] = maker()
        except ImportError as error:
            skipped.append(Skipped(BENCH, name, f"{error.name} is not installed"))
    return found, skipped


def _ours() -> System:
    kind = kind_of([])

    def stored(stack: ExitStack) -> Any:
        return stack.enter_context(Store()).proxy(bytes(10_000))

    creation = "create(one, kind)", {"create": make, "kind": kind}
    return System(lambda factory: make(factory, kind), stored=stored, creation=creation)


def _pure() -> System:
    """Pure Python, from a copy of the package that nothing else sees, so that its pickles would not be found."""
    usual = {name: module for name, module in sys.modules.items() if name.partition(".proxy")[0] == "proxyfab"}
    with mock.patch.dict(sys.modules), mock.patch.dict(os.environ, {"PROXYFAB_PURE": "1"}):
        for name in usual:
            if name == "proxyfab.proxy" or name.startswith("proxyfab.proxy."):
                del sys.modules[name]
        package: Any = importlib.import_module("proxyfab.proxy")
    usual["proxyfab"].proxy = usual["proxyfab.proxy"]  # type: ignore[attr-defined]  # as it was
    kind = package.kind_of([])
    creation = "create(one, kind)", {"create": package.make, "kind": kind}
    return System(lambda factory: package.make(factory, kind), pickles=False, creation=creation)


def _proxystore() -> System:
    from proxystore.connectors.local import LocalConnector
    from proxystore.proxy import Proxy
    from proxystore.store import Store as TheirStore

    def stored(stack: ExitStack) -> Any:
        store: Any = stack.enter_context(TheirStore("bench", LocalConnector()))
        return store.proxy(bytes(10_000))

    return System(Proxy, stored=stored)


def _wrapt() -> System:
    from wrapt import CallableObjectProxy

    # Not lazy: its lazy class takes 25 us to make, and its plain one refuses calls.
    return System(lambda factory: CallableObjectProxy(factory()), pickles=False)


def _lazy_c() -> System:
    from lazy_object_proxy.cext import Proxy

    return System(Proxy)


def _lazy_python() -> System:
    from lazy_object_proxy.slots import Proxy

    return System(Proxy)


def samples(statement: str | dict[str, str], names: dict[str, dict[str, Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one execution in each system's namespace, interleaved; a system that fails at it is left out."""
    timers = {}
    for name, namespace in names.items():
        timer = timeit.Timer(statement if isinstance(statement, str) else statement[name], globals=namespace)
        try:
            timer.timeit(1)
        except Exception:  # whatever a peer raises: it cannot do this
            continue
        timers[name] = timer
    calls = 1 if rounds == 1 else _calls(timers)
    found: dict[str, list[float]] = {name: [] for name in timers}
    depths = random.Random(1)
    for name in interleaved(list(timers), rounds):
        found[name].append(_below(depths.randrange(100), lambda name=name: timers[name].timeit(calls)) / calls)  # type: ignore[misc]
    return found


def _below(depth: int, function: Callable[[], float]) -> float:
    """The result of `function`, called under so many frames.

    CPython 3.11 keeps frames in chunks of 16 KB and asks for a new one at each call across the end of the last: several
    µs, at a depth that depends on who calls. Varied, it is in few samples; otherwise in all or none of a system's.
    """
    return _below(depth - 1, function) if depth else function()


def _calls(timers: dict[str, timeit.Timer]) -> int:
    """So many that a sample of the quickest takes a third of a millisecond, so that many rounds fit."""
    fastest = min(timer.timeit(500) / 500 for timer in timers.values())
    return max(100, int(0.3e-3 / fastest))


def run(settings: Settings) -> Outcome:
    """Seconds of each operation on the bare object, and what each system's proxy adds; seconds of its life's steps."""
    found, skipped = systems()
    wanted = {name: found[name] for name in settings.wanted(found)}
    rounds = settings.rounds(0) * (1 if settings.tiny else 3)
    rows = [line for operation in OPERATIONS for line in _operation(operation, wanted, rounds)]
    rows += [line for life in LIVES for line in _life(life, wanted, rounds)]
    rows += _stored(wanted, rounds)
    return Outcome(rows, skipped)


def _operation(operation: Operation, wanted: dict[str, System], rounds: int) -> list[Row]:
    target = operation.target()
    numpy = {"np": sys.modules["numpy"], "a": sys.modules["numpy"].arange(10.0)} if "numpy" in sys.modules else {}
    namespaces = {"bare": {"p": target, **numpy}}
    for name, system in wanted.items():
        proxy = system.make(lambda: target)
        str(proxy)  # resolves each of them
        namespaces[name] = {"p": proxy, **numpy}
    times = samples(operation.statement, namespaces, rounds)
    bare = statistics.median(times["bare"])
    return [
        row(BENCH, operation.name, name, seconds if name == "bare" else [second - bare for second in seconds])
        for name, seconds in times.items()
    ]


def _life(life: str, wanted: dict[str, System], rounds: int) -> list[Row]:
    namespaces, statements = {}, {}
    for name, system in wanted.items():
        if life.startswith(("pickle", "unpickle")) and not system.pickles:
            continue
        p = system.make(one)
        data = pickle.dumps(p) if system.pickles else b""
        namespaces[name] = {"make": system.make, "one": one, "p": p, "data": data, "pickle": pickle}
        namespaces[name] |= system.creation[1]
        statements[name] = {
            "create": system.creation[0],
            "create and resolve": f"len({system.creation[0]})",
            "pickle": "pickle.dumps(p)",
            "unpickle": "pickle.loads(data)",
            "unpickle and resolve": "len(pickle.loads(data))",
        }[life]
    return [row(BENCH, life, name, seconds) for name, seconds in samples(statements, namespaces, rounds).items()]


def _stored(wanted: dict[str, System], rounds: int) -> list[Row]:
    with ExitStack() as stack:
        namespaces = {
            name: {"p": system.stored(stack), "pickle": pickle} for name, system in wanted.items() if system.stored
        }
        times = samples("pickle.loads(pickle.dumps(p))", namespaces, rounds) if namespaces else {}
    return [row(BENCH, STORED, name, seconds) for name, seconds in times.items()]


def markdown(rows: list[Row]) -> str:
    """The table: bare time, what each system adds, and how many times more ProxyStore adds than we do."""
    names = [name for name in dict.fromkeys(line.system for line in rows) if name != "bare"]
    table: dict[str, dict[str, float]] = {}
    for line in rows:
        table.setdefault(line.what, {})[line.system] = line.median
    head = ["operation", "bare", *names, f"{PEER} / {OURS}", "limit"]
    lines = [head, ["---"] * len(head), *[_line(what, times, names) for what, times in table.items()]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(what: str, times: dict[str, float], names: list[str]) -> list[str]:
    sign, limit = "+" if "bare" in times else "", LIMITS.get(what)
    cells = [sign + _text(times[name]) if name in times else "fails" for name in names]
    ratio = f"{times[PEER] / max(times[OURS], 1e-9):.1f}" if PEER in times and OURS in times else ""
    return [what, _text(times["bare"]) if sign else "", *cells, ratio, _text(limit) if limit else ""]


def _text(seconds: float) -> str:
    return f"{seconds * 1e9:.0f} ns" if abs(seconds) < 1e-6 else f"{seconds * 1e6:.2f} µs"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--rounds", type=float, default=1.0, help="multiplies the number of rounds")
    options = parser.parse_args()
    outcome = run(Settings(Place("", ""), scale=options.rounds))
    print(markdown(outcome.rows))
    if options.json:
        figures = {"machine": machine(), "rows": [line._asdict() for line in outcome.rows]}
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


def test_every_operation_works_and_every_figure_has_its_line() -> None:
    outcome = run(Settings(Place("", ""), tiny=True))
    ours = {line.what for line in outcome.rows if line.system == OURS}
    assert ours == {operation.name for operation in OPERATIONS} | {*LIVES, STORED}
    assert markdown(outcome.rows).count("\n") == len(ours) + 1
    assert statistics.median([line.median for line in outcome.rows]) > 0


if __name__ == "__main__":
    main()
