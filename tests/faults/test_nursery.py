"""Workers are forked, killed and reaped, and none outlives the nursery."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from proxyfab.testing.nursery import Nursery
from proxyfab.testing.processes import ChildFailed, until


def idle(path: Path) -> None:
    path.write_text(str(os.getpid()))
    signal.pause()


def leave(path: Path) -> None:
    path.write_text("done")


def test_a_worker_is_killed_and_reaped(tmp_path: Path) -> None:
    with Nursery(["memory"], [__name__]) as nursery:
        pid = nursery.start(idle, tmp_path / "pid")
        assert until(lambda: (tmp_path / "pid").exists())
        os.kill(pid, signal.SIGKILL)
        assert nursery.reap(pid) == -signal.SIGKILL
        assert nursery.reap(nursery.start(leave, tmp_path / "left")) == 0
        assert (tmp_path / "left").read_text() == "done"


def test_none_outlives_the_nursery(tmp_path: Path) -> None:
    with Nursery() as nursery:
        pid = nursery.start(idle, tmp_path / "pid")
        assert until(lambda: (tmp_path / "pid").exists())

    assert until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


def test_what_cannot_be_imported_is_told() -> None:
    with pytest.raises(ChildFailed, match="no_such_module"):
        Nursery(modules=["no_such_module"])
