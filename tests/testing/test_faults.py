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
from proxyfab.errors import CapacityError, ConfigurationError, ConnectorError, KeyExists
from proxyfab.opening import open_connector
from proxyfab.testing import ConnectorTests, FaultyConnector
from proxyfab.testing.conformance.batches import BatchTests
from proxyfab.testing.conformance.objects import ObjectTests
from proxyfab.testing.conformance.payloads import PayloadTests
from proxyfab.testing.faults import faulty_layer
from proxyfab.testing.processes import at_once


class Wrapped(FaultyConnector):
    """Named, so that the suite can open and pickle it by class and URL."""

    @classmethod
    def from_url(cls, url: str, *, name: str | None = None) -> Any:
        return cls(MemoryConnector.from_url(url, name=name))


class TestWrapped(ObjectTests, BatchTests, PayloadTests):
    """Without faults it is as good as what it wraps."""

    connector = Wrapped
    around = True
    crosses_processes = False
    reclaims = False
    on_disk = False
    reads_neighbours = False

    def url_at(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        return "memory://"


@pytest.mark.slow
class TestWrappedAll(TestWrapped, ConnectorTests):
    """Everything, though what it is made of has shown it."""


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


def test_a_lost_answer_leaves_the_work_done(link: FaultyConnector) -> None:
    link.fail("put", done=True)
    with pytest.raises(ConnectorError):
        link.put(Frames([b"x"]), key=Key("k"))
    assert link.child.get(Key("k")) == Frames([b"x"])
    link.fail("get", done=True)
    with pytest.raises(ConnectorError):
        link.get(Key("k"))

    assert link.nbytes == {"put": 1, "get": 1}
    assert link.get(Key("k")) == Frames([b"x"])


def test_a_put_that_breaks_off_has_stored_nothing(link: FaultyConnector) -> None:
    link.fail("put", after=3)
    with pytest.raises(ConnectorError):
        link.put(Frames([b"12345"]), key=Key("k"))

    assert link.nbytes["put"] == 3
    assert not link.child.exists(Key("k"))


def test_what_is_sent_twice_is_answered_by_the_second(link: FaultyConnector) -> None:
    key = link.put(Frames([b"x"]))
    link.repeat("evict")
    assert link.evict(key) is False
    assert link.evict(link.put(Frames([b"x"]))) is True
    link.repeat("put")
    with pytest.raises(KeyExists):
        link.put(Frames([b"x"]), key=Key("k"))
    assert link.child.exists(Key("k"))


def test_jitter_is_the_same_for_the_same_seed() -> None:
    def shares(seed: int) -> list[float]:
        link = FaultyConnector(MemoryConnector(), jitter=1e-6, seed=seed)
        for _ in range(5):
            link.exists(Key("k"))
        return [link._random.random() for _ in range(3)]

    assert shares(1) == shares(1) != shares(2)
    assert not FaultyConnector(MemoryConnector(), jitter=1e-6).local


def test_it_stands_before_a_scheme_for_tests_only() -> None:
    with faulty_layer(), open_connector("faulty+memory://") as one:  # type: ignore[attr-defined]
        one.fail("get")
        with pytest.raises(ConnectorError):
            one.get(Key("k"))
        assert one.spec.startswith("memory://")
    with pytest.raises(ConfigurationError):
        open_connector("faulty+memory://")
