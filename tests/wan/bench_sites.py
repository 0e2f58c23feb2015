"""What gateways carry over an emulated way: `python -m tests.wan.bench_sites --loss 0.001 --streams 16`.

For root. Real gateways, real clients; objects are new each time, so that none is a copy. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from proxyfab.store import Store
from proxyfab.testing.processes import until
from proxyfab.wan.facilities import Facilities
from tests.wan.measuring import parser, way
from tests.wan.sites import gateways


def took(call: Callable[[], Any]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def measure(aps: Store, alcf: Store, sizes: list[int], rounds: int, streams: int) -> dict[str, Any]:
    assert alcf.get(aps.put(b"first" * 1000)) is not None
    key = f"streams_{'aps'}"
    assert until(lambda: alcf.connector.status().gauges[key] >= streams)  # type: ignore[attr-defined]  # it can
    found: dict[str, Any] = {}
    for size in sizes:
        keys = [aps.put(os.urandom(size)) for _ in range(rounds + 1)]
        seconds = [took(lambda key=key: alcf.connector.get(key)) for key in keys][1:]  # type: ignore[misc]
        found[f"{size} B, s"] = [round(each, 4) for each in seconds]
        found[f"{size} B, Mbit/s"] = round(size * 8e-6 / statistics.median(seconds))
        again = [took(lambda key=key: alcf.connector.get(key)) for key in keys][1:]  # type: ignore[misc]
        found[f"{size} B, second reader, s"] = round(statistics.median(again), 5)
    seconds = []
    for _ in range(rounds):
        keys = aps.put_many([os.urandom(1024) for _ in range(1000)])
        seconds.append(round(took(lambda keys=keys: alcf.connector.get_many(keys)), 4))  # type: ignore[misc]
    found["1,000 x 1 KiB, s"] = seconds
    return found


def main() -> None:
    said = parser(__doc__, delay=0.0125)  # there are two of them in a row
    said.add_argument("--relay", action="store_true")
    said.add_argument("--nat", default="")
    given = said.parse_args()
    options = ["--streams", str(given.streams)]
    with Facilities(
        routed=not given.relay or bool(given.nat), nat=given.nat, congestion=given.congestion, **way(given)
    ) as world:
        with gateways(world, direct=not given.relay, options=options) as sites:
            with Store(sites["aps"], cache=0) as aps, Store(f"{sites['alcf']}&timeout=120", cache=0) as alcf:
                found = measure(aps, alcf, [int(size) for size in given.sizes.split(",")], given.rounds, given.streams)
                relay = sites["relay"].memory() if given.relay else 0
    print(json.dumps({**vars(given), **found, "relay's own memory, MB": round(relay / 1e6, 1)}))


if __name__ == "__main__":
    main()
