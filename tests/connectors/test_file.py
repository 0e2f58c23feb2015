"""file:// passes the suite; and what is its own: files, names, disks, the marks of a network."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.file import FileConnector
from proxyfab.errors import (
    AccessDenied,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    IntegrityError,
    KeyExists,
)
from proxyfab.keys import Key
from proxyfab.osio import mounts, objects
from proxyfab.osio.objects import MAPPED_FROM, fan_of, name_of
from proxyfab.testing import Child, ConnectorTests, in_fork, until
from proxyfab.testing.processes import at_once

LARGE = MAPPED_FROM * 4


def file_of(connector: Any, key: Key) -> Path:
    """Where an object's bytes lie."""
    namespace = key.where.partition("/")[2]
    return Path(connector.path, namespace, fan_of(key.id), name_of(key.id))


def files_in(place: Path) -> list[str]:
    """All that is there but the marks of root and namespaces."""
    marks = {".proxyfab", ".owner", ".lock"}
    return [path.name for path in place.rglob("*") if path.is_file() and path.name not in marks]


class TestFile(ConnectorTests):
    connector = FileConnector
    interrupt_seconds = 4.0
    can_damage = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"file://{directory}"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        path = file_of(connector, key)
        content = edit(path.read_bytes())
        path.unlink()
        path.write_bytes(content)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


@pytest.fixture
def one(place: Path) -> Iterator[FileConnector]:
    with FileConnector(place, name="one") as connector:
        yield connector


