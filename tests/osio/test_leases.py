"""Leases: shared by readers, in the way of a writer, ended by collection and by death, carried over a fork."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyfab.osio.leases import Leases, leases, lock, unlock
from proxyfab.testing import until

BIG = 2**62 + 7


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A lock file."""
    path = str(tmp_path / "locks")
    os.close(os.open(path, os.O_CREAT))
    yield path
    leases.forget(path)


@pytest.fixture
def wanted(path: str) -> Iterator[Callable[[int], bool]]:
    """Whether a writer could have a number for himself now."""
    fd = os.open(path, os.O_RDWR)

    def wanted(number: int) -> bool:
        mine = lock(fd, number, exclusive=True)
        if mine:
            unlock(fd, number)
        return mine

    yield wanted
    os.close(fd)


@pytest.mark.parametrize("number", [0, 1, BIG])
def test_a_lease_is_in_the_way_until_it_is_collected(path: str, wanted: Callable[[int], bool], number: int) -> None:
    lease = leases.take(path, number)

    assert not wanted(number)
    assert wanted(number + 1)
    del lease
    assert wanted(number)


def test_two_leases_on_one_number(path: str, wanted: Callable[[int], bool]) -> None:
    first, second = leases.take(path, 5), leases.take(path, 5)

    del first
    assert not wanted(5)
    del second
    assert wanted(5)
    assert leases.held() == 0


def test_who_has_it_for_himself_gives_no_lease(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    assert lock(fd, 5, exclusive=True)

    assert leases.take(path, 5) is None
    assert lock(fd, 5, exclusive=False), "turned into a lease"
    assert leases.take(path, 5) is not None
    os.close(fd)


def test_a_lock_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        leases.take(str(tmp_path / "none"), 1)


def test_many_leases_take_one_descriptor(path: str, wanted: Callable[[int], bool]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    held = [leases.take(path, number) for number in range(0, 4000, 2)]

    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert not wanted(3998)
    assert wanted(3999)
    held.clear()
    assert wanted(3998)


def test_a_lease_that_ends_while_we_are_busy_ends_afterwards(path: str, wanted: Callable[[int], bool]) -> None:
    """As when the garbage collector runs in the middle of `take`."""
    mine = Leases()
    lease = mine.take(path, 1)
    with mine._lock:
        mine._inside = True
        del lease
        assert not wanted(1)
        assert mine.take(path, 3) is None, "nothing changes here in the midst of a change"
        mine._inside = False
    other = mine.take(path, 2)

    assert wanted(1)
    del other
    mine.forget(path)


def test_cycles_are_collected(path: str, wanted: Callable[[int], bool]) -> None:
    cycle: list[object] = [leases.take(path, 1)]
    cycle.append(cycle)
    del cycle
    gc.collect()

    assert wanted(1)


def test_forgetting_waits_for_the_last_lease(path: str, wanted: Callable[[int], bool]) -> None:
    first, second = leases.take(path, 1), leases.take(path, 2)
    leases.forget(path)

    assert not wanted(1)
    del first
    assert wanted(1)
    assert not wanted(2)
    del second
    assert wanted(2)


class Forked:
    """A child that runs `work`, says so, and waits to be killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            kept = work()
            os.write(writing, b"x")
            signal.pause()
            os._exit(bool(kept))
        os.close(writing)
        assert os.read(reading, 1) == b"x"
        os.close(reading)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_death_ends_a_lease(path: str, wanted: Callable[[int], bool]) -> None:
    child = Forked(lambda: leases.take(path, 1))
    assert not wanted(1)
    child.kill()

    assert until(lambda: wanted(1))


def test_a_fork_carries_leases_over(path: str, wanted: Callable[[int], bool]) -> None:
    lease = leases.take(path, 1)
    child = Forked(lambda: None)
    del lease

    assert not wanted(1), "the child inherited the view"
    child.kill()
    assert until(lambda: wanted(1))


def test_a_child_that_lets_go_does_not_let_go_for_its_parent(path: str, wanted: Callable[[int], bool]) -> None:
    held = [leases.take(path, 1)]
    child = Forked(held.clear)

    assert not wanted(1)
    held.clear()
    assert wanted(1), "both let go"
    child.kill()


def test_new_leases_after_a_fork_end_one_by_one(path: str, wanted: Callable[[int], bool]) -> None:
    old = leases.take(path, 1)
    child = Forked(lambda: None)
    new, newer = leases.take(path, 2), leases.take(path, 1)
    del new

    assert wanted(2)
    del newer
    assert not wanted(1)
    child.kill()
    del old
    assert wanted(1)
    assert leases.held() == 0


def test_a_cycle_that_outlives_its_lock_file_closes_it(path: str) -> None:
    """Forgotten while something is leased, the file must not be collected together with the last lease."""
    before = len(os.listdir("/proc/self/fd"))
    mine = Leases()
    lease = mine.take(path, 1)
    cycle: list[object] = [lease]
    cycle.append(cycle)
    mine.forget(path)
    del lease, cycle
    gc.collect()
    mine.settle()

    assert len(os.listdir("/proc/self/fd")) == before
