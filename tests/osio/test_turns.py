"""Turns: one at a time among threads and processes, whatever becomes of the lock file."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from proxyfab.errors import ConnectorError
from proxyfab.osio import turns as module
from proxyfab.osio.files import make_directory
from proxyfab.osio.turns import FILE, Turns
from proxyfab.testing import in_fork
from proxyfab.testing.processes import at_once


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


def test_threads_that_come_at_once_share_one_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*where: Any, **how: Any) -> None:
        threading.Event().wait(0.1)
        make_directory(*where, **how)

    monkeypatch.setattr(module, "make_directory", slowly)
    turns = Turns(str(tmp_path))

    def take(name: str) -> bool:
        with turns.take(name):
            return True

    assert at_once([lambda name=name: take(name) for name in "abcdefgh"]) == [True] * 8  # type: ignore[misc]
    assert len(turns._fds) == 1


def test_what_ends_in_a_turn_may_have_it_too(tmp_path: Path) -> None:
    """Garbage collection may end, in this very thread, somebody who changes the same thing."""
    turns = Turns(str(tmp_path))
    with turns.take("a"):
        with turns.take("a", 0.2):
            pass
        with turns.try_take("a") as mine:
            assert not mine
        with pytest.raises(ConnectorError), turns.take("a", 0.2):
            raise ConnectorError("inside")
        assert at_once([lambda: held(turns)]) == [False]
    assert at_once([lambda: held(turns)]) == [True]
    with pytest.raises(ConnectorError), turns.take("a"):
        raise ConnectorError("inside")
    assert at_once([lambda: held(turns)]) == [True]


def held(turns: Turns) -> bool:
    with turns.try_take("a") as mine:
        return mine
