"""nats://auto: started by its first user, joined by others, ended by nobody but the last, however each of them ends."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from proxyfab.brokers.nats.auto import Files
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.opening import open_broker
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.events.broker import Broker
from proxyfab.events.model import Record, Topic
from proxyfab.testing import Child, in_fork, until


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directories of this test's own, and nothing that runs there afterwards."""
    root = Path(tempfile.mkdtemp(prefix="proxyfab-auto-"))
    monkeypatch.setenv("PROXYFAB_SHM_DIR", str(root / "run"))
    monkeypatch.setenv("PROXYFAB_BROKER_DIR", str(root / "store"))
    yield root
    assert until(lambda: not alive(root)), f"these were left: {alive(root)}"
    shutil.rmtree(root)


def alive(root: Path) -> list[str]:
    """Processes that were told this directory: keeper and server."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            said = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in said and ("keeper" in said or "nats-server" in said):
            found.append(f"{directory.name}: {said}")
    return found


def running() -> dict[str, Any]:
    """What the server is, once it is ready."""
    path = Path(Files.here().ready)
    assert until(path.exists)
    return json.loads(path.read_text())


def killed() -> bool:
    """Kill the server; whether it was there: for a moment the one before may still be written down."""
    try:
        os.kill(running()["pid"], signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def user(talk: Connection, broker: Broker) -> None:
    """Uses a broker until it is told to end."""
    broker.publish("t", [Record(b"theirs")])
    talk.send(os.getpid())
    talk.recv()
    broker.close()


def test_started_joined_and_ended_by_the_last(place: Path) -> None:
    with open_broker() as broker:
        assert broker.url == "nats://auto"
        broker.ensure(Topic("t"))
        first = running()
        with Child(user, broker) as child:
            child.receive()
            assert broker.describe("t").records == 1
            broker.close()
            again = open_broker()
            assert running() == first, "the other's use has kept it"
            assert again.describe("t").records == 1
            child.send("end")
        again.close()
    assert until(lambda: not alive(place))
    with open_broker() as later:
        assert later.describe("t").records == 1, "what was kept is there for the next one"


def test_users_that_are_killed_have_ended(place: Path) -> None:
    with open_broker() as broker:
        broker.ensure(Topic("t"))
        with Child(user, broker) as child:
            child.receive()
            broker.close()
            child.kill()
    assert until(lambda: not alive(place))


def test_a_killed_server_is_started_again_with_what_it_had(place: Path) -> None:
    with open_broker() as broker:
        broker.ensure(Topic("t"))
        for number in range(3):
            broker.publish("t", [Record(b"%d" % number, str(number))])
            assert until(killed)
        assert broker.describe("t").records == 3


def test_the_server_ends_with_a_killed_keeper_and_another_one_is_there(place: Path) -> None:
    with open_broker() as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"x")])
        before = running()
        os.kill(before["keeper"], signal.SIGKILL)
        assert until(lambda: not any(line.startswith(f"{before['pid']}:") for line in alive(place)))
        assert broker.describe("t").records == 1
        assert running()["keeper"] != before["keeper"]


def test_an_ended_keeper_leaves_no_server(place: Path) -> None:
    with open_broker() as broker:
        broker.topics()
        os.kill(running()["keeper"], signal.SIGTERM)
        assert until(lambda: not alive(place))
        assert broker.topics() == []


def test_a_pickle_holds_no_secret_and_the_token_is_this_users_alone(place: Path) -> None:
    with open_broker() as broker:
        broker.topics()
        token = running()["token"]
        directory = Path(Files.here().directory)

        assert token not in repr(pickle.dumps(broker)) + repr(broker)
        assert all(path.stat().st_mode & 0o077 == 0 for path in (directory, *directory.iterdir()) if holds(path, token))
        assert not any(token in line for line in alive(place))
        address = running()["address"]
        with NatsBroker.from_url(f"nats://{address}") as stranger, pytest.raises(PermissionError):
            stranger.topics()


def holds(path: Path, token: str) -> bool:
    return path.is_dir() or token in path.read_text(errors="replace")


def test_a_fork_joins_by_itself(place: Path) -> None:
    with open_broker() as broker:
        broker.ensure(Topic("t"))

        def child() -> int:
            broker.publish("t", [Record(b"x")])
            return broker.describe("t").records

        assert in_fork(child) == 1
        assert broker.describe("t").records == 1


def test_a_directory_of_others_is_refused(place: Path) -> None:
    store = place / "store"
    store.mkdir()
    store.chmod(0o777)
    with open_broker() as broker, pytest.raises(ConfigurationError, match="PROXYFAB_BROKER_DIR"):
        broker.topics()


def test_sync_is_the_servers(place: Path) -> None:
    with NatsBroker.from_url("nats://auto?sync=always") as strict:
        strict.ensure(Topic("t"))
        assert "sync_interval: always" in Path(Files.here().directory, "configuration").read_text()
        with open_broker() as any_will_do:
            assert any_will_do.topics() == ["t"]
    assert until(lambda: not alive(place))
    with open_broker() as broker:
        broker.topics()
        with NatsBroker.from_url("nats://auto?sync=always") as strict, pytest.raises(ConfigurationError, match="sync"):
            strict.topics()


def test_a_store_that_somebody_else_uses_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_broker() as broker:
        broker.topics()
        monkeypatch.setenv("PROXYFAB_SHM_DIR", str(place / "elsewhere"))
        with NatsBroker.from_url("nats://auto") as other, pytest.raises(ConnectorError, match="PROXYFAB_BROKER_DIR"):
            other.ping(10)
