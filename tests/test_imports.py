"""Every module imports alone, from the modules that define what it needs, and the root is light."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import proxyfab
from proxyfab import patterns

PACKAGE = Path(proxyfab.__file__).parent
NOT_CORE = [
    "proxyfab.demo",
    "proxyfab.integrations.dask",
    "proxyfab.serialize.codecs",
]  # loaded only beside the packages they need
HEAVY = [
    "asyncio",
    "click",
    "cloudpickle",
    "concurrent.futures",
    "ctypes",
    "dask",
    "dataclasses",
    "datetime",
    "globus_sdk",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "math",
    "mmap",
    "msgpack",
    "msgspec",
    "multiprocessing",
    "numpy",
    "opcode",
    "pandas",
    "polars",
    "pyarrow",
    "queue",
    "redis",
    "resource",
    "rich",
    "socket",
    "subprocess",
    "tempfile",
    "torch",
    "xarray",
]
OTHERS = ["click", "cryptography", "hypothesis", "msgpack", "numpy", "pytest", "redis", "rich", "zmq"]
LAZY = ["resilient", "stream", "trigger"]  # rooms of proxyfab.patterns that stand on brokers
BUDGET = 0.060


def modules() -> list[str]:
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.startswith(tuple(NOT_CORE)) and not name.endswith("__main__")]


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = re.compile(r"^(?:from|import) (proxyfab[\w.]*)(?: import (\([^)]*\)|[^\n]*))?", re.MULTILINE)
ALONE = """
import gc, importlib, os, sys
names, circles = sys.argv[1].split(), sys.argv[2].split()
gc.freeze()

def alone(name):
    importlib.import_module(name)
    for module in circles:
        if module.rpartition(".")[0] == name:  # whatever comes first of a package, it is loaded before
            child = os.fork()
            if child == 0:
                alone(module)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                sys.exit(f"{module} cannot be imported first")

alone("proxyfab")
for name in names:
    importlib.import_module(name)
"""


def test_every_module_imports_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    others = f"import {', '.join(OTHERS)}\n"  # loaded once, and not two hundred times

    run(others + ALONE, " ".join(modules()), " ".join(in_circles()))


def in_circles() -> list[str]:
    """Modules that lie on a circle of imports, and the packages around them; of others anyone may be first."""
    needs = {name: needed(name) for name in modules()}

    def reached(name: str) -> set[str]:
        found, ahead = set(), [name]
        while ahead:
            more = needs.get(ahead.pop(), set()) - found
            found |= more
            ahead += more
        return found

    circles = {name for name in needs if name in reached(name)}
    return [name for name in needs if name in circles or any(each.startswith(f"{name}.") for each in circles)]


def needed(name: str) -> set[str]:
    """What is loaded with a module: the packages around it, and what it imports outside of functions."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    found = {name} if "." in name else set()
    for module, names in IMPORTS.findall(source):
        found |= {module, *(f"{module}.{each}" for each in re.findall(r"\w+", names))}
    around = {each.rsplit(".", depth)[0] for each in found for depth in range(1, each.count(".") + 1)}
    return (found | around) - {name}


def test_the_root_loads_nothing_optional_and_nothing_slow() -> None:
    # What urllib.parse loads differs between versions of Python (math since 3.13).
    ours = "import sys, urllib.parse; old = {*sys.modules}; import proxyfab; print(*{*sys.modules} - old, sep='\\n')"

    assert sorted(set(run(ours).split()).intersection(HEAVY)) == []


def test_patterns_without_a_broker_load_nothing_of_the_event_plane() -> None:
    loaded = run("import sys; from proxyfab.patterns import own; print(*sys.modules, sep='\\n')").split()

    assert [name for name in loaded if name in ("msgpack", "msgspec", "ctypes", "subprocess")] == []
    assert [name for name in loaded if name.startswith(tuple(f"proxyfab.patterns.{room}" for room in LAZY))] == []


@pytest.mark.parametrize("first", ["proxyfab.patterns", *(f"proxyfab.patterns.{room}" for room in LAZY)])
def test_each_name_of_patterns_is_there_whatever_was_loaded_first(first: str) -> None:
    names = "from proxyfab import patterns; print(*(callable(getattr(patterns, name)) for name in patterns.__all__))"

    assert set(run(f"import {first}\n{names}").split()) == {"True"}
    assert run("from proxyfab.patterns import *; print(Consumer.__name__)").strip() == "Consumer"
    with pytest.raises(AttributeError, match=r"'proxyfab\.patterns' has no attribute 'Consumr'"):
        getattr(patterns, "Consumr")  # noqa: B009 - mypy need not know that it is not there


def test_names_come_from_where_they_are_defined() -> None:
    sources = {path.relative_to(PACKAGE): path.read_text() for path in PACKAGE.rglob("*.py")}
    from_root = [
        f"{path}:{node.lineno}"
        for path, source in sources.items()
        if re.search(r"^\s*from proxyfab import ", source, re.MULTILINE)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and node.module == "proxyfab"
        and not all(is_module(name) for name in node.names)
    ]

    assert from_root == [], "import from the module that defines the name, never from the package root"


def is_module(name: ast.alias) -> bool:
    return (PACKAGE / f"{name.name}.py").exists() or (PACKAGE / name.name).is_dir()


@pytest.mark.timing
def test_the_root_imports_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    run("import proxyfab")  # compiles
    bare = statistics.median(processor_seconds("pass") for _ in range(11))
    with_us = statistics.median(processor_seconds("import proxyfab") for _ in range(11))

    assert with_us - bare < BUDGET


def processor_seconds(code: str) -> float:
    """What a fresh interpreter spends on `code`; unlike wall time, hardly more on a busy machine."""
    before = os.times()
    run(code)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
