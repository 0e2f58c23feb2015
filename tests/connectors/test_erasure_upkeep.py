"""erasure:// is looked after: what gets and scrubbing find broken is restored, children are drained and filled."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConfigurationError, ConnectorError
from proxyfab.keys import Fresh, Key
from proxyfab.scattering import scattering, upkeep
from proxyfab.scattering.means import UPLOAD
from proxyfab.scattering.roll import ROLL
from proxyfab.scattering.upkeep import Upkeep
from proxyfab.testing import FaultyConnector
from proxyfab.testing.content import plain
from tests.connectors.erasure_at_hand import closed, over

__all__ = ["closed"]

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])


def spoil(child: Any, key: Key) -> None:
    raw, ends = child.get(Key(key.id)).tobytes(), child.stat(Key(key.id)).expires
    ttl = ends and ends - time.time()
    child.put(Frames([raw[:-1] + bytes([raw[-1] ^ 1])]), key=Key(key.id), ttl=ttl, replace=True)


def shards(one: ErasureConnector, id: str) -> int:
    return sum(child.exists(Key(id)) for child in one.children)


def test_a_put_that_takes_hours_loses_nothing_to_repairs() -> None:
    children = [MemoryConnector() for _ in range(4)]
    one, other = over(children, 2, 2, segment=40_000), over(children, 2, 2)
    send, strays = one.scattering._send, []

    def slowly(ttl: float | None, item: Any) -> Any:
        sent = send(ttl, item)
        if children[0].exists(Key(key.id + UPLOAD)):
            strays.append(Upkeep(other.scattering, other.registers).scrub(repair=True).strays)
            assert other.scattering.means.flush(20)
        return sent

    key = Fresh.of(one.reserve())
    with (
        patch.object(one.scattering, "_send", slowly),
        patch.object(scattering, "_LONG", -1.0),
        patch.object(upkeep, "OLD", -1.0),
    ):
        done = one.put(LARGE, key=key)
    assert strays == [0, 0]
    assert other.get(done) == LARGE


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
    assert not any(stat.key.id[-2:] != ".r" and stat.key.id != ROLL for child in children for stat in child.scan())


def test_where_there_is_no_other_child_a_drain_says_so() -> None:
    one = over([MemoryConnector() for _ in range(3)], 2, 1)
    key = one.put(LARGE)
    report = Upkeep(one.scattering, one.registers).drain(0)
    assert "add a child first" in report.failures[0]
    assert one.get(key) == LARGE


def test_what_a_writer_put_to_a_drained_child_is_restored_before_the_next_one_is_drained() -> None:
    """Who still has the URL of before puts shards to who leaves; children go one by one, and nobody types `repair`."""
    children: list[Any] = [MemoryConnector() for _ in range(7)]
    keys = [over(children, 2, 2).put(SMALL)]
    for _ in range(3):
        one, old = over(children, 2, 2), over(children, 2, 2)
        assert Upkeep(one.scattering, one.registers).drain(0).failures == ()
        keys += [old.put(LARGE) for _ in range(4)]
        keys.append(old.put(LARGE, key=Key(f"named-{len(children)}")))
        children.pop(0).clear()
    last = over(children, 2, 2)
    assert last.get_many(keys) == [SMALL] + [LARGE] * (len(keys) - 1)


def test_keys_that_name_none_but_drained_children_are_good() -> None:
    children = [MemoryConnector() for _ in range(5)]
    one = over(children, 1, 1)
    key, gone = one.put(SMALL), one.put(LARGE)
    for _ in range(3):
        assert Upkeep(one.scattering, one.registers).drain(0).failures == ()
        children.pop(0).clear()
        one = over(children, 1, 1)
    assert (one.get(key), one.exists(key), one.stat(key) is not None) == (SMALL, True, True)
    assert (one.evict(gone), one.get(gone), one.exists(gone)) == (True, None, False)
    with pytest.raises(ConnectorError, match="does not lie in"):
        over([MemoryConnector(), MemoryConnector()], 1, 1).get(key)


def refused(why: str, upkeep: Upkeep) -> None:
    with pytest.raises(ConfigurationError, match=why):
        upkeep.settle()
    with pytest.raises(ConfigurationError, match=why):
        upkeep.rebalance()
    with pytest.raises(ConfigurationError, match=why):
        upkeep.drain(0)


def test_from_an_old_url_nothing_is_added_drained_or_rebalanced() -> None:
    children = [MemoryConnector() for _ in range(7)]
    old = over(children[:5], 2, 2)
    old.put(LARGE)
    Upkeep(old.scattering, old.registers).settle()
    more = over(children[:6], 2, 2)
    assert Upkeep(more.scattering, more.registers).joined().failures == ()
    stale = Upkeep(old.scattering, old.registers)
    refused("add` printed", stale)
    assert Upkeep(more.scattering, more.registers).drain(5).failures == ()
    stale = Upkeep(more.scattering, more.registers)
    refused("Take it out of the URL first", stale)
    assert Upkeep(old.scattering, old.registers).drain(0).failures == ()


def test_who_is_lost_is_struck_off_by_a_repair() -> None:
    children = [MemoryConnector() for _ in range(7)]
    one = over(children, 2, 2)
    key = one.put(LARGE)
    assert Upkeep(one.scattering, one.registers).drain(0).failures == ()
    rest = over(children[2:], 2, 2)
    with pytest.raises(ConfigurationError, match="if they are lost"):
        Upkeep(rest.scattering, rest.registers).drain(0)
    assert Upkeep(rest.scattering, rest.registers).scrub(repair=True).failures == ()
    assert Upkeep(rest.scattering, rest.registers).drain(0).failures == ()
    assert rest.get(key) == LARGE


def test_nothing_moves_while_a_shard_lacks_that_cannot_be_restored() -> None:
    children = [FaultyConnector(MemoryConnector()) for _ in range(4)]
    one = over(children, 2, 2)
    key = one.put(LARGE)
    children[1].cut()
    before = shards(over(children[2:], 1, 1), key.id)
    with pytest.raises(ConnectorError, match="is not drained"):
        Upkeep(one.scattering, one.registers).drain(0)
    assert children[0].calls["put"] == 1
    assert shards(over(children[2:], 1, 1), key.id) == before


def test_what_a_killed_writer_left_keeps_nobody_from_draining() -> None:
    """Fewer shards than are needed: nobody can read it, whoever is there."""
    children = [MemoryConnector() for _ in range(6)]
    one = over(children, 3, 2)
    left, key = one.put(LARGE), one.put(LARGE)
    for child in [child for child in children if child.exists(Key(left.id))][:3]:
        child.evict(Key(left.id))
    assert Upkeep(one.scattering, one.registers).drain(0).failures == ()
    rest = over(children[2:], 3, 1)  # another one is lost for good
    assert Upkeep(rest.scattering, rest.registers).scrub(repair=True).lost == (left.id,)
    more = over([*children[2:], MemoryConnector()], 3, 1)
    Upkeep(rest.scattering, rest.registers).settle()
    assert Upkeep(more.scattering, more.registers).joined().failures == ()
    assert more.get(key) == LARGE


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
