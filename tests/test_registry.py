"""Short names to classes: lazily, never by import path, and with the pip line when something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxyfab import registry
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConfigurationError, MissingDependency
from proxyfab.registry import load, names
from proxyfab.testing import roles
from proxyfab.testing.processes import run


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's that registers connectors, as pip would have installed it."""
    (tmp_path / "strangeplace.py").write_text("class Strange:\n    pass\n")
    (tmp_path / "brokenplace.py").write_text("import not_installed_anywhere\n")
    info = tmp_path / "strangeplace-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangeplace\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[proxyfab.connectors]\n"
        "strange = strangeplace:Strange\n"
        "broken = brokenplace:Broken\n"
        "absent = strangeplace:Absent\n"
        "memory = strangeplace:Strange\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_loaded", {})
    yield
    for name in ("strangeplace", "brokenplace"):
        sys.modules.pop(name, None)


def test_a_built_in_name() -> None:
    assert load("connectors", "memory") is load("connectors", "memory") is MemoryConnector


def test_names_are_all_that_can_be_asked_for(installed: None) -> None:
    assert {"memory", "shm", "file", "strange"} <= set(names("connectors"))
    assert names("connectors") == sorted(names("connectors"))
    assert names("no-such-group") == []


def test_a_plugin_by_its_name(installed: None) -> None:
    assert load("connectors", "strange").__name__ == "Strange"


def test_a_built_in_cannot_be_taken_over(installed: None) -> None:
    assert load("connectors", "memory") is MemoryConnector


@pytest.mark.parametrize("name", ["nonsense", "os.path", "proxyfab.connectors.memory:MemoryConnector", "", "MEMORY"])
def test_an_unknown_name_says_what_there_is(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)Unknown scheme.*memory") as caught:
        load("connectors", name)

    assert repr(name) in str(caught.value)


def test_a_plugin_that_cannot_be_imported(installed: None) -> None:
    with pytest.raises(MissingDependency, match="pip install not_installed_anywhere") as caught:
        load("connectors", "broken")

    assert isinstance(caught.value.__cause__, ImportError)
    assert "broken" in str(caught.value)


def test_a_plugin_whose_class_is_not_there(installed: None) -> None:
    """An entry point that names what its module does not have is its author's mistake, and is told as such."""
    with pytest.raises((ConfigurationError, MissingDependency), match="Absent"):
        load("connectors", "absent")


@pytest.mark.parametrize(("group", "name", "written"), [("connectors", "redis", "redis://"), ("layers", "lz4", "lz4+")])
def test_a_missing_extra_is_answered_with_the_pip_line(
    group: str, name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setitem(registry._BUILT_IN[group], name, ("needs_what_is_nowhere", "Class", name))
    with pytest.raises(MissingDependency, match=rf"pip install 'proxyfab\[{name}\]'") as caught:
        load(group, name)

    assert str(caught.value).startswith(f"{written} needs")


def test_a_bug_in_a_built_in_is_not_called_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`cannot import name` inside proxyfab's own modules must not tell people to pip install proxyfab's parts."""
    (tmp_path / "half_a_connector.py").write_text("from proxyfab.abc import Nothing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry._BUILT_IN["connectors"], "half", ("half_a_connector", "Half", ""))
    with pytest.raises(ImportError, match="Nothing") as caught:
        load("connectors", "half")

    assert "pip install proxyfab.abc" not in str(caught.value)


def test_a_failure_is_not_remembered(installed: None, tmp_path: Path) -> None:
    with pytest.raises(MissingDependency):
        load("connectors", "broken")
    (tmp_path / "brokenplace.py").write_text("class Broken:\n    pass\n")
    sys.modules.pop("brokenplace", None)

    assert load("connectors", "broken").__name__ == "Broken"


def test_a_name_imports_nothing_but_its_own() -> None:
    assert run(roles.imported_by, "proxyfab.registry", "memory", fresh=True) == []
