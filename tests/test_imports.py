"""Every module imports alone, from the modules that define what it needs, and the root is light."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import proxyfab

PACKAGE = Path(proxyfab.__file__).parent
NOT_CORE = ["proxyfab.demo"]  # needs its extra
HEAVY = [
    "asyncio",
    "click",
    "cloudpickle",
    "concurrent.futures",
    "dask",
    "dataclasses",
    "globus_sdk",
    "importlib.metadata",
    "inspect",
    "logging",
    "multiprocessing",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "redis",
    "rich",
    "torch",
    "xarray",
]
BUDGET = 0.060


def modules() -> list[str]:
    paths = sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.startswith(tuple(NOT_CORE)) and not name.endswith("__main__")]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_alone() -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: run(f"import {name}"), modules()))


def test_the_root_loads_nothing_optional_and_nothing_slow() -> None:
    loaded = set(run("import sys, proxyfab; print(*sys.modules, sep='\\n')").split())

    assert sorted(loaded.intersection(HEAVY)) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_come_from_where_they_are_defined(path: Path) -> None:
    from_root = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
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
    duration("import proxyfab")  # compiles
    bare = [duration("pass") for _ in range(11)]
    with_us = [duration("import proxyfab") for _ in range(11)]

    assert statistics.median(with_us) - statistics.median(bare) < BUDGET


def duration(code: str) -> float:
    started = time.perf_counter()
    run(code)
    return time.perf_counter() - started
