"""Mappings and windows: read-only, alive as long as anything that derives from them, found again and let go."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proxyfab.osio import shared
from proxyfab.osio.mapping import PAGE, FileId, Mapping, Mappings, copy, window
from proxyfab.testing import in_fork
from proxyfab.testing.interrupts import Interrupted, _set_exception, _Told
from proxyfab.testing.processes import at_once

DATA = bytes(range(256)) * 64


class Keep:
    """Stands for a lease."""


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """An open file that holds DATA."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, DATA)
    yield fd
    os.close(fd)


@pytest.fixture
def watched(fd: int) -> tuple[list[memoryview], weakref.ref[Keep], weakref.ref[Mapping]]:
    """A window in a list, what it keeps, and its mapping."""
    keep, mapping = Keep(), Mapping(fd, len(DATA))
    return [window(mapping, 64, 8192, keep)], weakref.ref(keep), weakref.ref(mapping)


def _addresses() -> set[str]:
    return {line.split(" ", 1)[0] for line in Path("/proc/self/maps").read_text().splitlines()}


@pytest.mark.parametrize("how", [{}, {"writable": True}, {"private": True}], ids=str)
def test_a_large_mapping_counts_once(fd: int, how: dict[str, bool]) -> None:
    """A process may have 65,530. Nothing stays mapped around one at a multiple of 2 MiB, nor after it."""
    lengths = [(4 << 20) + number * PAGE for number in range(40)]
    before = _addresses()
    mappings = [Mapping(fd, length, **how) for length in lengths]
    ours = {f"{each.address:x}-{each.address + each.length:x}" for each in mappings}
    assert ours <= _addresses()
    assert len(_addresses() - before) < 60  # else 80; some may be of others
    assert how.get("private") or all(each.address % (2 << 20) == 0 for each in mappings)
    del mappings
    assert not ours & _addresses()


DERIVED: dict[str, Callable[[memoryview], Any]] = {
    "slice of a slice": lambda view: view[10:1000][5:][::2],
    "cast": lambda view: view.cast("d"),
    "array": np.asarray,
    "strided transposed array": lambda view: np.asarray(view)[::2].reshape(64, 64).T,
    "typed array": lambda view: np.frombuffer(view, dtype=np.float64)[3:],
    "array without its copy": lambda view: np.array(view, copy=False)[7:9],
    "structured field": lambda view: np.frombuffer(view, dtype=[("a", "u4"), ("b", "f4")])["b"],
    "memoryview of an array": lambda view: memoryview(np.asarray(view)[100:])[1:],
    "pickle buffer": pickle.PickleBuffer,
    "iterator": lambda view: iter(np.asarray(view)),
    "loaded array": lambda view: _reloaded(np.frombuffer(view, dtype=np.int16).reshape(2, -1)),
    "masked array": lambda view: np.ma.masked_array(np.asarray(view), mask=False)[1:],
}


def _reloaded(array: np.ndarray[Any, Any]) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=buffers)


@pytest.mark.parametrize("name", DERIVED)
def test_what_derives_from_a_window_keeps_it(watched: Any, name: str) -> None:
    views, keep, mapping = watched
    derived = DERIVED[name](views.pop())
    gc.collect()

    assert keep() is not None
    assert mapping() is not None
    if hasattr(derived, "tobytes"):
        assert derived.tobytes()
    del derived
    gc.collect()
    assert keep() is None
    assert mapping() is None


def test_in_a_cycle_others_may_look_at_it_to_the_end(watched: Any) -> None:
    """Garbage collection ends all of a cycle in any order; one end may look at a view, or keep it."""
    views, keep, mapping = watched
    found: list[Any] = []

    class Holder:
        def __init__(self) -> None:
            self.view, self.cycle = views.pop(), self

        def __del__(self) -> None:
            found.append((keep() is not None, mapping() is not None))
            if all(found[-1]):
                found.append(self.view)

    Holder()
    gc.collect()

    assert found.pop() == DATA[64 : 64 + 8192]
    assert found == [(True, True)]
    gc.collect()
    assert keep() is None
    assert mapping() is None


def test_arrow_keeps_it(watched: Any) -> None:
    arrow = pytest.importorskip("pyarrow")
    views, keep, _ = watched
    buffer = arrow.py_buffer(views.pop()).slice(100, 800)
    array = arrow.Array.from_buffers(arrow.int64(), 100, [None, buffer])
    del buffer
    gc.collect()

    assert keep() is not None
    assert array.to_numpy()[0] == int.from_bytes(DATA[164:172], "little", signed=True)
    del array
    assert keep() is None


