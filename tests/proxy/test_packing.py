"""What is packed: a source that builds anywhere, with the core in C where there is a compiler, without it elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

import proxyfab

ROOT = Path(proxyfab.__file__).parent.parent
CORE = ROOT / "proxyfab" / "proxy"
SAFE: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
BUILT = "_core" + str(sysconfig.get_config_var("EXT_SUFFIX"))
SAYS = "from proxyfab.cli.machine import examine_machine as e; print(*[f.detail for f in e() if f.check == 'proxies'])"


def test_everything_is_one_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ours = {"all", "demo", "test-light", "frameworks", "test", "fuzz", "lint", "docs", "bench"}
    [everything] = extras["all"]
    assert set(everything[len("proxyfab[") : -1].split(",")) == set(extras) - ours


def test_the_build_knows_every_file_of_the_core() -> None:
    [module] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    known = {*module["sources"], *module["depends"]}  # what the build does not know is not packed
    assert known == {str(path.relative_to(ROOT)) for path in CORE.glob("_core*.[ch]")}
    included = {name for path in known for name in re.findall(r'#include "(.*)"', (ROOT / path).read_text())}
    assert {f"proxyfab/proxy/{name}" for name in included} == set(module["depends"])
    assert module["optional"]


def _build(what: str, source: Path, into: Path, **environment: str) -> Path:
    """Ask the build backend, as pip would, but of what is installed here."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, into],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def _run(code: str, package: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    try:
        builder = version("setuptools")
    except PackageNotFoundError:
        builder = "0"
    if int(builder.partition(".")[0]) < 77:
        pytest.skip(f"setuptools >= 77 builds it, and here is {builder}")
    place = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "CHANGELOG.md"):
        shutil.copy(ROOT / name, place)
    for name in ("proxyfab", "tools"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    packed = _build("sdist", place, tmp_path_factory.mktemp("packed"))
    with tarfile.open(packed) as archive:
        archive.extractall(packed.parent, **SAFE)
    unpacked = packed.parent / packed.name.removesuffix(".tar.gz")
    assert _files(unpacked) == _files(place)
    return unpacked


def _files(place: Path) -> set[str]:
    """What the package consists of, but for what was built."""
    found = (path.relative_to(place) for path in (place / "proxyfab").rglob("*") if path.is_file())
    return {str(path) for path in found if path.suffix not in (".pyc", ".so")}


def test_the_source_is_whole(source: Path) -> None:
    assert {str(path.relative_to(ROOT)) for path in CORE.glob("_core*.[ch]")} < _files(source)
    assert not list(source.rglob("*.so"))
    assert {"pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "tools"} <= set(os.listdir(source))


def test_without_a_compiler_it_is_built_in_python(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(_build("wheel", source, tmp_path, CC="/bin/false")) as wheel:
        wheel.extractall(tmp_path / "here")
    assert not list(tmp_path.rglob("_core*"))
    assert "pure Python: it was not built" in _run(SAYS, tmp_path / "here")


@pytest.mark.slow
def test_with_a_compiler_it_has_the_core(source: Path, tmp_path: Path) -> None:
    if not shutil.which("cc") or not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("no C compiler, or no headers of Python")
    with zipfile.ZipFile(_build("wheel", source, tmp_path)) as wheel:
        wheel.extractall(tmp_path / "here")
    assert [path.name for path in tmp_path.rglob("_core*")] == [BUILT]
    assert _run(SAYS, tmp_path / "here") == "C core"
