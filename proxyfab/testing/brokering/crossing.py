"""Threads and processes: nothing twice, nothing lost, and whoever dies gives back what it held."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from proxyfab.brokers.opening import open_broker
from proxyfab.events.broker import Broker
from proxyfab.events.model import Capability, Record
from proxyfab.testing.brokering import roles
from proxyfab.testing.brokering.base import BrokerSuite, Join, Make
from proxyfab.testing.brokering.flows import fill, nothing, numbers, settle, take
from proxyfab.testing.processes import Child, at_once, in_fork, run, until

PUBLISHERS, MEMBERS, EACH = 8, 4, 50


class CrossingTests(BrokerSuite):
    """Rules 2, 4 and 5."""

    # -- threads -----------------------------------------------------------------------------------------------------

    def test_threads_lose_nothing(self, broker: Broker, join: Join, make: Make) -> None:
        """Eight publish and four take, two at each of two clients; a publisher's own order is kept."""
        self.claim(broker, Capability.GROUPS)
        several = Capability.PARTITIONS in broker.capabilities
        name, other = make(partitions=4 if several else 1), join()
        total, ends = PUBLISHERS * EACH, time.monotonic() + 2 * self.patience

        def publish(seed: int) -> list[Any]:
            client, partition = (broker, other)[seed % 2], seed % 4 if several else 0
            return [
                client.publish(name, [Record(b"%d" % (seed * EACH + number), partition=partition)])[0]
                for number in range(EACH)
            ]

        seen: list[int] = []

        def consume(index: int) -> list[int]:
            mine: list[int] = []
            with (broker, other)[index % 2].subscribe(name, group="g", ack_wait=60) as member:
                while len(seen) < total and time.monotonic() < ends:
                    found = member.fetch(9, 0.2)
                    member.ack(found)
                    mine += numbers(found)
                    seen.extend(numbers(found))
            return mine

        works: list[Callable[[], Any]] = [partial(publish, seed) for seed in range(PUBLISHERS)]
        works += [partial(consume, index) for index in range(MEMBERS)]
        results = at_once(works, timeout=3 * self.patience)
        failed = [each for each in results if isinstance(each, BaseException)]
        assert failed == []
        assert sorted(seen) == list(range(total))
        positions = [each for result in results[:PUBLISHERS] for each in result]
        assert len(set(positions)) == total

    def test_threads_share_a_subscription(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 200)
        with broker.subscribe(topic, group="g", ack_wait=60) as member:

            def consume() -> list[int]:
                mine: list[int] = []
                while found := member.fetch(7, 1.0):
                    member.ack(found)
                    mine += numbers(found)
                return mine

            results = at_once([consume] * 4)
        assert sorted(number for result in results for number in result) == list(range(200))

    def test_a_fetch_delays_nobody(self, broker: Broker, make: Make) -> None:
        """Who waits at one topic does not keep the same client's other threads from working."""
        waits, works = make(), make()
        with broker.subscribe(waits, group="g") as idle, broker.subscribe(works, group="g") as busy:

            def work() -> list[int]:
                try:
                    found: list[int] = []
                    for number in range(20):
                        fill(broker, works, 1, number)
                        found += numbers(settle(busy, 1, self.patience))
                    return found
                finally:
                    fill(broker, waits, 1)

            waited, worked = at_once([lambda: idle.fetch(1, 60), work], timeout=2 * self.patience)
            assert worked == list(range(20))
            assert numbers(waited) == [0]

    def test_the_first_use_may_be_many(self, join: Join, topic: str) -> None:
        other = join()

        assert at_once([lambda: other.describe(topic).records] * 6) == [0] * 6

    # -- processes ---------------------------------------------------------------------------------------------------

    def test_a_broker_travels(self, broker: Broker) -> None:
        self.claim(broker, "crosses_processes")

        assert run(roles.url, broker) == broker.url

    def test_unpickled_it_is_this_process_s_own(self, broker: Broker) -> None:
        again = pickle.loads(pickle.dumps(broker))
        try:
            assert again.url == broker.url
            assert again.topics() == broker.topics()
            with pickle.loads(pickle.dumps(again)) as other, open_broker(broker.url) as one_more:
                assert other.topics() == one_more.topics() == broker.topics()
            assert not again.closed
            assert again.topics() == broker.topics(), "each has a handle of its own"
        finally:
            again.close()

    def test_another_process_publishes(self, broker: Broker, topic: str) -> None:
        self.claim(broker, "crosses_processes")
        with broker.subscribe(topic, group="g") as member:
            where = run(roles.publish, broker, topic, 10)
            found = settle(member, 10, self.patience)
        assert numbers(found) == list(range(10))
        assert [(each.position.partition, each.position.offset) for each in found] == where

    def test_another_process_consumes(self, broker: Broker, topic: str) -> None:
        self.claim(broker, "crosses_processes")
        fill(broker, topic, 10)

        assert run(roles.consume, broker, topic, 10, self.patience) == list(range(10))
        assert broker.groups(topic)["g"].lag == 0

    def test_processes_share(self, broker: Broker, make: Make) -> None:
        self.claim(broker, "crosses_processes", Capability.GROUPS)
        several = Capability.PARTITIONS in broker.capabilities
        name = make(partitions=2 if several else 1)
        broker.ensure_group(name, "g")
        with Child(roles.work, broker, name) as one, Child(roles.work, broker, name) as two:
            for number in range(100):
                fill(broker, name, 1, number, partition=number % 2 if several else 0)
            assert until(lambda: broker.groups(name)["g"].lag == 0, self.patience)
            one.send("end")
            two.send("end")
            assert sorted([*one.result(), *two.result()]) == list(range(100))

    def test_what_a_killed_process_held_comes_again(self, broker: Broker, topic: str) -> None:
        self.claim(broker, "crosses_processes", "survives_kills")
        fill(broker, topic, 6)
        with Child(roles.hold, broker, topic, 6, 2, 600.0) as child:
            assert child.receive() == list(range(6))
            child.kill()
        with broker.subscribe(topic, group="g", ack_wait=600.0) as member:
            assert sorted(numbers(settle(member, 4, self.patience))) == [2, 3, 4, 5]
            assert nothing(member)

    def test_it_comes_again_after_its_time_at_the_latest(self, broker: Broker, topic: str) -> None:
        self.claim(broker, "crosses_processes")
        fill(broker, topic, 4)
        with Child(roles.hold, broker, topic, 4, 1, 1.0) as child:
            assert child.receive() == list(range(4))
            child.kill()
        with broker.subscribe(topic, group="g", ack_wait=30.0) as member:
            assert sorted(numbers(settle(member, 3, self.patience))) == [1, 2, 3]
            assert nothing(member)

    # -- forks -------------------------------------------------------------------------------------------------------

    def test_a_fork_opens_its_own_connection(self, broker: Broker, topic: str) -> None:
        self.claim(broker, "crosses_processes")
        fill(broker, topic, 1)

        def child() -> list[int]:
            fill(broker, topic, 1, 1)
            with broker.subscribe(topic, group=f"child-{os.getpid()}") as member:
                found = numbers(settle(member, 2, self.patience))
            broker.close()
            return found

        with broker.subscribe(topic, group="parent") as member:
            assert numbers(take(member, 1, self.patience)) == [0]
            for _ in range(2):
                assert in_fork(child)[:2] == [0, 1]
            assert numbers(take(member, 2, self.patience)) == [1, 1]  # what both children published
        assert broker.topics()

    def test_a_fork_before_the_first_use(self, join: Join, topic: str) -> None:
        other = join()

        assert in_fork(lambda: other.describe(topic).records) == 0
        assert other.describe(topic).records == 0

    def test_a_fork_while_threads_work(self, broker: Broker, topic: str) -> None:
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                fill(broker, topic, 2)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(3):
                assert in_fork(lambda: broker.describe(topic).topic.name) == topic
        finally:
            stop.set()
            thread.join(self.patience)

    # -- what is shown -----------------------------------------------------------------------------------------------

    def test_secrets_are_not_shown(self, broker: Broker) -> None:
        broker.topics()
        shown = [broker.url, repr(broker), str(broker), repr(pickle.dumps(broker))]

        assert broker.url in repr(broker)
        assert [secret for secret in self.secrets for text in shown if secret in text] == []
