"""A store and a broker in memory, for who needs no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyfab import Store
from proxyfab.brokers.memory import MemoryBroker
from proxyfab.events.broker import Broker


@pytest.fixture
def store() -> Iterator[Store]:
    with Store("memory://", inline_below=0) as store:
        yield store
        store.clear()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with MemoryBroker() as broker:
        yield broker
