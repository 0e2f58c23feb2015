"""nats:// passes the suite; and what only a server can do to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.nats.broker import NatsBroker
from proxyfab.testing import BrokerTests
from proxyfab.testing.natsserver import NatsServer


class TestNats(BrokerTests):
    @pytest.fixture
    def broker(self, nats_server: NatsServer) -> Iterator[NatsBroker]:
        with NatsBroker.from_url(nats_server.url) as broker:
            yield broker
