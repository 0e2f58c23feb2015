"""The short way of a get, of a file that is mapped already, answers like the long one, and leaves the rest to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.buffers import Frames, Made, MadeFrames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import until

NBYTES = 300_000


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedMemoryConnector]:
    """A connector at a place of its own."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "root"))
    connector = SharedMemoryConnector()
    yield connector
    connector.close()


def path_of(one: SharedMemoryConnector, key: Key) -> str:
    """The file of a key."""
    return f"{os.environ['PROXYFAB_SHM_DIR']}/{one.namespace}/{key.id}"


def short(one: SharedMemoryConnector, key: Key) -> Frames | None:
    """What the short way answers."""
    assert one._shared is not None
    view = one._shared.again(path_of(one, key), key.id)
    return None if view is None else Frames([view])


def test_what_was_got_is_got_the_short_way(one: SharedMemoryConnector) -> None:
    key = one.put(signed(NBYTES, 1))
    first = one.get(key)

    assert short(one, key) == first == signed(NBYTES, 1)
    assert one.get(key) == first


def test_a_segment_that_was_filled_anew_is_its_new_object(one: SharedMemoryConnector) -> None:
    first = one.put(signed(NBYTES, 1))
    one.get(first)
    inode = os.stat(path_of(one, first)).st_ino
    one.evict(first)
    second = one.put(signed(NBYTES, 2))

    assert os.stat(path_of(one, second)).st_ino == inode
    assert short(one, second) == signed(NBYTES, 2)
    assert short(one, first) is None
    assert one.get(first) is None


def test_it_holds_a_lease(one: SharedMemoryConnector) -> None:
    key = one.put(signed(NBYTES, 1))
    one.get(key)
    held = one.get(key)
    one.evict(key)
    for seed in range(2, 5):
        one.put(signed(NBYTES, seed))

    assert held is not None
    assert is_whole(held)
    assert held == signed(NBYTES, 1)


def test_another_objects_name_is_told_as_damage(one: SharedMemoryConnector) -> None:
    mine, other = one.put(signed(NBYTES, 1)), one.put(signed(NBYTES, 2))
    one.get(mine)
    one.get(other)
    os.rename(path_of(one, other), path_of(one, mine))

    assert short(one, mine) is None
    with pytest.raises(IntegrityError, match="another key"):
        one.get(mine)


@pytest.mark.parametrize("left", [0, 63, 64, 100_000])
def test_a_file_that_was_cut_off_is_told_as_damage(one: SharedMemoryConnector, left: int) -> None:
    key = one.put(signed(NBYTES, 1))
    one.get(key)
    os.truncate(path_of(one, key), left)

    assert short(one, key) is None
    with pytest.raises(IntegrityError, match="cut off"):
        one.get(key)


def test_what_has_expired_is_gone(one: SharedMemoryConnector) -> None:
    key = one.put(signed(NBYTES, 1), ttl=0.2)
    one.get(key)

    assert until(lambda: one.get(key) is None)
    assert short(one, key) is None


def test_a_key_that_points_elsewhere_is_no_path(one: SharedMemoryConnector) -> None:
    key = one.put(signed(NBYTES, 1))
    one.get(key)
    outside = Path(os.environ["PROXYFAB_SHM_DIR"]).parent / key.id
    os.link(path_of(one, key), outside)

    with pytest.raises(ConnectorError):
        one.get(Key(key.id, ".."))


def test_directories_of_stores_that_have_ended_are_not_remembered_for_ever(tmp_path: Path) -> None:
    """A worker reads from any number of unnamed stores in its life."""
    reader = SharedMemoryConnector("reader", directory=str(tmp_path))
    frames = signed(200_000, 1)
    for number in range(300):
        writer = SharedMemoryConnector(f"w{number}", directory=str(tmp_path))
        key = writer.put(frames)
        assert reader.get(key) == frames
        assert writer.evict(key)
        writer.close()
    assert len(reader._places) <= 256
    reader.close()


def test_closing_amid_a_put_takes_no_pool_away_from_it(one: SharedMemoryConnector, tmp_path: Path) -> None:
    """Another thread may close it at any moment; what is put meanwhile is whole, and no home stays behind."""
    data = bytes(NBYTES)
    other = SharedMemoryConnector()
    kept = one.put(Frames([data]))
    assert one.evict(kept)  # so that there is a segment to fill again

    def closing() -> Iterator[tuple[int, memoryview]]:
        one.close()
        yield 0, memoryview(data)

    key = one.put(MadeFrames(Made(NBYTES, closing), lambda: Frames([data])))

    assert other.get(key) == Frames([data])
    assert list((tmp_path / "root").glob("*/.s-*")) == []
    other.close()
