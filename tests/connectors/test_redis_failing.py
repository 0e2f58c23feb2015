"""redis:// on servers that stop and die, and behind cables that break. All real."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from proxyfab import Store
from proxyfab.connectors.redis import RedisConnector, SecureRedisConnector, bulk
from proxyfab.errors import ConnectorError, IntegrityError, ObjectLost
from proxyfab.keys import Key
from proxyfab.resp import fleet
from proxyfab.testing import until
from proxyfab.testing.cable import Cable
from proxyfab.testing.content import is_whole, plain, signed
from proxyfab.testing.servers import HOST, RedisServer
from tests.connectors.redis_places import works

BIG = 3_000_000


# -- servers that stop and die ------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["put", "get", "exists", "wait", "get_many", "put_many"])
def test_a_stopped_server_costs_the_deadline_and_no_more(server: RedisServer, operation: str) -> None:
    with RedisConnector.from_url(f"{server.url}/0", name="one") as patient:
        key = patient.put(signed(100))
    with RedisConnector.from_url(f"{server.url}/0?timeout=0.5", name="one") as one:
        assert until(lambda: works(one, key))  # half a second may be too short on a busy machine
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
        said = "the server did not say a word within 5 s" if operation == "wait" else "within 0.5 s"
        with pytest.raises(ConnectorError, match=f"{operation}.*{server.port}.*{said}"):
            calls[operation]()
        took = time.monotonic() - started
        server.go_on()

        assert took < (5 if operation != "wait" else 10)
        assert until(lambda: works(one, key))


def test_who_waits_at_a_server_that_was_stopped_before_is_told_as_soon(server, monkeypatch) -> None:
    monkeypatch.setattr(fleet, "SILENCE", 0.3)
    server.stop()
    with RedisConnector.from_url(f"{server.url}/0?timeout=20", name="one") as one:
        started = time.monotonic()
        with pytest.raises(ConnectorError, match="wait.* did not say a word"):
            one.wait(Key("never"), 0)
        assert time.monotonic() - started < 10
    server.go_on()


def test_a_server_that_was_stopped_before_costs_no_more(server: RedisServer) -> None:
    server.stop()
    with RedisConnector.from_url(f"{server.url}/0?timeout=0.5", name="one") as one:
        started = time.monotonic()
        with pytest.raises(ConnectorError, match=str(server.port)):
            one.put(signed(10))
        assert time.monotonic() - started < 5
    server.go_on()


def test_where_nobody_listens_the_error_tells_of_one_attempt(server: RedisServer) -> None:
    server.kill()
    with RedisConnector.from_url(f"{server.url}/0?timeout=0.3", name="one") as one:
        with pytest.raises(ConnectorError, match="tried .* times.*refused") as caught:
            one.put(signed(10))

    told, error = [], caught.value
    while error is not None:
        told.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    assert told == ["ConnectorError", "ConnectionError", "ConnectionRefusedError"]


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

            assert until(lambda: works(one, key))
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


def test_idle_links_with_tls_that_the_server_closed_are_not_lent() -> None:
    with RedisServer(tls=True) as server:
        url = f"{server.url}/0?timeout=5&ca={server.directory}/ca.pem"
        with SecureRedisConnector.from_url(url, name="one") as one:
            key = one.put(signed(100))
            (link,) = next(iter(one._fleet._idle.values()))
            link.used -= 10
            assert not link.stale()
            with contextlib.closing(server.client()) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            assert until(link.stale)

            assert one.evict(key) is True


def test_what_is_put_after_a_flush_is_not_taken_for_lost(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0", name="one") as one:
        before = one.put(signed(100))
        with contextlib.closing(server.client()) as client:
            client.flushdb()
        with pytest.raises(ObjectLost):
            one.get(before)
        after = one.put(signed(100))
        assert is_whole(one.get(after))
        one.evict(after)

        assert one.get(after) is None
        with pytest.raises(ObjectLost):
            one.get(before)


def test_what_is_put_a_second_after_a_flush_is_known_to_be_of_later(server: RedisServer) -> None:
    """Also by those who met nothing that was missing."""
    with RedisConnector.from_url(f"{server.url}/0", name="one") as one:
        keys = [one.put(signed(100))]
        with contextlib.closing(server.client()) as client:
            client.flushall()
        threading.Event().wait(1.05)
        keys += [one.put(signed(100)), *one.put_many([signed(100)] * 3)]
        assert len({key.where for key in keys}) == 2
        one.evict_many(keys)

        assert one.get_many(keys[1:]) == [None] * 4
        with pytest.raises(ObjectLost):
            one.get(keys[0])


def test_that_many_are_missing_is_looked_into_once(server: RedisServer) -> None:
    with RedisConnector.from_url(f"{server.url}/0", name="one") as one, contextlib.closing(server.client()) as client:
        keys = one.put_many([signed(100)] * 300)
        one.evict_many(keys)
        before = client.info("stats")["total_commands_processed"]
        assert one.get_many(keys) == [None] * 300
        assert client.info("stats")["total_commands_processed"] - before < 320


@pytest.mark.parametrize("how", ["flush", "restart"])
def test_an_unnamed_place_is_still_owned_after_the_server_lost_everything(server: RedisServer, how: str) -> None:
    """What is put then is not taken for a dead process's."""
    url = f"{server.url}/0?lease=9000"
    with RedisConnector.from_url(url) as one, RedisConnector.from_url(url, name="other") as other:
        one.put(signed(100))
        if how == "restart":
            server.kill()
            server.start()
        else:
            with contextlib.closing(server.client()) as client:
                client.flushall()
            threading.Event().wait(1.05)
        keys = [one.put(signed(100)), *one.put_many([signed(100)])]

        assert other.reap() == []
        assert all(one.exists_many(keys))


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
    key = one.put(signed(100))
    one._fleet.place = one._fleet.place._replace(timeout=0.5)
    cable.black_hole("both")
    started = time.monotonic()
    with pytest.raises(ConnectorError, match=r"0\.5 s"):
        one.get(key)

    assert time.monotonic() - started < 5
    cable.heal()
    assert until(lambda: works(one, key))


def test_a_large_batch_has_as_much_time_as_its_bytes_need(
    cabled: tuple[Cable, RedisConnector], monkeypatch: pytest.MonkeyPatch
) -> None:
    cable, one = cabled
    monkeypatch.setattr("proxyfab.connectors.redis.batches.PATIENT", 2 * BIG)
    one._fleet.place = one._fleet.place._replace(timeout=2.5)
    cable.limit(8e6)
    keys = one.put_many([signed(BIG, seed) for seed in range(8)])

    assert all(is_whole(frames) for frames in one.get_many(keys))


def test_an_answer_that_comes_in_drops(cabled: tuple[Cable, RedisConnector]) -> None:
    cable, one = cabled
    key = one.put(signed(100))
    cable.slice(3, "down")
    cable.limit(600, "down")

    assert one.get(Key("never")) is None
    assert is_whole(one.get(key))
    assert one.get_many([key, Key("never")])[1] is None


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
