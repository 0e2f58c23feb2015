"""From a URL to a broker: one for each, of whatever is installed, and received ones as far as a policy allows."""

from __future__ import annotations

import gc
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab import policy, registry
from proxyfab.brokers import open_broker
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.brokers.opening import received_broker
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.handle import broker_of
from proxyfab.events.model import Record, Topic
from proxyfab.testing import in_fork
from proxyfab.testing.processes import ChildFailed, at_once, run, until
from proxyfab.testing.roles import give_back


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somebody else's package with a broker in it, as pip would have installed it."""
    (tmp_path / "strangebroker.py").write_text(
        "from proxyfab.brokers.memory import MemoryBroker\n"
        "class Strange(MemoryBroker):\n"
        "    @classmethod\n"
        "    def from_url(cls, url):\n"
        "        self = cls('strange')\n"
        "        self.url = url\n"
        "        return self\n"
    )
    info = tmp_path / "strangebroker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangebroker\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[proxyfab.brokers]\nstrange = strangebroker:Strange\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_loaded", {})
    yield
    sys.modules.pop("strangebroker", None)


def test_one_for_each_url() -> None:
    with open_broker("memory://opening-one") as one:
        others: list[Broker] = [open_broker(one.url), pickle.loads(pickle.dumps(one))]
        for other in others:
            assert broker_of(other) is broker_of(one)
            other.close()
        own = broker_of(one)
    assert own.closed
    with open_broker("memory://opening-one") as again:
        assert broker_of(again) is not own
        assert not again.closed


def test_one_that_closes_harms_nobody() -> None:
    one, two = open_broker("memory://"), open_broker("memory://")
    own = broker_of(one)
    one.ensure(Topic("t"))
    mine, theirs = one.subscribe("t", group="g"), two.subscribe("t", group="g")
    one.close()
    one.close()
    assert (one.closed, two.closed, own.closed) == (True, False, False)
    with pytest.raises(ConnectorError, match="closed"):
        one.topics()
    with pytest.raises(ConnectorError, match="closed"):
        mine.fetch(1, 0.0)
    two.publish("t", [Record(b"x")])
    assert [each.body for each in theirs.fetch(1, 5.0)] == [b"x"]
    two.close()
    assert own.closed


def test_one_that_nobody_refers_to_holds_up_nobody() -> None:
    one, two = open_broker("memory://"), open_broker("memory://")
    own = broker_of(one)
    one.close()
    assert not own.closed
    del two
    gc.collect()
    assert until(lambda: own.closed, 10)


def test_one_that_has_just_gone_holds_up_nobody() -> None:
    """Who closes what it has left may be told of its end before anybody else is: the broker stayed open for ever."""
    one, two = open_broker("memory://"), open_broker("memory://")
    own, live, closed = broker_of(one), two._live, list[bool]()
    one.close()
    first = weakref.ref(two, lambda _: (live.end(), closed.append(own.closed)))  # what was made last is called first
    del two
    gc.collect()
    assert (first(), closed) == (None, [True])


def test_what_nobody_closes_stays() -> None:
    open_broker("memory://opening-stays").ensure(Topic("t"))
    gc.collect()
    with open_broker("memory://opening-stays") as again:
        assert again.topics() == ["t"]
        again.delete("t")


def test_threads_open_the_same_one() -> None:
    found = at_once([lambda: open_broker("memory://opening-threads")] * 8)

    assert len({id(broker_of(each)) for each in found}) == 1
    for each in found:
        each.close()


def test_without_a_name_it_is_this_process_s_own() -> None:
    with open_broker("memory://") as one, MemoryBroker() as two:
        one.ensure(Topic("t"))
        assert two.topics() == []
        with open_broker("memory://") as other, open_broker(one.url) as another:
            assert broker_of(other) is broker_of(another) is broker_of(one)


def test_names_are_shared() -> None:
    with MemoryBroker("opening-shared") as one, MemoryBroker("opening-shared") as two:
        one.ensure(Topic("t"))
        assert two.topics() == ["t"]
        assert two.delete("t")


def test_topics_of_no_name_go_with_the_last_of_their_brokers() -> None:
    one = MemoryBroker()
    one.ensure(Topic("t"))
    two = MemoryBroker.from_url(one.url)
    assert two.topics() == ["t"]
    one.close()
    assert two.topics() == ["t"]
    two.close()
    with MemoryBroker.from_url(one.url) as late, pytest.raises(TopicNotFound):
        late.describe("t")


def test_another_process_is_told_where_it_lies() -> None:
    with MemoryBroker() as one:
        one.ensure(Topic("t"))
        with pytest.raises(ChildFailed, match="which is not this one"):
            run(_topics, one)
        assert in_fork(one.topics) == ["t"]
        assert run(give_back, one).url == one.url  # through it, it comes home


def _topics(talk: object, broker: MemoryBroker) -> list[str]:
    return broker.topics()


def test_a_stranger_s_broker(stranger: None) -> None:
    with open_broker("strange://here") as broker:
        assert type(broker_of(broker)).__name__ == "Strange"
        with pickle.loads(pickle.dumps(broker)) as again:
            assert broker_of(again) is broker_of(broker)


@pytest.mark.parametrize("url", ["nonsense://x", "os.path://x", "memory", "", "memory://x?nonsense=1", "memory://a b"])
def test_what_cannot_be_opened(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_broker(url)


@pytest.mark.parametrize("url", ["", "lab", "nats//host"])
def test_what_is_no_url_is_told_what_a_broker_s_looks_like(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a broker's URL: .* nats://host:4222 .*open_broker\(\)"):
        open_broker(url)


def test_what_is_known_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"memory.*zmq"):
        open_broker("nonsense://x")


def test_a_received_broker_is_what_the_policy_allows() -> None:
    with open_broker("memory://opening-policy") as broker:
        packed = pickle.dumps(broker)
        policy.restrict(schemes={"zmq"}, hosts=["*.lab.org"])
        try:
            with pytest.raises(AccessDenied, match="memory"):
                pickle.loads(packed)
            with pytest.raises(AccessDenied, match="evil"):
                received_broker("zmq://evil.org:1")
            with received_broker("zmq://a.lab.org:1") as allowed:
                assert allowed.url == "zmq://a.lab.org:1"
            with open_broker("memory://opening-policy") as own:  # what this process opens itself is its own affair
                assert broker_of(own) is broker_of(broker)
        finally:
            policy.lift()


def test_a_closed_one_says_so() -> None:
    broker = MemoryBroker("opening-closed")
    broker.close()
    with pytest.raises(ConnectorError, match="closed"):
        broker.topics()
