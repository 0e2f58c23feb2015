"""New files on huge pages: the same bytes as ever, where the kernel grants them, refuses them, or takes long."""

from __future__ import annotations

import mmap
import os
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest

from proxyfab.buffers import Made
from proxyfab.osio import huge
from proxyfab.osio.mapping import STEP, Mapping, window
from proxyfab.osio.root import Root
from proxyfab.osio.segments import Pool
from proxyfab.wire.slot import SIZE

HEAD = b"h" * SIZE
SIZES = (2 * STEP - SIZE, 2 * STEP, 5_000_000, 3 * STEP - SIZE, 3 * STEP - SIZE + 1)


@pytest.fixture(autouse=True)
def luck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge._Luck, "allowed", None)
    monkeypatch.setattr(huge._Luck, "rests_until", 0.0)
    monkeypatch.setattr(huge._Luck, "at_once", 1)
    monkeypatch.setattr(huge, "_SLOW", 60.0)
    monkeypatch.setattr(huge, "_LATE", 60.0)


@pytest.fixture
def root(shared_memory_root: Path) -> Iterator[str]:
    with TemporaryDirectory(prefix="huge-", dir=shared_memory_root) as directory:
        yield Root.make(f"{directory}/root").path


def put(pool: Pool, name: str, data: bytes, *, made: bool = False) -> bytes:
    """What lies in the file that was published."""
    cut = len(data) // 3
    views = [memoryview(data)[:cut], memoryview(data)[cut:]]
    pieces = ((low, memoryview(data)[low : low + 700_000]) for low in range(0, len(data), 700_000))
    body = [Made(len(data), lambda: pieces)] if made else views
    path = f"{pool.root}/{name}"
    pool.write(lambda _home: HEAD, body, lambda source: os.link(source, path))
    return Path(path).read_bytes()


def needs_huge_pages(pool: Pool) -> None:
    put(pool, "first", bytes(2 * STEP))
    if huge._Luck.rests_until:
        pytest.skip("this kernel, or this file system, has no huge pages for files in shared memory")


@pytest.mark.parametrize("made", [False, True], ids=["views", "made"])
@pytest.mark.parametrize("nbytes", SIZES)
def test_what_is_put_is_what_lies_there_first_and_when_filled_again(root: str, nbytes: int, made: bool) -> None:
    pool = Pool(root, 1 << 30)
    for number in range(2):  # the second one goes to the same segment
        data = bytes([number + 1]) * (nbytes // 2) + os.urandom(nbytes - nbytes // 2)
        assert put(pool, "one", data, made=made) == HEAD + data
        os.unlink(f"{root}/one")
    assert len(pool) == 1
    pool.close()


def test_a_new_file_is_found_by_one_fault_for_each_huge_page(root: str) -> None:
    pool = Pool(root, 1 << 30)
    needs_huge_pages(pool)
    data = os.urandom(4 * STEP)
    put(pool, "one", data)
    fd = os.open(f"{root}/one", os.O_RDONLY)
    mapping = Mapping(fd, SIZE + len(data))
    os.close(fd)
    view = window(mapping, SIZE, len(data))
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    assert zlib.crc32(view) == zlib.crc32(data)
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
    assert faults < 4 * STEP // 4096 // 16  # so many take small ones, of which 16 come at once
    pool.close()


def test_who_gets_some_and_then_none_fills_the_rest_with_small_ones(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(root, 1 << 30)
    needs_huge_pages(pool)
    advised, advise = [], huge.advise

    def once(*args: int) -> int:
        advised.append(args)
        return advise(*args) if len(advised) == 1 else -1

    monkeypatch.setattr(huge, "advise", once)
    data = os.urandom(3 * STEP)
    assert put(pool, "some", data) == HEAD + data
    assert put(pool, "none", data) == HEAD + data
    assert len(advised) == 2
    os.unlink(f"{root}/some")
    data = os.urandom(3 * STEP)
    assert put(pool, "again", data) == HEAD + data
    pool.close()


@pytest.mark.parametrize("why", ["refused", "slow", "late", "full"])
def test_where_there_are_none_the_file_is_written_and_they_are_not_asked_for_again(
    root: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(root, 1 << 30)
    if why == "full":
        asked = Mock(side_effect=OSError(28, "no space"))
        monkeypatch.setattr(huge, "_made", asked)
    else:
        asked = Mock(return_value=-1 if why == "refused" else 0)
        monkeypatch.setattr(huge, "advise", asked)
        monkeypatch.setattr(huge, "_LATE" if why == "late" else "_SLOW", -1.0)
        monkeypatch.setattr(huge, "_PART", 1e12)
        monkeypatch.setattr(huge, "COLD", 1e3)  # a second is soon over on a busy machine
    monkeypatch.setattr(huge, "_is_on", lambda: True)
    for number in range(3):
        data = os.urandom(5_000_000)
        assert put(pool, str(number), data) == HEAD + data
    assert asked.call_count == (1 if mmap.PAGESIZE == 4096 else 0)
    pool.close()


def test_after_one_that_went_well_few_are_asked_for_by_one_call(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call waits for all processors."""
    pool = Pool(root, 1 << 30)
    needs_huge_pages(pool)
    monkeypatch.setattr(huge, "advise", asked := Mock(side_effect=huge.advise))
    data = os.urandom(3 * STEP)
    assert put(pool, "one", data) == HEAD + data
    assert asked.call_count == 1
    pool.close()


def test_where_huge_pages_are_switched_off_none_are_asked_for(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(root, 1 << 30)
    switch = tmp_path / "enabled"
    switch.write_text("always madvise [never]\n")
    monkeypatch.setattr(huge, "_SWITCH", switch)
    monkeypatch.setattr(huge, "advise", asked := Mock(return_value=0))
    data = os.urandom(5_000_000)
    assert put(pool, "one", data) == HEAD + data
    assert not asked.called
    pool.close()
