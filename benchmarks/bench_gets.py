"""Gets of whole arrays in another process, one right behind the other: what a get costs with its code in the caches.

`bench_store` has the other case, a process that wakes up, gets one object and reads every byte of it, so that its next
get finds the caches full of that. Both are real: a loop over many objects is the first, a worker's single input the
second.
"""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from benchmarks.harness import Outcome, Settings, Skipped, row
from benchmarks.pairs import missing
from benchmarks.payloads import make, read
from proxyfab import Store
from proxyfab.testing.processes import Child

BENCH = "gets"
WHAT = "get in a loop"
PATIENCE = 300.0


def run(settings: Settings) -> Outcome:
    """Every size, proxyfab's shared memory and ProxyStore's files on tmpfs."""
    outcome = Outcome([], [])
    reason = missing("proxystore")
    if reason:
        outcome.skipped.append(Skipped(BENCH, "proxystore-tmpfs", reason))
    names = ["proxyfab-shm"] if reason else ["proxyfab-shm", "proxystore-tmpfs"]
    for nbytes in settings.sizes:
        array = make("ndarray", nbytes)
        for name in settings.wanted(names):
            rounds = min(20 * settings.rounds(nbytes), 200) if name == "proxyfab-shm" else settings.rounds(nbytes)
            samples = _shm(array, rounds) if name == "proxyfab-shm" else _peer(array, rounds, settings.place.tmpfs)
            outcome.rows.append(row(BENCH, WHAT, name, samples, kind="ndarray", nbytes=nbytes))
    return outcome


def _shm(array: Any, rounds: int) -> list[float]:
    with Store(cache=0, inline_below=0) as store:
        ref = store.ref(array)
        try:
            return _elsewhere(_by_ref, pickle.dumps(ref), rounds, read(array))
        finally:
            store.clear()


def _peer(array: Any, rounds: int, tmpfs: str) -> list[float]:
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store as Peer

    with Peer("gets", FileConnector(f"{tmpfs}/gets"), cache_size=0, register=True) as store:
        key = store.put(array)
        return _elsewhere(_by_key, pickle.dumps((f"{tmpfs}/gets", key)), rounds, read(array))


def _elsewhere(get: Any, wire: bytes, rounds: int, expected: Any) -> list[float]:
    with Child(get, wire, rounds) as child:
        samples, digest = child.result(PATIENCE)
    if digest != expected:
        raise ValueError("what came back is not what was put")
    return list(samples)


def _by_ref(_: Connection, wire: bytes, rounds: int) -> tuple[list[float], Any]:
    return _timed(pickle.loads(wire).resolve, rounds)


def _by_key(_: Connection, wire: bytes, rounds: int) -> tuple[list[float], Any]:
    from proxystore.connectors.file import FileConnector
    from proxystore.store import Store as Peer

    path, key = pickle.loads(wire)
    store = Peer("gets", FileConnector(path, clear=False), cache_size=0)
    return _timed(lambda: store.get(key), rounds)


def _timed(get: Any, rounds: int) -> tuple[list[float], Any]:
    digest = read(get())
    samples = []
    for _ in range(rounds):
        start = perf_counter()
        obj = get()
        samples.append(perf_counter() - start)
        del obj
    return samples, digest
