"""Members of an ordered group claim partitions: a simulation, whose clock and whose order of steps come from a seed."""

from __future__ import annotations

import random

import pytest

from proxyfab.brokers.memory import MemoryBroker
from proxyfab.events.model import Topic
from proxyfab.patterns.stream.claiming import BEATS, Claims

PARTITIONS, LEASE = 5, 3.0


class World:
    """Members that are stopped, killed and delayed at a seed's will."""

    def __init__(self, broker: MemoryBroker, seed: int) -> None:
        self.broker = broker
        self.chance = random.Random(seed)
        self.now = 0.0
        self.members: list[Member] = []
        self.free_since = dict.fromkeys(range(PARTITIONS), 0.0)
        self.longest = 0.0

    def join(self) -> None:
        member = Member(self, f"m{self.chance.getrandbits(40):x}")
        member.claims.beat()
        self.members.append(member)

    def step(self) -> None:
        self.now += self.chance.random() * LEASE / 10
        kind = self.chance.random()
        if kind < 0.02 and len(self.members) < 6:
            self.join()
        elif kind < 0.03 and len(self.members) > 1:
            self.members.pop(self.chance.randrange(len(self.members)))  # killed
        elif kind < 0.04 and len(self.members) > 1:
            self.members.pop(self.chance.randrange(len(self.members))).claims.leave()
        elif kind < 0.06:
            self.chance.choice(self.members).asleep = self.now + self.chance.random() * 3 * LEASE
        for member in self.chance.sample(self.members, len(self.members)):
            member.work()
        self.judge()

    def judge(self) -> None:
        readers = [number for member in self.members for number in member.reads if member.claims.live(member.life)]
        assert len(readers) == len(set(readers)), "two members hand out what comes of one partition"
        for number in range(PARTITIONS):
            if number in readers or any(member.asleep > self.now for member in self.members):
                self.free_since[number] = self.now
            self.longest = max(self.longest, self.now - self.free_since[number])


class Member:
    """One member: it looks when it is time, and follows its claims as lanes do."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.asleep = 0.0
        self.looks = 0.0
        self.reads: frozenset[int] = frozenset()
        self.life = 0
        self.claims = Claims(
            world.broker, "t", "g", name, PARTITIONS, LEASE, works=lambda: True, clock=lambda: world.now
        )

    def work(self) -> None:
        if self.asleep > self.world.now:
            return
        chance, claims = self.world.chance, self.claims
        if self.looks <= self.world.now:
            claims.look()
            self.looks = self.world.now + chance.random() * LEASE / BEATS / 2
        if not claims.sure or chance.random() < 0.2:  # busy with a frame: it changes nothing now
            return
        share = claims.share
        target = share.kept(self.reads)
        if share.life != self.life:
            self.reads, self.life = frozenset(), share.life
        self.reads = target
        if share.mine - target:
            claims.beat(share.mine - target)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_a_partition_has_one_reader_and_soon(seed: int) -> None:
    with MemoryBroker() as broker:
        broker.ensure(Topic("t", partitions=PARTITIONS))
        world = World(broker, seed)
        world.join()
        for _ in range(400):
            world.step()
        assert world.longest < LEASE * 1.5, "a lease, and what two looks and a frame that is under way take here"
        for member in world.members:
            member.asleep = 0.0
        for _ in range(60):
            world.now += LEASE / 10
            for member in world.members:
                member.work()
        shares = [len(member.reads) for member in world.members]
        assert sum(shares) == PARTITIONS
        assert max(shares) - min(shares) <= 1
        assert frozenset().union(*(member.reads for member in world.members)) == set(range(PARTITIONS))
