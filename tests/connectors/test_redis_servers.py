"""redis:// on servers that stop, die, fill up, lock their door, are many, or lie behind a broken cable. All real."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector, SecureRedisConnector, bulk, place
from proxyfab.connectors.redis.owners import keeper
from proxyfab.errors import (
    AccessDenied,
    CapacityError,
    ConfigurationError,
    ConnectorError,
    IntegrityError,
    KeyNotFound,
    ObjectLost,
)
from proxyfab.keys import Key
from proxyfab.spec import ConnectorSpec
from proxyfab.testing import Child, in_fork, roles, until
from proxyfab.testing.cable import Cable
from proxyfab.testing.content import content, is_whole, plain, signed
from proxyfab.testing.processes import DEADLINE, at_once
from proxyfab.testing.servers import HOST, RedisServer, redis_cluster, redis_watched

BIG = 3_000_000


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that a test may kill."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def one(redis_server: RedisServer) -> Iterator[RedisConnector]:
    with RedisConnector.from_url(redis_server.database(), name="one") as connector:
        yield connector


def keys_at(url: str) -> list[bytes]:
    """All keys of a database."""
    import redis

    with contextlib.closing(redis.Redis.from_url(url.partition("?")[0])) as client:
        return sorted(client.keys("*"))


# -- servers that stop and die ------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["put", "get", "exists", "wait", "get_many", "put_many"])
def test_a_stopped_server_costs_the_deadline_and_no_more(server: RedisServer, operation: str) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=0.5", name="one") as one:
        key = one.put(signed(100))
        calls = {
            "put": lambda: one.put(signed(BIG)),
            "get": lambda: one.get(key),
            "exists": lambda: one.exists(key),
            "wait": lambda: one.wait(Key("never"), 60),
            "get_many": lambda: one.get_many([key]),
            "put_many": lambda: one.put_many([signed(BIG)]),
        }
        server.stop()
        started = time.monotonic()
        with pytest.raises(ConnectorError, match=f"{operation}.*{server.port}.* s"):
            calls[operation]()
        took = time.monotonic() - started
        server.go_on()

        assert took < 1.6 if operation != "wait" else took < 6.6
        assert until(lambda: _works(one, key))


def test_a_server_that_was_stopped_before_costs_no_more(server: RedisServer) -> None:
    server.stop()
    with RedisConnector.from_url(f"{server.url}/0?timeout=0.5", name="one") as one:
        started = time.monotonic()
        with pytest.raises(ConnectorError, match=str(server.port)):
            one.put(signed(10))
        assert time.monotonic() - started < 1.6
    server.go_on()


def _works(one: RedisConnector, key: Key) -> bool:
    with contextlib.suppress(ConnectorError):
        return is_whole(one.get(key) or Frames())
    return False


def test_a_server_that_restarts_empty_says_that_the_object_is_lost(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=5", name="one") as one:
        key, never = one.put(signed(100)), one.reserve()
        gone = one.put(signed(100))
        one.evict(gone)
        assert one.get(gone) is None
        server.kill()
        with pytest.raises(ConnectorError, match=rf"{HOST}:{server.port}"):
            one.get(key)
        server.start()

        for lost in (key, never):
            with pytest.raises(ObjectLost, match="restarted"):
                one.get(lost)
        with pytest.raises(ObjectLost):
            one.get_many([key])
        with pytest.raises(ObjectLost):
            one.get_range(key, 0, 1)
        assert one.exists(key) is False
        assert one.get(Key(key.id)) is None
        again = one.put(signed(200))
        assert is_whole(one.get(again))
        one.evict(again)
        assert one.get(again) is None


def test_a_server_that_restarts_with_its_data_lost_nothing() -> None:
    with RedisServer({"appendonly": "yes", "appendfsync": "always"}) as server:
        with RedisConnector.from_url(f"{server.url}/0", name="one") as one:
            key, gone = one.put(signed(100)), one.put(signed(100))
            one.evict(gone)
            server.kill()
            server.start()

            assert until(lambda: _works(one, key))
            assert one.get(gone) is None


def test_a_put_under_a_key_is_known_as_the_same_when_it_is_tried_again(one: RedisConnector) -> None:
    """What a lost answer leaves behind: the object is there, and it is ours."""
    writing = one._writing(Key("k"), signed(100), None, False)
    head = bulk.new_header(writing)
    for _ in range(2):
        assert one._fleet.run(writing.name, lambda link: bulk.put(link, writing, head), "put") is True
    other = bulk.new_header(writing)
    assert one._fleet.run(writing.name, lambda link: bulk.put(link, writing, other), "put") is False


def test_idle_links_that_the_server_closed_are_not_lent(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=5", name="one") as one:
        key = one.put(signed(100), key=Key("k"))
        with contextlib.closing(server.client()) as client:
            for link in next(iter(one._fleet._idle.values())):
                link.used -= 10
            client.client_kill_filter(_type="normal", skipme=True)

        assert one.evict(key) is True


# -- cables -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cabled(redis_server: RedisServer) -> Iterator[tuple[Cable, RedisConnector]]:
    with Cable(f"{HOST}:{redis_server.port}") as cable:
        url = f"{cable.through(redis_server.database())}?timeout=10"
        with RedisConnector.from_url(url, name="one") as connector:
            yield cable, connector


def test_a_connection_that_breaks_in_the_middle_of_a_get(cabled: tuple[Cable, RedisConnector]) -> None:
    cable, one = cabled
    key = one.put(signed(BIG))
    cable.cut_after(BIG // 2, "down")

    assert is_whole(one.get(key))


def test_a_connection_that_breaks_in_the_middle_of_a_put(cabled: tuple[Cable, RedisConnector]) -> None:
    cable, one = cabled
    one.exists(Key("k"))
    cable.cut_after(BIG // 2, "up")
    key = one.put(signed(BIG), key=Key("k"))

    assert is_whole(one.get(key))


def test_a_network_that_swallows_everything(cabled: tuple[Cable, RedisConnector]) -> None:
    cable, one = cabled
    one._fleet.place = one._fleet.place._replace(timeout=0.5)
    key = one.put(signed(100))
    cable.black_hole("both")
    started = time.monotonic()
    with pytest.raises(ConnectorError, match=r"0\.5 s"):
        one.get(key)

    assert time.monotonic() - started < 1.6
    cable.heal()
    assert until(lambda: _works(one, key))


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_that_flips_on_the_way_is_noticed(redis_server: RedisServer, way: str) -> None:
    with Cable(f"{HOST}:{redis_server.port}") as cable, Store(cable.through(redis_server.database())) as store:
        data = plain(200_000)
        key = store.put(data)
        if way == "down":
            cable.flip(100_000, "down")
        else:
            cable.flip(100_000, "up")
            key = store.put(plain(200_000, 2))
        with pytest.raises(IntegrityError):
            store.get(key)
        assert cable.flipped == 1


# -- doors --------------------------------------------------------------------------------------------------------


def test_tls_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_TESTS", "hush")
    with RedisServer({"requirepass": "hush"}, tls=True) as server:
        url = f"{server.url}/0?password=env:OF_TESTS&ca={server.directory}/ca.pem"
        with SecureRedisConnector.from_url(url, name="one") as one:
            for nbytes in (0, 100, 70_000, BIG):
                assert is_whole(one.get(one.put(signed(nbytes))))
            keys = one.put_many([signed(1000, seed) for seed in range(100)])
            assert all(is_whole(frames) for frames in one.get_many(keys))
            later = one.reserve()
            assert at_once([partial(one.wait, later, DEADLINE), partial(one.put, signed(10), key=later)])[0] is True
            assert in_fork(lambda: is_whole(one.get(later)))
            assert one.spec.startswith("rediss://")
        with RedisConnector.from_url(url.replace("rediss", "redis").partition("&ca")[0]) as plain_one:
            with pytest.raises(ConnectorError, match="TLS"):
                plain_one.exists(Key("k"))
        with SecureRedisConnector.from_url(f"{server.url}/0?password=env:OF_TESTS") as stranger:
            with pytest.raises(ConnectorError, match=r"\?ca="):
                stranger.exists(Key("k"))


USER = "alice on >hush ~proxyfab* +@read +@write +@transaction +@connection -@dangerous +scan"


def test_a_user_who_may_do_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(place.VARIABLE, raising=False)
    with RedisServer({"user": [USER, "default off"]}) as server:
        url = f"redis://alice:hush@{HOST}:{server.port}/0"
        with RedisConnector.from_url(url) as one:
            key = one.put(signed(BIG))
            assert is_whole(one.get(key))
            assert one.wait(key, 1) is True
            assert one.compare_and_set(Key("c"), None, Frames([b"1"]))
            assert one.clear() == 2
            assert "hush" not in one.spec + repr(one) + str(one.__reduce__())
            assert "user=alice" in one.spec
            with pytest.raises(AccessDenied, match=r"alice|NOPERM|permission"):
                one._fleet.run(b"x", lambda link: link.call(b"GET", b"others"), "get")
        for wrong in (f"redis://alice:wrong@{HOST}:{server.port}/1", f"{server.url}/1"):
            with RedisConnector.from_url(wrong) as other, pytest.raises(AccessDenied, match=str(server.port)):
                other.exists(Key("k"))


def test_a_password_stays_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = tmp_path / "secret"
    file.write_text("hush\n")
    monkeypatch.setenv("OF_TESTS", "hush")
    with RedisServer({"requirepass": "hush"}) as server:
        for reference in (f"file:{file}", "env:OF_TESTS"):
            with RedisConnector.from_url(f"{server.url}/0?password={reference}", name="one") as one:
                one.put(Frames([b"x"]))
                assert reference in ConnectorSpec.parse(one.spec).take(*place.OPTIONS)["password"]
                assert "hush" not in one.spec
        with Store(f"redis://:hush@{HOST}:{server.port}/3") as store:
            reference = store.ref(list(range(5000)))
            assert "hush" not in str(reference.store.url) + repr(store)
            with Child(roles_resolve, None) as child, pytest.raises(AssertionError, match="AccessDenied"):
                child.send(reference)
                child.receive()
            monkeypatch.setenv(place.VARIABLE, "hush")
            with Child(roles_resolve, None) as child:
                child.send(reference)
                assert child.receive() == 5000


def roles_resolve(talk: Connection, _: None) -> None:
    """Resolve a reference that is sent, and say how long it is."""
    talk.send(len(talk.recv().resolve()))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://", "localhost"),
        ("redis://a,b/0", "cluster=1"),
        ("redis://a:b/0", "no host"),
        ("redis://a:99999/0", "no host"),
        ("redis://a/zero", "database"),
        ("redis://a/0?timeout=0", "timeout"),
        ("redis://a/0?timeout=soon", "timeout"),
        ("redis://a/0?chunk=1", "chunk"),
        ("redis://a/0?chunk=1GB", "chunk"),
        ("redis://a/0?cluster=maybe", "cluster"),
        ("redis://a/3?cluster=1", "database 0"),
        ("redis://a,b?cluster=1&sentinel=m", "either"),
        ("redis://a/0?password=hush", "env:NAME"),
        ("redis://a/0?ca=/x", "rediss"),
        ("redis://u:hush@a/0?nonsense=1", "nonsense"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        RedisConnector.from_url(url)
    assert "hush" not in str(caught.value)


def test_urls_say_what_differs_from_the_usual() -> None:
    for url in (
        "redis://localhost:6379/0?ns=x",
        "redis://h:1/3?ns=x&timeout=5",
        "redis://[::1]:6379/0?ns=x",
        "redis://a:6379,b:7000/0?ns=x&cluster=1",
        "redis://a:26379,b:26379/0?ns=x&sentinel=mymaster",
        "rediss://h:6379/0?ns=x&ca=/etc/ca.pem&verify=0",
        "redis:///run/redis.sock?ns=x",
        "redis:///run/redis.sock/3?ns=x",
    ):
        kind = SecureRedisConnector if url.startswith("rediss") else RedisConnector
        assert kind.from_url(url).spec == url
    assert RedisConnector.from_url("redis://h", name="x").spec == "redis://h:6379/0?ns=x"


def test_a_local_socket(tmp_path: Any) -> None:
    path = str(tmp_path / "redis.sock")
    with RedisServer({"unixsocket": path}) as server:
        assert until(lambda: os.path.exists(path))
        with RedisConnector.from_url(f"redis://{path}/2", name="one") as one:
            assert is_whole(one.get(one.put(signed(BIG))))
        assert len(keys_at(f"{server.url}/2")) == 2


# -- full ---------------------------------------------------------------------------------------------------------


def test_a_full_server_says_so_and_keeps_what_it_has() -> None:
    with RedisServer({"maxmemory": "30mb", "maxmemory-policy": "noeviction"}) as server:
        with RedisConnector.from_url(f"{server.url}/0", name="one") as one:
            keys = []
            with pytest.raises(CapacityError, match=str(server.port)):
                for seed in range(60):
                    keys.append(one.put(signed(1_000_000, seed)))

            assert 10 < len(keys) < 60
            assert all(is_whole(one.get(key)) for key in keys)
            assert one.get(one.reserve()) is None
            with pytest.raises(CapacityError):
                one.put_many([signed(1000), signed(20_000_000)], keys=[Key("small"), Key("large")])
            assert one.evict_many(keys[:5]) == [True] * 5
            assert until(lambda: _fits(one))


def _fits(one: RedisConnector) -> bool:
    with contextlib.suppress(CapacityError):
        return is_whole(one.get(one.put(signed(500_000))))
    return False


# -- many servers -------------------------------------------------------------------------------------------------


def test_a_cluster() -> None:
    with redis_cluster() as nodes:
        url = f"redis://{HOST}:{nodes[0].port},{HOST}:{nodes[1].port}/0?cluster=1&chunk=500000"
        with RedisConnector.from_url(url) as one, RedisConnector.from_url(url, name="two") as two:
            keys = one.put_many([signed(1000 + seed, seed) for seed in range(200)])
            keys.append(one.put(signed(BIG)))
            assert all(is_whole(frames) for frames in one.get_many(keys))
            assert all(is_whole(two.get(key)) for key in keys[:20])
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(contextlib.closing(node.client())) for node in nodes]
                assert min(client.dbsize() for client in clients) > 20
            assert one.exists_many(keys) == [True] * 201
            with RedisConnector.from_url(one.spec) as other:
                assert len(list(other.scan())) == 201
            later = one.reserve()
            assert at_once([partial(one.wait, later, DEADLINE), partial(two.put, signed(10), key=later)])[0] is True
            assert one.compare_and_set(Key("c"), None, Frames([b"1"]))
            assert two.clear() == 0
            assert one.evict_many(keys[:3]) == [True] * 3
            assert one.reap() == []
            assert one.clear() == 200


def test_a_cluster_that_moves_a_slot() -> None:
    from redis.crc import key_slot

    with redis_cluster() as nodes:
        url = f"redis://{HOST}:{nodes[0].port}/0?cluster=1"
        with RedisConnector.from_url(url, name="one") as one, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(node.client())) for node in nodes]
            ids = [client.execute_command("CLUSTER MYID") for client in clients]
            key = one.put(signed(1000), key=Key("mover"))
            slot = key_slot(one._name(key))
            old = slot * 3 // 16384
            new = (old + 1) % 3
            clients[new].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[old])
            clients[old].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[new])
            assert is_whole(one.get(key))
            clients[old].execute_command("MIGRATE", HOST, nodes[new].port, one._name(key), 0, 5000)
            assert is_whole(one.get(key)), "the old node says ASK"
            for client in clients:
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[new])
            assert is_whole(one.get(key)), "the old node says MOVED"
            assert one.evict(key) is True


def test_a_master_that_dies_is_followed_by_its_replica() -> None:
    with redis_watched() as watched, RedisConnector.from_url(watched.url, name="one") as one:
        key = one.put(signed(1000))
        with contextlib.closing(watched.replica.client()) as replica:
            assert until(lambda: replica.dbsize() >= 2)
            watched.master.kill()
            assert until(lambda: replica.info("replication")["role"] == "master")

        assert until(lambda: _works(one, key))
        assert is_whole(one.get(one.put(signed(BIG))))


# -- owners -------------------------------------------------------------------------------------------------------


def hold_a_lease(talk: Connection, url: str) -> None:
    """Put into an unnamed namespace, say where, and stay."""
    connector = RedisConnector.from_url(url)
    talk.send((connector.spec, connector.put(signed(100))))
    talk.recv()


def test_a_lease_ends_where_the_process_cannot_be_looked_up(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine: only the lease tells."""
    monkeypatch.setattr("proxyfab.connectors.redis.owners.running", lambda writer: None)
    url = f"{redis_server.database()}?lease=1"
    with Child(hold_a_lease, url) as child, RedisConnector.from_url(url, name="other") as other:
        spec, key = child.receive()
        assert not until(lambda: other.reap(dry_run=True), 2.5), "a living owner goes on saying so"
        assert is_whole(other.get(key))
        child.process.send_signal(signal.SIGSTOP)
        assert until(lambda: other.reap(), 5)
        assert other.get(key) is None
        child.process.send_signal(signal.SIGCONT)
        assert until(lambda: other.exists(other._at(Key("never"))) or _owned(other, spec)), "it says so again"


