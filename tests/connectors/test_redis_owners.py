"""redis:// and what ended processes leave: leases, chunks, other people's keys."""

from __future__ import annotations

import contextlib
import signal
from multiprocessing.connection import Connection

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector, bulk
from proxyfab.errors import IntegrityError, KeyExists
from proxyfab.keys import Key
from proxyfab.resp import place
from proxyfab.spec import ConnectorSpec
from proxyfab.testing import Child, roles, until
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.servers import RedisServer
from tests.connectors.redis_places import keys_at

BIG = 3_000_000


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
        assert until(lambda: other.reap())
        assert other.get(key) is None
        child.process.send_signal(signal.SIGCONT)
        assert until(lambda: other.exists(other._names.at(Key("never"))) or _owned(other, spec)), "it says so again"


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
    name = one._names.name(key)
    return bulk.chunks_of(name, one._fleet.run(name, lambda link: link.call(b"GET", name), "get"))


def test_a_chunk_that_no_object_names_is_taken_back(one: RedisConnector) -> None:
    one._place = one._place._replace(chunk=1000)
    key = one.put(signed(5000))
    name = one._names.name(key)
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
    name = one._names.name(Key("k"))
    one._fleet.run(name, lambda link: link.call(b"RPUSH", name, b"x"), "push")

    with pytest.raises(IntegrityError, match="WRONGTYPE"):
        one.get(Key("k"))
    assert one.evict(Key("k")) is True
    assert one.get(Key("k")) is None


@pytest.mark.parametrize("nbytes", [10, 20_000, 200_000])
def test_what_is_not_ours_is_replaced_or_kept_as_asked(one: RedisConnector, nbytes: int) -> None:
    one._place = one._place._replace(chunk=50_000)
    keys = [Key("k"), Key("l")]
    for key in keys:
        name = one._names.name(key)
        one._fleet.run(name, lambda link, name=name: link.call(b"RPUSH", name, b"x"), "push")

    with pytest.raises(KeyExists):
        one.put(signed(nbytes), key=keys[0])
    with pytest.raises(KeyExists):
        one.put_many([signed(nbytes)], keys=keys[:1])
    with pytest.raises(IntegrityError, match="WRONGTYPE"):
        one.compare_and_set(keys[0], Frames([b"x"]), Frames([b"y"]))
    with pytest.raises(IntegrityError, match="WRONGTYPE"):
        one.get(keys[0])
    one.put(signed(nbytes, 1), key=keys[0], replace=True)
    one.put_many([signed(nbytes, 2), signed(nbytes, 3)], keys=[keys[1], Key("m")], replace=True)

    assert [one.get(key) for key in (*keys, Key("m"))] == [signed(nbytes, seed) for seed in (1, 2, 3)]
