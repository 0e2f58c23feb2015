"""What the child processes of stream tests do."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

from proxyfab.brokers import open_broker
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


def steal(talk: Connection, url: str, topic: str, group: str) -> None:
    """Ask for a record of a group; when it is here, do nothing with it until killed."""
    with open_broker(url) as broker, broker.subscribe(topic, group=group) as member:
        member.fetch(1, 0.1)
        talk.send("asks")
        while not (found := member.fetch(1, 10.0)):
            pass
        talk.send(len(found))
        time.sleep(600)