@pytest.fixture
def networked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path lies on NFS, as far as we are told."""
    monkeypatch.setattr(mounts, "kind", lambda path: "nfs4")


# -- names and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["file://relative/path", "file://", "file://host/path"])
def test_a_url_without_an_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="three slashes"):
        FileConnector.from_url(url)


@pytest.mark.parametrize("query", ["sync=maybe", "mapped=2", "ns=~nobody", "ns=a/b"])
def test_options_that_make_no_sense_are_refused(place: Path, query: str) -> None:
    with pytest.raises(ConfigurationError):
        FileConnector.from_url(f"file://{place}?{query}")


def test_options_travel_in_the_url(place: Path) -> None:
    one = FileConnector(place, name="x", sync=False, mapped=True)
    other = FileConnector.from_url(one.spec)

    assert one.spec == other.spec == f"file://{place}?ns=x&sync=0&mapped=1"
    assert (other.sync, other.mapped) == (False, True)


def test_only_the_user_may_read_whatever_the_umask(place: Path) -> None:
    for umask in (0o000, 0o777, 0o277):

        def put(umask: int = umask) -> tuple[str, str]:
            os.umask(umask)
            one = FileConnector(place / oct(umask), name="one")
            key = one.put(Frames([b"x"]))
            assert one.get(key) == Frames([b"x"])
            return str(file_of(one, key)), one.path

        file, root = in_fork(put)
        assert stat.S_IMODE(os.stat(file).st_mode) & 0o077 == 0
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o700


def test_what_others_keep_there_stays(place: Path, one: FileConnector) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    (place / "photos").mkdir()
    (place / "photos" / "a.jpg").write_text("mine")
    key = one.put(Frames([b"x"]))
    beside = file_of(one, key).parent / "somebody's.txt"
    beside.write_text("mine")

    one.reap()
    assert one.clear() == 1

    assert sorted(files_in(place)) == ["a.jpg", "notes.txt", "somebody's.txt"]
    assert [found.key.id for found in FileConnector(place).scan()] == []


def test_a_directory_of_somebody_else_is_no_namespace(place: Path) -> None:
    (place / "photos").mkdir(parents=True)
    (place / "photos" / "a.jpg").write_text("mine")
    one = FileConnector(place, name="photos")

    with pytest.raises(AccessDenied, match="photos"):
        one.put(Frames([b"x"]))
    with pytest.raises(AccessDenied, match="photos"):
        one.clear()
    assert (place / "photos" / "a.jpg").read_text() == "mine"


def test_a_key_of_another_root_is_refused(tmp_path: Path, one: FileConnector) -> None:
    other = FileConnector(tmp_path / "other", name="one")
    key = other.put(Frames([b"x"]))
    one.put(Frames([b"x"]))

    with pytest.raises(ConnectorError, match="use the store that made it"):
        one.get(key)
    with pytest.raises(ConnectorError, match="mounted"):
        FileConnector(tmp_path / "nothing").get(key)
    assert other.get(Key(key.id, "/one")) == Frames([b"x"])


def test_a_locator_is_no_path(one: FileConnector) -> None:
    one.put(Frames([b"x"]))
    for where in ("/../one", "/..", "/", "/a/b", "/~", "/one\n"):
        with pytest.raises(ConnectorError):
            one.get(Key("k", where))


def test_any_id_has_a_file_and_is_listed(one: FileConnector) -> None:
    ids = ["plain", ".hidden", "..", "a/b", "a%2Fb", "x" * 200, "ä" * 200, "=", "日本" * 40, "~", "-rf", "a b"]
    for id in ids:
        one.put(Frames([id.encode()]), key=Key(id))

    assert sorted(found.key.id for found in one.scan()) == sorted(ids)
    assert [one.get(Key(id)) for id in ids] == [Frames([id.encode()]) for id in ids]
    assert one.clear() == len(ids)
    assert files_in(Path(one.path)) == []


def test_a_directory_removed_behind_our_back_is_made_again(one: FileConnector) -> None:
    import shutil

    one.put(Frames([b"x"]))
    shutil.rmtree(one.path)

    assert one.get(Key("k")) is None
    key = one.put(Frames([b"again"]))
    assert one.get(key) == Frames([b"again"])


# -- writing ------------------------------------------------------------------------------------------------------


def test_a_named_namespace_reaches_the_disk_and_an_unnamed_one_need_not(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    for name in ("fast", "safe"):
        FileConnector(place, name=name).put(Frames([b"x"]), key=Key("first"))
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_IFMT(os.fstat(fd).st_mode)))

    FileConnector(place).put(Frames([b"x"]))
    FileConnector(place, name="fast", sync=False).put(Frames([b"x"]))
    assert synced == []
    FileConnector(place, name="safe").put(Frames([b"x"]), key=Key("first"), replace=True)
    assert synced == [stat.S_IFREG, stat.S_IFDIR]
    synced.clear()
    FileConnector(place, name="safe").put_many([Frames([b"x"])] * 3, keys=[Key("first")] * 3, replace=True)
    assert synced == [stat.S_IFREG] * 3 + [stat.S_IFDIR]


def test_writing_is_not_joined_and_is_cut_where_signals_may_come(one: FileConnector, monkeypatch: Any) -> None:
    one.put(Frames([b"x"]))
    calls: list[list[int]] = []
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: calls.append([len(p) for p in parts]) or writev(fd, parts))
    part = bytes(10 * 2**20)
    key = one.put(Frames([part, b"y", part]))

    assert max(map(sum, calls)) <= 16 * 2**20
    assert sum(map(sum, calls)) == 64 + 2 * len(part) + 1
    assert one.get(key) == Frames([part, b"y", part])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("key", [None, Key("given")])
def test_a_full_disk_leaves_nothing(one: FileConnector, monkeypatch: Any, number: int, key: Key | None) -> None:
    def full(fd: int, parts: list[Any]) -> int:
        os.write(fd, b"some of it")
        raise OSError(number, os.strerror(number))

    for connector in (one, FileConnector(one.path)):
        with monkeypatch.context() as patch, pytest.raises(CapacityError, match=str(one.path)):
            patch.setattr(os, "writev", full)
            connector.put(Frames([b"x"]), key=key)
    assert files_in(Path(one.path)) == []


def test_a_limit_on_file_sizes_is_a_lack_of_room(place: Path) -> None:
    def put() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(CapacityError) as caught:
            FileConnector(place, name="one").put(Frames([bytes(100_000)]))
        return str(caught.value)

    assert "ulimit -f" in in_fork(put)
    assert files_in(place) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.EROFS, AccessDenied), (errno.EIO, ConnectorError)])
def test_refusals_and_failures_are_told_apart(one: FileConnector, monkeypatch: Any, number: int, kind: type) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    one.put(Frames([b"x"]))
    monkeypatch.setattr(os, "writev", fail)
    with pytest.raises(kind, match=r"Cannot write .*; "):
        one.put(Frames([b"y"]))


def test_without_hard_links_a_key_is_still_written_once(one: FileConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    results = at_once([lambda: one.put(Frames([b"x"]), key=Key("k"))] * 8)

    assert sum(isinstance(result, Key) for result in results) == 1
    assert sum(isinstance(result, KeyExists) for result in results) == 7
    assert files_in(Path(one.path)) == ["k"]


def test_of_many_that_take_an_expired_key_one_wins(one: FileConnector) -> None:
    for _ in range(10):
        key = one.put(Frames([b"old"]), key=Key("k"), ttl=0.001, replace=True)
        assert until(lambda: not one.exists(Key("k")))
        results = at_once([lambda: one.put(Frames([b"new"]), key=Key("k"))] * 6)
        assert sum(isinstance(result, Key) for result in results) == 1
        assert one.get(key) == Frames([b"new"])


def test_renewals_are_never_seen_in_halves(one: FileConnector) -> None:
    key = one.put(Frames([b"x" * 100]), ttl=100)
    done = threading.Event()

    def renew() -> None:
        for seconds in range(300):
            assert one.renew(key, 100 + seconds)
        done.set()

    def read() -> None:
        while not done.is_set():
            assert one.get(key) == Frames([b"x" * 100])

    assert at_once([renew, read, read]) == [None] * 3


# -- killed writers and owners --------------------------------------------------------------------------------------


def writes_and_hangs(talk: Any, path: str, name: str | None, key: Key | None) -> None:
    """Stops in the middle of writing, forever."""

    def hang(fd: int, parts: list[Any]) -> int:
        os.write(fd, parts[0])
        talk.send(os.getpid())
        threading.Event().wait()
        raise AssertionError("unreachable: nobody sets it")

    os.writev = hang  # type: ignore[assignment]  # this process ends here
    FileConnector(path, name=name).put(Frames([b"x" * 1000]), key=key)


def test_a_writer_killed_in_the_middle_leaves_nothing_to_see_and_is_reaped(place: Path, one: FileConnector) -> None:
    one.put(Frames([b"x"]), key=Key("whole"))
    with Child(writes_and_hangs, str(place), "one", Key("half")) as child:
        child.receive()
        assert one.get(Key("half")) is None
        assert one.reap() == []
        assert len(files_in(place)) == 2
    assert [item.nbytes for item in one.reap(dry_run=True)] == [64]
    assert [item.nbytes for item in one.reap()] == [64]
    assert files_in(place) == ["whole"]


def test_what_a_killed_writer_left_under_a_drawn_key_is_not_listed_and_goes_with_its_namespace(place: Path) -> None:
    owner = FileConnector(place)
    owner.put(Frames([b"x"]), key=Key("whole"))
    with Child(writes_and_hangs, str(place), owner.spec.partition("ns=")[2], None) as child:
        child.receive()
    other = FileConnector(place)
    assert [found.key.id for found in other.scan()] == ["whole"]
    assert other.reap() == []
    (half,) = [path for path in place.rglob("*") if len(path.name) == 32]
    os.utime(half, (1, 1))
    assert [item.nbytes for item in other.reap()] == [64]
    assert files_in(place) == ["whole"]


# -- reading ------------------------------------------------------------------------------------------------------


def test_large_objects_are_mapped_and_small_ones_read(place: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    one = FileConnector(place)
    assert one.local
    keys = [one.put(Frames([bytes(size)])) for size in (10, LARGE)]
    before = descriptors()
    small, large = (one.get(key) for key in keys)

    assert descriptors() == before
    assert small is not None
    assert large is not None
    assert large.join().readonly
    del small, large
    assert str(place) not in _mappings_of(lambda: one.get(keys[0]))
    assert str(place) in _mappings_of(lambda: one.get(keys[1]))


def _mappings_of(get: Callable[[], Frames | None]) -> str:
    held = get()
    assert held is not None
    return Path("/proc/self/maps").read_text()


def test_on_a_network_file_system_all_is_read_and_nothing_is_mapped(place: Path, networked: None) -> None:
    one = FileConnector(place)
    key = one.put(Frames([bytes(LARGE)]))

    assert not one.local
    assert one.place == f"file:{place}"
    assert str(place) not in _mappings_of(lambda: one.get(key))
    assert FileConnector(place, mapped=True).local


def test_what_cannot_be_mapped_is_read(one: FileConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, "too many mappings")

    key = one.put(Frames([b"x" * LARGE]))
    monkeypatch.setattr(objects, "Mapping", refuse)
    assert one.get(key) == Frames([b"x" * LARGE])


def test_a_range_reads_no_more_than_that(one: FileConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    key = one.put(Frames([bytes(range(256)) * 10_000]))
    pread, read = os.pread, []
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))

    assert one.get_range(key, 255, 3) == Frames([b"\xff\x00\x01"])
    assert sum(read) == 64 + 3


def test_a_name_that_a_client_remembers_as_missing_is_asked_for_again(
    place: Path, networked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client answers from its memory until the directory is read anew."""
    one = FileConnector(place, name="one")
    key = one.put(Frames([b"x"]), key=Key("k"))
    listed: list[str] = []
    scandir, real = os.scandir, os.open

    def forgetful(path: Any, flags: int, *mode: int) -> int:
        if str(path).endswith("/k") and not listed:
            raise FileNotFoundError(errno.ENOENT, "remembered as missing", path)
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", forgetful)
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))

    assert one.get(key) == Frames([b"x"])
    assert len(listed) == 1


