"""`proxyfab doctor` and `top` as a user calls them, on real servers: well, gone, locked, and behind a wall."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from proxyfab.cli import main
from proxyfab.store import Store
from proxyfab.testing.nodes import NodeServer
from proxyfab.testing.servers import HOST, RedisServer
from proxyfab.testing.walls import wall


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = run("doctor", *arguments, "--json")
    return done.exit_code, {item["check"]: item for item in json.loads(done.output)}


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with RedisServer() as redis, NodeServer() as node:
        yield {"redis": f"{redis.url}/5", "zmq": node.url}


@pytest.fixture
def walled() -> Iterator[int]:
    """A port that swallows what is sent to it: its queue of connections is full."""
    with wall(HOST) as port:
        yield port


@pytest.mark.parametrize("scheme", ["redis", "zmq"])
def test_a_server_that_is_well(urls, scheme):
    status, found = doctor(urls[scheme])

    assert status == 0, found
    assert {"name", "port", "key", "version", "clock", "memory", "round trip"} <= set(found)


@pytest.mark.parametrize("scheme", ["redis", "zmq"])
def test_a_port_behind_a_wall(scheme, walled):
    started = time.monotonic()
    status, found = doctor(f"{scheme}://{HOST}:{walled}?timeout=1")

    assert status == 1
    assert found["port"]["state"] == "fail"
    assert "firewall" in found["port"]["detail"]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("scheme", ["redis", "zmq"])
def test_a_server_that_is_not_there(scheme):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    status, found = doctor(f"{scheme}://{HOST}:{port}")

    assert status == 1
    assert "start it" in found["port"]["detail"]
    assert "round trip" not in found
    shown = run("top", f"{scheme}://{HOST}:{port}?timeout=2", "--once")
    assert shown.exit_code == 1
    assert "Traceback" not in shown.output


def test_a_password_is_never_shown():
    with RedisServer({"requirepass": "s3cret-word"}) as server:
        typed = f"redis://:s3cret-word@{HOST}:{server.port}"
        outputs = [
            run(*command).output
            for command in (
                ("doctor", typed),
                ("doctor", typed.replace("word", "wrong")),
                ("top", typed, "--once"),
                ("top", typed, "--prometheus", "-"),
                ("ls", typed),
                ("gc", typed),
            )
        ]
    assert all("s3cret" not in output for output in outputs), outputs
    assert "round trip" in outputs[0]
    assert "objects" in outputs[2]


@pytest.mark.parametrize("scheme", ["redis", "zmq"])
def test_top_shows_objects_counters_and_peers(urls, scheme):
    with Store(urls[scheme], name="kept", inline_below=0) as store:
        key = store.put(b"x" * 5000)
        found = json.loads(run("top", urls[scheme], "--once", "--json").output)
        metrics = run("top", urls[scheme], "--prometheus", "-").output
        store.evict(key)

    assert found["objects"] >= 1
    assert found["counters"]
    assert found["peers"]
    assert found["started"] is not None
    assert "proxyfab_up" in metrics
    assert "proxyfab_place_" in metrics
