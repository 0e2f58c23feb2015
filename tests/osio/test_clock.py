"""Times to live where somebody sets the clock."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from proxyfab import Key
from proxyfab.abc import BaseConnector
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import KeyExists
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


# -- directories that machines share ------------------------------------------------------------------------------

TTL = 600.0


class Hosts:
    """Two machines at one directory: on one of them the wall clock is wrong. What is stamped there is stamped right."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path, off: float) -> None:
        self.off = self.passed = self.asked = 0.0
        self._wrong, self._patch = off, monkeypatch
        wall, up, stamp = time.time, clock.uptime, clock._stamp

        def stamped(root: str) -> float:
            self.asked += 1
            return stamp(root) + self.passed

        monkeypatch.setattr(time, "time", lambda: wall() + self.off + self.passed)
        monkeypatch.setattr(clock, "uptime", lambda: up() + self.passed)
        monkeypatch.setattr(clock, "_stamp", stamped)
        monkeypatch.setattr(clock, "_served", {})
        self._clocks = {False: clock.Served(str(directory)), True: clock.Served(str(directory))}
        self._directory = directory

    def connector(self, *, wrong: bool) -> FileConnector:
        self._patch.setitem(clock._served, str(self._directory), self._clocks[wrong])
        self.off = self._wrong if wrong else 0.0
        return FileConnector(self._directory, name="shared", sync=False)


@pytest.mark.parametrize("kind", ["nfs4", "ext4"])
@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["fast", "slow"])
def test_a_host_whose_clock_is_wrong_ends_and_keeps_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float, kind: str
) -> None:
    monkeypatch.setattr("proxyfab.osio.mounts.kind", lambda _: kind)
    hosts = Hosts(monkeypatch, tmp_path, off)
    keys, never = [], Key("never")
    for wrong in (False, True):
        one = hosts.connector(wrong=wrong)
        put, renewed, swapped = one.put(SOME, ttl=TTL), one.put(SOME), one.reserve()
        assert one.renew(renewed, TTL)
        assert one.compare_and_set(swapped, None, SOME, ttl=TTL)
        assert one.compare_and_set(swapped, SOME, SOME, ttl=TTL)
        keys += [put, renewed, swapped]
        never = one.put(SOME)
    for wrong in (False, True):
        one = hosts.connector(wrong=wrong)
        for key in keys:
            assert one.get(key) is not None
            assert one.get_range(key, 0, 1) is not None
            stat = one.stat(key)
            assert stat is not None
            assert stat.expires == pytest.approx(time.time() + TTL, abs=20)
            with pytest.raises(KeyExists):
                one.put(SOME, key=key)
        assert len(list(one.scan())) == 8
        assert one.reap() == []
    hosts.passed = TTL + 60
    for wrong in (True, False):
        one = hosts.connector(wrong=wrong)
        for key in keys:
            assert one.get(key) is None
            assert not one.exists(key)
            assert not one.renew(key, TTL)
            assert not one.compare_and_set(key, SOME, SOME)
        assert one.get(never) is not None
        assert len(list(one.scan())) == 2
    assert not one.evict(keys[0])
    one.put(SOME, key=keys[1])
    hosts.connector(wrong=True).put(SOME, key=keys[2])
    assert len(one.reap()) == 3
    assert one.clear() == 4


def test_a_file_server_is_asked_once_a_minute_and_only_for_what_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = Hosts(monkeypatch, tmp_path, 0.0)
    one = hosts.connector(wrong=False)
    key = one.put(SOME)
    assert one.get(key) is not None
    assert one.exists(key)
    assert len(list(one.scan())) == 1
    assert one.reap() == []
    assert one.evict(key)
    assert hosts.asked == 0
    for _ in range(20):
        assert one.get(one.put(SOME, ttl=TTL)) is not None
    asked = hosts.asked
    hosts.passed = 61.0
    one.put(SOME, ttl=TTL)
    assert hosts.asked == asked + 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".t-")]


@pytest.mark.parametrize("ask", [FileNotFoundError(), 0.0], ids=["nothing can be made", "no times"])
def test_where_nothing_is_stamped_the_wall_clock_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: OSError | float
) -> None:
    def stamp(_: str) -> float:
        if isinstance(ask, OSError):
            raise ask
        return ask

    monkeypatch.setattr(clock, "_stamp", stamp)
    assert clock.Served(str(tmp_path)).now() == pytest.approx(time.time(), abs=20)


@pytest.mark.parametrize("name", ["fstat", "close"])
def test_a_server_that_fails_as_it_is_asked_is_left_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    done = getattr(os, name)

    def fail(fd: int) -> NoReturn:
        done(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        assert clock.Served(str(tmp_path)).now() == pytest.approx(time.time(), abs=20)
    assert os.listdir(tmp_path) == []


def test_stamps_in_whole_seconds_put_no_clock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.time() - clock.uptime()
    monkeypatch.setattr(clock, "_stamp", lambda _: math.floor(time.time()))
    assert clock.Served(str(tmp_path)).now() - clock.uptime() == pytest.approx(began, abs=0.01)


def test_a_clock_that_was_heard_goes_on_where_the_server_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = clock.Served(str(tmp_path))
    monkeypatch.setattr(clock, "_stamp", lambda _: time.time() + DAY)
    assert heard.now() == pytest.approx(time.time() + DAY, abs=20)
    up = clock.uptime
    monkeypatch.setattr(clock, "uptime", lambda: up() + HOUR)
    monkeypatch.setattr(clock, "_stamp", lambda _: os.stat(tmp_path / "missing").st_ctime)
    assert heard.now() == pytest.approx(time.time() + DAY + HOUR, abs=20)
