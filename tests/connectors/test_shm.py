"""shm:// passes the suite, and what is special about shared memory: leases, recycled segments, forks, exits."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from proxyfab.buffers import Frames
from proxyfab.connectors import shm
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError
from proxyfab.keys import Key
from proxyfab.osio import shared
from proxyfab.osio.leases import leases
from proxyfab.testing import Child, ConnectorTests, in_fork, until
from proxyfab.testing.conformance.base import Suite
from proxyfab.testing.conformance.lifetimes import LifetimeTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.conformance.threads import ThreadTests
from proxyfab.testing.processes import run

MB = 1_000_000


class Here(Suite):
    """How the suites open shm:// and damage what lies there."""

    connector = SharedMemoryConnector
    can_damage = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(directory))
        return "shm://"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        path = Path(os.environ["PROXYFAB_SHM_DIR"], key.where or connector.namespace, key.id)
        path.write_bytes(edit(path.read_bytes()))


class TestSharedMemory(Here, ConnectorTests):
    """The whole suite."""

    interrupt_seconds = 4.0


class TestAllRecycled(Here, ObjectTests, PayloadTests, LifetimeTests, ThreadTests):
    """Objects of every size in recycled segments, read through a lease and a mapping."""

    @pytest.fixture(autouse=True)
    def _recycle_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shm, "LARGE", 0)
        monkeypatch.setattr(shm, "_FIRST", 64)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of this test's own, in shared memory where there is any."""
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def one(root: Path) -> Iterator[SharedMemoryConnector]:
    """An unnamed connector."""
    connector = SharedMemoryConnector()
    yield connector
    connector.close()


def array(frames: Frames | None) -> np.ndarray[Any, Any]:
    """What a get returned, as numbers."""
    assert frames is not None
    return np.frombuffer(frames.views[0], dtype=np.uint64)


def inode(connector: SharedMemoryConnector, key: Key, root: Path) -> int:
    """Which file holds an object."""
    return (root / key.where / key.id).stat().st_ino


def numbers(seed: int, count: int = 40_000) -> Frames:
    """An object that is large enough for a segment."""
    return Frames([np.full(count, seed, dtype=np.uint64)])


# -- leases ----------------------------------------------------------------------------------------------------------


def test_a_view_keeps_its_segment_from_being_filled_again(one: SharedMemoryConnector, root: Path) -> None:
    key = one.put(numbers(1))
    first = inode(one, key, root)
    derived = array(one.get(key))[5:][::3].reshape(-1, 1).T
    one.evict(key)
    others = [one.put(numbers(seed)) for seed in (2, 3)]

    assert first not in [inode(one, other, root) for other in others]
    assert set(derived.ravel()) == {1}
    del derived
    assert inode(one, one.put(numbers(4)), root) == first


def read_and_check(talk: Connection, connector: Any, seconds: float) -> int:
    """Read what comes, hold views that derive from it for a while, and check them again and again."""
    held: list[tuple[np.ndarray[Any, Any], str]] = []
    checked = 0
    ends = time.monotonic() + seconds
    while (key := talk.recv()) is not None:
        found = connector.get(key)
        talk.send(time.monotonic() < ends)
        if found is None:
            continue
        view = np.frombuffer(found.views[0], dtype=np.uint64)[::2].reshape(2, -1).T
        del found
        assert view.min() == view.max(), "torn at once"
        held = [*held[-3:], (view, xxhash.xxh3_64_hexdigest(np.ascontiguousarray(view)))]
        for kept, digest in held:
            assert xxhash.xxh3_64_hexdigest(np.ascontiguousarray(kept)) == digest, "changed under a reader"
            checked += 1
    return checked


def test_what_this_process_evicts_is_filled_next(one: SharedMemoryConnector, root: Path) -> None:
    """Also where there are so many others that not all are looked at."""
    keys = [one.put(Frames([bytes(shm.LARGE)])) for _ in range(40)]
    inode = os.stat(root / keys[20].where / keys[20].id).st_ino
    one.evict(keys[20])
    key = one.put(Frames([bytes(shm.LARGE)]))

    assert os.stat(root / key.where / key.id).st_ino == inode


def test_recycling_corrupts_nobody(one: SharedMemoryConnector) -> None:
    """A writer fills its segments again as fast as it can while two processes hold views of some of them."""
    with Child(read_and_check, one, 2.0) as left, Child(read_and_check, one, 2.0) as right:
        readers, seed = [left, right], 0
        while readers:
            seed += 1
            key = one.put(numbers(seed, 40_000 + seed % 3 * 4))
            for reader in readers:
                reader.send(key)
            if seed % 2:
                one.evict(key)
            for reader in [reader for reader in readers if not reader.receive()]:
                reader.send(None)
                readers.remove(reader)
            one.evict(key)
        checked = left.result(), right.result()

    assert min(checked) > 10
    assert one._shared is not None
    assert len(one._shared.pool) < seed, "nothing was ever recycled"


