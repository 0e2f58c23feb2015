"""shm:// whose root, or lock file, somebody removes under running processes: whoever looks is not overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.keys import Key
from proxyfab.osio.segments import LEASES
from proxyfab.testing import Child

SIZE = 300_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


def all_of_it(root: Path) -> None:
    shutil.rmtree(root)


def the_locks(root: Path) -> None:
    (root / LEASES).unlink()


def look(connector: SharedMemoryConnector, key: Key) -> memoryview:
    frames = connector.get(key)
    assert frames is not None
    return frames.views[0]


def looks(talk: Any, key: Key) -> set[int]:
    view = look(SharedMemoryConnector(), key)
    talk.send("looking")
    talk.recv()
    return set(view)


def puts_and_recycles(talk: Any) -> str:
    connector = SharedMemoryConnector()
    key = connector.put(Frames([b"b" * SIZE]))
    talk.send(key)
    talk.recv()
    recycle(connector, key)
    return "recycled"


def recycle(connector: SharedMemoryConnector, key: Key) -> None:
    connector.evict(key)
    for _ in range(3):
        connector.evict(connector.put(Frames([b"z" * SIZE])))


@pytest.mark.parametrize("remove", [all_of_it, the_locks])
def test_a_running_writer_and_a_new_reader(root: Path, remove: Callable[[Path], None]) -> None:
    with SharedMemoryConnector() as writer:
        recycle(writer, writer.put(Frames([b"a" * SIZE])))
        remove(root)
        key = writer.put(Frames([b"b" * SIZE]))
        with Child(looks, key) as reader:
            assert reader.receive() == "looking"
            recycle(writer, key)
            reader.send("look again")
            assert reader.result() == {ord("b")}


@pytest.mark.parametrize("remove", [all_of_it, the_locks])
def test_a_running_reader_and_a_new_writer(root: Path, remove: Callable[[Path], None]) -> None:
    with SharedMemoryConnector() as reader:
        first = look(reader, reader.put(Frames([b"a" * SIZE])))
        remove(root)
        with Child(puts_and_recycles) as writer:
            view = look(reader, writer.receive())
            writer.send("seen")
            assert writer.result() == "recycled"
            assert (set(view), set(first)) == ({ord("b")}, {ord("a")})


def test_what_is_published_is_not_filled_again_under_new_locks(root: Path) -> None:
    with SharedMemoryConnector() as writer:
        key = writer.put(Frames([b"a" * SIZE]))
        view = look(writer, key)
        (root / LEASES).unlink()
        writer.put(Frames([b"b" * SIZE]))
        recycle(writer, key)
        assert set(view) == {ord("a")}
