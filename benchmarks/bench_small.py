"""Small objects, where the fixed cost of each call is all there is: rates, and the life of a proxy.

All steps of a system run in one process, in batches: the figures are of the code, not of a process waking up.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row
from benchmarks.pairs import missing
from benchmarks.payloads import KB, make, read
from proxyfab import Store

BENCH = "small"
BATCH = 200
STEPS = ("create", "dumps", "loads", "use")


def run(settings: Settings) -> Outcome:
    """Rates of put and get at 1 KB, then proxies."""
    outcome = Outcome([], [])
    stores = _stores(settings, outcome)
    try:
        _rates(stores, settings, outcome)
        _proxies(stores, settings, outcome)
    finally:
        for _, store in stores.values():
            store.close()
    return outcome


def _stores(settings: Settings, outcome: Outcome) -> dict[str, tuple[str, Any]]:
    """System -> (family, store); caches off."""
    tmpfs, disk = settings.place
    urls = {"memory": "memory://", "shm": "shm://", "tmpfs": f"file://{tmpfs}/small", "disk": f"file://{disk}/small"}
    stores: dict[str, tuple[str, Any]] = {}
    for name, url in urls.items():
        stores[f"proxyfab-{name}"] = ("proxyfab", Store(url, cache=0))
    stores["proxyfab-inline"] = ("proxyfab", Store("shm://", cache=0, inline_below="8 KiB"))
    reason = missing("proxystore")
    if reason:
        outcome.skipped.append(Skipped(BENCH, "proxystore", reason))
    else:
        stores |= _peers(tmpfs, disk)
    wanted = settings.wanted(stores)
    return {name: stores[name] for name in wanted}


def _peers(tmpfs: str, disk: str) -> dict[str, tuple[str, Any]]:
    from proxystore.connectors.file import FileConnector
    from proxystore.connectors.local import LocalConnector
    from proxystore.store import Store as Peer

    connectors = {
        "proxystore-local": LocalConnector(),
        "proxystore-tmpfs": FileConnector(os.path.join(tmpfs, "small-proxystore")),
        "proxystore-disk": FileConnector(os.path.join(disk, "small-proxystore")),
    }
    return {
        name: ("proxystore", Peer(name, connector, cache_size=0, register=True))
        for name, connector in connectors.items()
    }


def _objects(kind: str, nbytes: int, count: int) -> list[Any]:
    """Different objects, so that nothing is handed out twice."""
    return [make(kind, nbytes, seed) for seed in range(count)]


def _rates(stores: dict[str, tuple[str, Any]], settings: Settings, outcome: Outcome) -> None:
    count, rounds = (2, 1) if settings.tiny else (BATCH, 3 * settings.rounds(KB))
    for kind in ("bytes", "ndarray"):
        objects = _objects(kind, KB, count)
        samples: dict[str, list[float]] = {name: [] for name in stores if name != "proxyfab-inline"}
        for name in samples:
            _put_and_get(stores[name][1], objects)
        for name in interleaved(list(samples), rounds):
            samples[name].append(_put_and_get(stores[name][1], objects))
        for name, seconds in samples.items():
            outcome.rows.append(row(BENCH, "put + get", name, seconds, kind=kind, nbytes=KB))


def _put_and_get(store: Any, objects: Sequence[Any]) -> float:
    """Seconds to put one object and get it back."""
    keys = []
    start = perf_counter()
    for obj in objects:
        key = store.put(obj)
        got = store.get(key)
        keys.append(key)
    seconds = perf_counter() - start
    if read(got) != read(objects[-1]):
        raise ValueError("what came back is not what was put")
    for key in keys:
        store.evict(key)
    return seconds / len(objects)


def _proxies(stores: dict[str, tuple[str, Any]], settings: Settings, outcome: Outcome) -> None:
    count, rounds = (2, 1) if settings.tiny else (BATCH, 3 * settings.rounds(KB))
    for kind, nbytes in (("bytes", 104), ("bytes", KB), ("ndarray", KB), ("ndarray", 10 * KB)):
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in _for_size(stores, nbytes)}
        for name in interleaved(list(samples), rounds + 1):  # the first of each warms up
            samples[name].append(_life(name, stores[name], _objects(kind, nbytes, count), outcome, kind))
        for name, lives in samples.items():
            for step in (*STEPS, "all"):
                seconds = [life[step] for life in lives[min(1, len(lives) - 1) :]]
                outcome.rows.append(row(BENCH, f"proxy: {step}", name, seconds, kind=kind, nbytes=nbytes))


def _for_size(stores: dict[str, tuple[str, Any]], nbytes: int) -> list[str]:
    """The store that carries small objects inside the reference gets those, the other ones larger objects."""
    return [
        name for name in stores if (name == "proxyfab-inline") == (nbytes < 4 * KB) or name.startswith("proxystore")
    ]


def _life(name: str, stored: tuple[str, Any], objects: list[Any], outcome: Outcome, kind: str) -> dict[str, float]:
    """Seconds for each step of a proxy's life, made here, sent and used; and how long its pickle is."""
    family, store = stored
    steps: dict[str, float] = {}
    proxies = _step(steps, "create", store.proxy, objects)
    pickles = _step(steps, "dumps", pickle.dumps, proxies)
    arrived = _step(steps, "loads", pickle.loads, pickles)
    _step(steps, "use", len, arrived)
    steps["all"] = sum(steps.values())
    if read(arrived[-1][:]) != read(objects[-1]):
        raise ValueError("the proxy's target is not what was put")
    _note_size(outcome, name, pickles[0], kind, memoryview(objects[0]).nbytes)
    _evict(family, store, proxies)
    return steps


def _step(steps: dict[str, float], name: str, function: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    start = perf_counter()
    results = [function(argument) for argument in arguments]
    steps[name] = (perf_counter() - start) / len(arguments)
    return results


def _note_size(outcome: Outcome, system: str, pickled: bytes, kind: str, nbytes: int) -> None:
    """One row for each system, kind and size."""
    size = row(BENCH, "pickled proxy", system, [float(len(pickled))], unit="B", kind=kind, nbytes=nbytes)
    if size not in outcome.rows:
        outcome.rows.append(size)


def _evict(family: str, store: Any, proxies: list[Any]) -> None:
    if family == "proxyfab":
        store.clear()
        return
    from proxystore.store.utils import get_key

    for proxy in proxies:
        store.evict(get_key(proxy))