def hold_for_ever(talk: Connection, connector: Any, key: Key) -> None:
    """Get, say so, and wait."""
    frames = connector.get(key)
    talk.send(frames is not None)
    talk.recv()


def test_a_killed_reader_lets_go(one: SharedMemoryConnector, root: Path) -> None:
    key = one.put(numbers(1))
    first = inode(one, key, root)
    with Child(hold_for_ever, one, key) as reader:
        assert reader.receive()
        one.evict(key)
        second = one.put(numbers(2))
        assert inode(one, second, root) != first
        reader.kill()

    assert until(lambda: inode(one, one.put(numbers(3)), root) == first)


def test_an_inherited_view_stays_whole(one: SharedMemoryConnector) -> None:
    """A child of a fork holds what its parent held, when the parent lets go and fills the segment again."""
    key = one.put(numbers(1))
    view = array(one.get(key))
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0 if set(view) == {1} else 1)
    os.close(reading)
    del view
    one.evict(key)
    for seed in range(2, 8):
        one.evict(one.put(numbers(seed)))
    os.close(writing)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_writes_and_reads(one: SharedMemoryConnector) -> None:
    mine = one.put(numbers(1))

    def child() -> tuple[Key, bool]:
        return one.put(numbers(2)), set(array(one.get(mine))) == {1}

    theirs, well = in_fork(child)
    assert well
    assert set(array(one.get(theirs))) == {2}


