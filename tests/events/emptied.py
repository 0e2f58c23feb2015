"""A broker that a test leaves as empty as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from proxyfab.brokers import open_broker
from proxyfab.events.broker import Broker


@contextmanager
def emptied(url: str) -> Iterator[Broker]:
    """The broker at a URL, whose topics and values are deleted afterwards."""
    with open_broker(url) as broker:
        yield broker
        for topic in broker.topics():
            broker.delete(topic)
        state = broker.state()
        for name in state.items():
            state.delete(name)
