"""What the child processes of tests of checkpoints and of released objects do."""

from __future__ import annotations

from multiprocessing.connection import Connection

import numpy as np

from proxyfab import Store
from proxyfab.patterns.stream import Checkpoint, Consumer, forward


def sum_up(talk: Connection, url: str, topic: str, output: str, place: str, every: int) -> object:
    """Add up the numbers in arrays, send each on as an array, and commit after every so many."""
    with (
        Store(place, name="outputs") as store,
        Consumer(url, topic, group="sum", ack_wait=1.0) as consumer,
        Checkpoint(consumer, "sum", initial=0, store=store, above=1000) as point,
    ):
        total = point.state
        talk.send("open")
        sent = []
        for item in point:
            number = int(np.sum(item.proxy[:1]))
            total += number
            sent.append((output, np.full(500, number), {"n": number}))
            if len(sent) >= every:
                point.commit(total, sent)
                sent = []
                talk.send(total)
        point.commit(total, sent, end=True)
        return total


def consume(talk: Connection, url: str, topic: str, group: str) -> int:
    """Acknowledge everything, and say so."""
    count = 0
    with Consumer(url, topic, group=group, ack_wait=1.0) as consumer:
        for item in consumer:
            assert item.get() is not None
            item.ack()
            count += 1
            if count % 5 == 0:
                consumer.flush()
                talk.send(count)
    return count


def copy(talk: Connection, source: str, topic: str, target: str, to: str, place: str) -> int:
    """Forward a topic, objects included, and say after each batch how far that is."""
    with Store(place, name="copies") as store:
        done = forward(
            source, topic, target, to, copy_objects=True, store=store, told=lambda so_far: talk.send(so_far.frames)
        )
    return done.frames
