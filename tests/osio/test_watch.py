"""Being told, in time and every time."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab import background
from proxyfab.osio import watch
from proxyfab.osio.watch import wait_for_any
from proxyfab.testing.processes import at_once, in_fork, until


def wait_until(
    look: Callable[[], bool], timeout: float | None, *, path: Callable[[], str | None] = lambda: None, **options: Any
) -> bool:
    """Wait for one thing."""

    def paths() -> list[str] | None:
        found = path()
        return None if found is None else [found]

    return bool(wait_for_any(["it"], lambda _: look(), timeout, paths=paths, **options))


def test_what_is_there_needs_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watch", pytest.fail)
    assert wait_until(lambda: True, None)
    assert not wait_until(lambda: False, 0)
    assert not wait_until(lambda: False, -1, path=lambda: "/a")


@pytest.mark.parametrize("how", ["rename", "link", "create"])
def test_told_of_each_way_to_appear(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 60.0)  # without a notice the test would be over
    source, target = tmp_path.parent / f"{tmp_path.name}.source", tmp_path / "target"
    source.touch()
    watching = threading.Event()

    def path() -> str:
        watching.set()
        return str(target)

    def appear() -> None:
        assert watching.wait(20)
        {"rename": os.rename, "link": os.link, "create": shutil.copy}[how](source, target)

    waited, _ = at_once([lambda: wait_until(target.exists, 30, path=path), appear])
    assert waited is True


def test_polls_where_notices_do_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watch", lambda _files: (-1, {}))  # all instances of the user are taken
    for path in (None, str(tmp_path / "it"), str(tmp_path / "missing" / "it")):
        looks: list[float] = []

        def look(looks: list[float] = looks) -> bool:
            looks.append(time.monotonic())
            return len(looks) > 5

        assert wait_until(look, 20, path=lambda path=path: path, bound=0.005)


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

    assert wait_until(look, 20, path=lambda: str(place / "it"))


def test_ends_in_time_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    started = time.monotonic()

    assert not wait_until(lambda: False, 0.05, path=lambda: str(tmp_path / "it"))
    assert 0.05 <= time.monotonic() - started < 3
    assert until(lambda: os.listdir("/proc/self/fd") == before, 20)


def test_who_is_told_does_not_wait_for_the_kernel_to_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close an instance of inotify takes the kernel 5 to 20 ms."""
    told, closed, here = threading.Event(), threading.Event(), threading.get_ident()

    def close(fd: int) -> None:
        if threading.get_ident() != here:
            assert told.wait(20)
        os.close(fd)
        closed.set()

    monkeypatch.setattr(watch, "_close", close)
    looks = iter([False, True])
    assert wait_until(lambda: next(looks), 30, path=lambda: str(tmp_path / "it"))
    assert not closed.is_set()
    told.set()
    assert closed.wait(20)


def test_what_looks_raises_comes_out(tmp_path: Path) -> None:
    looks: list[Any] = []

    def look() -> bool:
        looks.append(1)
        if len(looks) > 1:
            raise RuntimeError("mine")
        return False

    with pytest.raises(RuntimeError, match="mine"):
        wait_until(look, 20, path=lambda: str(tmp_path / "it"))
    assert until(lambda: not watched())


def test_only_what_appeared_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 60.0)
    places = [tmp_path / f"d{number % 4}" / f"f{number}" for number in range(100)]
    for place in places[:4]:
        place.parent.mkdir()
    looks: list[str] = []
    watching = threading.Event()

    def there(path: str) -> bool:
        looks.append(path)
        if len(looks) == 200:
            watching.set()
        return os.path.exists(path)

    def appear() -> None:
        assert watching.wait(20)
        for number in range(50):
            (places[0].parent / f"other{number}").touch()
        places[42].touch()

    paths = [str(place) for place in places]
    waited, _ = at_once([lambda: wait_for_any(paths, there, 30, paths=lambda: paths), appear])

    assert waited == [paths[42]]
    assert looks == [*paths, *paths, paths[42]]


def test_a_full_queue_of_notices_is_looked_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_EVERY", 60.0)
    monkeypatch.setattr(watch.os, "read", lambda _fd, _most: watch._EVENT.pack(-1, 0x4000, 0, 0))  # IN_Q_OVERFLOW
    target, looks = tmp_path / "it", list[int]()

    def look() -> bool:
        looks.append(1)
        if len(looks) == 2:
            target.touch()
        return target.exists()

    assert wait_until(look, 30, path=lambda: str(target))


def test_nothing_is_waited_for_at_once(tmp_path: Path) -> None:
    assert wait_for_any([], pytest.fail, None, paths=pytest.fail) == []


def test_what_was_watched_is_let_go_of_while_all_threads_hang(tmp_path: Path) -> None:
    go_on = threading.Event()
    hanging = [background.start(go_on.wait, "hanging") for _ in range(background.THREADS)]
    try:
        for _ in range(3 * watch._FEW):
            assert not wait_until(lambda: False, 0.001, path=lambda: str(tmp_path / "it"))
        assert len(watched()) <= watch._FEW
        assert in_fork(lambda: len(watched()), timeout=20) == 0
    finally:
        go_on.set()
    assert all(task.result(20) for task in hanging)
    assert until(lambda: not watched())


def watched() -> list[str]:
    """What tells this process of what appears."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    names = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [name for name in names if "inotify" in name]
