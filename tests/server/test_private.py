"""zmq://auto: a private server that starts with its first user and ends after its last, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.connectors.zmq.private import Files
from proxyfab.errors import ConfigurationError, ConnectorError, ObjectLost
from proxyfab.keys import Key
from proxyfab.osio.owner import try_lock
from proxyfab.testing import Child, in_fork, roles
from proxyfab.testing import nodes as _nodes  # noqa: F401  # warms pyzmq up
from proxyfab.testing.conformance.crossing import CrossingTests
from proxyfab.testing.conformance.mischief import MischiefTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import at_once, run, until

MB = 2**20


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    root = Path(os.environ["PROXYFAB_SHM_DIR"]) / f"a{os.urandom(3).hex()}"
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(root))
    files = Files.here()
    yield files
    if os.path.exists(files.server):
        assert until(lambda: is_over(files), 20), "the private server did not end"


def is_over(files: Files) -> bool:
    with open(files.server, "rb") as file:
        return try_lock(file.fileno()) is True


def pid_of(files: Files) -> int:
    return int(json.loads(Path(files.ready).read_text())["pid"])


def test_it_starts_with_its_first_user_and_ends_after_its_last(files):
    with ZMQConnector("auto") as one, ZMQConnector("auto") as two:
        assert not os.path.exists(files.directory), "nothing before it is used"
        key = one.put(signed(3 * MB))
        assert is_whole(two.get(key))
        assert key.where.endswith(f"/{files.socket}")
        one.close()
        assert is_whole(two.get(key))
        assert not is_over(files)
    assert until(lambda: is_over(files), 20)
    assert not os.path.exists(files.ready)
    with ZMQConnector("auto") as one:
        with pytest.raises(ObjectLost):
            one.get(key)
        assert is_whole(one.get(one.put(signed(100))))


def test_many_processes_at_once_start_one(files):
    children = [Child(roles.arrive, ZMQConnector, "zmq://auto") for _ in range(5)]
    try:
        for child in children:
            child.receive()
        for child in children:
            child.send("go")
        assert [child.result() for child in children] == [True] * 5
    finally:
        for child in children:
            child.__exit__(None, None, None)


def test_many_threads_at_once_start_one(files):
    connectors = [ZMQConnector("auto") for _ in range(5)]
    keys = at_once([lambda one=one: one.put(Frames([b"x"])) for one in connectors])
    assert len({key.where.split("/")[1] for key in keys}) == 1, keys
    for one in connectors:
        one.close()


@pytest.mark.parametrize("times", [1, 3])
def test_a_server_that_is_killed_is_started_anew(files, times):
    with ZMQConnector("auto") as one:
        for _ in range(times):
            key = one.put(signed(100))
            os.kill(pid_of(files), signal.SIGKILL)
            assert until(lambda: is_over(files))
            with ZMQConnector("auto") as two:
                assert is_whole(two.get(two.put(signed(100))))
            with pytest.raises(ObjectLost):
                one.get(key)


def test_a_server_that_is_killed_is_started_anew_by_who_goes_on(files):
    with ZMQConnector("auto", "name") as one:
        assert one.exists(Key("k")) is False

        def kill() -> None:
            assert until(lambda: one.status().gauges["waiting"] == 1)
            os.kill(pid_of(files), signal.SIGKILL)
            assert is_whole(one.get(one.put(signed(3 * MB), key=Key("k"))))

        assert at_once([lambda: one.wait(Key("k"), 60), kill])[0] is True


def test_who_starts_it_anew_keeps_nobody_longer_than_he_has(files):
    with ZMQConnector("auto") as one, ThreadPoolExecutor(1) as other:
        one.put(signed(100))
        uses = one.servers._members
        with uses._lock:
            assert other.submit(uses.take, files, 30, start=True).result(30) is True
            with pytest.raises(ConnectorError, match="not become ready in 0.1 s"):
                other.submit(uses.renew, files, 0.1).result(30)
        other.submit(uses.renew, files, 30).result(30)


def test_its_starter_and_users_may_be_killed(files):
    shared = ZMQConnector("auto", "shared")
    with Child(roles.follow, shared) as first, Child(roles.follow, shared) as second:
        assert first.ask("exists", Key("k")) is False
        pid = pid_of(files)
        assert second.ask("exists", Key("k")) is False
        first.kill()
        assert second.ask("exists", Key("k")) is False
        assert pid_of(files) == pid
        second.kill()
    assert until(lambda: is_over(files), 20)


def test_a_fork_uses_it_on_its_own(files):
    with ZMQConnector("auto") as one:
        key = one.put(signed(3 * MB))
        assert in_fork(lambda: is_whole(one.get(key))) is True
        assert is_whole(one.get(key))


def test_another_process_finds_it_by_the_key(files):
    with ZMQConnector("auto") as one:
        key = one.put(signed(3 * MB))
        assert run(roles.read, one, [key]) == [signed(3 * MB).tobytes()]
        with ZMQConnector("127.0.0.1:1") as other:
            assert is_whole(other.get(key))
    assert until(lambda: is_over(files), 20)
    with ZMQConnector("127.0.0.1:1") as other, pytest.raises(ObjectLost, match="has ended"):
        other.get(key)


def test_a_store_on_it(files):
    with Store("zmq://auto") as store:
        proxy = store.proxy(b"x" * 100_000)
        assert len(proxy) == 100_000


def test_a_path_that_is_too_long_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(tmp_path / ("x" * 100)))
    with ZMQConnector("auto") as one, pytest.raises(ConfigurationError, match="PROXYFAB_SHM_DIR"):
        one.reserve()


@pytest.fixture(scope="module", autouse=True)
def _gone_at_the_end() -> Iterator[None]:
    """The suite's private server ends a while after its last user."""
    yield
    files = Files.here()
    if os.path.exists(files.server):
        assert until(lambda: is_over(files), 20), "the private server did not end"


class TestAuto(ObjectTests, CrossingTests, MischiefTests):
    """With servers that come and go with the tests: what processes could see of that. The rest is as at any server."""

    connector = ZMQConnector
    around = True
    on_disk = False
    interruptible = False

    @pytest.fixture(autouse=True)
    def _kept(self) -> Iterator[None]:
        """One user throughout a test, as a place must outlive its connectors."""
        with ZMQConnector("auto") as one:
            one.reserve()
            yield

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "zmq://auto"
