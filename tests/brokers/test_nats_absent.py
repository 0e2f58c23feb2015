"""nats:// where no NATS is: said soon to who was never let in; who was, waits for a server that restarts."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from proxyfab.brokers.nats import link
from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.errors import ConnectorError
from proxyfab.events.model import Topic
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import free_port


@pytest.mark.parametrize(("port", "said"), [("closed", "Connection refused"), ("other", "or is something else")])
def test_where_no_nats_is_who_was_never_let_in_is_told_soon(
    monkeypatch: pytest.MonkeyPatch, port: str, said: str
) -> None:
    monkeypatch.setattr(link, "_FIRST", 0.3)
    monkeypatch.setattr(link, "CONNECT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1] if port == "other" else free_port()
        started = time.monotonic()
        with NatsBroker.from_url(f"nats://127.0.0.1:{number}") as broker, pytest.raises(ConnectorError, match=said):
            broker.topics()
    assert time.monotonic() - started < 30  # and not the 60 s of a call


def test_who_was_let_in_before_waits_for_a_server_that_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_FIRST", 0.0)
    with NatsServer() as server, NatsBroker.from_url(server.url) as broker:
        broker.ensure(Topic("t"))
        server.kill()
        again = threading.Timer(0.5, server.start)
        again.start()
        assert broker.topics() == ["t"]
        again.join()
