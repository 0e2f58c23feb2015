"""redis:// brokers when servers die, cables break, memory is full, or somebody may not do everything."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from proxyfab.brokers.redis import RedisBroker
from proxyfab.errors import AccessDenied, CapacityError, ConfigurationError, ConnectorError, TopicNotFound
from proxyfab.events.broker import Broker
from proxyfab.events.model import EARLIEST, Grant, Position, Record, Topic
from proxyfab.testing import Cable, until
from proxyfab.testing.processes import at_once
from proxyfab.testing.servers import RedisServer, redis_cluster, redis_watched

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    with RedisServer(DURABLE) as server:
        yield server


def opened(server: RedisServer, extra: str = "") -> RedisBroker:
    return RedisBroker.from_url(f"{server.url}/0{extra}")


def everything(broker: Broker, topic: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    with broker.subscribe(topic, group=None) as reader:
        while len(found) < count and (some := reader.fetch(100, 5.0)):
            found += [each.body for each in some]
    return found


# -- the server's death --------------------------------------------------------------------------------------------


def test_nothing_acknowledged_is_lost_with_the_server(durable: RedisServer) -> None:
    """A publisher goes on through three kills: what it was told lies there once, in its order."""
    taken: list[tuple[Position, bytes]] = []
    stop = threading.Event()
    failed: list[BaseException] = []

    def publish() -> None:
        with opened(durable) as broker:
            number = 0
            while not stop.is_set():
                record = Record(b"%d" % number, f"p-{number}")
                try:
                    (position,) = broker.publish("t", [record])
                except ConnectorError:
                    continue  # it is sent again, with the same id
                except BaseException as error:
                    failed.append(error)
                    raise
                taken.append((position, record.body))
                number += 1

    with opened(durable) as broker:
        broker.ensure(Topic("t", groups=("g",)))
        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for _ in range(3):
                before = len(taken)
                assert until(lambda before=before: len(taken) > before + 50 or failed)  # type: ignore[misc]
                durable.kill()
                durable.start()
        finally:
            stop.set()
            thread.join(60)
        assert not failed
        assert everything(broker, "t", len(taken))[: len(taken)] == [body for _, body in taken]
        assert [position.offset for position, _ in taken] == list(range(1, len(taken) + 1))


def test_groups_and_values_outlive_the_server(durable: RedisServer) -> None:
    with opened(durable) as broker:
        broker.ensure(Topic("t", partitions=2, retention=1000.0, options={"selector": "hash"}))
        broker.publish("t", [Record(b"%d" % number, partition=number % 2) for number in range(6)])
        revision = broker.state("t").put("k", b"v")
        member = broker.subscribe("t", group="g", ack_wait=60)
        first = member.fetch(3, 5.0)
        member.ack(first[:1])
        member.nack(first[1:2], note=b"half")
        member.flush()
        durable.kill()
        durable.start()

        assert broker.state("t").get("k") == (b"v", revision)
        assert broker.groups("t")["g"].lag == 5
        again = member.fetch(1, 5.0)
        assert (again[0].body, again[0].attempt, again[0].note) == (first[1].body, 2, b"half")
        assert broker.describe("t").topic.options == {"selector": "hash"}
        member.close()


def test_a_server_that_lost_everything() -> None:
    with RedisServer() as server, opened(server) as broker:
        broker.ensure(Topic("t"))
        for group in ("g", None):
            broker.ensure(Topic("t"))
            with broker.subscribe("t", group=group) as some, contextlib.closing(server.client()) as client:
                told, _ = at_once([partial(some.fetch, 1, 60.0), client.flushall])
                assert isinstance(told, TopicNotFound), told
                assert "lost" in str(told)
                with pytest.raises(TopicNotFound):
                    broker.publish("t", [Record(b"x")])


def test_nobody_there() -> None:
    with RedisServer() as server:
        url = f"{server.url}/0?timeout=1"
    with RedisBroker.from_url(url) as broker:
        for ask in (broker.topics, partial(broker.publish, "t", [Record(b"x")], timeout=1.0)):
            with pytest.raises(ConnectorError, match="Is the server running"):
                ask()


def test_a_stopped_server_costs_no_more_than_the_deadline(durable: RedisServer) -> None:
    with opened(durable) as broker:
        broker.ensure(Topic("t"))
        durable.stop()
        try:
            with pytest.raises(ConnectorError, match="not finished within"):
                broker.publish("t", [Record(b"x", "one")], timeout=0.5)
        finally:
            durable.go_on()
        (position,) = broker.publish("t", [Record(b"x", "one")])
        assert position.offset == 1
        assert broker.describe("t").records == 1


# -- the cable -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cabled(redis_server: RedisServer) -> Iterator[tuple[RedisBroker, Cable]]:
    url = redis_server.database()
    with Cable(f"127.0.0.1:{redis_server.port}") as cable, RedisBroker.from_url(cable.through(url)) as broker:
        broker.ensure(Topic("t"))
        yield broker, cable


def broken(cable: Cable) -> None:
    cable.cut()
    cable.heal()


def test_a_cut_in_publishing(cabled: tuple[RedisBroker, Cable]) -> None:
    """The answer is lost on its way; the second time says where the record lies."""
    broker, cable = cabled
    for number in range(1, 6):
        cable.pause("down")
        name = f"r-{number}" if number % 2 else ""

        def cut() -> None:
            carried = cable.carried("up")
            assert until(lambda: cable.carried("up") > carried + 10)
            broken(cable)

        found, _ = at_once([partial(broker.publish, "t", [Record(b"x", name)]), cut])
        assert found == [Position("t", 0, number)]
    assert broker.describe("t").records == 5


def test_a_cut_in_fetching_and_acknowledging(cabled: tuple[RedisBroker, Cable]) -> None:
    broker, cable = cabled
    broker.publish("t", [Record(b"%d" % number) for number in range(20)])
    done: list[bytes] = []
    with broker.subscribe("t", group="g", ack_wait=1.0) as member:
        while len(done) < 20:
            found = member.fetch(4, 10.0)
            broken(cable)
            member.ack(found)
            broken(cable)
            member.flush()
            done += [each.body for each in found]
        assert broker.groups("t")["g"].lag == 0
    assert sorted(set(done)) == sorted(b"%d" % number for number in range(20))


def test_a_cut_while_waiting(cabled: tuple[RedisBroker, Cable], redis_server: RedisServer) -> None:
    broker, cable = cabled
    with broker.subscribe("t", group="g") as member:

        def cut() -> None:
            assert until(lambda: cable.live >= 1)
            broken(cable)
            broker.publish("t", [Record(b"later")])

        found, _ = at_once([partial(member.fetch, 1, 30.0), cut])
        assert [each.body for each in found] == [b"later"]


# -- room ------------------------------------------------------------------------------------------------------------


def test_memory_is_full() -> None:
    with RedisServer({"maxmemory": "20mb", "maxmemory-policy": "noeviction"}) as server, opened(server) as broker:
        broker.ensure(Topic("t"))
        body = bytes(1 << 20)
        with pytest.raises(CapacityError, match="memory is full"):
            for number in range(40):
                broker.publish("t", [Record(body, f"r-{number}")])
        held = broker.describe("t").records
        assert 0 < held < 40
        assert len(everything(broker, "t", held)) == held
        assert broker.delete("t")
        broker.ensure(Topic("t"))
        assert broker.publish("t", [Record(body)])[0].offset == 1


def test_what_a_full_server_holds_can_be_read_and_settled() -> None:
    with RedisServer({"maxmemory-policy": "noeviction"}) as server, opened(server) as broker:
        broker.ensure(Topic("t"))
        broker.publish("t", [Record(b"%d" % number, f"r-{number}") for number in range(40)])
        with contextlib.closing(server.client()) as client:
            client.config_set("maxmemory", "1mb")
        with pytest.raises(CapacityError, match="memory is full"):
            broker.publish("t", [Record(b"more")])
        with broker.subscribe("t", group="g", ack_wait=30) as member:
            first, *others = member.fetch(40, 5)
            member.nack([first], note=b"later")
            member.extend(others)
            (again,) = member.fetch(1, 5)
            assert (again.body, again.attempt, again.note) == (b"0", 2, b"later")
            member.ack([again, *others[:-1]])
        state = broker.state("t")
        assert state.put("checkpoint", b"done", revision=0) == 1
        assert state.delete("checkpoint")
        with broker.subscribe("t", group="g") as member:
            (last,) = member.fetch(40, 5)
            assert (last.body, last.attempt) == (b"39", 2), "what a member owed that has left comes again"
        assert broker.cut("t", {0: 39}) == 39
        assert broker.delete_group("t", "g")
        assert broker.delete("t")


# -- who may ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_grants(guarded: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(guarded) as admin, contextlib.closing(guarded.client()) as client:
        client.execute_command("ACL SETUSER", "ann", "on", ">hush", "(+get ~theirs)")
        for name in ("a.b", "a.c", "other"):
            admin.ensure(Topic(name))
        admin.grant("ann", "a.*", ["publish"])
        admin.grant("ann", "a.b", ["subscribe"])
        assert admin.grants() == [
            Grant("ann", "a.*", frozenset({"publish"})),
            Grant("ann", "a.b", frozenset({"subscribe"})),
        ]

        with RedisBroker.from_url(f"redis://ann:hush@127.0.0.1:{guarded.port}/0") as ann:
            assert "hush" not in ann.url + repr(ann) + repr(pickle.dumps(ann))
            ann.publish("a.b", [Record(b"1")])
            ann.publish("a.c", [Record(b"1")])
            with ann.subscribe("a.b", group="g") as member:
                found = member.fetch(1, 5.0)
                member.ack(found)
                assert [each.body for each in found] == [b"1"]
            ann.state("a.c").put("producers/x", b"1")
            for refused in (
                partial(ann.subscribe, "a.c", group="g"),
                partial(ann.publish, "other", [Record(b"1")]),
                partial(ann.describe, "other"),
                partial(ann.delete, "a.b"),
                partial(ann.ensure, Topic("new")),
                partial(ann.grant, "ann", "*", ["admin"]),
            ):
                with pytest.raises(AccessDenied):
                    refused()
            assert admin.revoke("ann", "a.*")
            assert not admin.revoke("ann", "a.*")
            with pytest.raises(AccessDenied):
                ann.publish("a.c", [Record(b"1")])
            admin.grant("ann", "a.c", ["admin", "publish"])
            assert ann.delete("a.c")
        assert "~theirs" in str(client.acl_getuser("ann"))


def test_who_may_only_read(guarded: RedisServer) -> None:
    with opened(guarded) as admin, contextlib.closing(guarded.client()) as client:
        admin.ensure(Topic("t", groups=("g",)))
        admin.publish("t", [Record(b"1")])
        rules = "+ping +time +evalsha_ro +eval_ro +@read %R~{pf:t}:*"
        client.execute_command("ACL SETUSER", "eve", "on", ">hush", *rules.split())
        with RedisBroker.from_url(f"redis://eve:hush@127.0.0.1:{guarded.port}/0") as eve:
            assert everything(eve, "t", 1) == [b"1"]
            assert eve.describe("t").records == 1
            assert eve.groups("t")["g"].lag == 1
            for refused in (
                partial(eve.publish, "t", [Record(b"2")]),
                partial(eve.subscribe, "t", group="g"),
                partial(eve.delete, "t"),
                partial(eve.state("t").put, "k", b"v"),
            ):
                with pytest.raises(AccessDenied):
                    refused()
        assert admin.describe("t").records == 1


def test_a_wrong_password(guarded: RedisServer) -> None:
    with RedisBroker.from_url(f"redis://ann:wrong@127.0.0.1:{guarded.port}/0") as broker:
        with pytest.raises(AccessDenied) as caught:
            broker.topics()
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_grants_that_make_no_sense(guarded: RedisServer) -> None:
    with opened(guarded) as admin:
        for principal, topic, actions in (("a b", "t", ["publish"]), ("a", "t}", ["publish"]), ("a", "t", ["fly"])):
            with pytest.raises(ConfigurationError):
                admin.grant(principal, topic, actions)


# -- other places ----------------------------------------------------------------------------------------------------


def through(broker: Broker) -> None:
    """Everything once."""
    for name in ("one", "two", "three.four"):
        broker.ensure(Topic(name, partitions=2))
        broker.publish(name, [Record(b"%d" % number, f"r{number}", number % 2) for number in range(10)])
        with broker.subscribe(name, group="g", start=EARLIEST) as member:
            found: list[bytes] = []
            while len(found) < 10:
                some = member.fetch(10, 5.0)
                member.ack(some)
                found += [each.body for each in some]
        assert sorted(found) == sorted(b"%d" % number for number in range(10))
        assert broker.groups(name)["g"].lag == 0
        state = broker.state(name)
        assert state.wait({"k": 0}, 0.01) == {}
        assert state.put("k", b"v") == 1
    assert broker.topics() == ["one", "three.four", "two"]
    assert broker.delete("two")
    assert broker.topics() == ["one", "three.four"]


def test_a_cluster() -> None:
    with redis_cluster() as servers, RedisBroker.from_url(f"{servers[0].url}/0?cluster=1") as broker:
        through(broker)


def test_a_master_that_sentinels_watch() -> None:
    with redis_watched() as watched, RedisBroker.from_url(watched.url) as broker:
        through(broker)


def test_with_tls() -> None:
    with RedisServer(tls=True) as server:
        url = f"{server.url}/0?ca={server.directory}/ca.pem"
        with RedisBroker.from_url(url) as broker:
            through(broker)
            with broker.subscribe("one", group="g") as member:
                found, _ = at_once([partial(member.fetch, 1, 60.0), member.close])
                assert found == [] or isinstance(found, ConnectorError)


def test_its_keys_only(redis_server: RedisServer) -> None:
    url = redis_server.database()
    with (
        RedisBroker.from_url(url) as broker,
        contextlib.closing(redis_server.client(db=int(url.rsplit("/")[-1]))) as db,
    ):
        db.set("theirs", b"1")
        through(broker)
        for name in broker.topics():
            broker.delete(name)
        assert until(lambda: db.keys("*") == [b"theirs"])  # bells of deleted topics are gone in a second
