"""FaultyConnector: a connector like its child, but for what it is told to do wrong."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from proxyfab import Key
from proxyfab.abc import BaseConnector, SupportsLease, SupportsReap, SupportsScan
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import CapacityError, ConnectorError
from proxyfab.testing import ConnectorTests, FaultyConnector
from proxyfab.testing.processes import at_once


class Wrapped(FaultyConnector):
    """Named, so that the suite can open and pickle it by class and URL."""

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(MemoryConnector.from_url(url, name=name))


class TestWrapped(ConnectorTests):
    """Without faults it is as good as what it wraps."""

    connector = Wrapped
    crosses_processes = False
    reclaims = False
    on_disk = False
    reads_neighbours = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "memory://"


@pytest.fixture
def link() -> FaultyConnector:
    return FaultyConnector(MemoryConnector())


def test_it_claims_what_its_child_claims(link: FaultyConnector) -> None:
    class Bare(BaseConnector):
        scheme = "bare"

    abilities = (SupportsLease, SupportsReap, SupportsScan)

    assert [isinstance(link, ability) for ability in abilities] == [True] * 3
    assert [isinstance(FaultyConnector(Bare()), ability) for ability in abilities] == [False] * 3


def test_it_counts(link: FaultyConnector) -> None:
    key = link.put(Frames([b"12345"]))
    link.get(key)
    link.get(Key("missing"))
    link.get_many([key, key])

    assert link.calls == {"put": 1, "get": 2, "get_many": 1}
    assert link.nbytes == {"put": 5, "get": 5, "get_many": 10}


def test_it_fails_as_often_as_told_and_before_the_child_is_asked(link: FaultyConnector) -> None:
    link.fail("put", lambda: CapacityError("no room, as the test wanted"), times=2)
    for _ in range(2):
        with pytest.raises(CapacityError):
            link.put(Frames([b"x"]), key=Key("k"))

    assert link.child.get(Key("k")) is None
    assert link.put(Frames([b"x"]), key=Key("k"))
    assert link.calls["put"] == 3


def test_a_cut_link_fails_until_it_is_mended(link: FaultyConnector) -> None:
    key = link.put(Frames([b"x"]))
    link.cut()
    for call in (lambda: link.get(key), lambda: link.put(Frames()), lambda: link.exists(key), link.clear):
        with pytest.raises(ConnectorError, match="cut"):
            call()
    link.mend()

    assert link.exists(key)


def test_who_is_held_goes_on_when_let(link: FaultyConnector) -> None:
    gate = link.hold("get")
    key = link.put(Frames([b"x"]))
    order: list[str] = []

    def reader() -> None:
        link.get(key)
        order.append("read")

    def opener() -> None:
        order.append("opened")
        gate.set()

    at_once([reader, opener])

    assert order == ["opened", "read"]


def test_it_takes_time(link: FaultyConnector) -> None:
    link.delay = 0.02
    meeting = threading.Barrier(4)
    key = link.put(Frames([b"x"]))

    assert at_once([lambda: (meeting.wait(20), link.get(key))[1]] * 4) == [Frames([b"x"])] * 4
    assert not FaultyConnector(MemoryConnector(), delay=1).local


def test_it_pickles_with_its_link(link: FaultyConnector) -> None:
    key = link.put(Frames([b"x"]))
    slow = FaultyConnector(link.child, delay=0.001, bandwidth=1e9)
    again = pickle.loads(pickle.dumps(slow))

    assert (again.delay, again.bandwidth, again.spec) == (0.001, 1e9, link.spec)
    assert again.get(key) == Frames([b"x"])
