"""memory:// passes the suite; it lives in one process, and says so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from proxyfab.brokers.memory import MemoryBroker, _spaces
from proxyfab.testing import BrokerTests


class TestMemory(BrokerTests):
    crosses_processes = False

    @pytest.fixture
    def broker(self) -> Iterator[MemoryBroker]:
        with MemoryBroker() as broker:
            yield broker


def test_one_that_has_just_gone_keeps_no_topics() -> None:
    """Who closes the last one may do so before its set is told that another has gone: the topics stayed for ever."""
    one = MemoryBroker()
    two, there = MemoryBroker.from_url(one.url), list[bool]()
    first = weakref.ref(two, lambda _: (one.close(), there.append(one.name in _spaces)))  # made last, called first
    del two
    gc.collect()
    assert (first(), there) == (None, [False])
