"""Times to live where somebody sets the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Key
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.osio import clock
from proxyfab.testing.processes import Child

DAY = 86_400.0
HOUR = 3_600.0
SOME = Frames([b"x"])
LARGE = Frames([bytes(200_000)])


class Clocks:
    """The wall clock and the uptime, as somebody moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = self.passed = 0.0
        wall, up = time.time, clock.uptime
        monkeypatch.setattr(time, "time", lambda: wall() + self.set + self.passed)
        monkeypatch.setattr(clock, "uptime", lambda: up() + self.passed)
        monkeypatch.setattr("proxyfab.connectors.memory.uptime", lambda: up() + self.passed)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture(params=["memory", "shm"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseConnector]:
    open_one: Callable[[], Any] = {
        "memory": MemoryConnector,
        "shm": lambda: SharedMemoryConnector("clocks", directory=str(tmp_path)),
    }[request.param]
    with open_one() as made:
        yield made


@pytest.mark.parametrize("frames", [SOME, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("set", [DAY, -DAY])
def test_a_clock_that_is_set_ends_and_keeps_nothing(
    one: BaseConnector, clocks: Clocks, frames: Frames, set: float
) -> None:
    key = one.put(frames, ttl=HOUR)
    renewed = one.put(frames)
    assert one.renew(renewed, HOUR)
    swapped = one.reserve()
    assert one.compare_and_set(swapped, None, SOME, ttl=HOUR)
    clocks.set = set
    for each in (key, renewed, swapped):
        assert one.get(each) is not None
        assert one.exists(each)
        stat = one.stat(each)
        assert stat is not None
        assert stat.expires == pytest.approx(time.time() + HOUR, abs=20)
    assert len(list(one.scan())) == 3
    assert one.reap() == []
    assert one.compare_and_set(swapped, SOME, SOME, ttl=HOUR)
    clocks.passed = HOUR + 60
    for each in (key, renewed, swapped):
        assert one.get(each) is None
        assert not one.exists(each)
        assert not one.renew(each, HOUR)
    assert not one.evict(swapped)
    assert list(one.scan()) == []
    assert len(one.reap()) >= 2
    one.put(SOME, key=key)


def _expires(talk: Any, directory: str, key: Key) -> None:
    with SharedMemoryConnector("clocks", directory=directory) as one:
        stat = one.stat(key)
        talk.send((stat is not None, clock.steady_at(directory).now() - clock.uptime()))


def test_processes_that_came_before_and_after_a_clock_was_set_agree(tmp_path: Path, clocks: Clocks) -> None:
    clocks.set = DAY  # the first one looks while the clock is wrong; the second sees the right one
    with SharedMemoryConnector("clocks", directory=str(tmp_path)) as one:
        key = one.put(SOME, ttl=HOUR)
        ours = clock.steady_at(str(tmp_path)).now() - clock.uptime()
        with Child(_expires, str(tmp_path), key) as child:
            there, theirs = child.receive()
    assert there
    assert theirs == pytest.approx(ours, abs=0.001)


def test_what_was_written_by_the_wall_clock_means_the_same(tmp_path: Path) -> None:
    began = time.time() - clock.uptime()
    steady = clock.Steady(str(tmp_path))
    assert steady.now() == pytest.approx(time.time(), abs=20)
    assert steady.after(None) == 0.0
    assert steady.after(HOUR) == pytest.approx(time.time() + HOUR, abs=20)
    (file,) = tmp_path.iterdir()
    assert float(file.read_text()) == pytest.approx(began, abs=20)
    assert file.stat().st_mode & 0o077 == 0
    assert clock.Steady(str(tmp_path)).now() - clock.uptime() == pytest.approx(float(file.read_text()), abs=0.001)


@pytest.mark.parametrize("content", ["", "nonsense", "1e999", "nan", "1e300", "12", "-1e18", "17953"])
def test_a_clock_that_says_nothing_is_the_wall_clock(tmp_path: Path, content: str) -> None:
    clock.Steady(str(tmp_path)).now()
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert clock.Steady(str(tmp_path)).now() == pytest.approx(time.time(), abs=20)
    assert clock.Steady(str(tmp_path / "missing")).now() == pytest.approx(time.time(), abs=20)
