"""Three sites: objects come from the nearest one that has them, also when their home has gone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proxyfab.errors import ProxyfabError
from proxyfab.store import Store
from proxyfab.testing.cable import Cable
from proxyfab.testing.gateways import Gateways
from proxyfab.testing.processes import at_once, until

pytest.importorskip("cryptography")
MB = 1_000_000


@pytest.fixture(scope="module")
def sites() -> Iterator[Gateways]:
    """Two sites beside one another, and their objects' home far away."""
    cables: list[Cable] = []

    def far(address: str) -> str:
        cables.append(Cable(address))
        cables[0].delay(0.15)
        return cables[0].address

    with Gateways("aps", "alcf", "nersc", through=far, options=["--streams", "2"]) as gateways:
        yield gateways
    cables[0].close()


def figures(store: Store) -> dict[str, float]:
    status = store.connector.status()  # type: ignore[attr-defined]  # it can
    return {**status.counters, **status.gauges}


def evicted_on_its_way(home: Store, here: Store) -> bool:
    """Whether what is evicted from here while it comes, is gone then here, too."""
    key = home.put(os.urandom(MB))
    given = figures(home).get("given", 0)

    def evict() -> bool:
        assert until(lambda: figures(home).get("given", 0) > given)
        return here.evict(key)

    _, evicted = at_once([lambda: here.get(key), evict])
    return evicted is True and here.get(key) is None


def test_the_nearest_copy_is_taken_and_its_home_need_not_live(sites: Gateways) -> None:
    with Store(sites.url("aps"), cache=0) as aps, Store(sites.url("alcf"), cache=0) as alcf:
        with Store(sites.url("nersc") + "&timeout=20", cache=0) as nersc:
            first, second, third, old, new = (os.urandom(2 * MB) for _ in range(5))
            keys = aps.put_many([first, second, third, old])
            assert nersc.get(aps.put("small")) == "small"  # by whichever way
            assert until(lambda: all(figures(nersc)[f"streams_{name}"] >= 2 for name in ("aps", "alcf")))
            assert alcf.get_many([*keys[:2], keys[3]]) == [first, second, old]
            assert nersc.put(new, key=keys[3], replace=True) == keys[3]
            assert nersc.get(keys[3]) == new  # not what alcf was given before
            before = figures(nersc)
            assert nersc.get(keys[0]) == first
            after = figures(nersc)
            assert after["far_nearer"] == before.get("far_nearer", 0) + 1
            assert after["link_aps_received"] == before["link_aps_received"]
            assert after["link_alcf_received"] >= before["link_alcf_received"] + 2 * MB
            assert evicted_on_its_way(aps, nersc)
            assert alcf.connector.evict(keys[0])  # everywhere but at nersc
            sites.servers["aps"].kill()
            assert until(lambda: figures(nersc)["streams_aps"] == 0)
            assert nersc.get(keys[1]) == second  # from alcf, as nobody else has it
            with Store(sites.url("nersc") + "&timeout=2", cache=0) as hasty:
                with pytest.raises(ProxyfabError, match="no stream to it is open"):
                    hasty.get(keys[2])