def test_a_window_shows_the_file(fd: int) -> None:
    view = window(Mapping(fd, len(DATA)), 64, 1000)

    assert (view.format, view.ndim, view.nbytes, view.readonly) == ("B", 1, 1000, True)
    assert view == DATA[64:1064]
    assert np.asarray(view).ctypes.data % 64 == 0
    os.pwrite(fd, b"changed", 64)
    assert bytes(view[:7]) == b"changed"


def test_nothing_makes_a_window_writable(fd: int) -> None:
    view = window(Mapping(fd, len(DATA)), 0, 1000)
    array = np.asarray(view)

    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(view, dtype=np.uint8)[1:].flags.writeable = True


def test_a_write_around_it_changes_nothing(fd: int) -> None:
    """Through a forged pointer: the process that tries is killed, and the others see what was there."""
    view = window(Mapping(fd, len(DATA)), 0, 1000)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        view.obj[0] = 99
        os._exit(0)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == -signal.SIGSEGV
    assert view == DATA[:1000]


def test_a_mapping_may_be_longer_than_its_file(fd: int) -> None:
    mapping = Mapping(fd, 10 * len(DATA))
    os.pwrite(fd, b"grown", len(DATA))

    assert mapping.length == 10 * len(DATA)
    assert window(mapping, len(DATA), 5) == b"grown"


def test_lengths_are_whole_pages(fd: int) -> None:
    assert [Mapping(fd, length).length for length in (0, 1, PAGE, PAGE + 1)] == [PAGE, PAGE, PAGE, 2 * PAGE]


def test_what_cannot_be_mapped_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError):  # noqa: PT011  # whatever the kernel calls it
        Mapping(fd, PAGE)
    os.close(fd)


@pytest.mark.parametrize("cuts", [(), (1, 2, 70_000), (100_000,), (65_536, 65_537)])
def test_writing_equals_slicing(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    data = os.urandom(200_000)
    edges = [0, *cuts, len(data)]
    parts = [memoryview(data)[low:high] for low, high in itertools.pairwise(edges)]
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, len(data) + 100)
    mapping = Mapping(fd, len(data) + 100, writable=True)
    mapping.populate(0, len(data))

    assert mapping.write(parts, 100) == len(data) + 100
    assert os.pread(fd, len(data), 100) == data
    copy(b"", mapping.address)
    copy(b"abc", mapping.address)
    assert os.pread(fd, 4, 0) == b"abc\0"
    os.close(fd)


# -- mappings kept warm ----------------------------------------------------------------------------------------------


def file_id(fd: int) -> FileId:
    """Which file it is."""
    status = os.fstat(fd)
    return FileId(status.st_dev, status.st_ino)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Mappings, str, int], FileId]:
    """Makes a file of that many pages and keeps a mapping of it."""

    def make(mappings: Mappings, name: str, pages: int) -> FileId:
        fd = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, pages * PAGE)
        mappings.keep(file_id(fd), Mapping(fd, pages * PAGE), fd)
        found = file_id(fd)
        os.close(fd)
        return found

    return make


Make = Callable[[Mappings, str, int], FileId]


def test_a_warm_mapping_is_found_again(make: Make) -> None:
    mappings = Mappings(limit=10 * PAGE)
    file = make(mappings, "a", 3)

    assert mappings.find(file, 3 * PAGE) is mappings.find(file, 1)
    assert mappings.find(file, 3 * PAGE + 1) is None
    assert mappings.nbytes == 3 * PAGE
    mappings.clear()
    assert (mappings.find(file, 1), mappings.nbytes, len(mappings)) == (None, 0, 0)


def test_bytes_and_count_are_bounded(make: Make) -> None:
    mappings = Mappings(limit=10 * PAGE, count=3)
    a, b, c = (make(mappings, name, 3) for name in "abc")
    mappings.find(a, 1)
    d = make(mappings, "d", 4)

    assert [mappings.find(file, 1) is not None for file in (a, b, c, d)] == [True, False, True, True]
    e = make(mappings, "e", 1)
    assert [mappings.find(file, 1) is not None for file in (a, c, d, e)] == [False, True, True, True]
    make(mappings, "huge", 11)
    assert len(mappings) == 3
    mappings.clear()


