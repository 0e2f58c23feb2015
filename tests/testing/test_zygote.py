"""Forked children are what interpreters of their own are, and end with their zygote."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from proxyfab.testing.processes import DEADLINE, Child, ChildFailed, run, until
from proxyfab.testing.zygote import Forked, Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(["json.tool", "no_such_module"]) as made:
        assert until(made._has_loaded)
        yield made


@pytest.fixture(autouse=True)
def _start(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "start", staticmethod(zygote.start))


def about(talk: Connection) -> tuple[bool, str, str | None]:
    return "json.tool" in sys.modules, os.getcwd(), os.environ.get("PROXYFAB_SHM_DIR")


def variables(talk: Connection) -> dict[str, str]:
    assert "json.tool" in sys.modules, "it was forked"
    return {name: value for name, value in os.environ.items() if name.startswith("PROXYFAB_")}


def own_pid(talk: Connection) -> int:
    return os.getpid()


def idle(talk: Connection) -> None:
    talk.send("here")
    signal.pause()


def say(talk: Connection) -> None:
    print("the last words", flush=True)
    os._exit(3)


def test_a_child_is_forked_where_the_test_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYFAB_SHM_DIR", "/there")
    monkeypatch.chdir(tmp_path)

    assert run(about) == (True, str(tmp_path), "/there")


def test_an_interpreter_is_started_where_a_fork_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(about, fresh=True)[0] is False
    for name in ("PYTHONHASHSEED", "PROXYFAB_PURE"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "1")
            assert run(about)[0] is False
    assert run(about)[0] is True


def test_it_has_the_variables_of_its_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two", None):
        if value is None:
            monkeypatch.delenv("PROXYFAB_KEY_LAB")
        else:
            monkeypatch.setenv("PROXYFAB_KEY_LAB", value)
        assert run(variables) == {name: told for name, told in os.environ.items() if name.startswith("PROXYFAB_")}


def test_its_end_is_told() -> None:
    with Child(idle) as child:
        assert child.receive() == "here"
        assert child.process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.process.wait(0.01)
        child.process.terminate()
        assert child.process.wait(30) == -signal.SIGTERM
        assert child.process.returncode == -signal.SIGTERM
    with Child(say) as child, pytest.raises(ChildFailed, match=r"status 3.*\n.*the last words"):
        child.receive()


def test_none_outlives_it() -> None:
    with Zygote([]) as other:
        children: list[Any] = []
        assert until(other._has_loaded)
        Child.start = staticmethod(other.start)  # the fixture puts it back
        with Child(idle) as child:
            children.append(child)
            assert isinstance(child.process, Forked)
            child.receive()
            other._process.kill()
            place = Path(f"/proc/{child.pid}/stat")
            assert until(lambda: not place.exists() or " Z " in place.read_text())
            child.process.returncode = -signal.SIGKILL  # nobody is left to ask


def test_a_zygote_that_still_loads_packages_ends_with_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who starts a child meanwhile does not wait for it."""
    os.mkfifo(tmp_path / "never")
    (tmp_path / "endless_package.py").write_text(f"open({str(tmp_path / 'never')!r}).read()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("proxyfab.testing.zygote.DEADLINE", 10.0)
    monkeypatch.setattr("proxyfab.testing.zygote._LOADING", 0.1)

    with Zygote(["endless_package"]) as zygote:
        monkeypatch.setattr(Child, "start", staticmethod(zygote.start))
        assert run(about)[0] is False

    assert zygote._process.returncode == -signal.SIGKILL


def test_an_answer_that_comes_late_is_not_taken_for_the_next_one() -> None:
    """All children after one would be taken for others."""
    ours, theirs = socket.socketpair()
    with Zygote([]) as other, ours, theirs, tempfile.TemporaryFile() as said:
        assert until(other._has_loaded)
        Child.start = staticmethod(other.start)  # the fixture puts it back
        other._process.send_signal(signal.SIGSTOP)
        other._line.settimeout(0.01)
        with pytest.raises(TimeoutError):
            other.start(theirs.fileno(), said)
        other._process.send_signal(signal.SIGCONT)
        other._line.settimeout(DEADLINE)
        with Child(own_pid) as child:
            assert child.result() == child.pid
