"""An ordered group over NATS, whose offsets have gaps: what was delivered and lost on its way is waited for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from proxyfab.brokers import open_broker
from proxyfab.events.broker import Broker
from proxyfab.patterns import Consumer
from proxyfab.patterns.stream.item import Item
from proxyfab.testing import Cable, Child, until
from proxyfab.testing.natsserver import NatsServer
from tests.patterns.stream.frames import Writer
from tests.patterns.stream.stream_roles import steal

ACK_WAIT = 1.5
GROUP = "default"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@contextmanager
def ordered(broker: Broker, topic: str) -> Iterator[Queue[Item]]:
    """What comes to a member of an ordered group, which asks for more all the time."""
    came: Queue[Item] = Queue()
    with Consumer(broker, topic, ordered=True, ack_wait=ACK_WAIT) as consumer:

        def work() -> None:
            for item in consumer:
                came.put(item)

        thread = threading.Thread(target=work)
        thread.start()
        yield came
        thread.join(30)
        assert not thread.is_alive()


def taken(came: Queue[Item], *, ack: bool = True) -> tuple[object, int]:
    item = came.get(timeout=20)
    if ack:
        item.ack()
    return item.get(), item.attempt


def test_as_long_as_nothing_is_missing_nobody_asks_what_is(nats_server: NatsServer) -> None:
    with open_broker(nats_server.url) as broker:
        out = Writer(broker, "whole", partitions=2)
        for number in range(200):
            out.send(number, partition=number % 2)
        out.end()
        with Consumer(broker, "whole", ordered=True) as consumer:
            seen = []
            for item in consumer:
                seen.append(item.get())
                item.ack()
            assert consumer._supply._looked == 0.0  # type: ignore[attr-defined]  # it is ordered
        for partition in range(2):
            assert [number for number in seen if number % 2 == partition] == [*range(partition, 200, 2)]
        broker.delete("whole")


def test_what_a_broken_connection_swallowed_comes_before_what_follows(nats_server: NatsServer) -> None:
    url = nats_server.url
    with (
        Cable(f"127.0.0.1:{nats_server.port}") as cable,
        open_broker(url) as broker,
        open_broker(cable.through(url)) as far,
    ):
        out = Writer(broker, "swallowed", partitions=2)
        with ordered(far, "swallowed") as came:
            out.send(1)
            out.send("other", partition=1)
            assert {taken(came)[0], taken(came)[0]} == {1, "other"}
            resets = cable.resets
            cable.cut_after(100_000, "down")  # amid the next event, whatever else is said before it
            out.send(b"2" * 200_000)
            assert until(lambda: cable.resets > resets)
            for number in (3, 4):
                out.send(number)
            first = taken(came)
            assert (first[0], first[1] > 1) == (b"2" * 200_000, True)
            assert [taken(came)[0] for _ in range(2)] == [3, 4]
            out.end()
        broker.delete("swallowed")


def test_what_came_to_a_member_that_was_killed_comes_before_what_follows(nats_server: NatsServer) -> None:
    with open_broker(nats_server.url) as broker:
        out = Writer(broker, "stolen")
        with Consumer(broker, "stolen", ordered=True, ack_wait=ACK_WAIT) as consumer:
            out.send(1)
            (item,) = consumer.fetch(1, 10)
            item.ack()
            with Child(steal, nats_server.url, "stolen", GROUP) as child:
                assert child.receive() == "asks"
                out.send(2)
                assert child.receive() == 1
                child.kill()
            out.send(3)
            out.send(4)
            seen = []
            while len(seen) < 3:
                (item,) = consumer.fetch(1, 20)
                seen.append((item.get(), item.attempt))
                item.ack()
            assert seen == [(2, 2), (3, 1), (4, 1)]
        broker.delete("stolen")


def test_a_server_that_forgot_what_it_delivered_delivers_it_again_in_order(server: NatsServer, tmp_path: Path) -> None:
    with open_broker(server.url) as broker:
        out = Writer(broker)
        with Consumer(broker, "t", ordered=True, ack_wait=ACK_WAIT) as consumer:
            out.send(1)
            (item,) = consumer.fetch(1, 10)
            item.ack()
            assert until(lambda: broker.groups("t")[GROUP].lag == 0)
            seen = [1]
            server.kill()
            (state,) = [each for each in (server.directory / "store").rglob("obs/default=0=0") if each.is_dir()]
            shutil.copytree(state, tmp_path / "state")
            server.start()
            for number in (2, 3, 4):
                out.send(number)
            held = consumer.fetch(1, 10)
            server.kill()
            shutil.rmtree(state)
            shutil.copytree(tmp_path / "state", state)
            server.start()
            for item in held:
                seen.append(item.get())
                item.ack()
            out.send(5)
            out.end()
            for item in consumer:
                seen.append(item.get())
                item.ack()
    assert list(dict.fromkeys(seen)) == [1, 2, 3, 4, 5]


def test_who_waits_for_what_is_missing_does_not_fetch_all_there_is_meanwhile(nats_server: NatsServer) -> None:
    with open_broker(nats_server.url) as broker:
        out = Writer(broker, "backlog")
        broker.ensure_group("backlog", GROUP, ack_wait=ACK_WAIT)
        with Child(steal, nats_server.url, "backlog", GROUP) as child:
            assert child.receive() == "asks"
            out.send(0)
            assert child.receive() == 1
            child.kill()
        for number in range(1, 500):
            out.send(number)
        out.end()
        most = 0
        with Consumer(broker, "backlog", ordered=True, ack_wait=ACK_WAIT) as consumer:
            seen = []
            for item in consumer:
                if not seen:
                    most = broker.groups("backlog")[GROUP].pending
                seen.append(item.get())
                item.ack()
        assert seen == [*range(500)]
        assert most < 150
        broker.delete("backlog")
