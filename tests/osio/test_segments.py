"""Pools: segments are filled again when nobody looks, fit what they hold, are bounded, and are never half an object."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.buffers import Made
from proxyfab.osio import filling
from proxyfab.osio.filling import Segment, choose, cost, split
from proxyfab.osio.leases import leases
from proxyfab.osio.root import Root
from proxyfab.osio.segments import LEASES, Pool, trim_others
from proxyfab.testing import in_fork
from proxyfab.testing.processes import at_once
from proxyfab.wire.slot import SIZE

KB, MB = 1000, 1_000_000
sizes = st.integers(1, 2**33)


class Desk:
    """A pool, and objects published from it into a directory. The header is the home and the payload's first bytes."""

    def __init__(self, root: Path, limit: int = 100 * MB, count: int = 128) -> None:
        self.root = Root.make(str(root))
        self.pool = Pool(str(root), limit, count)
        self.directory = root / "objects"
        self.directory.mkdir(exist_ok=True)
        self.homes: dict[str, int] = {}

    @staticmethod
    def made(body: list[memoryview]) -> list[Made]:
        """The same in pieces that are made, the last one first."""

        def pieces() -> Iterator[tuple[int, memoryview]]:
            low = sum(map(len, body))
            for part in reversed(body):
                low -= len(part)
                yield low, part

        return [Made(sum(map(len, body)), pieces)]

    def put(self, name: str, data: bytes, cuts: int = 3, *, made: bool = False) -> int:
        """Publish; the inode."""
        step = len(data) // cuts + 1
        body = [memoryview(data)[low : low + step] for low in range(0, len(data), step)]

        def head(home: int) -> bytes:
            self.homes[name] = home
            return f"{home:016x}".encode().ljust(SIZE, b".")

        self.pool.write(head, self.made(body) if made else body, lambda path: os.link(path, self.directory / name))
        return self.path(name).stat().st_ino

    def path(self, name: str) -> Path:
        """The object's file."""
        return self.directory / name

    def get(self, name: str, length: int) -> bytes:
        """The payload."""
        return self.path(name).read_bytes()[SIZE : SIZE + length]

    def evict(self, name: str) -> None:
        """Take the name away."""
        self.path(name).unlink()

    def held(self) -> int:
        """Bytes that homes hold back or objects take."""
        seen = {}
        for path in Path(self.root.path).rglob("*"):
            status = path.stat()
            if (
                path.is_file()
                and status.st_size >= SIZE
                and (path.name.startswith(".s-") or path.parent == self.directory)
            ):
                seen[status.st_ino] = status.st_size
        return sum(seen.values())

    def leases(self) -> str:
        """The lock file."""
        return f"{self.root.path}/{LEASES}"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A pool with plenty of room."""
    desk = Desk(tmp_path / "root")
    yield desk
    desk.pool.close()
    leases.forget(desk.leases())


# -- what is decided -------------------------------------------------------------------------------------------------


@given(capacity=sizes, need=sizes)
def test_a_perfect_fit_is_the_cheapest(capacity: int, need: int) -> None:
    assert cost(capacity, need) >= cost(need, need) == need


@given(capacities=st.lists(sizes, max_size=40), need=sizes)
def test_what_is_chosen_beats_a_new_file(capacities: list[int], need: int) -> None:
    table = [Segment(number, "", capacity) for number, capacity in enumerate(capacities)]
    costs = [cost(segment.capacity, need) for segment in choose(table, need)]

    assert all(found < 3.5 * need for found in costs)
    assert costs == sorted(costs) or max(costs) <= 1.05 * need


@given(need=st.integers(100, 2**33), more=st.lists(sizes, max_size=20))
def test_what_fits_is_preferred(need: int, more: list[int]) -> None:
    table = [Segment(number, "", capacity) for number, capacity in enumerate([*more, need + need // 30])]

    assert need <= choose(table, need)[0].capacity <= need * 1.05


def test_of_equal_segments_the_oldest_comes_first() -> None:
    table = [Segment(number, "", MB) for number in range(3)]
    for segment, used in zip(table, (7, 3, 5), strict=True):
        segment.used = used

    assert [segment.home for segment in choose(table, MB)] == [1, 2, 0]


@given(parts=st.lists(st.binary(max_size=5), max_size=9), at=st.integers(0, 50))
def test_split_cuts_where_it_should(parts: list[bytes], at: int) -> None:
    inner, outer = split(parts, at)
    whole = b"".join(parts)

    assert (b"".join(inner), b"".join(outer)) == (whole[:at], whole[at:])


# -- filling again ---------------------------------------------------------------------------------------------------


def test_a_free_segment_is_filled_again(desk: Desk) -> None:
    first = desk.put("a", b"1" * MB)
    second = desk.put("b", b"2" * MB)
    desk.evict("a")
    third = desk.put("c", b"3" * MB)

    assert first == third != second
    assert desk.get("b", MB) == b"2" * MB
    assert desk.get("c", MB) == b"3" * MB
    assert desk.homes["a"] == desk.homes["c"] != desk.homes["b"]


def test_a_leased_segment_is_not(desk: Desk) -> None:
    first = desk.put("a", b"1" * MB)
    lease = leases.take(desk.leases(), desk.homes["a"])
    desk.evict("a")

    assert desk.put("b", b"2" * MB) != first
    del lease
    assert desk.put("c", b"3" * MB) == first


@pytest.mark.parametrize(
    "length", [MB, MB - 1, MB - 30 * KB, MB - 300 * KB, MB + 1, MB + 5 * KB, MB + 700 * KB, 2 * MB]
)
def test_another_size_fits_too(desk: Desk, length: int) -> None:
    inode = desk.put("a", os.urandom(MB))
    desk.evict("a")
    data = os.urandom(length)

    for name in "bcd":
        assert desk.put(name, data) == inode
        assert desk.get(name, length) == data
        assert SIZE + length <= desk.path(name).stat().st_size <= (SIZE + length) * 1.05
        desk.evict(name)
    assert desk.pool.nbytes == desk.held()


@given(lengths=st.lists(st.integers(1, 300 * KB), max_size=12), seed=st.integers(0, 255))
def test_any_sequence_of_sizes(lengths: list[int], seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        desk = Desk(Path(place), limit=MB)
        for number, length in enumerate(lengths):
            data = bytes((seed + number + n) % 256 for n in range(251)) * (length // 251 + 1)
            desk.put(f"{number}", data[:length])
            assert desk.get(f"{number}", length) == data[:length]
            if number % 3:
                desk.evict(f"{number}")
        assert desk.pool.nbytes <= MB
        desk.pool.close()


@pytest.mark.parametrize("length", [MB, MB + 1, MB * 11 // 10, 2 * MB, MB - 1000, MB * 9 // 10])
def test_what_is_made_meanwhile_fills_segments_too(desk: Desk, length: int) -> None:
    """A new one, a warm one of the same size and others that are cut or grow: like what is there."""
    first = desk.put("first", b"1" * MB, made=True)
    assert desk.get("first", MB) == b"1" * MB
    desk.evict("first")
    content = os.urandom(length)

    assert desk.put("second", content, made=True) == first
    assert desk.get("second", length) == content


def test_far_smaller_ones_take_new_files(desk: Desk) -> None:
    inode = desk.put("a", b"1" * MB)
    desk.evict("a")

    assert desk.put("b", b"2" * 100 * KB) != inode


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_homes_hold_back_no_more_than_the_limit(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", limit=5 * MB)
    for number in range(20):
        desk.put(f"{number}", b"x" * MB)
        assert desk.pool.nbytes <= 5 * MB
    assert all(desk.get(f"{number}", MB) == b"x" * MB for number in range(20))
    for number in range(20):  # by somebody else, who knows nothing of pools
        desk.evict(f"{number}")

    assert desk.held() <= 5 * MB
    desk.pool.close()
    assert desk.held() == 0


def test_free_ones_make_room_for_other_sizes(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", limit=5 * MB)
    for number in range(4):
        desk.put(f"{number}", b"x" * MB)
    for number in range(4):
        desk.evict(f"{number}")
    inode = desk.put("large", b"y" * 4 * MB)
    desk.evict("large")

    assert desk.put("again", b"z" * 4 * MB) == inode
    assert desk.held() <= 5 * MB
    desk.pool.close()


def test_the_number_of_segments_is_bounded(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", count=3)
    for number in range(9):
        desk.put(f"{number}", b"x" * 1000)
        assert len(desk.pool) <= 3
    desk.pool.close()


def test_without_a_limit_nothing_is_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", limit=0)
    desk.put("a", b"x" * MB)

    assert desk.homes["a"] == 0
    desk.evict("a")
    assert (desk.held(), len(desk.pool)) == (0, 0)
    desk.pool.close()


def test_trim_gives_back_what_is_free(desk: Desk) -> None:
    for name in "ab":
        desk.put(name, b"x" * MB)
    desk.evict("a")

    assert desk.pool.trim() == MB + SIZE
    assert desk.held() == MB + SIZE
    assert desk.get("b", MB) == b"x" * MB


def test_others_may_trim_what_is_free_and_not_leased(desk: Desk) -> None:
    for name in "abc":
        desk.put(name, name.encode() * MB)
    lease = leases.take(desk.leases(), desk.homes["b"])
    desk.evict("a")
    desk.evict("b")

    assert in_fork(lambda: trim_others(desk.root)) == MB + SIZE
    assert desk.get("c", MB) == b"c" * MB
    desk.put("d", b"d" * MB)
    assert desk.get("d", MB) == b"d" * MB
    assert lease is not None


# -- how much is looked at -------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Segment]:
    """The segments that were looked at, which costs a system call each."""
    seen: list[Segment] = []
    free = Segment.free
    monkeypatch.setattr(Segment, "free", lambda segment: seen.append(segment) or free(segment))
    return seen


@pytest.mark.parametrize("limit", [MB, 100 * MB])
def test_a_put_looks_at_no_more_segments_where_more_objects_live(
    tmp_path: Path, looks: list[Segment], limit: int
) -> None:
    desk = Desk(tmp_path / "root", limit=limit)
    most = 0
    for number in range(300):  # twice as many as a pool has segments, and many more than the smaller limit lets it have
        looks.clear()
        desk.put(f"{number}", b"x" * 10 * KB)
        most = max(most, len(looks))

    assert len(desk.pool) > 90
    assert most <= 2 * filling.LOOKS
    desk.pool.close()


def test_what_was_heard_to_be_free_is_looked_at_first(desk: Desk, looks: list[Segment]) -> None:
    inodes = [desk.put(f"{number}", b"x" * KB) for number in range(100)]
    for number in (63, 17):
        desk.evict(f"{number}")
        desk.pool.heard_free(desk.homes[f"{number}"])
    desk.pool.heard_free(desk.homes["5"] + 2**62)  # somebody else's
    looks.clear()

    assert {desk.put("a", b"y" * KB), desk.put("b", b"y" * KB)} == {inodes[63], inodes[17]}
    assert len(looks) == 2


def test_what_was_heard_in_error_is_looked_at_once(desk: Desk, looks: list[Segment]) -> None:
    for number in range(20):
        desk.put(f"{number}", b"x" * KB)
    desk.pool.heard_free(desk.homes["9"])
    looks.clear()
    for name in "ab":
        desk.put(name, b"y" * KB)

    assert desk.get("9", KB) == b"x" * KB
    assert sum(segment.home == desk.homes["9"] for segment in looks) == 1


def test_what_others_evict_is_found_before_long(desk: Desk, looks: list[Segment]) -> None:
    """Though there are many that stay, older ones among them."""
    inodes = [desk.put(f"{number}", b"x" * KB) for number in range(100)]
    desk.evict("57")
    looks.clear()
    puts = 0
    while desk.put(f"new-{puts}", b"y" * KB) != inodes[57]:
        puts += 1

    assert puts <= 100 / (filling.LOOKS - 2)
    assert len(looks) <= 100 * 1.5


def test_in_a_queue_the_oldest_is_found_at_once(desk: Desk, looks: list[Segment]) -> None:
    inodes = [desk.put(f"{number}", b"x" * KB) for number in range(50)]
    for number in range(50):
        desk.evict(f"{number}")
        looks.clear()

        assert desk.put(f"again-{number}", b"y" * KB) == inodes[number]
        assert len(looks) == 1


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_a_publication_that_fails_leaves_nothing(desk: Desk, warm: bool) -> None:
    if warm:
        desk.put("a", b"1" * MB)
        desk.evict("a")
    desk.path("b").write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        desk.put("b", b"2" * MB)

    assert desk.path("b").read_bytes() == b"somebody's"
    left = list(Path(desk.root.path).rglob(".s-*"))
    assert len(left) == warm
    assert all(path.read_bytes()[:SIZE] == bytes(SIZE) for path in left), "a header must not outlive a failure"
    desk.evict("b")
    desk.put("b", b"3" * MB)
    assert desk.get("b", MB) == b"3" * MB


def test_a_header_is_wiped_before_a_byte_is_changed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a reader that had the old file open would take what a killed process left for the old object."""
    desk.put("a", b"1" * MB)
    fd = os.open(desk.path("a"), os.O_RDONLY)
    desk.evict("a")
    monkeypatch.setattr(filling, "_copy", _interrupted)
    with pytest.raises(InterruptedError):
        desk.put("b", b"2" * MB)

    assert os.pread(fd, SIZE, 0) == bytes(SIZE)
    os.close(fd)


