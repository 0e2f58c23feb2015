"""What child processes of the suite do. Each is `role(talk, broker, ...)`; `talk` is the line to the test."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

from proxyfab.events.broker import Broker
from proxyfab.testing.brokering.flows import fill, numbers, take


def url(talk: Connection, broker: Broker) -> str:
    """Where a broker that was sent here is."""
    return broker.url


def publish(talk: Connection, broker: Broker, topic: str, count: int) -> list[tuple[int, int]]:
    """Publish numbered records one by one; where they lie."""
    found = [fill(broker, topic, 1, number)[0] for number in range(count)]
    broker.close()
    return [(each.partition, each.offset) for each in found]


def consume(talk: Connection, broker: Broker, topic: str, count: int, seconds: float) -> list[int]:
    """Take and acknowledge so many; which they were."""
    with broker, broker.subscribe(topic, group="g") as member:
        found = take(member, count, seconds)
        member.ack(found)
        return numbers(found)


def hold(talk: Connection, broker: Broker, topic: str, count: int, acked: int, ack_wait: float) -> None:
    """Take so many, acknowledge some of them, say which were taken, and wait to be killed."""
    member = broker.subscribe(topic, group="g", ack_wait=ack_wait)
    found = take(member, count, 20)
    member.ack(found[:acked])
    member.flush()
    talk.send(numbers(found))
    talk.recv()


def work(talk: Connection, broker: Broker, topic: str) -> list[int]:
    """Take and acknowledge until told to end; which."""
    done: list[int] = []
    with broker, broker.subscribe(topic, group="g") as member:
        while not talk.poll(0):
            found = member.fetch(8, 0.1)
            done += numbers(found)
            member.ack(found)
    return done


def follow_value(talk: Connection, broker: Broker, topic: str) -> None:
    """For each message, wait for the value `k` to change, and tell when that was."""
    state = broker.state(topic)
    kept = state.get("k")
    talk.send("ready")
    while talk.recv() is not None:
        talk.send("waits")
        told = state.wait({"k": kept.revision if kept else 0}, 20)
        talk.send(time.time())
        kept = told["k"]
    broker.close()
