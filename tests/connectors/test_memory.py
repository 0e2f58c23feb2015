"""memory:// passes the suite; it lives in one process, and says so."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from proxyfab.buffers import Frames, GivenFrames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests, in_fork
from proxyfab.testing.processes import at_once


class TestMemory(ConnectorTests):
    connector = MemoryConnector
    crosses_processes = False
    reclaims = False
    on_disk = False
    reads_neighbours = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "memory://"


def test_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that claim more than any machine has; the claim is all that is ever made of them."""
    frames = Frames([b"x"])
    frames.nbytes = 2**60
    with MemoryConnector() as one, pytest.raises(CapacityError, match=str(2**60)):
        one.put(frames)


@pytest.mark.parametrize("name", ["a b", "../up", ""])
def test_a_name_that_is_none_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError):
        MemoryConnector(name)


def test_a_copy_is_kept() -> None:
    data = bytearray(b"before")
    with MemoryConnector() as one:
        key = one.put(Frames([data]))
        data[:] = b"after!"
        found = one.get(key)
        assert found is not None
        assert found.tobytes() == b"before"
        assert found.join().readonly


def test_large_pieces_are_copied_as_small_ones_are() -> None:
    """From 64 KiB on they are copied without the interpreter's lock."""
    pieces = [random.Random(size).randbytes(size) for size in (0, 1, 4097, 70_000, 5_000_001)]
    with MemoryConnector() as one:
        key = one.put(Frames(map(bytearray, pieces)))
        assert one.get(key) == Frames(pieces)


def test_what_was_given_away_is_kept_without_a_copy() -> None:
    mine = memoryview(bytearray(100)).toreadonly()
    with MemoryConnector() as one:
        found = one.get(one.put(GivenFrames([mine])))
        assert found is not None
        assert found.views[0].obj is mine.obj


def test_a_waiter_is_told_that_its_connector_closed() -> None:
    one, other = MemoryConnector("closing"), MemoryConnector("closing")

    def close_then_stir() -> None:
        one.close()
        other.put(Frames([b"x"]), key=Key("other"), replace=True)

    told, _ = at_once([lambda: one.wait(Key("never"), 20), close_then_stir])

    assert isinstance(told, ConnectorError)
    other.clear()


def test_a_child_reads_what_it_inherited() -> None:
    with MemoryConnector() as one:
        key = one.put(Frames([b"inherited"]))
        assert in_fork(lambda: one.get(key) == Frames([b"inherited"]))
