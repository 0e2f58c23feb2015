"""erasure:// with a URL that is not the latest, and with records of who belongs together that are forged."""

from __future__ import annotations

from zlib import crc32

import pytest

from proxyfab.buffers import Frames
from proxyfab.errors import ConfigurationError
from proxyfab.keys import Key
from proxyfab.scattering import roll
from proxyfab.testing.content import plain
from tests.connectors.erasure_at_hand import closed, over
from tests.connectors.test_erasure_members import added, drained, memories

__all__ = ["closed"]

SMALL, LARGE = Frames([plain(900)]), Frames([plain(100_000, 1)])


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
