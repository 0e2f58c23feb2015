"""Places that others had a hand in: nothing outside is touched, nobody waits, and one bad thing stops no other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import AccessDenied, ConnectorError, IntegrityError, KeyExists
from proxyfab.keys import Key
from proxyfab.osio import owner
from proxyfab.osio.files import TEMPORARY
from proxyfab.osio.namespace import DOOMED, OWNER
from proxyfab.osio.objects import fan_of
from proxyfab.osio.owner import this_process
from proxyfab.osio.root import MARKER
from proxyfab.testing import Child

BYTES = Frames([b"bytes"])
_ME = this_process().writer
DEAD = f"{TEMPORARY}{_ME.machine}-{_ME.pid}-{_ME.start + 1}-0"
"""A name as a process gave that has ended."""
Opener = Callable[..., Any]


def shm_at(place: Path, name: str | None = None) -> SharedMemoryConnector:
    return SharedMemoryConnector(name, directory=str(place))


def file_at(place: Path, name: str | None = None) -> FileConnector:
    return FileConnector(place, name=name)


both = pytest.mark.parametrize("at", [shm_at, file_at])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file outside."""
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "precious"
    path.write_bytes(b"not ours")
    return path


def dies(talk: Any, place: Path) -> None:
    connector = FileConnector(place)
    talk.send(connector.put(BYTES).where.partition("/")[2])
    talk.recv()


def left_by_the_dead(place: Path) -> Path:
    """The namespace of a process that was killed."""
    with Child(dies, place) as child:
        path = place / child.receive()
        child.kill()
    return path


def puts_as_nobody(talk: Any, place: Path) -> bytes:
    with FileConnector(place, name="named") as connector:
        os.setuid(65534)
        frames = connector.get(connector.put(BYTES))
        assert frames is not None
        return bytes(frames.views[0])


# -- keys -------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "way", ["{own}/../../outside", "~x/../../outside", "../outside", "..", ".", "outside/", "a\0b"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_key_leads_nowhere_outside(at: Opener, place: Path, precious: Path, way: str, there: bool) -> None:
    with at(place) as connector:
        if there:
            connector.put(BYTES)
        key = Key("precious", way.format(own=connector._lodging.name))
        for use in (
            connector.get,
            connector.evict,
            connector.exists,
            connector.stat,
            lambda key: connector.renew(key, 5),
        ):
            with pytest.raises(ConnectorError, match="precious"):
                use(key)
        with pytest.raises(ConnectorError, match="precious"):
            connector.put(BYTES, key=key, replace=True)
    assert precious.read_bytes() == b"not ours"


# -- links ------------------------------------------------------------------------------------------------------------


@both
def test_a_link_that_looks_like_an_interrupted_removal_is_not_followed(at: Opener, place: Path, precious: Path) -> None:
    with at(place) as connector:
        connector.put(BYTES)
        (place / f"{DOOMED}{connector._lodging.name}{DEAD}").symlink_to(precious.parent)
        assert [item.nbytes for item in connector.reap()] == [0]
        assert [item.what.endswith("(left)") for item in connector.reap()] == [True]
    assert precious.exists()


@both
def test_a_link_that_looks_like_a_dead_namespace_is_not_followed(at: Opener, place: Path, precious: Path) -> None:
    dead = left_by_the_dead(place)
    dead.rename(precious.parent / "moved")
    (precious.parent / "moved" / OWNER).rename(precious.parent / OWNER)
    dead.symlink_to(precious.parent)
    with at(place) as connector:
        assert [item.what.endswith("(left)") for item in connector.reap()] == [True]
    assert precious.exists()
    assert dead.is_symlink()


@both
def test_directories_of_others_that_are_called_alike_stay(at: Opener, place: Path) -> None:
    names = ["~backup", ".gone-fishing", "~" + "a" * 23, "~emacs~"]
    for name in names:
        (place / name).mkdir(parents=True)
    (place / ".gone-fishing" / "picture").write_bytes(b"a trout")
    with at(place) as connector:
        connector.put(BYTES)
        connector.reap()
        assert all((place / name).is_dir() for name in names)
        assert (place / ".gone-fishing" / "picture").exists()


