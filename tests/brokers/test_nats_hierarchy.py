"""Edge, site and hub: three real servers, a cable that is cut, and a stream that crosses."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.brokers.nats.gathering import flows, gather, nudge
from proxyfab.brokers.nats.naming import key_of, value_of
from proxyfab.errors import ConfigurationError
from proxyfab.events.topology import Held, Topology
from proxyfab.events.topology_text import render
from proxyfab.patterns.stream.consumer import Consumer
from proxyfab.patterns.stream.producer import Producer
from proxyfab.store import open_store
from proxyfab.testing import Cable, until
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import free_port

TOPOLOGY = """
[servers.hub]
role = "hub"
address = "127.0.0.1:{hub}"
leaf = "127.0.0.1:{hub_leaf}"
store = "{store}/hub"

[servers.site]
role = "site"
address = "127.0.0.1:{site}"
leaf = "127.0.0.1:{site_leaf}"
upstream = "hub"
via = "{cable}"
store = "{store}/site"

[servers.edge]
role = "edge"
address = "127.0.0.1:{edge}"
upstream = "site"
store = "{store}/edge"

[topics.frames]
from = ["edge"]
to = "hub"
partitions = 2
"""


class Hierarchy:
    """Three servers, with a cable between site and hub."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        ports = {name: free_port() for name in ("hub", "hub_leaf", "site", "site_leaf", "edge")}
        self.cable = stack.enter_context(Cable(f"127.0.0.1:{ports['hub_leaf']}"))
        self.topology = Topology.parse(TOPOLOGY.format(**ports, cable=self.cable.address, store=directory))
        self.servers: dict[str, NatsServer] = {}
        self.brokers: dict[str, NatsBroker] = {}
        for name in self.topology.servers:
            server = self.servers[name] = NatsServer(render(self.topology, name))
            server.port = ports[name]
            stack.enter_context(server)
            self.brokers[name] = stack.enter_context(NatsBroker.from_url(self.topology.url(name)))
        self.held: dict[str, Held] = {held.server: held for held in self.topology.held("frames")}
        far = stack.enter_context(NatsBroker.from_url(self.topology.url("hub", domain="edge")))
        assert until(lambda: linked(far)), "the links do not come up"
        for held in self.held.values():
            gather(self.brokers[held.server], held)
        assert until(lambda: not any(self.quiet(name) for name in self.servers)), "nothing comes from below"

    def quiet(self, name: str) -> list[str]:
        """Streams of a server that nothing comes into."""
        return [flow.stream for flow in flows(self.brokers[name], self.held[name]) if flow.quiet]

    def records(self, name: str) -> int:
        """How many there are."""
        return self.brokers[name].describe("frames").records


def linked(broker: NatsBroker) -> bool:
    with contextlib.suppress(Exception):
        return broker.ping(0.5) < 0.5
    return False


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Hierarchy]:
    with contextlib.ExitStack() as stack:
        yield Hierarchy(tmp_path, stack)


def read(url: str, into: list[object], group: str | None = "analysis") -> threading.Thread:
    """A consumer of all of the stream, in a thread of its own."""

    def work() -> None:
        with (
            NatsBroker.from_url(url) as broker,
            Consumer(broker, "frames", group=group or "-", observe=group is None) as found,
        ):
            for each in found.objects():
                into.append(each)  # noqa: PERF402 - seen while it grows

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_events_cross_a_link_that_is_cut_once_and_in_order(three: Hierarchy) -> None:
    """Also the end of the stream, which must not be there before the events."""
    found: list[object] = []
    reader = read(three.topology.url("hub"), found)
    with Producer(three.brokers["edge"], "frames", name="cam") as producer:
        for number in range(300):
            producer.send(number, key="one")
        producer.flush()
        assert until(lambda: len(found) == 300)
        three.cable.cut()
        for number in range(300, 900):  # nobody above is there, and nothing waits for it
            producer.send(number, key="one")
        producer.end()
    assert len(found) == 300
    three.cable.heal()
    reader.join(60)
    assert found == list(range(900))


def test_an_end_does_not_overtake(three: Hierarchy) -> None:
    """A consumer that begins when all is over, and the values have crossed, finds all there is."""
    three.cable.cut()
    with Producer(three.brokers["edge"], "frames", name="cam") as producer:
        for number in range(500):
            producer.send(number, partition=number % 2)
        producer.end()
    three.cable.heal()
    assert until(lambda: bool(three.brokers["hub"].state("frames").items("producers/")))
    found: list[object] = []
    for each in [read(three.topology.url("hub"), found, None), read(three.topology.url("hub"), more := list[object]())]:
        each.join(60)
    assert sorted(map(int, map(str, found))) == sorted(map(int, map(str, more))) == list(range(500))
    assert [number for number in found if int(str(number)) % 2] == list(range(1, 500, 2))


def test_where_all_is_gathered_there_are_producers_too(three: Hierarchy) -> None:
    found: list[object] = []
    with (
        Producer(three.brokers["edge"], "frames", name="at-edge") as below,
        Producer(three.brokers["hub"], "frames", name="at-hub") as above,
    ):
        below.send("edge")
        above.send("hub")
        state = three.brokers["hub"].state("frames")
        assert until(lambda: len(state.items("producers/")) == 2)
        below.end()
        above.end()
        read(three.topology.url("hub"), found).join(60)
    assert sorted(map(str, found)) == ["edge", "hub"]
    assert three.records("edge") == 3  # its event, and an end for each partition
    assert (three.records("site"), three.records("hub")) == (3, 6)


def test_a_hub_that_was_started_again_is_nudged(three: Hierarchy) -> None:
    with Producer(three.brokers["edge"], "frames", name="cam") as producer:
        producer.send(0)
        producer.flush()
        assert until(lambda: three.records("hub") == 1)
        three.servers["hub"].kill()
        three.servers["hub"].start()
        producer.send(1)
        producer.end()
    far = NatsBroker.from_url(three.topology.url("hub", domain="edge"))
    with far:
        assert until(lambda: linked(far))
    quiet = three.quiet("hub")
    assert "pf_frames" in quiet
    for stream in quiet:
        nudge(three.brokers["hub"], stream)
    assert until(lambda: three.records("hub") == 4, 10)
    found: list[object] = []
    read(three.topology.url("hub"), found).join(30)
    assert sorted(map(int, map(str, found))) == [0, 1]


def test_references_cross_and_objects_stay(three: Hierarchy, tmp_path: Path) -> None:
    payload = bytes(1 << 20)
    with (
        open_store(f"file://{tmp_path}/objects") as store,
        Producer(three.brokers["edge"], "frames", store=store) as producer,
    ):
        producer.send(payload)
        producer.end()
        with Consumer(three.brokers["hub"], "frames") as consumer:
            assert [bytes(each) for each in consumer.objects()] == [payload]
    assert three.brokers["hub"].describe("frames").nbytes < 10_000


@pytest.mark.parametrize("name", ["producers/cam", "a/b/c", "a/", "/a", "a.b/c", "plain", "=x/y.z"])
def test_kinds_of_values_are_told_apart_by_subject(name: str) -> None:
    assert value_of(key_of(name)) == name
    kind, slash, _ = name.partition("/")
    assert key_of(name).startswith(f"{kind}./") == bool(slash and kind and "." not in kind)


def test_no_two_values_have_one_key() -> None:
    with pytest.raises(ConfigurationError, match="leave out its first dot"):
        key_of("producers./cam")