def hold_many(talk: Connection, connector: Any, keys: list[Key]) -> tuple[int, int, bool]:
    """Hold all at once, with 64 descriptors; mapped bytes, bytes in own memory, whether all are whole."""
    connector.exists(keys[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    before = memory("RssAnon")
    held = [np.frombuffer(connector.get(key).views[0], dtype=np.uint64) for key in keys]
    well = all(view.min() == view.max() == seed for seed, view in enumerate(held))
    return leases.held(), memory("RssAnon") - before, well


def memory(what: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(what)


def test_more_objects_than_descriptors_are_mapped(one: SharedMemoryConnector) -> None:
    keys = [one.put(numbers(seed)) for seed in range(300)]
    held, grown, well = run(hold_many, one, keys)

    assert well
    assert held > 64
    assert grown < 20 * 320_000, "copied instead of mapped"


def test_where_a_lock_cannot_be_had_it_is_copied(one: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    key = one.put(numbers(1))

    def take(path: str, number: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(leases, "take", take)
    view = array(one.get(key))
    one.evict(key)
    one.put(numbers(2))

    assert set(view) == {1}
    assert not view.flags.writeable


# -- memory ----------------------------------------------------------------------------------------------------------


def read_and_weigh(talk: Connection, connector: Any, key: Key) -> tuple[int, int]:
    """Bytes of own memory that a get takes, and of all memory that reading it does."""
    connector.exists(key)
    before = memory("RssAnon"), memory("VmRSS")
    frames = connector.get(key)
    taken = memory("VmRSS") - before[1]
    np.frombuffer(frames.views[0], dtype=np.uint64).sum()
    return taken, memory("RssAnon") - before[0]


def test_a_get_takes_no_memory(one: SharedMemoryConnector) -> None:
    key = one.put(numbers(1, 8 * MB))
    taken, grown = run(read_and_weigh, one, key)

    assert taken < MB
    assert grown < MB


def used(root: Path) -> int:
    """Bytes that files under the root take."""
    found = [path.stat() for path in root.rglob("*")]
    return sum({status.st_ino: status.st_blocks * 512 for status in found}.values())


def test_a_put_takes_the_object_and_little_more(one: SharedMemoryConnector, root: Path) -> None:
    frames = numbers(1, MB)
    one.put(Frames([b""]))
    for again in (False, True):
        before = used(root), memory("RssAnon")
        key = one.put(frames)

        assert used(root) - before[0] <= (0 if again else 1.05 * frames.nbytes)
        assert memory("RssAnon") - before[1] < 0.05 * frames.nbytes
        one.evict(key)


def test_a_reader_lets_go_of_what_is_gone(one: SharedMemoryConnector, root: Path) -> None:
    one.put(numbers(0))
    assert one._shared is not None
    one._shared.pool.limit = 0  # so that an evicted object's file is gone
    key = one.put(numbers(1))
    one.get(key)
    one.evict(key)
    one._shared.mappings.sweep(now=True)

    assert len(one._shared.mappings) == 0


# -- places and ends -------------------------------------------------------------------------------------------------


def test_the_place_is_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROXYFAB_SHM_DIR")

    assert shared.default_root() == f"/dev/shm/proxyfab-{os.geteuid()}"


def test_without_shared_memory_it_is_among_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROXYFAB_SHM_DIR")
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(shared.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shared, "_warned", False)
    with pytest.warns(RuntimeWarning, match="PROXYFAB_SHM_DIR"):
        one = SharedMemoryConnector()
    SharedMemoryConnector()  # warns no second time: warnings are errors
    key = one.put(numbers(1))

    assert set(array(one.get(key))) == {1}
    assert (tmp_path / f"proxyfab-{os.geteuid()}").is_dir()
    one.close()


def test_another_users_directory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with SharedMemoryConnector() as one, pytest.raises(AccessDenied, match="another user"):
        one.put(Frames([b"secret"]))


@pytest.mark.parametrize("url", ["shm://name/path", "shm://a b", "shm://~nobody"])
def test_urls_that_make_no_sense(root: Path, url: str) -> None:
    with pytest.raises(ConfigurationError):
        SharedMemoryConnector.from_url(url)


def test_a_key_of_a_store_that_is_not_here(one: SharedMemoryConnector) -> None:
    with pytest.raises(ConnectorError, match="elsewhere"):
        one.get(Key("a" * 32, "elsewhere"))


def test_an_unnamed_connector_lists_all_of_the_place(one: SharedMemoryConnector) -> None:
    keys = {one.put(Frames([b"x"])), one.put(numbers(1))}
    with SharedMemoryConnector("named") as named:
        keys.add(named.put(numbers(2)))
        listed = {stat.key: stat for stat in one.scan()}
        assert [stat.key for stat in named.scan()] == [key for key in keys if key.where == "named"]
        named.clear()

    assert set(listed) == keys
    assert {stat.owner.partition("@")[0] for stat in listed.values()} == {str(os.getpid()), ""}


def test_reap_takes_back_what_a_killed_process_was_writing(one: SharedMemoryConnector, root: Path) -> None:
    one.put(Frames([b"x"]))
    begun = root / one.namespace / ("f" * 32)
    begun.write_bytes(b"PFAB")
    assert one.reap() == []
    os.utime(begun, (1, 1))

    assert [item.what for item in one.reap(dry_run=True)] == [str(begun)]
    assert begun.exists()
    assert len(one.reap()) == 1
    assert not begun.exists()


SCRIPT = """
import os, signal, sys
import numpy as np
from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
one = SharedMemoryConnector()
key = one.put(Frames([np.ones(1_000_000)]))
view = np.asarray(one.get(key).views[0])[::2]
one.evict(key)
one.put(Frames([np.ones(2_000_000)]))
named = SharedMemoryConnector("kept")
named.put(Frames([np.ones(1_000_000)]), key=__import__("proxyfab.keys").keys.Key("k"), replace=True)
{end}
"""


@pytest.mark.parametrize(
    "end", ["", "del view; one.close()", "raise SystemExit(0)", "import threading; one.self = one"]
)
def test_an_end_is_silent_and_leaves_what_is_named(root: Path, end: str) -> None:
    command = [sys.executable, "-c", SCRIPT.format(end=end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in root.iterdir() if path.name[0] != ".") == ["kept"]
    with SharedMemoryConnector("kept") as kept:
        frames = kept.get(Key("k"))
        assert frames is not None
        assert frames.nbytes == 8 * MB
        kept.clear()


def test_what_a_killed_process_leaves_is_taken_back(root: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end="os.kill(os.getpid(), signal.SIGKILL)")], check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert used(root) > 24 * MB
    with SharedMemoryConnector("kept") as kept:
        would = kept.reap(dry_run=True)
        assert used(root) > 24 * MB
        assert kept.reap() == would
        assert sum(item.nbytes for item in would) > 16 * MB
        assert used(root) < 9 * MB
        frames = kept.get(Key("k"))
        assert frames is not None
        assert frames.nbytes == 8 * MB
        kept.clear()


def work(connector: SharedMemoryConnector, seed: int) -> Key:
    """What a worker of multiprocessing does."""
    return connector.put(numbers(seed))


def test_workers_of_multiprocessing(one: SharedMemoryConnector, root: Path) -> None:
    one.put(numbers(0))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        keys = pool.starmap(work, [(one, seed) for seed in range(6)])
        pool.close()
        pool.join()

    assert [set(array(one.get(key))) for key in keys] == [{seed} for seed in range(6)]
    one.reap()
    spaces = [path.name for path in root.iterdir() if path.name.startswith("~")]
    assert one.namespace in spaces
    assert len(spaces) <= 2, "pools of workers that ended"


def wake(talk: Connection, connector: Any, keys: list[Key]) -> list[float]:
    """When each object was there."""
    woken = []
    for key in keys:
        talk.send("waiting")
        assert connector.wait(key, 30)
        woken.append(time.monotonic())
    return woken


@pytest.mark.timing
def test_a_waiter_elsewhere_wakes_at_once(one: SharedMemoryConnector) -> None:
    keys = [one.reserve() for _ in range(21)]
    put = []
    with Child(wake, one, keys) as waiter:
        for key in keys:
            waiter.receive()
            time.sleep(0.01)  # let it fall asleep: what is measured is being woken
            put.append(time.monotonic())
            one.put(Frames([b"here"]), key=key)
        woken = waiter.result()

    assert sorted(after - before for after, before in zip(woken, put, strict=True))[10] < 0.02
