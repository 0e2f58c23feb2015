"""shm:// on a small or full file system: what is only kept warm makes room, and a full one is an error in words."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import CapacityError
from proxyfab.testing import Child

MB = 1_000_000


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


def fills(talk: Any) -> None:
    with SharedMemoryConnector() as connector:
        for key in [connector.put(Frames([b"a" * MB])) for _ in range(2)]:
            connector.evict(key)
        talk.send("two segments are kept warm")
        talk.recv()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_first_put_finds_the_room_that_others_only_keep_warm(root: Path, size: int) -> None:
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(root)], check=True)
    try:
        with Child(fills) as other, SharedMemoryConnector() as one:
            other.receive()
            (home,) = {path.parent for path in root.glob("~*/.s-*")}
            (home / ".s-none").write_bytes(b"")
            rest = root / "rest"
            with contextlib.suppress(OSError), rest.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            assert one.get(one.put(Frames([b"b" * size]))) == Frames([b"b" * size])
            with pytest.raises(CapacityError, match="is full"):
                one.put(Frames([b"c" * 16 * MB]))
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_without_an_inode_left_the_error_says_so(root: Path) -> None:
    root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=20", "none", str(root)], check=True)
    try:
        with SharedMemoryConnector() as one, pytest.raises(CapacityError, match="20 inodes"):
            for _ in range(20):
                one.put(Frames([b"small"]))
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