def _owned(other: RedisConnector, spec: str) -> bool:
    from proxyfab.connectors.redis import owners

    namespace = ConnectorSpec.parse(spec).take(*place.OPTIONS)["ns"]
    return owners.read(other._fleet, namespace) is not None


def test_killed_owners_leave_nothing(redis_server: RedisServer) -> None:
    url = redis_server.database()
    for _ in range(3):
        with Child(roles.own, RedisConnector, url, 10_000) as child:
            child.receive()
            child.kill()
    with RedisConnector.from_url(url, name="sweeper") as sweeper:
        assert len(sweeper.reap()) == 1, "each took back what the one before had left"
    assert keys_at(url) == [b"proxyfab.epoch"]


def test_killed_writers_of_chunks_leave_nothing_for_long(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{redis_server.database()}?chunk=100000"
    with RedisConnector.from_url(url, name="wreck") as one:
        for _ in range(4):
            with Child(roles.put_until_killed, one, BIG, []) as child:
                child.receive()
                child.kill()
        with contextlib.closing(redis_server.client(db=int(url.rpartition("/")[2].partition("?")[0]))) as client:
            lasting = {key for key in client.scan_iter("proxyfab:wreck:c:*") if client.pttl(key) == -1}
        named = {chunk for stat in one.scan() for chunk in _chunks(one, stat.key)}
        assert lasting == named
        assert one.reap() == []
        one.clear()


def _chunks(one: RedisConnector, key: Key) -> list[bytes]:
    name = one._name(key)
    return bulk.chunks_of(name, one._fleet.run(name, lambda link: link.call(b"GET", name), "get"))


def test_a_chunk_that_no_object_names_is_taken_back(one: RedisConnector) -> None:
    one._place = one._place._replace(chunk=1000)
    key = one.put(signed(5000))
    name = one._name(key)
    one._fleet.run(name, lambda link: link.call(b"DEL", name), "del")

    assert len(one.reap(dry_run=True)) == len(one.reap()) == 5
    assert one.reap() == []


def test_a_chunk_that_the_server_lost_is_noticed(one: RedisConnector) -> None:
    one._place = one._place._replace(chunk=1000)
    key = one.put(signed(5000))
    chunk = _chunks(one, key)[2]
    one._fleet.run(chunk, lambda link: link.call(b"DEL", chunk), "del")

    with pytest.raises(IntegrityError, match="1000 of its 5000"):
        one.get(key)
    assert one.evict(key) is True
    assert one.reap() == []


def test_clearing_keeps_other_peoples_keys(redis_server: RedisServer) -> None:
    url = redis_server.database()
    with contextlib.closing(redis_server.client(db=int(url.rpartition("/")[2]))) as client:
        client.set("mine", b"1")
        client.set("proxyfab", b"2")
        client.set("proxyfab:others", b"3")
        with RedisConnector.from_url(url, name="one") as one, RedisConnector.from_url(url, name="one.two") as two:
            key = two.put(signed(100))
            one.put_many([signed(100)] * 50)
            assert one.clear() == 50
            assert is_whole(two.get(key))
        assert {client.get(name) for name in ("mine", "proxyfab", "proxyfab:others")} == {b"1", b"2", b"3"}


def test_what_is_not_ours_under_our_name_is_an_error(one: RedisConnector) -> None:
    name = one._name(Key("k"))
    one._fleet.run(name, lambda link: link.call(b"RPUSH", name, b"x"), "push")

    with pytest.raises(IntegrityError, match="WRONGTYPE"):
        one.get(Key("k"))
    assert one.evict(Key("k")) is True
    assert one.get(Key("k")) is None


# -- waiting ------------------------------------------------------------------------------------------------------


def test_many_wait_for_one(one: RedisConnector) -> None:
    key = one.reserve()
    results = at_once([*[partial(one.wait, key, DEADLINE)] * 20, partial(one.put, signed(10), key=key)])

    assert results[:20] == [True] * 20


def test_a_waiter_outlives_a_restart(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0?timeout=10", name="one") as one:
        key = Key("k")

        def restart_and_put() -> None:
            server.kill()
            server.start()
            with RedisConnector.from_url(f"{server.url}/0", name="one") as other:
                other.put(signed(10), key=key)

        waited, _ = at_once([partial(one.wait, key, DEADLINE), restart_and_put])

    assert waited is True


def wake(talk: Connection, connector: RedisConnector, keys: list[Key]) -> list[float]:
    """When each key was there, by the clock that all processes of a machine share."""
    woken = []
    for key in keys:
        talk.send("ready")
        assert connector.wait(key, DEADLINE)
        woken.append(time.monotonic())
    return woken


def test_nobody_looks_again_and_again(redis_server: RedisServer, one: RedisConnector) -> None:
    with contextlib.closing(redis_server.client()) as client:
        before = client.info("commandstats").get("cmdstat_exists", {}).get("calls", 0)
        assert one.wait(Key("never"), 1.5) is False
        after = client.info("commandstats")["cmdstat_exists"]["calls"]

    assert after - before <= 3


@pytest.mark.timing
def test_another_process_wakes_within_milliseconds(one: RedisConnector) -> None:
    keys = [one.reserve() for _ in range(50)]
    put = []
    with Child(wake, one, keys) as child:
        for key in keys:
            child.receive()
            time.sleep(0.01)
            put.append(time.monotonic())
            one.put(signed(10), key=key)
        woken = child.result()
    late = sorted(end - start for start, end in zip(put, woken, strict=True))

    assert late[len(late) // 2] < 0.005


# -- changes in the middle ----------------------------------------------------------------------------------------


def test_an_object_that_is_replaced_while_it_is_read_is_one_or_the_other(one: RedisConnector) -> None:
    one.put(signed(BIG), key=Key("k"))
    stop: list[bool] = []

    def replace() -> None:
        seed = 0
        while not stop:
            seed += 1
            one.put(signed(BIG + 1000 * (seed % 3), seed), key=Key("k"), replace=True)

    def read() -> bool:
        try:
            return all(is_whole(one.get(Key("k")) or Frames()) for _ in range(30))
        finally:
            stop.append(True)

    assert at_once([replace, read], 60)[1] is True


def test_after_a_fork_heartbeats_are_the_parents(one: RedisConnector, redis_server: RedisServer) -> None:
    with RedisConnector.from_url(redis_server.database()) as mine:
        key = mine.put(signed(100))
        assert keeper.keeps(mine._place, mine._namespace)

        assert in_fork(lambda: keeper.kept == {} and content(mine.get(key)) is not None) is True
        assert is_whole(mine.get(key))


def test_a_connector_that_is_dropped_leaves_no_connection(redis_server: RedisServer) -> None:
    """Nor a warning, nor work for the garbage collector."""
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        RedisConnector.from_url(redis_server.database(), name="one").put(signed(10))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_a_missing_reference_is_not_lost(redis_server: RedisServer) -> None:
    with Store(redis_server.database()) as store:
        reference = store.ref(list(range(5000)))
        reference.evict()
        with pytest.raises(KeyNotFound) as caught:
            reference.resolve()
        assert not isinstance(caught.value, ObjectLost)
