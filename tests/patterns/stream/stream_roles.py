"""What the child processes of stream tests do."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

from proxyfab.patterns import Consumer


def consume(talk: Connection, url: str, topic: str, ack_wait: float, ordered: bool) -> None:
    """Tell each event, acknowledge it, and say how many there were when the stream is over; then wait to be killed."""
    count = 0
    with Consumer(url, topic, ack_wait=ack_wait, **({"ordered": True} if ordered else {})) as consumer:
        for item in consumer:
            talk.send((item.key, item.get(), item.attempt))
            item.ack()
            count += 1
    talk.send(count)
    time.sleep(600)


def hang(talk: Connection, url: str, topic: str, ack_wait: float) -> None:
    """Take one frame and never settle it."""
    with Consumer(url, topic, ack_wait=ack_wait) as consumer:
        for item in consumer:
            talk.send(item.get())
            time.sleep(600)