def test_a_mapping_in_use_is_found_although_it_is_not_kept(tmp_path: Path) -> None:
    mappings = Mappings(limit=0)
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, PAGE)
    mapping = Mapping(fd, PAGE)
    mappings.keep(file_id(fd), mapping, fd)

    assert len(mappings) == 0
    assert mappings.find(file_id(fd), PAGE) is mapping
    del mapping
    assert mappings.find(file_id(fd), PAGE) is None
    os.close(fd)


def test_no_thread_finds_a_mapping_that_another_one_undoes(tmp_path: Path) -> None:
    """Unmapping lets other threads run; what they read must be there, and be this file's."""
    mappings = Mappings(limit=0)
    length, ends = 16 * 2**20, time.monotonic() + 1.0
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"a" * length, 0)
    file = file_id(fd)

    def make() -> int:
        rounds = 0
        while time.monotonic() < ends:
            mapping = Mapping(fd, length)
            mappings.keep(file, mapping, fd)
            assert bytes(window(mapping, 0, length)[::PAGE])  # what was touched takes long to undo
            time.sleep(0.0002 * (rounds % 2))
            del mapping
            rounds += 1
        return rounds

    def look() -> int:
        found = 0
        while time.monotonic() < ends:
            mapping = mappings.find(file, length)
            if mapping is not None:
                assert bytes(window(mapping, length - 3, 3)) == b"aaa"
                del mapping
                found += 1
        return found

    rounds, *found = at_once([make, look, look])
    os.close(fd)
    assert all(isinstance(each, int) for each in (rounds, *found)), (rounds, found)  # else it is an error


def test_a_finalizer_finds_mappings_while_others_are_dropped(make: Make) -> None:
    """Garbage collection may come at any moment, and what it ends may look at an object."""
    mappings = Mappings(limit=10 * PAGE)
    for name in "abc":
        make(mappings, name, 1)
    looked: list[Mapping | None] = []

    def which(_: object) -> bool:
        for file in list(mappings._warm):
            status = os.stat_result((0, file.inode, file.device, *[0] * 7))
            looked.extend([mappings.find(file, 1), mappings.warm(status)])
        return True

    mappings._drop(which)
    assert len(looked) == 18
    assert None not in looked
    assert len(mappings) == 0


def test_mappings_of_files_that_are_gone_are_dropped(make: Make, tmp_path: Path) -> None:
    mappings = Mappings(limit=10 * PAGE)
    a, b = make(mappings, "a", 1), make(mappings, "b", 1)
    os.rename(tmp_path / "b", tmp_path / "moved")
    os.unlink(tmp_path / "a")
    mappings.sweep(now=True)

    assert [mappings.find(file, 1) is not None for file in (a, b)] == [False, True]
    mappings.clear()


def test_a_forked_child_starts_with_none(make: Make) -> None:
    mappings = Mappings(limit=10 * PAGE)
    file = make(mappings, "a", 1)
    open_here = len(os.listdir("/proc/self/fd"))

    def child() -> tuple[bool, int]:
        return mappings.find(file, 1) is None, len(os.listdir("/proc/self/fd"))

    alone, open_there = in_fork(child)
    assert alone
    assert open_there <= open_here
    assert mappings.find(file, 1) is not None
    mappings.clear()


def test_roots_may_come_while_all_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shared.shared_at(str(tmp_path))
    known: weakref.WeakValueDictionary[str, shared.Shared] = weakref.WeakValueDictionary()
    monkeypatch.setattr(shared, "_known", known)
    over = threading.Event()

    def look() -> int:
        try:
            return max([len(shared.all_shared()) for _ in range(3000)])
        finally:
            over.set()

    def come() -> None:
        for number in itertools.cycle(range(500)):
            if over.is_set():
                return
            known[str(number)] = root
            known.pop(str(number - 200), None)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert isinstance(at_once([look, come])[0], int)
    finally:
        sys.setswitchinterval(before)


def test_an_interrupt_that_comes_as_the_last_reference_goes_leaves_no_mapping(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `__del__` would meet it before its first instruction, and not run."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    swallowed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: swallowed.append(told.exc_type))

    class Doomed:
        """Has an interrupt pending when it goes."""

    fire = partial(_set_exception, ctypes.c_ulong(threading.get_ident()), ctypes.py_object(Interrupted))
    for _ in range(10):
        doomed = Doomed()
        told = _Told(doomed, fire)  # type: ignore[arg-type]  # it does not look at it
        held = (Mapping(fd, PAGE), doomed)  # ends from the back
        del doomed
        with contextlib.suppress(Interrupted):
            del held
            for _ in range(2):  # at the latest it is raised here
                pass
        del told
    assert path not in Path("/proc/self/maps").read_text()
