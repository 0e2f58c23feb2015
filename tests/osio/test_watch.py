"""Being told, in time and every time."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from proxyfab.osio import watch
from proxyfab.osio.watch import wait_until
from proxyfab.testing.processes import at_once


def test_what_is_there_needs_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watch", pytest.fail)
    assert wait_until(lambda: True, None)
    assert not wait_until(lambda: False, 0)
    assert not wait_until(lambda: False, -1, directory=lambda: "/")


@pytest.mark.parametrize("how", ["rename", "link", "create"])
def test_told_of_each_way_to_appear(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 60.0)  # without a notice the test would be over
    source, target = tmp_path.parent / f"{tmp_path.name}.source", tmp_path / "target"
    source.touch()
    watching = threading.Event()

    def directory() -> str:
        watching.set()
        return str(tmp_path)

    def appear() -> None:
        assert watching.wait(20)
        {"rename": os.rename, "link": os.link, "create": shutil.copy}[how](source, target)

    waited, _ = at_once([lambda: wait_until(target.exists, 30, directory=directory), appear])
    assert waited is True


def test_polls_where_notices_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watch", lambda _directory: -1)  # all instances of the user are taken
    for directory in (None, str(tmp_path), str(tmp_path / "missing")):
        looks: list[float] = []

        def look(looks: list[float] = looks) -> bool:
            looks.append(time.monotonic())
            return len(looks) > 5

        assert wait_until(look, 20, directory=lambda directory=directory: directory, bound=0.005)


def test_a_removed_directory_does_not_make_it_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 0.01)
    place = tmp_path / "place"
    place.mkdir()
    looks: list[int] = []

    def look() -> bool:
        looks.append(1)
        if len(looks) == 2:
            place.rmdir()
        return len(looks) > 6

    assert wait_until(look, 20, directory=lambda: str(place))


def test_ends_in_time_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    started = time.monotonic()

    assert not wait_until(lambda: False, 0.05, directory=lambda: str(tmp_path))
    assert 0.05 <= time.monotonic() - started < 3
    assert os.listdir("/proc/self/fd") == before


def test_what_looks_raises_comes_out(tmp_path: Path) -> None:
    looks: list[Any] = []

    def look() -> bool:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError("mine")
        return False

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="mine"):
        wait_until(look, 20, directory=lambda: str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
