"""erasure:// with children that are down, hang, are slow or answer wrongly; interrupted puts; stragglers."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import combinations
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure.locator import Locator
from proxyfab.errors import ConnectorError, IntegrityError, ProxyfabError
from proxyfab.keys import Key
from proxyfab.scattering.upkeep import Upkeep
from proxyfab.testing import until
from proxyfab.testing.content import is_whole, plain, signed
from proxyfab.testing.processes import at_once
from tests.connectors.erasure_at_hand import closed, over

__all__ = ["closed"]

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])
CODES = [(2, 1), (4, 2), (6, 3)]
SPOILT = {
    "cut": lambda raw: raw[:-1],
    "empty": lambda raw: b"",
    "flipped": lambda raw: raw[:70] + bytes([raw[70] ^ 4]) + raw[71:],
    "head": lambda raw: raw[:9] + bytes([raw[9] ^ 1]) + raw[10:],
}


class Wicked(MemoryConnector):
    """A place in memory that does what its `mode` says to whoever gets something there."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.mode = ""
        self.delay = 0.0
        self.gate = threading.Event()
        self.other: Frames | None = None
        self.gets = 0

    @property
    def local(self) -> bool:  # type: ignore[override]
        return self.mode not in ("hangs", "slow")

    def get(self, key: Key) -> Frames | None:
        self.gets += 1
        found = super().get(key)
        if self.mode == "down":
            raise ConnectorError("It is down, as the test wanted.")
        if self.mode == "hangs":
            self.gate.wait(20)
        if self.mode == "slow":
            time.sleep(self.delay)
        if found is None or key.id.endswith(".r"):
            return found
        if self.mode == "other":
            return self.other
        return Frames([SPOILT[self.mode](found.tobytes())]) if self.mode in SPOILT else found


@pytest.fixture
def children() -> Iterator[list[Wicked]]:
    made = [Wicked() for _ in range(9)]
    yield made
    for child in made:
        child.gate.set()


def set_all(children: list[Wicked], mode: str) -> None:
    for child in children:
        child.mode = mode
        if mode:
            child.gate.clear()
        else:
            child.gate.set()


