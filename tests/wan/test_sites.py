"""Two facilities that lie apart, with real gateways and a relay: what crosses, and what a cut costs.

For root; without it, or without the tools, these are skipped and say why.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from proxyfab.store import Store
from proxyfab.testing.processes import until
from proxyfab.wan.facilities import Facilities, missing
from tests.wan.sites import gateways

pytest.importorskip("cryptography")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
MB = 1_000_000


def figures(store: Store) -> dict[str, float]:
    status = store.connector.status()  # type: ignore[attr-defined]  # it can
    return {**status.counters, **status.gauges}


@pytest.mark.parametrize("nat", ["", "plain", "random"])
def test_neither_can_be_dialled_and_a_reference_crosses(nat: str) -> None:
    if missing(nat=bool(nat)):
        pytest.skip(missing(nat=bool(nat)))
    with Facilities(nat=nat, routed=bool(nat), delay=0.0125) as world, gateways(world, direct=False) as sites:
        with Store(sites["aps"], cache=0) as aps, Store(sites["alcf"], cache=0) as alcf:
            value = os.urandom(8 * MB)
            assert alcf.get(aps.put(value)) == value
            assert aps.get(alcf.put(value)) == value
            assert figures(alcf)["relays"] == 1


@pytest.mark.timeout(180)
def test_a_cut_of_ten_seconds_amid_64_mb() -> None:
    with Facilities(routed=True, delay=0.0125, rate=2e8) as world, gateways(world, direct=True) as sites:
        with Store(sites["aps"], cache=0) as aps, Store(f"{sites['alcf']}&timeout=120", cache=0) as alcf:
            assert alcf.get(aps.put(b"warm" * 1000)) is not None
            value = os.urandom(64 * MB)
            key = aps.put(value)
            found: list[object] = []
            reader = threading.Thread(target=lambda: found.append(alcf.get(key)))
            before = figures(aps)["link_alcf_sent"]
            reader.start()
            assert until(lambda: figures(aps)["link_alcf_sent"] - before > 24 * MB)
            world.cut()
            begun = time.monotonic()
            assert not until(lambda: bool(found), 10.0)
            world.heal()
            reader.join(120)
            print(f"finished {time.monotonic() - begun - 10:.1f} s after the cut's end")
            assert found == [value]
            again = figures(aps)["link_alcf_again"]
            print(f"{again / MB:.2f} MB of 64 MB were sent again")
            assert again <= 0.05 * 64 * MB
            assert figures(alcf)["link_aps_doubled"] == 0
