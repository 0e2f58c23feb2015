"""Turns: one at a time among threads and processes, whatever becomes of the lock file."""

from __future__ import annotations

import os
from pathlib import Path

from proxyfab.osio.turns import FILE, Turns
from proxyfab.testing import in_fork


def has(directory: Path, name: str) -> bool:
    """Whether another process, which has just opened the file, could have the turn."""

    def ask() -> bool:
        with Turns(str(directory)).try_take(name) as mine:
            return mine

    return in_fork(ask)


def test_turns_hold_under_a_lock_file_that_was_made_anew(tmp_path: Path) -> None:
    """Somebody cleaned up: who had opened the old file and who opens the new one see each other."""
    turns = Turns(str(tmp_path))
    with turns.take("one"):
        assert not has(tmp_path, "one")
    os.unlink(tmp_path / FILE)
    assert has(tmp_path, "one"), "which makes the file"
    with turns.take("one"):
        assert not has(tmp_path, "one")
        assert has(tmp_path, "other")
    assert has(tmp_path, "one")
