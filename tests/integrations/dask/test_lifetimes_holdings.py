"""What is held, and for whom: bookkeeping alone, against a model that counts from scratch."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxyfab.integrations.dask.holdings import Holdings, Place

PLACES = [Place("shm://~a", str(number)) for number in range(4)]
places = st.lists(st.sampled_from(PLACES), max_size=3)
clients = st.sampled_from(["one", "two"])
tasks = st.sampled_from(["k", ("x", 0), ("x", 1)])


class HoldingsMachine(RuleBasedStateMachine):
    """Claims, tasks, releases and ends in any order; each object is answered with when its last need ends."""

    def __init__(self) -> None:
        super().__init__()
        self.holdings = Holdings()
        self.claims: Counter[tuple[str, Place]] = Counter()
        self.tasks: dict[object, set[Place]] = {}

    def needed(self) -> set[Place]:
        """By whom, does not matter."""
        claimed = {place for (_, place), count in self.claims.items() if count}
        return claimed.union(*self.tasks.values())

    def ends(self, before: set[Place], free: list[Place]) -> None:
        assert Counter(free) == Counter(before - self.needed())

    @rule(client=clients, some=places)
    def claim(self, client: str, some: list[Place]) -> None:
        self.holdings.claim(client, some)
        self.claims.update((client, place) for place in some)

    @rule(client=clients, some=places)
    def release(self, client: str, some: list[Place]) -> None:
        before = self.needed()
        for place in some:
            if self.claims[client, place]:
                self.claims[client, place] -= 1
        self.ends(before, self.holdings.release(client, some))

    @rule(client=clients)
    def leave(self, client: str) -> None:
        before = self.needed()
        for place in PLACES:
            self.claims[client, place] = 0
        self.ends(before, self.holdings.leave(client))

    @rule(task=tasks, some=places)
    def name(self, task: object, some: list[Place]) -> None:
        self.holdings.name(task, dict.fromkeys(some, 7))
        if some and task not in self.tasks:
            self.tasks[task] = set(some)

    @rule(task=tasks)
    def forget(self, task: object) -> None:
        before = self.needed()
        self.tasks.pop(task, None)
        self.ends(before, self.holdings.forget(task))

    @rule()
    def restart(self) -> None:
        before = self.needed()
        self.tasks.clear()
        self.ends(before, self.holdings.forget_all())

    @rule()
    def end(self) -> None:
        before = self.needed()
        self.tasks.clear()
        self.claims.clear()
        self.ends(before, self.holdings.end())

    @invariant()
    def as_the_model(self) -> None:
        needed = self.needed()
        assert len(self.holdings) == len(needed)
        assert [place in self.holdings for place in PLACES] == [place in needed for place in PLACES]
        assert self.holdings.uses == sum(map(len, self.tasks.values()))
        named: set[Place] = set().union(*self.tasks.values())
        assert self.holdings.nbytes == 7 * len(named)
        for client in ("one", "two"):
            assert self.holdings.claims(client) == any(self.claims[client, place] for place in PLACES)


TestHoldings = HoldingsMachine.TestCase
