"""globus:// with one site passes the suite, and with several moves objects: the real SDK against a local server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.globus import GlobusConnector
from proxyfab.connectors.globus.layout import Item, stored
from proxyfab.connectors.globus.outbox import Limits
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError
from proxyfab.keys import Key
from proxyfab.testing import ConnectorTests, until
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.globus import GlobusServer

pytest.importorskip("globus_sdk")
A, B, C = (str(uuid.UUID(int=number)) for number in (10, 11, 12))
At = Callable[..., GlobusConnector]


class TestGlobusOfOneSite(ObjectTests, BatchTests, PayloadTests):
    connector = GlobusConnector
    leases = False
    swaps = False
    can_damage = True

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return f"globus://?at={uuid.uuid5(uuid.NAMESPACE_URL, str(directory))},/data,{directory}"

    def damage(self, connector: Any, key: Key, edit: Callable[[bytes], bytes]) -> None:
        path = Path(stored(connector.here.local, Item(key.where.partition("/")[2], key.id)))
        content = edit(path.read_bytes())
        path.unlink()
        path.write_bytes(content)


@pytest.mark.slow
class TestGlobusOfOneSiteAll(TestGlobusOfOneSite, ConnectorTests):
    """Everything, though what it is made of has shown it."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusServer]:
    places = {collection: tmp_path / name for collection, name in ((A, "a"), (B, "b"), (C, "c"))}
    with GlobusServer(places) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def at(server: GlobusServer) -> Iterator[At]:
    """Opens a connector at a site; all are closed when the test ends."""
    opened: list[GlobusConnector] = []

    def open_at(here: str, name: str = "run", sites: tuple[str, ...] = (A, B), **options: Any) -> GlobusConnector:
        every = [f"{site},/fab,{server.collections[site]}/fab" for site in sites]
        limits = Limits(linger=options.pop("linger", 0.2))
        opened.append(GlobusConnector(every, name=name, here=here, limits=limits, **({"patience": 20.0} | options)))
        return opened[-1]

    yield open_at
    for connector in opened:
        connector.close()


def data(number: int = 0, size: int = 3000) -> Frames:
    return Frames([bytes([number % 256]) * size])


def test_what_was_put_at_one_site_is_read_at_the_other_and_then_without_a_request(at: At, server: GlobusServer) -> None:
    key = at(A).put(data(1, 2**20))
    other = at(B)

    assert other.get(key) == data(1, 2**20)
    before = len(server.requests)
    assert other.get(key) == other.get(key.at(key.where)) == data(1, 2**20)
    assert other.stat(key).nbytes == 2**20
    assert other.exists(key)
    assert len(server.requests) == before


def test_24_keys_take_at_most_10_requests(at: At, server: GlobusServer) -> None:
    server.tasks.seconds = 1.0
    one, other = at(A, linger=1.0), at(B, linger=1.0)  # a busy machine needs longer for 24 puts than a quiet one
    keys = [one.put(data(number)) for number in range(24)]
    until(lambda: bool(server.tasks.all), 20)  # who reads before it is sent fetches it himself

    assert [other.get(key) for key in keys] == [data(number) for number in range(24)]
    assert len(server.requests) <= 10, server.requests
    assert len(server.tasks.all) == 1


def test_without_push_a_batch_is_fetched_as_one_task_when_it_is_read(at: At, server: GlobusServer) -> None:
    one, other = at(A, push=False), at(B, push=False)
    keys = one.put_many([data(number) for number in range(24)])
    assert server.requests == []
    missing = Key.draw(keys[0].where)

    assert other.get_many([*keys, missing]) == [*(data(number) for number in range(24)), None]
    assert other.get(missing) is None
    assert len(server.tasks.all) == 1
    assert len(server.requests) <= 10, server.requests


def test_a_future_is_fulfilled_at_the_other_site(at: At) -> None:
    one, other = at(A), at(B)
    key = one.reserve()
    assert not one.wait(key, 0)

    other.put(data(7), key=key)

    assert one.wait(key, 20)
    assert one.get(key) == data(7)


def test_evicted_here_is_gone_everywhere_after_a_flush(at: At, server: GlobusServer) -> None:
    one, other = at(A), at(B)
    keys = one.put_many([data(number) for number in range(5)])
    one.flush(20)
    assert other.get_many(keys[:2]) == [data(0), data(1)]

    assert one.evict_many(keys) == [True] * 5
    one.flush(20)

    assert other.get_many(keys) == [None] * 5
    assert len([line for line in server.requests if line.endswith("/delete")]) == 1
    assert not other.evict(keys[0])


def test_any_number_of_sites(at: At) -> None:
    three = {site: at(site, sites=(A, B, C)) for site in (A, B, C)}
    keys = {site: connector.put(data(number)) for number, (site, connector) in enumerate(three.items())}

    for connector in three.values():
        assert connector.get_many(list(keys.values())) == [data(0), data(1), data(2)]


def test_close_deletes_nothing_and_clear_refuses_what_is_not_ours(at: At, server: GlobusServer) -> None:
    one = at(A)
    key = one.put(data(3))
    one.close()
    with pytest.raises(ConnectorError, match="closed"):
        one.get(key)
    again = at(A)
    assert again.get(key) == data(3)
    assert again.clear() == 1

    foreign = server.collections[B] / "fab/objects/run"
    foreign.mkdir(parents=True)
    (foreign / "thesis.tex").write_text("mine")
    with pytest.raises(AccessDenied, match="not made by proxyfab"):
        at(B).clear()
    assert (foreign / "thesis.tex").exists()


def test_objects_arrive_whole_or_not_at_all(at: At, server: GlobusServer) -> None:
    server.tasks.seconds = 0.3
    one, other = at(A), at(B)
    key = one.put(data(5, 2**20))
    half = server.collections[B] / "fab/incoming/run"
    until(lambda: any(path.is_file() for path in half.rglob("*")), 10)

    assert not other.wait(key, 0)
    assert other.get(key) == data(5, 2**20)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("globus://", "at least one site"),
        (f"globus://?at={A},/x", "is no site"),
        (f"globus://?at={A},/x,/y&at={B},/x,/z", "PROXYFAB_GLOBUS_COLLECTION"),
        (f"globus://?at={A},/x,/y&at={A},/x,/z", "each collection once"),
        (f"globus://?at={A},/x,/y&patience=soon", "no number"),
        (f"globus://host?at={A},/x,/y", "names no sites"),
    ],
)
def test_urls_that_make_no_sense(url: str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        GlobusConnector.from_url(url)


def test_a_url_tells_all_but_where_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [f"{A},/x,/y,login*", f"{B},/x,/z"]
    one = GlobusConnector(sites, name="run", here=A, push=False, patience=60)
    monkeypatch.setenv("PROXYFAB_GLOBUS_COLLECTION", B)
    other = GlobusConnector.from_url(one.spec)

    assert one.spec == other.spec
    assert (one.here.local, other.here.local, other.push, other.patience) == ("/y", "/z", False, 60.0)