@pytest.mark.parametrize("mode", ["down", "hangs", "slow", "other", *SPOILT])
@pytest.mark.parametrize(("k", "m"), CODES)
def test_any_m_children(children: list[Wicked], k: int, m: int, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every combination; and one more is one clear error, that names each and what is wrong with it."""
    one = over(children[: k + m], k, m, hedge=0.005 if mode in ("hangs", "slow") else 1.0, patience=0.4)
    keys = {one.put(SMALL): SMALL, one.put(LARGE): LARGE}
    one.put(LARGE, key=Key("named"))
    keys[Key("named")] = LARGE
    stranger = over(one.children, k, m).put(Frames([bytes(LARGE.nbytes)]))
    for child in one.children:
        child.other = child.get(Key(stranger.id))
        child.delay = 0.03
    one.mending.noticed = lambda *_: None  # type: ignore[method-assign]  # what is spoilt here is not stored so
    one.scattering.getting._noticed = one.mending.noticed
    every = list(combinations(one.children, m))
    for lost in every if mode not in ("hangs", "slow") else random.Random(k).sample(every, min(len(every), 6)):
        set_all(list(lost), mode)
        caplog.clear()
        for key, expected in keys.items():
            assert one.get(key) == expected
        told = [child.spec for child in lost for record in caplog.records if child.spec in record.getMessage()]
        assert max([told.count(spec) for spec in told], default=0) <= 1, "one a child"
        set_all(list(lost), "")
    if mode in ("hangs", "slow"):
        return
    for lost in every[:4]:
        worst = [*lost, next(child for child in one.children if child not in lost)]
        set_all(worst, mode)
        with pytest.raises(
            (ConnectorError, IntegrityError), match=rf"only {k - 1} shards can be read, and {k} are"
        ) as error:
            one.get(list(keys)[1])
        assert all(child.spec in str(error.value) for child in worst)
        set_all(worst, "")


def test_who_hangs_is_not_waited_for_again_and_again(children: list[Wicked]) -> None:
    one = over(children[:3], 2, 1, patience=0.1, hedge=0.02)
    key = one.put(LARGE, key=Key("k"))
    set_all(one.children[:1], "hangs")
    for _ in range(6):
        assert one.get(key) == LARGE
    began = time.monotonic()
    for _ in range(5):
        assert one.get(key) == LARGE
    assert time.monotonic() - began < 1.0
    assert one.exists(key)
    assert one.stat(key).nbytes == LARGE.nbytes


@pytest.mark.parametrize("nbytes", [900, 100_000])
def test_all_hang_for_one_patience(children: list[Wicked], nbytes: int) -> None:
    """Also copies, which are asked one after the other, and although nothing more may be asked for twice."""
    one = over(children[:6], 4, 2, patience=1.0, hedge=0.02)
    key = one.put(Frames([plain(nbytes)]))
    while one.scattering.means.pace.spend():
        pass
    set_all(one.children, "hangs")
    began = time.monotonic()
    with pytest.raises(
        ConnectorError, match=r"only 0 shards can be read, and \d are needed: .*No answer came"
    ) as error:
        one.get(key)
    assert time.monotonic() - began < 1.9
    assert str(error.value).count("No answer came") == 6


def test_who_hangs_is_told_of_once(children: list[Wicked], caplog: pytest.LogCaptureFixture) -> None:
    one = over(children[:3], 2, 1, patience=0.2, hedge=0.01)
    key = one.put(LARGE)
    labels = [lying.child for lying in Locator.parse(key.where).shards]
    hanging = one.children[one.members.by_label[labels[0]]]
    set_all([hanging], "hangs")
    assert one.get(key) == LARGE
    assert until(lambda: one.members[one.members.by_label[labels[0]]].silent > 0.2, 10)
    for _ in range(5):
        assert one.get(key) == LARGE
    (told,) = [record.getMessage() for record in caplog.records if hanging.spec in record.getMessage()]
    assert re.fullmatch(rf"A child hangs: {re.escape(hanging.spec)}: It has not answered for \d+ s\.", told)
    assert hanging.gets == 1


def test_who_hangs_costs_the_first_gets_alone(children: list[Wicked]) -> None:
    """Not half of the patience as soon as what may be asked for twice is used up."""
    one = over(children[:3], 2, 1, patience=30, hedge=0.02)
    key = one.put(LARGE)
    hanging = one.members[one.members.by_label[Locator.parse(key.where).shards[0].child]]
    set_all([hanging.child], "hangs")
    assert one.get(key) == LARGE
    while one.scattering.means.pace.spend():
        pass
    assert until(lambda: hanging.silent > 1.0, 10)
    began = time.monotonic()
    assert one.get_many([key] * 20) == [LARGE] * 20
    assert time.monotonic() - began < 5
    late = time.monotonic() + 11
    hanging._now = lambda: late
    assert not hanging.hangs(1.0), "it is tried again"


def test_broken_shards_of_many_objects_are_told_of_once_a_minute(
    children: list[Wicked], caplog: pytest.LogCaptureFixture
) -> None:
    one = over(children[:3], 2, 1)
    one.scattering.getting._noticed = lambda *_: None  # what is spoilt here is not stored so
    one.scattering.getting._rank = lambda *_: 0  # who is slow by chance is asked all the same
    keys = [one.put(LARGE) for _ in range(20)]
    set_all(one.children[:1], "flipped")
    assert one.get_many(keys) == [LARGE] * 20
    assert len(caplog.records) == 1
    late = time.monotonic() + 61
    one.members[0]._now = lambda: late
    one.members[0].well("get", 1, 0.1)
    assert one.get_many(keys) == [LARGE] * 20
    assert len(caplog.records) == 2
    assert "more since the last warning" in caplog.records[1].getMessage()


def test_who_hangs_holds_few_threads(children: list[Wicked]) -> None:
    one = over(children[:3], 2, 1, patience=0.5, hedge=0.005)
    key = one.put(LARGE)
    set_all(one.children[:1], "hangs")
    before = threading.active_count()
    for _ in range(150):
        assert one.get(key) == LARGE
    assert one.children[0].gets < 150
    assert threading.active_count() - before < 40


# -- interrupts ------------------------------------------------------------------------------------------------------


class _Stop(BaseException):
    """What comes from outside."""


class Plan:
    """Counts the operations of some children, and interrupts one of them, before it or behind it."""

    def __init__(self, at: int, late: bool) -> None:
        self.at = at
        self.late = late
        self.steps: Iterator[int] = iter(())

    def interrupts(self, work: Any) -> bool:
        """Whether it came to that."""
        self.steps = itertools.count()
        try:
            work()
        except _Stop:
            return True
        finally:
            self.steps = iter(())
        return False

    def step(self, work: Any) -> Any:
        if next(self.steps, -1) != self.at:
            return work()
        if self.late:
            work()
        raise _Stop


class Counted(MemoryConnector):
    """A place in memory with a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._step = plan.step

    def put(self, *args: Any, **how: Any) -> Key:
        return self._step(lambda: super(Counted, self).put(*args, **how))

    def get(self, key: Key) -> Frames | None:
        return self._step(lambda: super(Counted, self).get(key))

    def evict(self, key: Key) -> bool:
        return self._step(lambda: super(Counted, self).evict(key))

    def exists(self, key: Key) -> bool:
        return self._step(lambda: super(Counted, self).exists(key))

    def compare_and_set(self, *args: Any, **how: Any) -> bool:
        return self._step(lambda: super(Counted, self).compare_and_set(*args, **how))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("before", [None, SMALL])
def test_a_put_that_is_interrupted_at_every_step(before: Frames | None, late: bool) -> None:
    """What lies there is the old or the new, whole, for everybody and for good; and the name can be used."""
    for at in itertools.count():
        plan = Plan(at, late)
        one = over([Counted(plan) for _ in range(3)], 2, 1)
        if before is not None:
            one.put(before, key=Key("k"))
        came = plan.interrupts(lambda one=one: one.put(LARGE, key=Key("k"), replace=True))
        other = over([MemoryConnector(child.name) for child in one.children], 2, 1)
        found = other.get(Key("k"))
        assert found in (before, LARGE)
        assert one.get(Key("k")) == found
        assert other.exists(Key("k")) == (found is not None)
        other.put(SMALL, key=Key("k"), replace=True)
        assert one.get(Key("k")) == SMALL
        assert one.evict(Key("k"))
        assert other.get(Key("k")) is None
        if not came:
            assert at > 14
            return


@pytest.mark.parametrize("late", [False, True])
def test_a_drawn_put_that_is_interrupted_leaves_nothing(late: bool) -> None:
    for at in itertools.count():
        plan = Plan(at, late)
        one = over([Counted(plan) for _ in range(6)], 4, 2, segment=30_000)
        if not plan.interrupts(lambda one=one: one.put(LARGE)):
            assert at == 4 * 6 + 3
            return
        assert until(lambda one=one: not any(list(child.scan()) for child in one.children), 10)


# -- without turns -----------------------------------------------------------------------------------------------------


def test_processes_of_several_machines_agree() -> None:
    """Those of one machine take turns; here nobody does, and children alone decide who wins."""
    spaces = [MemoryConnector() for _ in range(3)]
    ones = [over([MemoryConnector(child.name) for child in spaces], 2, 1) for _ in range(4)]
    for one in ones:
        one._turn = lambda _: nullcontext()  # type: ignore[method-assign]
    names = [Key("a"), Key("b")]

    def hammer(number: int) -> bool:
        one, draw = ones[number], random.Random(number)
        for _ in range(40):
            key, step = draw.choice(names), draw.random()
            if step < 0.4:
                one.put(signed(draw.choice([100, 5000]), draw.randrange(99)), key=key, replace=True)
            elif step < 0.5:
                one.evict(key)
            elif step < 0.7:
                one.compare_and_set(key, one.get(key), signed(300))
            else:
                found = one.get(key)
                assert found is None or is_whole(found)
        return True

    assert at_once([partial(hammer, number) for number in range(4)], timeout=60) == [True] * 4
    assert until(lambda: len({str([one.get(key) for key in names]) for one in ones}) == 1, 5)
    prizes = [Key(f"prize-{number}") for number in range(10)]
    wins = at_once([lambda one=one: [one.compare_and_set(key, None, SMALL) for key in prizes] for one in ones])
    assert [sum(one) for one in zip(*wins, strict=True)] == [1] * 10
    live = len([key for key in (*names, *prizes) if ones[0].exists(key)])
    assert until(lambda: Upkeep(ones[0].scattering, ones[0].registers).scrub().pieces == live, 10), "contents are left"


# -- stragglers ------------------------------------------------------------------------------------------------------


class Lagging(MemoryConnector):
    """A place whose gets take lognormal times, one of fifty ten times as long."""

    local = False

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.gets = 0

    def get(self, key: Key) -> Frames | None:
        self.gets += 1
        time.sleep(0.05 * self.draw.lognormvariate(0, 0.25) * (10 if self.draw.random() < 0.02 else 1))
        return super().get(key)


@pytest.mark.slow
def test_stragglers_cost_little() -> None:
    """2 % of answers ten times as slow: p99 at most three medians, for at most 15 % more answers."""
    children = [Lagging(seed) for seed in range(6)]
    one = over(children, 4, 2)
    key = one.put(LARGE)
    took = []
    for number in range(360):
        if number == 60:
            before = sum(child.gets for child in children)
        began = time.monotonic()
        assert one.get(key) == LARGE
        took.append(time.monotonic() - began)
    took = sorted(took[60:])
    assert took[297] <= 3 * took[150]
    assert sum(child.gets for child in children) - before <= 1.15 * 4 * 300


def test_refusals_are_ours(children: list[Wicked]) -> None:
    one = over(children[:3], 2, 1)
    for child in one.children:
        child.mode = "down"
    with pytest.raises(ProxyfabError, match="children answer, and 2 are needed: .*It is down"):
        one.get(Key("named"))
