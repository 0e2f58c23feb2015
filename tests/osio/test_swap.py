"""Compare and set in directories: what comes out by mistake goes back."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.keys import Key
from proxyfab.osio import swap
from proxyfab.osio.clock import Clock
from proxyfab.testing.processes import Child


def test_what_came_out_goes_back_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems and memory cards."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    out, name = tmp_path / "out", tmp_path / "name"
    out.write_text("somebody's")
    swap._put_back(str(out), str(name), exchange=False)
    assert name.read_text() == "somebody's"


def _swap_and_die(talk: Connection, directory: str, key: Key) -> None:
    """Between the look and the change it lets somebody else in, and behind the change it is killed."""
    look = swap.holds

    def look_and_wait(fd: int, expected: Frames, clock: Clock) -> bool:
        found = look(fd, expected, clock)
        talk.send("looked")
        talk.recv()
        return found

    def then_die(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object) -> None:
            change(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        return changed

    swap.holds = look_and_wait
    swap._exchange = then_die(swap._exchange)  # type: ignore[assignment]  # it does not come back
    os.rename = then_die(os.rename)  # type: ignore[assignment]  # as above
    FileConnector(directory, name="run").compare_and_set(key, Frames([b"old"]), Frames([b"new"]))


def test_who_is_killed_amid_a_swap_takes_nothing_that_others_put(tmp_path: Path) -> None:
    """They evict what it looked at and put another object under the name: that one is there in the end."""
    with FileConnector(tmp_path, name="run") as files:
        key = files.put(Frames([b"old"]), key=Key("k"))
        with Child(_swap_and_die, str(tmp_path), key) as child:
            assert child.receive() == "looked"
            other = threading.Thread(target=lambda: (files.evict(key), files.put(Frames([b"theirs"]), key=key)))
            other.start()
            other.join(0.5)  # it may have to wait until the swap is over
            child.send("go on")
            assert child.process.wait(20) == -signal.SIGKILL
            other.join(20)
            assert not other.is_alive()
        assert files.get(key) == Frames([b"theirs"])
