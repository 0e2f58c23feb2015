"""erasure:// is looked after: what gets and scrubbing find broken is restored, children are drained and filled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.keys import Key
from proxyfab.scattering.upkeep import Upkeep
from proxyfab.testing.content import plain

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])
_opened: list[ErasureConnector] = []


def over(children: list[Any], k: int, m: int, **how: Any) -> ErasureConnector:
    """A connector that is closed when the test ends."""
    _opened.append(ErasureConnector(children, Options(k=k, m=m, small=1024, **how)))
    return _opened[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def spoil(child: Any, key: Key) -> None:
    raw, ends = child.get(Key(key.id)).tobytes(), child.stat(Key(key.id)).expires
    ttl = ends and ends - time.time()
    child.put(Frames([raw[:-1] + bytes([raw[-1] ^ 1])]), key=Key(key.id), ttl=ttl, replace=True)


def shards(one: ErasureConnector, id: str) -> int:
    return sum(child.exists(Key(id)) for child in one.children)


def test_a_get_repairs_what_it_found_broken() -> None:
    one = over([MemoryConnector() for _ in range(6)], 4, 2)
    key = one.put(LARGE)
    spoil(one.children[int(key.id[:2], 16) % 6], key)
    one.children[(int(key.id[:2], 16) + 1) % 6].evict(Key(key.id))
    assert one.get(key) == LARGE
    assert one.mending.flush(20)
    assert Upkeep(one.scattering, one.registers).scrub()[1:4] == (6, 0, 0)
    assert shards(one, key.id) == 6


def test_scrubbing_finds_and_repairs() -> None:
    one = over([MemoryConnector() for _ in range(6)], 4, 2, segment=40_000)
    keys = [one.put(SMALL), one.put(LARGE, ttl=1000), one.put(LARGE, key=Key("named"))]
    whole = Upkeep(one.scattering, one.registers).scrub()
    assert (whole.pieces, whole.missing, whole.broken, whole.lost) == (1 + 2 * 4, 0, 0, ())
    victims = one.children[:2]
    victims[0].clear()
    for stat in list(victims[1].scan()):
        if not stat.key.id.endswith(".r"):
            spoil(victims[1], stat.key)
    bad = Upkeep(one.scattering, one.registers).scrub()
    assert bad.missing > 0
    assert bad.broken > 0
    done = Upkeep(one.scattering, one.registers).scrub(repair=True)
    assert done.restored >= bad.missing
    again = Upkeep(one.scattering, one.registers).scrub(repair=True)
    assert (again.missing, again.broken, again.restored, again.lost, again.failures) == (0, 0, 0, (), ())
    for child in one.children[2:4]:
        child.clear()
    assert [one.get(key) for key in keys] == [SMALL, LARGE, LARGE]
    assert one.stat(keys[1]).expires is not None
    one.children[0].clear()
    lost = Upkeep(one.scattering, one.registers).scrub(repair=True)
    assert lost.lost


def test_a_child_is_drained_and_taken_away() -> None:
    children = [MemoryConnector() for _ in range(7)]
    one = over(children, 4, 2, segment=40_000)
    keys = [one.put(SMALL) for _ in range(5)] + [one.put(LARGE) for _ in range(3)] + [one.put(LARGE, key=Key("named"))]
    report = Upkeep(one.scattering, one.registers).drain(2)
    assert report.moved > 0
    assert report.failures == ()
    assert [one.get(key) for key in keys] == [SMALL] * 5 + [LARGE] * 4
    assert one.exists_many(keys) == [True] * 9
    rest = over(children[:2] + children[3:], 4, 2, segment=40_000)
    assert [rest.get(key) for key in keys] == [SMALL] * 5 + [LARGE] * 4
    assert Upkeep(rest.scattering, rest.registers).scrub()[1:4][1:] == (0, 0)
    assert one.evict_many(keys) == [True] * 9
    assert not any(stat.key.id[-2:] != ".r" for child in children for stat in child.scan())


def test_where_there_is_no_other_child_a_drain_says_so() -> None:
    one = over([MemoryConnector() for _ in range(3)], 2, 1)
    key = one.put(LARGE)
    report = Upkeep(one.scattering, one.registers).drain(0)
    assert "add a child first" in report.failures[0]
    assert one.get(key) == LARGE


def test_a_new_child_is_filled() -> None:
    children = [MemoryConnector() for _ in range(4)]
    one = over(children[:3], 2, 1)
    keys = [one.put(LARGE) for _ in range(8)]
    more = over(children, 2, 1)
    assert Upkeep(more.scattering, more.registers).rebalance().moved >= 4
    sizes = [sum(stat.nbytes for stat in child.scan()) for child in children]
    assert max(sizes) < 2 * min(sizes)
    assert more.get_many(keys) == [LARGE] * 8
    assert more.evict_many(keys) == [True] * 8
    assert all(not list(child.scan()) for child in children)
