"""redis:// through doors: TLS, users, passwords that stay where they are, URLs, local sockets."""

from __future__ import annotations

import os
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest

from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector, SecureRedisConnector
from proxyfab.errors import AccessDenied, ConfigurationError, ConnectorError
from proxyfab.keys import Key
from proxyfab.resp import place
from proxyfab.spec import ConnectorSpec
from proxyfab.testing import Child, in_fork, until
from proxyfab.testing.content import is_whole, signed
from proxyfab.testing.processes import DEADLINE, at_once
from proxyfab.testing.servers import HOST, RedisServer
from tests.connectors.redis_places import keys_at

BIG = 3_000_000


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
