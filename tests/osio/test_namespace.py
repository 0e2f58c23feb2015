"""Roots, namespaces and lodgings: whose they are, and that nothing alive is ever taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError
from proxyfab.osio import namespace as namespaces
from proxyfab.osio import owner as owners
from proxyfab.osio.files import TEMPORARY, temporary_name
from proxyfab.osio.lodging import Lodging
from proxyfab.osio.namespace import DOOMED, OWNER, Namespace
from proxyfab.osio.owner import Writer, this_process
from proxyfab.osio.root import MARKER, Root
from proxyfab.testing import Child, in_fork, until
from proxyfab.testing.processes import at_once


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "a" / "root")


def reap(place: str) -> list[str]:
    root = Root.find(place)
    assert root is not None
    return [item.what for item in root.reap() if not item.what.endswith("(left)")]


# -- roles of child processes -----------------------------------------------------------------------------------------


def owns(talk: Any, place: str, files: int = 0) -> None:
    """Owns an ephemeral namespace until it is told to end, or killed."""
    namespace = Lodging(place, None).open()[1]
    for number in range(files):
        Path(namespace.path, f"{number}").write_bytes(b"x" * 10)
    talk.send(namespace.path)
    talk.recv()


def attaches(talk: Any, place: str, name: str) -> str:
    """Makes a namespace that is another process's."""
    return Lodging(place, name).open()[1].path


# -- roots ------------------------------------------------------------------------------------------------------------


def test_a_drawn_lodging_touches_nothing(place: str) -> None:
    lodging = Lodging(place, None)

    assert lodging.name.startswith("~")
    assert (lodging.root(), lodging.find()) == (None, None)
    assert not os.path.exists(os.path.dirname(place))


def test_of_many_that_make_a_root_all_get_the_same(place: str) -> None:
    roots = at_once([lambda: Root.make(place)] * 8)

    assert {root.tag for root in roots} == {Root.make(place).tag}
    assert os.listdir(place) == [MARKER]


@pytest.mark.parametrize("content", [b"", b"{}", b"hello", b'{"proxyfab": 1}', b'{"proxyfab": 99, "tag": "x"}'])
def test_a_marker_of_somebody_else_is_said(place: str, content: bytes) -> None:
    os.makedirs(place)
    Path(place, MARKER).write_bytes(content)
    with pytest.raises(ConnectorError, match=place):
        Root.make(place)


def test_two_lodgings_never_share_a_name(place: str) -> None:
    names = {Lodging(place, None).name for _ in range(500)}
    names.add(in_fork(lambda: Lodging(place, None).name))

    assert len(names) == 501


def test_a_name_that_tells_no_owner_is_refused(place: str) -> None:
    for name in ("~", "~abc", "~" + "1" * 24, "~../" + "a" * 21):
        with pytest.raises(ConfigurationError):
            Lodging(place, name)


def test_a_writer_survives_its_packing() -> None:
    for writer in (this_process().writer, Writer("00000000", 1, 0), Writer("ffffffff", 2**22, 2**40 - 1)):
        assert Writer.unpack(writer.pack(7)) == writer
    with pytest.raises(ValueError, match="no process"):
        Writer.unpack("a" * 16)


# -- ephemeral namespaces ---------------------------------------------------------------------------------------------


def test_an_owner_that_lives_keeps_its_namespace(place: str) -> None:
    with Child(owns, place) as child:
        path = child.receive()
        assert reap(place) == []
        assert Namespace(*os.path.split(path), network=False).owner().startswith(f"{child.pid}@")
        child.send("end")


def test_an_owner_that_ends_takes_its_namespace_along(place: str) -> None:
    with Child(owns, place, 5) as child:
        path = child.receive()
        assert os.path.exists(path)
        child.send("end")
        assert until(lambda: not os.path.exists(path))
        assert until(lambda: os.listdir(place) == [MARKER])


def test_a_killed_owner_is_reaped_with_what_it_had(place: str) -> None:
    with Child(owns, place, 5) as child:
        path = child.receive()
        os.kill(child.pid, signal.SIGKILL)
        root = Root.find(place)
        assert root is not None
        assert until(lambda: root.reap(dry_run=True))
        (found,) = root.reap(dry_run=True)
        assert (found.what, found.nbytes > 50) == (path, True)
        assert "ended" in found.reason
        assert os.path.exists(path)
        assert reap(place) == [path]
    assert os.listdir(place) == [MARKER]


