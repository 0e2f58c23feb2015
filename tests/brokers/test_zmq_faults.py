"""What becomes of zmq:// brokers when servers and clients end, stop, are cut off, lie, or ask for too much."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from proxyfab.brokers.zmq import ZmqBroker
from proxyfab.connectors.zmq.connector import ZMQConnector
from proxyfab.errors import (
    AccessDenied,
    BackPressureError,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    TopicNotFound,
)
from proxyfab.events.model import Record, Topic
from proxyfab.keyring import Keyring
from proxyfab.keys import Key
from proxyfab.testing import Cable, Child, in_fork, until
from proxyfab.testing.brokering import roles
from proxyfab.testing.brokering.flows import fill, numbers, settle, take
from proxyfab.testing.events import EventServer
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.processes import at_once
from proxyfab.wire.messages import NOBODY, decode, encode

PATIENCE = 20.0
HELD = 600.0
"""An `ack_wait` that no test waits for."""


@pytest.fixture
def server() -> Iterator[EventServer]:
    with EventServer() as server:
        yield server


@pytest.fixture
def broker(server: EventServer) -> Iterator[ZmqBroker]:
    with ZmqBroker.from_url(f"{server.url}?timeout=10") as broker:
        broker.ensure(Topic("t"))
        yield broker


# -- the server ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_is_told_at_once(server: EventServer, broker: ZmqBroker) -> None:
    member = broker.subscribe("t", group="g")
    started = time.monotonic()
    told, _ = at_once([lambda: member.fetch(1, 60), lambda: until(lambda: False, 0.3) or server.kill()])

    assert isinstance(told, ConnectorError), told
    assert time.monotonic() - started < 10
    for use in (broker.topics, lambda: fill(broker, "t", 1), lambda: member.fetch(1, 1), broker.ping):
        with pytest.raises(ConnectorError, match="proxyfab broker"):
            use()
    broker.close()  # which has nobody to say it to


def test_after_a_restart_topics_are_gone(server: EventServer, broker: ZmqBroker) -> None:
    fill(broker, "t", 3)
    member, reader = broker.subscribe("t", group="g"), broker.subscribe("t", group=None)
    assert numbers(take(member, 2, PATIENCE)) == [0, 1]
    server.restart()

    with pytest.raises(TopicNotFound):
        fill(broker, "t", 1)
    with pytest.raises(TopicNotFound, match="started anew"):
        member.fetch(1, 5)
    with pytest.raises(TopicNotFound):
        reader.fetch(1, 5)

    broker.ensure(Topic("t"))
    fill(broker, "t", 1, 7)
    with pytest.raises(TopicNotFound, match="started anew"):  # its group is not that one
        member.fetch(1, 5)
    with broker.subscribe("t", group="g") as again:
        assert numbers(settle(again, 1, PATIENCE)) == [7]


def test_acknowledgements_that_were_not_confirmed_are_told(server: EventServer, broker: ZmqBroker) -> None:
    fill(broker, "t", 1)
    member = broker.subscribe("t", group="g")
    found = take(member, 1, PATIENCE)
    server.pause()
    member.ack(found)
    server.kill()

    with pytest.raises(ConnectorError, match="may come again|failed"):
        member.flush(5)
    with contextlib.suppress(ConnectorError):
        member.close()


def test_a_server_that_stands_still_costs_no_more_than_the_deadline(server: EventServer, broker: ZmqBroker) -> None:
    with ZmqBroker.from_url(f"{server.url}?timeout=1") as hasty:
        assert hasty.topics() == ["t"]
        server.pause()
        started = time.monotonic()
        with pytest.raises(ConnectorError):
            hasty.topics()
        with pytest.raises(ConnectorError):
            hasty.publish("t", [Record(b"x")], timeout=1)
        assert time.monotonic() - started < 15
        server.resume()
        assert until(lambda: _answers(hasty))


def _answers(broker: ZmqBroker) -> bool:
    try:
        return broker.topics() == ["t"]
    except ConnectorError:
        return False


def test_nobody_is_there() -> None:
    with ZmqBroker("127.0.0.1:1", timeout=5) as broker, pytest.raises(ConnectorError, match="no server listens"):
        broker.topics()


def test_a_node_server_is_no_broker() -> None:
    with NodeServer() as server, ZmqBroker(f"127.0.0.1:{server.port}", timeout=5) as broker:
        with pytest.raises(
            ConnectorError, match=rf"node server .* open it with Store\('zmq://127.0.0.1:{server.port}'\)"
        ):
            broker.topics()


def test_a_broker_is_no_node_server(server: EventServer) -> None:
    with ZMQConnector.from_url(f"{server.url}?timeout=5") as one:
        with pytest.raises(ConnectorError, match=rf"broker for topics .* open it with open_broker\('{server.url}'\)"):
            one.get(Key("k"))
        *_, last = one.diagnose()
    assert (last.check, last.state) == ("server", "fail")
    assert "`proxyfab doctor --broker`" in last.detail


@pytest.mark.parametrize("objects", [False, True])
def test_where_nobody_listens_the_error_tells_of_nothing_else(objects: bool) -> None:
    with EventServer() as server:
        url = f"{server.url}?timeout=0.3"
    with ZMQConnector.from_url(url) if objects else ZmqBroker.from_url(url) as one:
        with pytest.raises(ConnectorError, match="no server listens there") as caught:
            one.get(Key("k")) if isinstance(one, ZMQConnector) else one.topics()
    told, error = [], caught.value.__cause__
    while error is not None:
        told.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    assert told == ["Broken", "Again"]


# -- clients ---------------------------------------------------------------------------------------------------------


def test_what_a_killed_client_held_comes_at_once(server: EventServer, broker: ZmqBroker) -> None:
    fill(broker, "t", 3)
    with broker.subscribe("t", group="g", ack_wait=HELD) as member, Child(roles.hold, broker, "t", 3, 1, HELD) as child:
        child.receive()
        child.kill()
        killed = time.monotonic()
        assert numbers(settle(member, 2, PATIENCE)) == [1, 2]
        assert time.monotonic() - killed < HELD / 10


def test_what_a_stopped_client_held_comes_after_its_heartbeats(server: EventServer, broker: ZmqBroker) -> None:
    fill(broker, "t", 2)
    with broker.subscribe("t", group="g", ack_wait=HELD) as member, Child(roles.hold, broker, "t", 2, 0, HELD) as child:
        child.receive()
        os.kill(child.pid, signal.SIGSTOP)
        assert numbers(settle(member, 2, PATIENCE)) == [0, 1]


def test_a_cut_connection_is_made_anew(server: EventServer) -> None:
    """The next fetch is a new member of the same group; what the old one held comes again."""
    with Cable(f"127.0.0.1:{server.port}") as cable, ZmqBroker.from_url(cable.through(server.url)) as broker:
        broker.ensure(Topic("t"))
        fill(broker, "t", 4)
        with broker.subscribe("t", group="g", ack_wait=HELD) as member:
            found = take(member, 2, PATIENCE)
            member.ack(found[:1])
            member.flush()
            cable.reset()
            assert sorted(numbers(settle(member, 3, PATIENCE))) == [1, 2, 3]
            assert member.info().lag == 0


def test_a_publish_whose_answer_was_lost_is_sent_again_once(server: EventServer) -> None:
    with Cable(f"127.0.0.1:{server.port}") as cable, ZmqBroker.from_url(cable.through(server.url)) as broker:
        broker.ensure(Topic("t"))
        for number in range(20):
            cable.cut_after(60 + 25 * number, "down")
            with contextlib.suppress(ConnectorError):
                broker.publish("t", [Record(b"%d" % number, f"id-{number}")])
            cable.heal()
            broker.publish("t", [Record(b"%d" % number, f"id-{number}")])
        with broker.subscribe("t", group="g") as member:
            assert numbers(take(member, 20, PATIENCE)) == list(range(20))
            assert member.info().undelivered == 0


def test_a_subscription_stays_with_its_process(broker: ZmqBroker) -> None:
    fill(broker, "t", 1)
    with broker.subscribe("t", group="g") as member:

        def child() -> str:
            try:
                member.fetch(1, 1)
            except ConnectorError as error:
                member.close()
                return str(error)
            return ""

        assert "subscribe again" in in_fork(child)
        assert numbers(settle(member, 1, PATIENCE)) == [0]


# -- what others say -------------------------------------------------------------------------------------------------


def _frames() -> list[list[bytes]]:
    said: list[list[bytes]] = [[b""], [b"\xff" * 100], [b"x"] * 5000, [encode("nonsense", b"r" * 16, {})]]
    said += [
        [encode(verb, b"r" * 16, fields), *body]
        for verb, fields, body in [
            ("publish", {}, []),
            ("publish", {"topic": "t", "i": [None], "k": [None], "z": [5], "p": [0]}, [b"four"]),
            ("publish", {"topic": "t", "i": [None], "k": [None], "z": [1 << 60], "p": [0]}, [b"x"]),
            ("publish", {"topic": "t", "i": [None], "k": [None], "z": [1], "p": [1 << 60]}, [b"x"]),
            ("publish", {"topic": "t", "i": ["x" * 9999], "k": [None], "z": [1], "p": [0]}, [b"x"]),
            ("publish", {"topic": "t", "i": [None, None], "k": [None], "z": [0, 1], "p": [0, 0]}, [b"x"]),
            ("fetch", {"m": b"\0" * 16, "n": 1, "t": 1.0}, []),
            ("fetch", {"m": "text"}, []),
            ("ensure", {"name": "t"}, []),
            ("ensure", {"name": "../x", "partitions": 1, "groups": [], "full": "reject", "window": 1.0}, []),
            ("join", {"topic": "t", "group": "g", "start": [[0, -1]], "wait": 1.0}, []),
            ("join", {"topic": "t", "group": "g", "wait": float("nan")}, []),
            ("read", {"topic": "t", "n": 1, "c": [[99, 1]], "log": 1}, []),
            ("watch", {"topic": "t", "known": {"a": "b"}}, []),
            ("put", {"topic": "t", "name": "k" * 999}, [b"x"]),
            ("ack", {"m": b"\0" * 16, "s": [1]}, []),
            ("topics", {"after": 5}, []),
        ]
    ]
    return said


def test_whatever_one_says_the_others_are_served(server: EventServer, broker: ZmqBroker) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.rcvtimeo = int(PATIENCE * 1000)
        raw.connect(server.ready["endpoints"][0])
        for parts in _frames():
            raw.send_multipart(parts)
            answer = raw.recv_multipart()
            assert decode(answer).verb == "error", parts
        raw.send(encode("ack", NOBODY, {"m": b"\0" * 16, "s": [0, 1]}))  # one way: nobody is told
        raw.send(encode("hello", b"r" * 16, {}))
        assert decode(raw.recv_multipart()).verb == "ok"
    fill(broker, "t", 1)
    assert broker.describe("t").records == 1


def test_a_frame_that_is_too_large_ends_its_connection(server: EventServer, broker: ZmqBroker) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(server.ready["endpoints"][0])
        raw.send_multipart([encode("publish", b"r" * 16, {}), bytes(5 << 20)])
        raw.rcvtimeo = 300
        with pytest.raises(zmq.Again):
            raw.recv()
    assert broker.topics() == ["t"]


def test_one_connection_waits_and_joins_so_often_only(server: EventServer, broker: ZmqBroker) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.rcvtimeo = int(PATIENCE * 1000)
        raw.connect(server.ready["endpoints"][0])
        for number in range(40):
            raw.send(encode("watch", b"%016d" % number, {"topic": "t", "known": {"k": 0}, "t": 60.0}))
        for _ in range(40 - 32):
            assert decode(raw.recv_multipart()).fields["kind"] == "CapacityError"
        broker.state("t").put("k", b"1")  # and those who were let in are told
        assert all([decode(raw.recv_multipart()).verb == "ok" for _ in range(32)])


def test_all_topics_together_have_a_bound() -> None:
    with EventServer(memory=4 << 20) as server, ZmqBroker.from_url(server.url) as broker:
        broker.ensure(Topic("a", groups=("g",)))
        broker.ensure(Topic("b"))
        with pytest.raises(BackPressureError, match="--memory"):
            for number in range(2000):
                broker.publish("ab"[number % 2], [Record(bytes(10_000))])
        before = server.memory()
        with broker.subscribe("a", group="g") as member:  # what is done makes room, in any topic
            while found := member.fetch(64, 0.2):
                member.ack(found)
        broker.publish("b", [Record(bytes(1_000_000))])
        assert server.memory() < before + (8 << 20)
        with pytest.raises(CapacityError):
            for number in range(10):
                broker.state("a").put(f"v/{number}", bytes(500_000))


# -- who may ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keyring:
    monkeypatch.setenv("PROXYFAB_KEYS", str(tmp_path / "keys"))
    keyring = Keyring()
    keyring.make("curve", "server")
    keyring.make("curve", "client")
    return keyring


def test_curve_lets_in_who_is_on_the_list(keyring: Keyring) -> None:
    public = keyring.curve("server")[0].decode()
    with EventServer(key="server") as server:
        with ZmqBroker(server.url[6:], timeout=5) as broker, pytest.raises(AccessDenied, match="CURVE"):
            broker.topics()
        with ZmqBroker(server.url[6:], key=public, timeout=5) as broker:
            with pytest.raises(AccessDenied, match="does not let this client's key in"):
                broker.topics()
            keyring.allow("server", keyring.curve("client")[0], "me")
            broker.ensure(Topic("t"))
            fill(broker, "t", 1)
            with broker.subscribe("t", group="g") as member:
                assert numbers(settle(member, 1, PATIENCE)) == [0]
            secret = bytes(keyring.curve("client")[1]).decode()
            assert secret not in broker.url + repr(broker)


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0"])
def test_beyond_loopback_only_with_a_key(bind: str) -> None:
    with pytest.raises(AssertionError, match="--key"):
        EventServer(bind=bind).start()


def test_a_socket_of_this_machine(tmp_path: Path) -> None:
    with EventServer(bind=f"ipc://{tmp_path}/events") as server, ZmqBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        fill(broker, "t", 1)
        with broker.subscribe("t", group="g") as member:
            assert numbers(settle(member, 1, PATIENCE)) == [0]


@pytest.mark.parametrize(
    "url",
    [
        "zmq://",
        "zmq://host",
        "zmq://host:0",
        "zmq://host:99999",
        "zmq://host:1/path",
        "zmq://host:1?timeout=x",
        "zmq://host:1?timeout=0",
        "zmq://host:1?nonsense=1",
        "lz4+zmq://host:1",
    ],
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError):
        ZmqBroker.from_url(url)


@pytest.mark.parametrize("url", ["zmq://h:1", "zmq:///run/x", "zmq://h:1?key=abc&as=me&timeout=5"])
def test_a_url_comes_back(url: str) -> None:
    assert ZmqBroker.from_url(url).url == url


def test_a_term_ends_the_server(server: EventServer, broker: ZmqBroker) -> None:
    status, said = server.end()
    assert (status, said) == (0, "")
