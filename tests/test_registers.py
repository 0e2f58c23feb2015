"""Registers: what names mean, changed by many at once over children that fail before or behind what they were asked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import CapabilityError, ConnectorError, IntegrityError
from proxyfab.keys import Key
from proxyfab.scattering.means import Means
from proxyfab.scattering.members import Members
from proxyfab.scattering.registers import Record, Registers, key_of, unpack
from proxyfab.testing.processes import at_once

R = TypeVar("R")


class Flaky(MemoryConnector):
    """Fails now and then, half of the time behind what it did."""

    def __init__(self, seed: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.draw = random.Random(seed)
        self.lock = threading.Lock()

    def _flaky(self, work: Callable[[], R]) -> R:
        with self.lock:
            fails, late = self.draw.random() < self.share, self.draw.random() < 0.5
        if fails and not late:
            raise ConnectorError("The link broke, as the test wanted.")
        found = work()
        if fails:
            raise ConnectorError("The answer was lost, as the test wanted.")
        return found

    def get(self, key: Key) -> Frames | None:
        return self._flaky(lambda: super(Flaky, self).get(key))

    def compare_and_set(self, *args: Any, **how: Any) -> bool:
        return self._flaky(lambda: super(Flaky, self).compare_and_set(*args, **how))


def registers(children: list[Any]) -> Registers:
    return Registers(Means(Members(children), patience=20))


@pytest.mark.parametrize(("count", "share"), [(3, 0.0), (3, 0.05), (5, 0.12)])
def test_who_counts_at_once_loses_nothing_and_counts_nothing_twice(count: int, share: float) -> None:
    """Each change that was said done is there once; of those whose end nobody knows each is once or not at all."""
    children = [Flaky(seed, share) for seed in range(count)]
    unknown: list[int] = []

    def work() -> int:
        mine, done = registers(children), 0
        for _ in range(15):
            try:
                done += mine.change("n", lambda value: b"%d" % (int(value or b"0") + 1)).done
            except ConnectorError:
                unknown.append(1)
        return done

    done = at_once([work] * 4, timeout=60)
    for child in children:
        child.share = 0.0
    assert all(isinstance(one, int) for one in done)
    assert sum(done) <= int(registers(children).read("n")) <= sum(done) + len(unknown)
    assert sum(done) + len(unknown) == 60


def test_of_different_pictures_one_is_completed() -> None:
    """What a minority accepted is chosen by the first who reads it, or never; all say the same afterwards."""
    for cut in range(1, 9):
        children = [Flaky(seed, 0.0) for seed in range(3)]
        registers(children).change("n", lambda _: b"old")
        steps = iter(range(1000))

        def stop(work: Callable[[], R], steps: Any = steps, cut: int = cut) -> R:
            if next(steps) >= cut:
                raise KeyboardInterrupt
            return work()

        for child in children:
            child._flaky = stop  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            registers(children).change("n", lambda _: b"new")
        for child in children:
            del child._flaky
        first = registers(children).read("n")
        assert first in (b"old", b"new")
        for left in ((0, 1), (1, 2), (0, 2)):
            with_one_away = [children[at] if at in left else Flaky(9, 1.0) for at in range(3)]
            assert registers(with_one_away).read("n") == first


def test_a_minority_says_nothing() -> None:
    children = [Flaky(seed, 0.0) for seed in range(3)]
    registers(children).change("n", lambda _: b"it")
    for child in children[:2]:
        child.share = 1.0
    for call in (lambda: registers(children).read("n"), lambda: registers(children).change("n", lambda _: b"else")):
        with pytest.raises(ConnectorError, match="only 1 of 3 children answer, and 2 are needed"):
            call()


def test_a_damaged_record_is_one_that_is_away() -> None:
    children = [MemoryConnector() for _ in range(3)]
    registers(children).change("n", lambda _: b"it")
    children[0].put(Frames([b"something else"]), key=key_of("n"), replace=True)
    assert registers(children).read("n") == b"it"
    raw = Record("n", value=b"it", marks=(b"12345678",)).pack().tobytes()
    assert unpack(Frames([raw])) == Record("n", value=b"it", marks=(b"12345678",))
    for at in range(len(raw)):
        with pytest.raises(IntegrityError):
            unpack(Frames([raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]]))
        with pytest.raises(IntegrityError):
            unpack(Frames([raw[:at]]))


def test_who_was_away_brings_nothing_back() -> None:
    """What was evicted meanwhile is evicted, an hour later, and after members were taken away one at a time."""
    children = [Flaky(seed, 0.0) for seed in range(5)]
    registers(children).change("n", lambda _: b"it", expires=0.0)
    children[3].share = children[4].share = 1.0
    registers(children).change("n", lambda _: b"")
    kept = [child.stat(key_of("n")).expires for child in children[:3]]
    assert all(end > time.time() + 20 * 24 * 3600 for end in kept), "two members still say what was before"
    children[3].share = children[4].share = 0.0
    for count in (1, 2):
        registers(children[count:]).refresh("n")
    assert registers(children[3:]).read("n") == b""
    assert registers(children).read("n") == b""
    registers(children).change("n", lambda _: b"more")
    registers(children).change("n", lambda _: b"")
    assert all(child.stat(key_of("n")).expires < time.time() + 2 * 3600 for child in children), "all of them know it"


def test_refreshing_changes_nothing() -> None:
    children = [Flaky(seed, 0.0) for seed in range(4)]
    ends = time.time() + 500
    registers(children[:3]).change("n", lambda _: b"it", expires=ends)
    before = [child.get(key_of("n")) for child in children[:3]]
    registers(children[:3]).refresh("n")
    assert [child.get(key_of("n")) for child in children[:3]] == before
    registers(children).refresh("n")
    assert {unpack(child.get(key_of("n"))).expires for child in children} == {ends}


def test_a_ballot_that_nothing_can_follow_is_no_ballot() -> None:
    children = [MemoryConnector() for _ in range(3)]
    registers(children).change("n", lambda _: b"it")
    bad = Record("n", promised=(2**64 - 1, bytes(8)), accepted=(2**64 - 1, bytes(8)), value=b"bad")
    children[0].put(bad.pack(), key=key_of("n"), replace=True)
    registers(children).change("n", lambda value: value + b"!")
    assert registers(children).read("n") == b"it!"


def test_who_cannot_compare_is_named() -> None:
    class Bare(MemoryConnector):
        compare_and_set = None  # type: ignore[assignment]

    with pytest.raises(CapabilityError, match="cannot compare and set"):
        registers([MemoryConnector(), Bare(), MemoryConnector()]).read("n")