def test_the_next_opener_reaps(place: str) -> None:
    with Child(owns, place, 5) as child:
        path = child.receive()
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait()
    with Child(owns, place) as child:
        child.receive()
        assert not os.path.exists(path)
        child.send("end")


def test_of_many_reapers_one_takes_it(place: str) -> None:
    with Child(owns, place, 50) as child:
        path = child.receive()
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait()
    taken = at_once([lambda: reap(place)] * 6)

    assert [what for each in taken for what in each] == [path]
    assert os.listdir(place) == [MARKER]


def test_a_removal_that_was_interrupted_is_finished(place: str) -> None:
    Root.make(place)
    me = this_process().writer
    remover = me._replace(start=me.start + 1)  # no process is that one
    doomed = Path(place, f"{DOOMED}named{TEMPORARY}{remover.machine}-{remover.pid}-{remover.start}-0", "ab")
    doomed.mkdir(parents=True)
    (doomed / "object").write_bytes(b"x" * 100)

    assert reap(place) == [str(doomed.parent)]
    assert os.listdir(place) == [MARKER]


def test_what_a_killed_process_was_making_in_a_root_is_taken_and_what_a_live_one_makes_is_left(place: str) -> None:
    Root.make(place)
    me = this_process().writer
    lost = Path(place, f"{TEMPORARY}{me.machine}-{me.pid}-{me.start + 1}-0")  # no process is that one
    mine = Path(place, temporary_name())
    for file in (lost, mine):
        file.write_bytes(b"")

    assert reap(place) == [str(lost)]
    assert sorted(os.listdir(place)) == sorted([MARKER, mine.name])


def test_a_removal_that_goes_on_is_left_to_who_does_it(place: str) -> None:
    Root.make(place)
    doomed = Path(place, f"{DOOMED}named{temporary_name()}")
    doomed.mkdir()

    assert reap(place) == []
    assert doomed.is_dir()


def test_another_process_may_make_it_and_it_is_still_its_owners(place: str) -> None:
    lodging = Lodging(place, None)
    with Child(attaches, place, lodging.name) as child:
        path = child.result()
    assert reap(place) == []
    assert Namespace(*os.path.split(path), network=False).owner().startswith(f"{os.getpid()}@")

    assert lodging.open()[1].path == path
    assert path in namespaces._owned
    assert reap(place) == []


def test_what_a_child_made_for_an_owner_that_never_came_is_reaped(place: str) -> None:
    def draw_and_let_another_make() -> str:
        lodging = Lodging(place, None)
        with Child(attaches, place, lodging.name) as child:
            return str(child.result())

    path = in_fork(draw_and_let_another_make)
    assert reap(place) == [path]


def test_a_fork_owns_nothing_and_its_end_changes_nothing(place: str) -> None:
    lodging = Lodging(place, None)
    path = lodging.open()[1].path

    def look() -> tuple[int, bool]:
        found = lodging.open()[1]
        return len(namespaces._owned), found.exists()

    assert in_fork(look) == (0, True)
    assert os.path.exists(path)
    assert reap(place) == []