# -- roots of others --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("linked", [True, False])
def test_shared_memory_of_another_user_is_not_even_looked_at(place: Path, precious: Path, linked: bool) -> None:
    if linked:
        place.symlink_to(precious.parent)
    else:
        place.mkdir(mode=0o777)
        (place / MARKER).write_text('{"proxyfab": 1, "tag": "00000000"}')
        (place / f"{DOOMED}named{DEAD}").mkdir()
    os.chown(place, 65534, 65534, follow_symlinks=False)
    before = sorted(place.iterdir())
    with shm_at(place) as connector:
        for use in (connector.reap, connector.clear, lambda: list(connector.scan()), lambda: connector.put(BYTES)):
            with pytest.raises(AccessDenied, match="another user"):
                use()
        with pytest.raises(AccessDenied, match="another user"):
            connector.wait(connector.reserve(), 0.01)
    assert sorted(place.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_parent_that_cannot_be_listed_is_no_hindrance() -> None:
    with tempfile.TemporaryDirectory() as parent:  # pytest's own are below one that only root may enter
        home = Path(parent, "home")
        home.mkdir()
        os.chown(home, 65534, 65534)
        os.chmod(parent, 0o711)
        with Child(puts_as_nobody, home) as child:
            assert child.result() == b"bytes"


# -- things that are no files -----------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"")


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


things = pytest.mark.parametrize("make", [pipe, directory, dangling, link])


@both
@things
@pytest.mark.timeout(20)
def test_a_thing_that_is_no_file(at: Opener, place: Path, make: Callable[[Path], None]) -> None:
    key = Key("thing")
    with at(place, "named") as connector:
        connector.put(BYTES, key=Key("good"))
        path = place / "named" / ("" if at is shm_at else fan_of("thing")) / "thing"
        path.parent.mkdir(exist_ok=True)
        make(path)
        calls: list[Callable[[], object]] = [
            lambda: connector.get(key),
            lambda: connector.exists(key),
            lambda: connector.stat(key),
            lambda: connector.get_range(key, 0, 10),
            lambda: connector.evict(key),
            lambda: connector.renew(key, 60),
            lambda: connector.put(BYTES, key=key),
        ]
        for call in calls:
            with pytest.raises((IntegrityError, KeyExists), match="thing"):
                call()
        assert [stat.key.id for stat in connector.scan()] == ["good"]
        assert connector.reap() == []
        assert connector.clear() == 1
        assert os.path.lexists(path)


@both
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"proxyfab": 1, "pid": 1e999, "host": "", "locked": true}', b"[" * 4000, None]
)
@pytest.mark.timeout(20)
def test_an_owner_file_that_says_nothing(at: Opener, place: Path, content: bytes | None) -> None:
    dead = left_by_the_dead(place)
    (dead / OWNER).unlink()
    if content is None:
        os.mkfifo(dead / OWNER)
    else:
        (dead / OWNER).write_bytes(content)
    with at(place) as connector:
        list(connector.scan())
        connector.reap()
        assert connector.get(connector.put(BYTES)) == BYTES


@both
@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"proxyfab": 1e999, "tag": ""}', b"[" * 4000, b'{"proxyfab":1,"tag":"../x"}', None]
)
@pytest.mark.timeout(20)
def test_a_marker_that_is_none(at: Opener, place: Path, content: bytes | None) -> None:
    place.mkdir()
    if content is None:
        os.mkfifo(place / MARKER)
    else:
        (place / MARKER).write_bytes(content)
    with at(place) as connector, pytest.raises(ConnectorError, match="not a marker"):
        connector.put(BYTES)


# -- locks ------------------------------------------------------------------------------------------------------------


@both
def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(
    at: Opener, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "PATIENCE", 0.05)
    with at(place, "named") as connector:
        key = connector.put(BYTES, key=Key("k"))
        guard = place / "named" / ("k" if at is shm_at else ".lock")
        fd = os.open(guard, os.O_RDWR | os.O_CREAT)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            for use in (lambda: connector.renew(key, 5), lambda: connector.put(BYTES, key=key, replace=True)):
                with pytest.raises(ConnectorError, match="stopped"):
                    use()
        finally:
            os.close(fd)
        assert connector.renew(key, 5)
