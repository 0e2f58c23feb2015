"""zmq:// passes the suite at a server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.zmq import ZmqBroker
from proxyfab.testing import BrokerTests
from proxyfab.testing.events import EventServer


@pytest.fixture(scope="module")
def server() -> Iterator[EventServer]:
    with EventServer() as server:
        yield server


class TestZmq(BrokerTests):
    @pytest.fixture
    def broker(self, server: EventServer) -> Iterator[ZmqBroker]:
        with ZmqBroker.from_url(server.url) as broker:
            yield broker