def test_a_fork_does_not_keep_the_lock_of_its_parent(place: str) -> None:
    """The owner is killed while its fork lives on: the namespace is free."""
    code = (
        "import os, sys, threading\n"
        "from proxyfab.osio.lodging import Lodging\n"
        "path = Lodging(sys.argv[1], None).open()[1].path\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    print(path, os.getpid(), flush=True)\n"
        "    threading.Event().wait()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, place], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    path, fork = owner.stdout.readline().split()
    try:
        owner.wait(20)
        assert until(lambda: reap(place) == [path], 20)
    finally:
        os.kill(int(fork), signal.SIGKILL)
        owner.stdout.close()


def test_a_child_of_multiprocessing_removes_what_it_owned(place: str) -> None:
    code = (
        "import multiprocessing, os, sys\n"
        "from proxyfab.osio.lodging import Lodging\n"
        "def work(): Lodging(sys.argv[1], None).open()\n"
        "child = multiprocessing.get_context('fork').Process(target=work)\n"
        "child.start(); child.join(); sys.exit(child.exitcode)\n"
    )
    subprocess.run([sys.executable, "-c", code, place], check=True, timeout=60)
    assert os.listdir(place) == [MARKER]


def test_writing_to_an_owner_that_has_ended_is_refused(place: str) -> None:
    with Child(owns, place) as child:
        name = os.path.basename(child.receive())
        child.send("end")
        child.process.wait(30)
    with pytest.raises(ConnectorError, match="has ended"):
        Lodging(place, name).open()


def test_an_owner_on_another_machine_is_left_and_said(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root.make(place)
    stranger = Namespace(place, "~" + Writer("12345678", 77, 1234).pack(0), network=False)
    stranger.make()
    with stranger.state() as (_, why):
        assert "reap there" in why
    (found,) = root.reap()

    assert found.what == f"{stranger.path} (left)"
    assert found.nbytes == 0
    assert stranger.exists()


def test_on_a_network_a_free_lock_alone_proves_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of some network file systems are each machine's own."""
    Root.make(place)
    stranger = Namespace(place, "~" + Writer("12345678", 77, 1234).pack(0), network=True)
    stranger.make()
    Path(stranger.path, OWNER).write_text('{"pid": 77, "host": "elsewhere", "locked": true}')
    with stranger.state() as verdict:
        assert verdict.state is namespaces.State.UNKNOWN
    with Namespace(place, stranger.name, network=False).state() as verdict:
        assert verdict.state is namespaces.State.DEAD


def test_where_there_are_no_locks_the_process_decides(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "try_lock", lambda _fd: None)
    with Child(owns, place) as child:
        path = child.receive()
        assert reap(place) == []
        os.kill(child.pid, signal.SIGKILL)
        child.process.wait()
        assert reap(place) == [path]


def test_a_reused_pid_is_not_the_owner() -> None:
    mine = this_process().writer

    assert owners.running(mine) is True
    assert owners.running(mine._replace(start=mine.start + 1)) is False
    assert owners.running(mine._replace(machine="00000000")) is None


def test_a_directory_whose_maker_was_killed_is_taken(place: str) -> None:
    Root.make(place)
    name = "~" + this_process().writer.pack(1_000_000)
    dead = f"{TEMPORARY}{this_process().writer.machine}-4194303-1-0"
    Path(place, name).mkdir()
    Path(place, name, dead).touch()
    Root.make(place).reap()

    assert os.listdir(place) == [MARKER]


# -- named namespaces -------------------------------------------------------------------------------------------------


def test_a_named_namespace_stays(place: str) -> None:
    with Child(attaches, place, "kept") as child:
        path = child.result()
    assert reap(place) == []
    assert os.path.exists(path)
    assert Namespace(place, "kept", network=False).owner() == ""


def test_of_many_that_make_a_namespace_all_have_it(place: str) -> None:
    paths = at_once([lambda: Lodging(place, "shared").open()[1].path] * 8)

    assert set(paths) == {f"{place}/shared"}
    assert os.listdir(f"{place}/shared") == [OWNER]


def test_a_place_that_may_not_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(AccessDenied, match="check the permissions"):
        Lodging(str(tmp_path / "place"), "one").open()


def test_many_take_one_descriptor(place: str) -> None:
    Lodging(place, None).open()
    before = len(os.listdir("/proc/self/fd"))
    many = [Lodging(place, None).open()[1] for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before

    many[0].remove()
    many[-1].remove()
    more = Lodging(place, None).open()[1]
    with Child(reaps, place) as other:
        assert other.result() == []
    assert all(namespace.exists() for namespace in [*many[1:-1], more])


def reaps(talk: Any, place: str) -> list[str]:
    return reap(place)


def test_of_many_all_go_with_their_owner(place: str) -> None:
    with Child(owns_many, place, 20) as child:
        paths = child.receive()
        assert reap(place) == []
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: child.process.poll() is not None)
    assert sorted(reap(place)) == sorted(paths)


def owns_many(talk: Any, place: str, count: int) -> None:
    talk.send([Lodging(place, None).open()[1].path for _ in range(count)])
    talk.recv()
