"""memory:// passes the suite; it lives in one process, and says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.testing import BrokerTests


class TestMemory(BrokerTests):
    crosses_processes = False

    @pytest.fixture
    def broker(self) -> Iterator[MemoryBroker]:
        with MemoryBroker() as broker:
            yield broker
