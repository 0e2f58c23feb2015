"""A random walk: each group gets what it is owed, whatever is done to it.

Records are published, fetched, acknowledged and given back, members closed, groups sought. The model is what the
contract says of a group: each record is fresh, owed by a member, due again, or done.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxyfab.events.broker import Broker, Subscription
from proxyfab.events.model import EARLIEST, LATEST, Capability, Delivery, Position, Record
from proxyfab.testing.brokering.base import BrokerSuite, Make
from proxyfab.testing.brokering.flows import take
from proxyfab.testing.processes import until

_LONG = 600.0


class BrokerMachine(RuleBasedStateMachine):
    """One group at one topic, with up to three members.

    Args:
        broker: Which is walked.
        make: Makes a topic.
        patience: Seconds in which what is to come has come.
    """

    def __init__(self, broker: Broker, make: Callable[..., str], patience: float) -> None:
        super().__init__()
        self.broker, self.make, self.patience = broker, make, patience
        self.sent: dict[Position, bytes] = {}
        self.ids: dict[str, Position] = {}
        self.fresh: list[Position] = []
        self.due: dict[Position, int] = {}
        """What comes again, and how often it was delivered."""
        self.owed: dict[Position, tuple[int, int, Delivery]] = {}
        """Who has it, how often it was delivered, and as what."""
        self.members: dict[int, Subscription] = {}
        self.count = 0

    @initialize(partitions=strategies.integers(1, 3))
    def begin(self, partitions: int) -> None:
        if Capability.PARTITIONS not in self.broker.capabilities:
            partitions = 1
        self.partitions = partitions
        self.topic = self.make(partitions=partitions)
        self.broker.ensure_group(self.topic, "g")
        self.join()

    @rule()
    @precondition(lambda self: len(self.members) < 3)
    def join(self) -> None:
        self.count += 1
        self.members[self.count] = self.broker.subscribe(self.topic, group="g", ack_wait=_LONG)

    @rule(sizes=strategies.lists(strategies.integers(0, 300), max_size=5), partition=strategies.integers(0, 2))
    def publish(self, sizes: list[int], partition: int) -> None:
        batch = [
            Record(b"%d:" % (len(self.sent) + number) + bytes(size), partition=partition % self.partitions)
            for number, size in enumerate(sizes)
        ]
        for record, position in zip(batch, self.broker.publish(self.topic, batch), strict=True):
            assert position not in self.sent
            self.sent[position] = record.body
            self.fresh.append(position)

    @rule(number=strategies.integers(0, 5))
    def publish_again(self, number: int) -> None:
        if Capability.DEDUP not in self.broker.capabilities:
            return
        name = f"id-{number}"
        (position,) = self.broker.publish(self.topic, [Record(name.encode(), name)])
        if name not in self.ids:
            self.ids[name] = position
            self.sent[position] = name.encode()
            self.fresh.append(position)
        assert position == self.ids[name]

    @rule(choice=strategies.integers(0, 2), most=strategies.integers(1, 6))
    def fetch(self, choice: int, most: int) -> None:
        number = sorted(self.members)[choice % len(self.members)]
        waiting = bool(self.fresh or self.due)
        found = self.members[number].fetch(most, self.patience if waiting else 0.0)
        assert len(found) <= most
        assert bool(found) == waiting
        for each in found:
            self._took(number, each)

    def _took(self, number: int, each: Delivery) -> None:
        position = each.position
        assert bytes(each.body) == self.sent[position]
        if position in self.due:
            attempt = self.due.pop(position) + 1
        else:
            mine = [known for known in self.fresh if known.partition == position.partition]
            assert mine, f"{position} came again although it was done or somebody has it"
            assert position == mine[0], "out of order"
            self.fresh.remove(position)
            attempt = 1
        if Capability.PER_EVENT_ACK in self.broker.capabilities:
            assert each.attempt == attempt
        self.owed[position] = number, attempt, each

    def _some(self, choices: list[int]) -> dict[int, list[Delivery]]:
        """Some of what is owed, by member."""
        every = sorted(self.owed)
        picked = {every[choice % len(every)] for choice in choices}
        by: dict[int, list[Delivery]] = {}
        for position in sorted(picked):
            number, _, delivery = self.owed[position]
            by.setdefault(number, []).append(delivery)
        return by

    @precondition(lambda self: self.owed)
    @rule(choices=strategies.lists(strategies.integers(0, 20), min_size=1, max_size=6))
    def ack(self, choices: list[int]) -> None:
        for number, found in self._some(choices).items():
            self.members[number].ack(found)
            self.members[number].flush()
            for each in found:
                del self.owed[each.position]

    @precondition(lambda self: self.owed)
    @rule(choices=strategies.lists(strategies.integers(0, 20), min_size=1, max_size=6))
    def nack(self, choices: list[int]) -> None:
        for number, found in self._some(choices).items():
            self.members[number].nack(found)
            self.members[number].flush()
            for each in found:
                self.due[each.position] = self.owed.pop(each.position)[1]

    @precondition(lambda self: self.owed)
    @rule()
    def extend(self) -> None:
        for number, _, delivery in self.owed.values():
            self.members[number].extend([delivery])

    @precondition(lambda self: len(self.members) > 1)
    @rule(choice=strategies.integers(0, 2))
    def leave(self, choice: int) -> None:
        number = sorted(self.members)[choice % len(self.members)]
        self.members.pop(number).close()
        for position, (owner, attempt, _) in list(self.owed.items()):
            if owner == number:
                self.due[position] = attempt
                del self.owed[position]

    @precondition(lambda self: Capability.REPLAY in self.broker.capabilities)
    @rule(latest=strategies.booleans())
    def seek(self, latest: bool) -> None:
        member = self.members[min(self.members)]
        member.seek(LATEST if latest else EARLIEST)
        self.owed.clear()
        self.due.clear()
        self.fresh = [] if latest else sorted(self.sent)

    @invariant()
    def it_knows_how_far_it_is(self) -> None:
        if not self.members:
            return
        lag = len(self.fresh) + len(self.due) + len(self.owed)
        assert until(lambda: self.broker.groups(self.topic)["g"].lag == lag, self.patience)  # an engine counts behind
        info = self.broker.groups(self.topic)["g"]
        undone = [*self.fresh, *self.due, *self.owed]
        for partition, floor in info.floor.items():
            mine = [each.offset for each in undone if each.partition == partition]
            assert floor < min(mine, default=1 << 60)
            if not mine:
                assert floor >= max([each.offset for each in self.sent if each.partition == partition], default=0)

    def teardown(self) -> None:
        if not self.members:
            return
        left = {*self.fresh, *self.due, *self.owed}
        for member in self.members.values():
            member.close()
        with self.broker.subscribe(self.topic, group="g", ack_wait=_LONG) as last:
            found = take(last, len(left), self.patience)
            assert {each.position for each in found} == left
            assert last.fetch(1, 0.0) == []
        self.broker.delete(self.topic)


class WalkTests(BrokerSuite):
    """Nothing lost, nothing twice, however the steps come."""

    def test_a_random_walk(self, broker: Broker, make: Make) -> None:
        self.claim(broker, Capability.GROUPS, Capability.PER_EVENT_ACK)
        steps = min(settings.default.stateful_step_count, 40)
        run_state_machine_as_test(
            lambda: BrokerMachine(broker, make, self.patience),
            settings=settings(deadline=None, stateful_step_count=steps),
        )