def _interrupted(*_: object) -> None:
    raise InterruptedError


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "proxyfab-test", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"mounting a small tmpfs is not allowed here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)


@pytest.mark.parametrize("made", [False, True])
def test_a_full_disk_is_an_error_and_not_a_signal(small: Path, made: bool) -> None:
    desk = Desk(small / "root", limit=8 * MB)
    desk.put("a", b"1" * 3 * MB)
    desk.evict("a")
    desk.put("b", b"2" * 3 * MB)
    desk.put("c", b"3" * 3 * MB)
    desk.evict("b")
    with pytest.raises(OSError, match="No space"):  # too large for what is there and what is left
        desk.put("d", b"4" * 5_800_000, made=made)
    assert desk.get("c", 3 * MB) == b"3" * 3 * MB
    assert not desk.path("d").exists()

    desk.put("e", b"5" * 3 * MB)
    assert desk.get("e", 3 * MB) == b"5" * 3 * MB
    desk.pool.close()


def test_a_directory_that_somebody_removed_is_made_again(desk: Desk) -> None:
    desk.put("a", b"1" * MB)
    for path in Path(desk.root.path).glob("~*"):
        subprocess.run(["rm", "-r", str(path)], check=True)
    desk.put("b", b"2" * MB)

    assert (desk.get("a", MB), desk.get("b", MB)) == (b"1" * MB, b"2" * MB)


def test_threads_never_share_a_segment(desk: Desk) -> None:
    def work(seed: int) -> bool:
        for number in range(25):
            data = bytes([seed * 25 + number & 255]) * (200 * KB + seed)
            desk.put(f"{seed}-{number}", data)
            if desk.get(f"{seed}-{number}", len(data)) != data:
                return False
            desk.evict(f"{seed}-{number}")
        return True

    assert at_once([lambda seed=seed: work(seed) for seed in range(6)]) == [True] * 6
    assert len(desk.pool) <= 12


def test_a_fork_has_a_pool_of_its_own(desk: Desk) -> None:
    inode = desk.put("a", b"1" * MB)
    desk.evict("a")

    def child() -> tuple[int, int]:
        return len(desk.pool), desk.put("b", b"2" * MB)

    inherited, other = in_fork(child)
    assert inherited == 0
    assert other != inode
    assert desk.get("b", MB) == b"2" * MB
    assert desk.put("c", b"3" * MB) == inode
