"""What patterns leave behind is found with its reason, and taken back; what anybody may still use is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxyfab import Key, Store
from proxyfab.buffers import Frames
from proxyfab.cli import main
from proxyfab.patterns import Future
from proxyfab.patterns.leftovers import leftovers
from proxyfab.patterns.ownership import borrow, own, release
from proxyfab.testing import Child, until
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import RedisServer

BIG = b"x" * 20_000


@pytest.fixture(scope="module")
def node_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    with NodeServer(environment={"PROXYFAB_SHM_DIR": str(tmp_path_factory.mktemp("shared"))}) as server:
        yield server


@pytest.fixture(params=["file", "shm", "redis", "zmq", "zstd"])
def place(request: pytest.FixtureRequest, redis_server: RedisServer, node_server: NodeServer, tmp_path: Path) -> str:
    places = {
        "redis": redis_server.database(),
        "zmq": node_server.url,
        "shm": "shm://",
        "file": f"file://{tmp_path}",
        "zstd": f"zstd+file://{tmp_path}",
    }
    return places[request.param]


@pytest.fixture
def store(place: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(place, name=f"n{abs(hash(request.node.name))}") as store:
        yield store
        store.clear()
        store.connector.reap()  # type: ignore[attr-defined]


def own_until_killed(talk: Any, url: str, lease: float) -> None:
    store = Store(url.partition("#")[0])
    mine = own(store, BIG, lease=lease)
    lent = own(store, BIG, lease=lease)
    talk.send(borrow(lent))
    talk.recv()
    sent = own(store, BIG, lease=lease)
    talk.send(sent)
    talk.recv()
    del mine, lent, sent


def reasons(found: list[Any]) -> list[str]:
    return sorted(item.reason.partition(":")[0] for item in found)


def test_what_the_killed_owned_is_taken_back_and_nothing_else(store: Store) -> None:
    mine = own(store, BIG)
    assert leftovers(store) == []
    with Child(own_until_killed, store.url, 60.0) as child:
        lent = child.receive()
        assert bytes(lent) == BIG
        child.send("next")
        sent = child.receive()
        assert leftovers(store, dry_run=True) == []
        child.kill()
    ended = "who owned or borrowed it has ended"
    sign = "the process of which it is a sign of life has ended"
    planned = leftovers(store, dry_run=True)
    assert reasons(planned) == sorted([ended, sign]), "one is lent and one is on its way"
    assert sum(item.nbytes for item in planned) > (len(BIG) if "zstd" not in store.url else 100)
    assert leftovers(store) == planned
    assert leftovers(store) == []
    assert bytes(lent) == bytes(sent) == bytes(mine) == BIG
    release(lent)
    assert reasons(leftovers(store)) == [ended]
    assert until(lambda: len(scanned(store)) == 6), "mine and what was sent, each with its sign of life"
    del mine, sent
    assert until(lambda: len(scanned(store)) == 2), "signs of life, which expire"


def scanned(store: Store) -> list[Key]:
    return [stat.key for stat in store.connector.scan()]  # type: ignore[attr-defined]


def test_a_damaged_record_is_told_and_left(tmp_path: Path) -> None:
    with Store(f"file://{tmp_path}", name="kept") as store:
        store.connector.put(Frames([b"PFO1 and no record"]))
        found = leftovers(store)
        assert [item.what.endswith("(left)") for item in found] == [True]
        assert "damaged" in found[0].reason


def test_what_expired_says_what_it_was(place: str) -> None:
    """Where places forget by themselves there is nothing to say."""
    with Store(place, name="told", inline_below=0) as store:
        failed, cancelled = Future(store, ttl=0.3), Future(store, ttl=0.3)
        failed.set_exception(ValueError("no"))
        cancelled.cancel()
        plain = store.put(BIG, ttl=0.3)
        assert until(lambda: not store.exists(plain))
        assert until(lambda: not scanned(store))
        result = CliRunner().invoke(main, ["gc", place, "--json"])
        told = {item["reason"] for item in json.loads(result.output)}
        if place.startswith(("file", "shm")):
            assert {
                "its time to live passed",
                "it is a future's failure, and its time to live passed",
                "it is a future's cancelling, and its time to live passed",
            } <= told
        assert json.loads(CliRunner().invoke(main, ["gc", place, "--json"]).output) == []


def test_gc_is_a_command(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    with Store(url, name="kept") as store, Child(own_until_killed, store.url, 60.0) as child:
        child.receive()
        child.kill()
        dry = CliRunner().invoke(main, ["gc", url, "--dry-run"])
        assert "has ended" in dry.output
        assert "would reclaim" in dry.output
        assert scanned(store) != []
        assert CliRunner().invoke(main, ["gc", url]).exit_code == 0
        assert scanned(store) == []
        assert "reclaimed 0 B in 0 pieces" in CliRunner().invoke(main, ["gc", url]).output
