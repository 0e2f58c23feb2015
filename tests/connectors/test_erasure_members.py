"""erasure:// keeps all while children come and go: interrupted, several at once, with URLs of before, beside evicts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure.shard import Shape, header_of
from proxyfab.errors import ConfigurationError, KeyExists
from proxyfab.keys import Key
from proxyfab.scattering import roll, upkeep
from proxyfab.scattering.restoring import lay
from proxyfab.scattering.upkeep import Progress, Report, Upkeep, quietly
from proxyfab.testing import FaultyConnector
from proxyfab.testing.content import plain
from tests.connectors.erasure_at_hand import closed, over

__all__ = ["closed"]

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])


def care(one: ErasureConnector, progress: Progress = quietly) -> Upkeep:
    return Upkeep(one.scattering, one.registers, progress)


def memories(count: int) -> list[Any]:
    return [MemoryConnector() for _ in range(count)]


def faulty(count: int) -> list[Any]:
    return [FaultyConnector(child) for child in memories(count)]


def added(children: list[Any], k: int, m: int) -> ErasureConnector:
    """With the last of them new."""
    care(over(children[:-1], k, m)).settle(children[-1])
    more = over(children, k, m)
    assert care(more).joined().failures == ()
    return more


def drained(one: ErasureConnector, member: int) -> Report:
    report = care(one).drain(member)
    assert report.failures == ()
    return report


def having(children: list[Any], key: Key) -> list[Any]:
    return [child for child in children if child.exists(Key(key.id))]


def test_a_repair_takes_no_segments_while_their_list_cannot_be_read() -> None:
    """Children that are away for a moment take nothing along, however many they are."""
    children = faulty(6)
    one = over(children, 4, 2, segment=40_000, patience=1.0)
    key = one.put(LARGE)

    def away(items: Iterable[Any], _: int) -> Iterator[Any]:
        yield from items
        for child in having(children, key):
            child.cut()

    with patch.object(upkeep, "OLD", -1.0):
        report = care(one, away).scrub(repair=True)
    assert report.strays == 3
    assert "until all names and lists can be read" in report.failures[0]
    assert one.scattering.means.flush(5)
    for child in children:
        child.mend()
    assert over(children, 4, 2).get(key) == LARGE


def test_a_broken_roll_is_told_of_and_not_believed() -> None:
    children = memories(6)
    one = over(children, 2, 2)
    keys = [one.put(SMALL) for _ in range(6)]
    drained(one, 0)
    good = children[3].get(Key(roll.ROLL)).tobytes()
    later = good.split()
    later[3:5] = [b"9" + later[3], b"00000000"]
    for bad in (b"garbage", good[:-30], b" ".join(later)):
        children[3].put(Frames([bad]), key=Key(roll.ROLL), replace=True)
        rest = over(children[1:], 2, 2)
        assert rest.get_many(keys) == [SMALL] * 6
        roll.check(rest.scattering.means)
    for child in children:
        child.put(Frames([b"PFEC roll 9"]), key=Key(roll.ROLL), replace=True)
    with pytest.raises(ConfigurationError, match="cannot be told"):
        care(over(children[1:], 2, 2)).drain(0)


def test_the_roll_of_whoever_changed_last_holds_whatever_clocks_say() -> None:
    children = faulty(7)
    with patch("time.time_ns", lambda: 1 << 62):
        more = added(children, 2, 2)
    call = roll.call

    def missed(*given: Any) -> None:
        children[2].cut()
        call(*given)
        children[2].mend()

    with patch.object(roll, "call", missed):
        drained(more, 0)
    rest = over(children[1:], 2, 2)
    roll.check(rest.scattering.means)
    found = roll.latest(rest.scattering.means)
    assert found is not None
    assert found.former == {more.members[0].label}


@pytest.mark.parametrize("step", ["put", "compare_and_set"])
def test_who_was_killed_while_draining_drains_anew(step: str) -> None:
    """Before the copy, and between the copy and the note."""
    children = faulty(7)
    one = over(children, 4, 2)
    keys = [one.put(LARGE) for _ in range(7)]
    for child in children:
        child.fail(step, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        care(one).drain(0)
    for child in children:
        child.mend()
    drained(over(children, 4, 2), 0)
    drained(over(children, 4, 2), 0)  # it was done, and nobody was told
    for child in children[1:3]:
        child.clear()
    assert over(children[1:], 4, 2).get_many(keys) == [LARGE] * 7


def test_who_gave_a_shard_away_may_take_one_again() -> None:
    children = memories(7)
    one = over(children[:6], 4, 2)
    keys = [one.put(LARGE) for _ in range(12)]
    more = added(children, 4, 2)
    assert care(more).rebalance().moved > 0
    drained(more, 0)
    assert over(children[1:], 4, 2).get_many(keys) == [LARGE] * 12


def test_what_is_evicted_while_it_moves_stays_away() -> None:
    children = faulty(5)
    one, other = over(children, 2, 2), over(children, 2, 2)
    keys = [one.put(SMALL) for _ in range(20)]
    put = FaultyConnector.put

    def meanwhile(self: Any, frames: Frames, *, key: Key | None = None, **how: Any) -> Key:
        if key is not None and key.id in {one.id for one in keys}:
            other.evict(Key(key.id))
        return put(self, frames, key=key, **how)

    with patch.object(FaultyConnector, "put", meanwhile):
        care(one).drain(0)
    gone = [key for key in keys if not having(children, key)]
    assert gone
    assert other.get_many(gone) == [None] * len(gone)


def test_what_is_evicted_slowly_while_it_is_restored_stays_away() -> None:
    children = faulty(5)
    one, other = over(children, 2, 2), over(children, 2, 2)
    key = one.put(SMALL)
    gates = [child.hold("evict") for child in having(children, key)[1:]]
    for child in children:
        child.delay = 0.001
    evicting = threading.Thread(target=other.evict, args=(key,))
    evicting.start()
    time.sleep(0.3)
    care(one).scrub(repair=True)
    for gate in gates:
        gate.set()
    evicting.join()
    assert (other.get(key), one.get(Key(key.id)), having(children, key)) == (None, None, [])


def test_who_was_not_told_of_a_child_evicts_what_it_has() -> None:
    """The others remember it, and whoever knows the child makes up for it."""
    children = memories(6)
    old = over(children[:5], 2, 2)
    more = added(children, 2, 2)
    keys = [more.put(SMALL) for _ in range(12)]
    assert any(children[5].exists(Key(key.id)) for key in keys)
    old.evict_many(keys)
    care(more).scrub(repair=True)
    assert more.scattering.means.flush(5)
    assert more.get_many(keys) == [None] * 12


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_what_was_repaired_bears_m_losses_again(content: Frames) -> None:
    """A scrub does not know where a shard was, and may have put it to another child: all is well after it."""
    children = memories(9)
    one, chance = over(children, 4, 2), random.Random(1)
    for _ in range(8):
        key = one.put(content)
        lost, *others = having(children, key)
        lost.clear()
        care(one).scrub(repair=True)
        for child in chance.sample(others, 2):
            child.evict(Key(key.id))
        stat = one.stat(key)
        assert (one.get(key), one.exists(key), stat is not None and stat.nbytes) == (content, True, content.nbytes)
        one.evict(key)
        assert (one.get(key), one.exists(key), having(children, key)) == (None, False, [])


def test_of_two_who_drain_at_once_one_is_told_to_begin_anew() -> None:
    children = memories(8)
    one = over(children, 2, 2)
    keys = [one.put(LARGE) for _ in range(8)] + [one.put(SMALL) for _ in range(8)]

    def other(items: Iterable[Any], _: int) -> Iterator[Any]:
        yield from items
        if not done:
            done.append(drained(over(children, 2, 2), 1))

    done: list[Report] = []
    with pytest.raises(ConfigurationError, match="Take it out of the URL first"):
        care(one, other).drain(0)
    rest = over([children[0], *children[2:]], 2, 2)
    assert care(rest).scrub()[1:4][1:] == (0, 0)
    drained(rest, 0)
    assert over(children[2:], 2, 2).get_many(keys) == [LARGE] * 8 + [SMALL] * 8


def test_two_that_move_shards_of_a_piece_take_different_places() -> None:
    children = faulty(6)
    one, other = over(children, 2, 2), over(children, 2, 2)
    key = one.put(LARGE)
    first, second = [number for number, child in enumerate(children) if child.exists(Key(key.id))][:2]
    gates: list[Callable[[], Report]] = [lambda: care(other).drain(second)]
    get = FaultyConnector.get

    def meanwhile(self: Any, name: Key) -> Frames | None:
        found = get(self, name)
        if self is children[first] and name.id == key.id and one.members[first].leaving and gates:
            gates.pop()()
        return found

    with patch.object(FaultyConnector, "get", meanwhile), pytest.raises(ConfigurationError):
        care(one).drain(first)
    rest = over([child for number, child in enumerate(children) if number != second], 2, 2)
    assert care(rest).scrub()[1:4] == (4, 0, 0)


def test_a_shard_that_was_restored_twice_meanwhile_keeps_nobody_from_draining() -> None:
    """A get that met a gap restores it beside a drain, which has listed what lies where before."""
    children = memories(5)
    one = over(children, 2, 2)
    key = one.put(LARGE)
    there, (free,) = having(children, key), [child for child in children if not child.exists(Key(key.id))]
    restored = [there[1].get(Key(key.id))]

    def meanwhile(items: Iterable[Any], count: int) -> Iterator[Any]:
        if one.members[children.index(there[0])].leaving and restored:
            free.put(restored.pop(), key=Key(key.id))
        yield from items

    assert care(one, meanwhile).drain(children.index(there[0])).failures == ()
    there[0].clear()
    left = over([child for child in children if child is not there[0]], 2, 2)
    assert left.get(key) == LARGE
    assert care(left).scrub()[1:4] == (4, 0, 0)


def test_a_scrub_of_hours_takes_nothing_that_was_on_its_way_when_it_began() -> None:
    children, shift = memories(4), [0.0]
    one, other = over(children, 2, 1, segment=30_000), over(children, 2, 1)
    sending, done = one.scattering._sending, list[Any]()
    plain_send = sending.send

    def send(frames: Frames, shape: Shape, ttl: float | None) -> Any:
        def meanwhile(items: Iterable[Any], count: int) -> Iterator[Any]:
            done.append(plain_send(frames, shape, ttl))
            shift[0] = 7200.0
            yield from items

        if not shape.total:
            return plain_send(frames, shape, ttl)
        assert care(other, meanwhile).scrub(repair=True).strays == 0
        assert other.scattering.means.flush(30)
        return done[0]

    clock = SimpleNamespace(time=lambda: time.time() + shift[0], monotonic=time.monotonic)
    with patch.object(sending, "send", send), patch.object(upkeep, "time", clock):
        assert one.get(one.put(LARGE)) == LARGE
    assert done


def test_who_comes_back_brings_nothing_of_before() -> None:
    children = memories(6)
    one = over(children, 2, 2)
    one.put(SMALL, key=Key("a"))
    drained(one, 0)
    one.put(SMALL, key=Key("late"))  # by who was not told
    rest = over(children[1:], 2, 2)
    with pytest.raises(ConfigurationError, match="Empty it first"):
        care(rest).settle(children[0])
    children[0].clear()
    more = added([*children[1:], children[0]], 2, 2)
    assert more.get(Key("a")) == SMALL


def test_who_was_killed_while_adding_adds_anew() -> None:
    children = memories(6)
    one = over(children[:5], 2, 2)
    one.put(SMALL, key=Key("a"))
    added(children, 2, 2)
    more = added(children, 2, 2)
    assert more.get(Key("a")) == SMALL
    with pytest.raises(ConfigurationError, match="add` printed"):
        care(one).settle(MemoryConnector())


def test_what_is_evicted_while_a_repair_looks_is_not_called_lost() -> None:
    one = over(memories(6), 2, 2)
    keys = [one.put(LARGE) for _ in range(5)]

    def meanwhile(items: Iterable[Any], _: int) -> Iterator[Any]:
        one.evict_many(keys)
        yield from items

    report = care(one, meanwhile).scrub(repair=True)
    assert (report.lost, report.failures) == ((), ())


def test_a_shard_stays_where_its_copy_was_overwritten() -> None:
    """Who restores another shard may do so where one has just been moved to."""
    children = faulty(6)
    one = over(children, 2, 2)
    key = one.put(LARGE)
    source = having(children, key)[0]
    before = [child for child in children if child not in having(children, key)]
    swap = FaultyConnector.compare_and_set
    spoilt = []

    def meanwhile(self: Any, name: Key, *given: Any, **how: Any) -> bool:
        if self is source and name.id == key.id and not spoilt:
            spoilt.extend(child for child in before if child.exists(Key(key.id)))
            spoilt[0].put(having(children, key)[-1].get(Key(key.id)), key=Key(key.id), replace=True)
        return swap(self, name, *given, **how)

    with patch.object(FaultyConnector, "compare_and_set", meanwhile):
        drained(one, children.index(source))
    assert spoilt
    rest = over([child for child in children if child is not source], 2, 2)
    assert care(rest).scrub()[1:4] == (4, 0, 0)


def test_a_shard_is_laid_over_nothing_that_is_good() -> None:
    children = memories(5)
    one = over(children, 2, 2)
    key = one.put(LARGE)
    first, second = having(children, key)[:2]
    good, other = first.get(Key(key.id)), second.get(Key(key.id))
    with pytest.raises(KeyExists):
        lay(first, Key(key.id), other, None)
    assert lay(first, Key(key.id), other, None, lambda said: said.shape == shape_of(good)) == (Key(key.id), True)
    assert lay(first, Key(key.id), other, None) == (Key(key.id), False)
    assert first.get(Key(key.id)) == other
    first.put(Frames([good.tobytes()[:-1]]), key=Key(key.id), replace=True)
    lay(first, Key(key.id), good, None)
    assert first.get(Key(key.id)) == good


def shape_of(stored: Frames) -> Shape:
    return header_of(stored).shape
