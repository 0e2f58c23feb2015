"""A mixed load on one place: objects of all sizes, alone and in batches, some that expire, reads, waits and evicts.

Each worker writes objects of its own and reads its own and others', and every call goes through a `Log`. It works
until it is killed, with a breath after each round, so that four of them leave a machine some room.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from proxyfab.buffers import Frames
from proxyfab.keys import Key
from proxyfab.testing.workload import Actor, Task, known

SIZES = (
    *(100, 3000) * 20,
    *(60_000,) * 16,
    *(300_000,) * 10,
    *(1_500_000,) * 5,
    *(4 << 20,) * 2,
    32 << 20,
)
"""Bytes of the objects, each as likely as it is often here; one in ten of all has none."""
_TTLS = (0.5, 1.0, 2.0)
_WAIT = 0.1
_BREATH = 0.005


class Mixer:
    """One worker's state: what it has put and may still read, and what it holds of others'."""

    def __init__(self, task: Task) -> None:
        self.actor = Actor(task)
        self.dice = self.actor.dice
        self.mine: deque[tuple[Key, int]] = deque()
        self.held: deque[tuple[Key, Frames]] = deque()
        self.number = 0

    def fresh(self) -> Key:
        """A key that was never used."""
        self.number += 1
        zero = "~0" if self.dice.random() < 0.1 else ""
        return Key(f"{self.actor.task.who}.{self.number}{zero}")

    def put(self) -> None:
        self.mine.extend((key, 1) for key in self.actor.put([self.fresh()]))

    def put_batch(self) -> None:
        keys = [self.fresh() for _ in range(self.dice.randint(2, 12))]
        self.mine.extend((key, 1) for key in self.actor.put(keys, sizes=SIZES[:56]))

    def put_short_lived(self) -> None:
        self.actor.put([self.fresh()], ttl=self.dice.choice(_TTLS))

    def replace(self) -> None:
        if self.mine and not self.mine[-1][0].id.endswith("~0"):
            key, version = self.mine.pop()
            self.mine.extend((full, version + 1) for full in self.actor.put([key], version + 1))

    def get_mine(self) -> None:
        if self.mine:
            self.actor.get([self.dice.choice(self.mine)[0]])

    def get_others(self) -> None:
        keys = [Key.parse(text) for text in known(self.actor.task, self.dice)]
        chosen = self.dice.sample(keys, min(len(keys), self.dice.choice((1, 1, 6))))
        if chosen:
            found = zip(chosen, self.actor.get(chosen), strict=False)
            self.held.extend((key, frames) for key, frames in found if frames is not None)
        while len(self.held) > 3:
            self.actor.held(*self.held.popleft())

    def wait(self) -> None:
        keys = [Key.parse(text) for text in known(self.actor.task, self.dice)] or [Key("nothing")]
        self.actor.wait(self.dice.choice(keys), _WAIT)

    def evict(self) -> None:
        if self.mine:
            self.actor.evict(self.mine.popleft()[0])


_ROUNDS: tuple[tuple[Callable[[Mixer], None], int], ...] = (
    (Mixer.put, 6),
    (Mixer.put_batch, 1),
    (Mixer.put_short_lived, 2),
    (Mixer.replace, 2),
    (Mixer.get_mine, 5),
    (Mixer.get_others, 6),
    (Mixer.wait, 1),
    (Mixer.evict, 4),
)


def mix(task: Task) -> None:
    """Work until killed."""
    mixer = Mixer(task)
    rounds, weights = zip(*_ROUNDS, strict=True)
    while True:
        if len(mixer.mine) > task.keep:
            mixer.evict()
        else:
            mixer.dice.choices(rounds, weights)[0](mixer)
        time.sleep(_BREATH)
