"""What redis:// says of real servers that are well, locked, full, replicas, gone, silent, or no Redis at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyfab.abc import Finding, SupportsDiagnosis, SupportsStatus
from proxyfab.buffers import Frames
from proxyfab.connectors.redis import RedisConnector
from proxyfab.errors import AccessDenied, ConnectorError
from proxyfab.keys import Key
from proxyfab.opening import open_connector
from proxyfab.testing.servers import HOST, RedisServer, redis_cluster, redis_watched


def diagnosed(url: str) -> dict[str, Finding]:
    connector = open_connector(url)
    assert isinstance(connector, SupportsDiagnosis)
    try:
        return {finding.check: finding for finding in connector.diagnose()}
    finally:
        connector.close()


def last(url: str) -> Finding:
    return list(diagnosed(url).values())[-1]


@pytest.fixture(scope="module")
def plain() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def locked() -> Iterator[RedisServer]:
    with RedisServer({"requirepass": "hush"}) as server:
        yield server


Answer = Callable[[bytes], bytes]


@contextlib.contextmanager
def pretending(answer: Answer) -> Iterator[int]:
    """A port behind which something answers each message by `answer(it)`."""
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listening.accept()
                    with one:
                        while asked := one.recv(65536):
                            one.sendall(answer(asked))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_all_is_well_and_nothing_was_changed(plain):
    with contextlib.closing(plain.client(db=7)) as client:
        found = diagnosed(f"{plain.url}/7")
        assert client.dbsize() == 0
    assert {finding.state for finding in found.values()} == {"ok"}
    assert list(found) == ["name", "port", "key", "version", "role", "clock", "permission", "memory"]


@pytest.mark.parametrize(("login", "says"), [("", "no password was given"), (":wrong@", "the password is wrong")])
def test_a_wrong_or_missing_password(locked, login, says):
    found = last(f"redis://{login}{HOST}:{locked.port}")

    assert (found.check, found.state) == ("key", "fail")
    assert says in found.detail
    assert "PROXYFAB_REDIS_PASSWORD" in found.detail


def test_a_refused_password_is_not_tried_again(locked):
    started = time.monotonic()
    connector = RedisConnector.from_url(f"redis://:wrong@{HOST}:{locked.port}")
    with contextlib.closing(connector), pytest.raises(AccessDenied) as caught:
        connector.put(Frames([b"x"]))
    assert "tried" not in str(caught.value)
    assert time.monotonic() - started < 5


def test_a_password_that_should_be_in_the_environment(locked, monkeypatch):
    assert "env:NOT_SET_HERE" in last(f"{locked.url}?password=env:NOT_SET_HERE").detail
    monkeypatch.setenv("SET_HERE", "hush")
    found = diagnosed(f"{locked.url}?password=env:SET_HERE")
    assert {finding.state for finding in found.values()} == {"ok"}
    assert "hush" not in str(found)


def test_a_user_who_may_not_write(plain):
    with contextlib.closing(plain.client()) as client:
        client.acl_setuser("reader", enabled=True, passwords=["+let"], categories=["+@read", "+@connection"], keys="*")
        client.acl_setuser("reader", enabled=True, commands=["+info", "+time", "+acl|whoami", "+acl|dryrun"], keys="*")
    found = last(f"redis://reader:let@{HOST}:{plain.port}")

    assert (found.check, found.state) != ("memory", "ok")
    if found.check != "permission":  # seen to the end
        found = diagnosed(f"redis://reader:let@{HOST}:{plain.port}")["permission"]
    assert found.state == "fail"
    assert "SET" in found.detail
    assert "ACL SETUSER" in found.detail


def test_the_user_that_the_documentation_recommends_is_well(plain):
    page = (Path(__file__).parents[2] / "docs/redis.md").read_text()
    (rights,) = [line.split() for line in page.splitlines() if line.startswith("ACL SETUSER")]
    with contextlib.closing(plain.client()) as client:
        client.execute_command(*rights)
    found = diagnosed(f"redis://fabric:secret@{HOST}:{plain.port}")
    assert {finding.state for finding in found.values()} == {"ok"}
    assert list(found)[-1] == "memory"


def test_nobody_listens():
    with RedisServer() as server:
        url = server.url
    found = last(url)
    assert (found.check, found.state) == ("port", "fail")
    assert "start it" in found.detail


def test_a_name_that_nobody_knows():
    assert last("redis://no-such-host.invalid").check == "name"


def test_a_server_that_hangs_is_told_in_time():
    with RedisServer() as server:
        server.stop()
        started = time.monotonic()
        found = last(f"{server.url}?timeout=0.5")
        server.go_on()

    assert found.state == "fail"
    assert "0.5 s" in found.detail
    assert time.monotonic() - started < 10


def test_what_is_no_redis():
    with pretending(lambda asked: b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        found = last(f"redis://{HOST}:{port}")
    assert (found.check, found.state) == ("server", "fail")
    assert "protocol" in found.detail


def test_a_server_that_reads_its_data_yet():
    with pretending(lambda asked: b"-LOADING Redis is loading the dataset in memory\r\n" * asked.count(b"*")) as port:
        found = last(f"redis://{HOST}:{port}")
        with RedisConnector.from_url(f"redis://{HOST}:{port}?timeout=0.5") as one:
            with pytest.raises(ConnectorError, match="get .* the server is not ready: .* Try again in a moment"):
                one.get(Key("any"))
    assert (found.check, found.state) == ("server", "fail")
    assert "is not ready" in found.detail


def test_a_server_of_an_old_version():
    def answer(asked: bytes) -> bytes:
        info = b"# Server\r\nredis_version:4.0.9\r\n"
        return b"$%d\r\n%b\r\n" % (len(info), info) if b"INFO" in asked else b"+PONG\r\n"

    with pretending(answer) as port:
        found = diagnosed(f"redis://{HOST}:{port}")
    assert found["version"].state == "fail"
    assert "4.0.9" in found["version"].detail


def test_tls_where_there_is_none_and_none_where_there_is(plain):
    found = last(f"rediss://{HOST}:{plain.port}?timeout=1")
    assert (found.check, found.state) == ("tls", "fail")
    with RedisServer(tls=True) as server:
        assert "rediss://" in last(f"redis://{HOST}:{server.port}?timeout=2").detail
        assert last(server.url).check == "tls"
        well = diagnosed(f"{server.url}?ca={server.directory}/ca.pem")
        assert {finding.state for finding in well.values()} == {"ok"}


def test_memory_that_is_full_or_gives_objects_away(plain):
    with RedisServer({"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"}) as server:
        found = diagnosed(server.url)["memory"]
        assert found.state == "warn"
        assert "noeviction" in found.detail
        with contextlib.closing(server.client()) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1mb")
        found = diagnosed(server.url)["memory"]
        assert found.state in ("warn", "fail")
        assert "proxyfab gc" in found.detail


def test_clusters_sentinels_and_replicas():
    with redis_watched() as watched:
        assert {finding.state for finding in diagnosed(watched.url).values()} == {"ok"}
        found = diagnosed(watched.replica.url)["role"]
        assert found.state == "fail"
        assert str(watched.master.port) in found.detail
        assert last(watched.url.replace("=mymaster", "=nobody")).check == "sentinel"
    with redis_cluster() as servers:
        url = f"redis://{HOST}:{servers[0].port},{HOST}:{servers[1].port}?cluster=1"
        found = list(open_connector(url).diagnose())
        assert {finding.state for finding in found} == {"ok"}
        assert len([finding for finding in found if finding.check == "version"]) == 3
        servers[0].kill()
        assert next(finding for finding in open_connector(url).diagnose() if finding.check == "port").state == "warn"


def test_status_counts_and_names_those_who_are_connected(plain):
    url = f"{plain.url}/9"
    with contextlib.closing(RedisConnector.from_url(url)) as connector:
        assert isinstance(connector, SupportsStatus)
        before = connector.status()
        key = connector.put(Frames([bytes(100_000)]))
        connector.get(key)
        after = connector.status()
        connector.clear()

    assert after.what == f"{plain.url}/9"
    assert after.objects > before.objects
    assert after.limit is None
    assert after.counters["received_bytes"] - before.counters["received_bytes"] > 100_000
    assert after.peers
    assert str(after.peers[0]["address"]).startswith(HOST)
    assert after.started is not None
    assert abs(time.time() - after.started) < 600


def test_status_of_a_cluster_is_its_sum():
    with redis_cluster() as servers:
        url = f"redis://{HOST}:{servers[0].port}?cluster=1"
        with contextlib.closing(open_connector(url)) as connector:
            connector.put_many([Frames([b"x"]) for _ in range(30)])
            assert connector.status().objects >= 30
            assert len(connector.status().peers) >= 3
            connector.clear()
