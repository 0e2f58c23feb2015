"""Kill -9 of whole gateways and relays amid everything: the short form of a campaign with `--plane sites`."""

from __future__ import annotations

import pytest

from proxyfab.keys import Key
from proxyfab.testing.sitekills import Item, SiteKills, kinds, places

pytest.importorskip("cryptography")
SEED = 20261122
RUNS = [(place, killed) for place in places() for killed in kinds(place)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("place", "killed"), RUNS)
def test_some_kills(place: str, killed: str) -> None:
    with SiteKills(place, seed=SEED) as kills:
        report = kills.run(killed, 3)  # type: ignore[arg-type]  # it is one of kinds
    assert report.ok, str(report)
    assert report.kills == 3


def test_what_is_there_is_known_until_its_home_was_killed() -> None:
    kills = SiteKills("direct", seed=SEED)
    item = Item(Key("x", "aps/run/0123456789ab"), "aps", 1000, 0)
    kills.there(item)
    assert kills.is_known(item)
    assert item.content() == item.content()
    assert len(item.content()) == 1000
    kills.lives["alcf"] += 1
    assert kills.is_known(item)
    kills.lives["aps"] += 1
    assert not kills.is_known(item)
    kills.report.breaks("none", "one of these")
    assert not kills.report.ok
    assert kills.report.row()["none"] == 1