def test_a_stale_handle_is_tried_again(one: FileConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    key = one.put(Frames([b"x"]))
    real, left = os.pread, [2]

    def stale(fd: int, length: int, offset: int) -> bytes:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(fd, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", stale)
        assert one.get(key) == Frames([b"x"])
        left[0] = 100
        with pytest.raises(ConnectorError, match="remount"):
            one.get(key)


def test_a_wait_on_a_network_polls_within_its_bound(place: Path, networked: None) -> None:
    one, other = FileConnector(place, name="one"), FileConnector(place, name="one")
    waited, _ = at_once([lambda: one.wait(Key("k"), 20), lambda: other.put(Frames([b"x"]), key=Key("k"))])

    assert waited is True
    assert 0 < one.wait_bound <= 1


@pytest.mark.parametrize("edit", [lambda b: b[:30], lambda b: b"", lambda b: b[:-1], lambda b: b"x" * len(b)])
@pytest.mark.parametrize("size", [100, LARGE])
def test_a_damaged_file_is_named_and_can_be_evicted(one: FileConnector, edit: Any, size: int) -> None:
    key = one.put(Frames([bytes(size)]))
    path = file_of(one, key)
    path.write_bytes(edit(path.read_bytes()))

    with pytest.raises(IntegrityError, match=str(path)):
        one.get(key)
    assert list(one.scan()) == []
    assert one.evict(key) is True
    assert one.get(key) is None


def test_the_object_of_another_key_is_noticed(one: FileConnector) -> None:
    keys = [one.put(Frames([b"x"])), one.put(Frames([b"y"]))]
    file_of(one, keys[0]).rename(file_of(one, keys[1]))

    with pytest.raises(IntegrityError, match="another key"):
        one.get(keys[1])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_under_an_objects_name_is_told(one: FileConnector, make: Any) -> None:
    key = one.put(Frames([b"x"]), key=Key("k"))
    (path,) = Path(one.path).glob("*/??/k")
    path.unlink()
    make(path)

    for ask in (one.get, one.exists, one.stat, one.evict, lambda key: one.get_range(key, 0, 1)):
        with pytest.raises(IntegrityError, match="no regular file"):
            ask(key)
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_a_small_object_takes_three_system_calls_each_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = FileConnector(place)
    seen: dict[str, Key] = {}
    for number in range(1000):  # until each of the directories is made
        seen.setdefault(fan_of(str(number)), Key(str(number)))
    for key in seen.values():
        one.get(one.put(Frames([b"x"]), key=key))
    called: list[str] = []

    def count(name: str) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, **options: called.append(name) or real(*args, **options))

    for name in ("open", "close", "write", "writev", "pread", "preadv", "fstat", "stat", "lstat", "mkdir", "rename"):
        count(name)
    key = one.put(Frames([b"head", bytes(1000)]))
    one.get(key)

    assert called == ["open", "writev", "close", "open", "pread", "close"]


def test_a_root_says_its_layout_and_one_of_an_older_layout_how_it_is_brought_up(tmp_path: Path) -> None:
    """Objects in the directories 10 to ff would be listed and never found; moved as the error says, all are there."""
    with Store(f"file://{tmp_path}", name="old", inline_below=0) as store:
        keys = [store.put(number) for number in range(20)]
    marker = tmp_path / ".proxyfab"
    content = json.loads(marker.read_text())
    assert content.pop("fans") == objects.FANS
    marker.write_text(json.dumps(content))
    with Store(f"file://{tmp_path}", name="old") as store:
        assert [store.get(key) for key in keys] == list(range(20)), "an older marker above the same layout"
    for fan in list((tmp_path / "old").glob("0?")):
        fan.rename(fan.with_name(f"3{fan.name[1]}"))
    with Store(f"file://{tmp_path}", name="old") as store, pytest.raises(ConnectorError, match="last digit"):
        store.get(keys[0])
    for fan in (tmp_path / "old").glob("3?"):
        fan.rename(fan.with_name(f"0{fan.name[1]}"))
    with Store(f"file://{tmp_path}", name="old") as store:
        assert [store.get(key) for key in keys] == list(range(20))
    marker.write_text(json.dumps(content | {"fans": 4096}))
    with Store(f"file://{tmp_path}", name="old") as store, pytest.raises(ConnectorError, match="4096 directories"):
        store.get(keys[0])
