"""Servers of tests: one that has a free port after all is the one that was started, and works."""

from __future__ import annotations

import contextlib
import socket

import pytest

from proxyfab.testing import servers
from proxyfab.testing.servers import HOST, RedisServer, free_port


def first(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """The next port that is drawn is this one."""
    ports = iter([port])
    monkeypatch.setattr(servers, "free_port", lambda: next(ports, None) or free_port())


def test_a_node_whose_second_port_is_taken_has_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens on the first one for a moment before it finds out, and ends."""
    port = free_port()
    with socket.socket() as taken:
        taken.bind((HOST, port + 10_000))
        taken.listen()
        first(monkeypatch, port)
        with RedisServer({"cluster-enabled": "yes", "databases": "1"}) as server:
            assert server.port != port
            with contextlib.closing(server.client()) as client:
                assert client.ping()


def test_another_servers_answer_is_not_taken_for_ones_own(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(monkeypatch, redis_server.port)
    with RedisServer() as server:
        assert server.port != redis_server.port
        with contextlib.closing(server.client()) as client:
            assert client.info("server")["process_id"] == server.pid
