"""erasure:// with a URL that is old, with forged records, and with what others evict and lose meanwhile."""

from __future__ import annotations

import time
from unittest.mock import patch
from zlib import crc32

import pytest

from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.scattering import means, roll
from proxyfab.scattering.restoring import Later, restore
from proxyfab.testing import FaultyConnector
from proxyfab.testing.content import plain
from tests.connectors.erasure_at_hand import closed, over
from tests.connectors.test_erasure_members import added, care, drained, faulty, memories

__all__ = ["closed"]

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])


class Far(MemoryConnector):
    """Whose calls may hang."""

    local = False


def forged() -> bytes:
    """A roll of times to come, of members that nobody knows."""
    text = f"{roll._FORM} {1 << 62} {'ab' * 4},{'cd' * 4},{'ef' * 4} -"
    return f"{text} {crc32(text.encode()):08x}".encode()


@pytest.mark.parametrize("change", ["add", "drain"])
def test_who_is_two_changes_behind_changes_no_name(change: str) -> None:
    """Most of his members may be none of most of theirs; one change behind they always meet."""
    children, key = memories(7), Key("a name")
    kept = over(children[:5] if change == "add" else children, 2, 2)
    now = kept
    for number in (6, 7):
        kept.registers._looked = float("-inf")
        kept.put(SMALL, key=key, replace=True)
        now = added(children[:number], 2, 2) if change == "add" else over(children[number - 5 :], 2, 2)
        if change == "drain":
            drained(over(children[number - 6 :], 2, 2), 0)
    for child in (now.children[0], now.children[1]):
        child.put(Frames([forged()]), key=Key(roll.ROLL), replace=True)
    now.put(SMALL, key=key, replace=True)  # two that lie stop nobody
    kept.registers._looked = float("-inf")
    with pytest.raises(ConfigurationError, match="others may not see"):
        kept.put(LARGE, key=key, replace=True)
    assert now.get(key) == SMALL
    assert kept.get(key) == SMALL


@pytest.mark.parametrize("lacks", [False, True])
def test_who_hangs_does_not_hold_up_a_change_by_what_the_roll_says(lacks: bool) -> None:
    """Also where most of those who answer do not say the same."""
    children = [FaultyConnector(Far()) for _ in range(3)]
    one = over(children, 2, 1, hedge=0.02, patience=30.0)
    roll.call(one.scattering.means, one.members.by_label)
    if lacks:
        children[0].child.evict(Key(roll.ROLL))
    children[2].hold("get")
    began = time.monotonic()
    assert roll.follows(one.scattering.means)
    assert time.monotonic() - began < 20
    children[2].mend()


def test_who_hangs_does_not_hold_up_a_look_at_what_came_late() -> None:
    children = [FaultyConnector(Far()) for _ in range(3)]
    one = over(children, 1, 2)
    key = one.put(SMALL)
    children[0].hold("exists")
    began = time.monotonic()
    keys = {number: Key(key.id) for number in range(3)}
    assert one.scattering.means.still_there(keys, {2}, 1)
    assert time.monotonic() - began < 20
    children[0].mend()


def test_what_is_to_be_looked_at_keeps_nobody_who_has_closed() -> None:
    one = over(memories(3), 1, 2)
    key = one.put(SMALL)
    locator = one._drawn(key)
    assert locator is not None
    with patch.object(means, "AFTER", 60.0):
        one.scattering.means.look_later(locator.shape, 0, Key(key.id))
    one.close()
    assert one.scattering.means.flush(20)


def test_nothing_is_moved_of_what_lacks_a_shard() -> None:
    """Who lost his own would have another one, and lose both together."""
    children = memories(4)
    one = over(children[:3], 2, 1)
    keys = [one.put(LARGE) for _ in range(6)]
    more = added(children, 2, 1)
    children[0].clear()
    assert care(more).rebalance().moved == 0
    assert care(more).scrub(repair=True).unrestored == 0
    assert care(more).rebalance().moved > 0
    children[1].clear()
    assert more.get_many(keys) == [LARGE] * 6


def test_no_copy_is_restored_while_it_cannot_be_told_whether_it_was_evicted() -> None:
    children = faulty(3)
    one, other = over(children, 1, 2), over(children, 1, 2)
    key = one.put(SMALL)
    locator = one._drawn(key)
    assert locator is not None
    children[0].child.evict(Key(key.id))

    def evicted(_: object) -> None:
        assert other.evict(key)
        children[1].cut()
        children[2].cut()

    with patch.object(one.scattering, "state", evicted):
        report = restore(one.scattering, locator, Later(one.scattering.means))
    assert "cannot be told" in report.failures[0]
    for child in children:
        child.mend()
    assert one.get(key) is None
