"""Threads over a slow link: eight gets of eight objects cost one latency, eight touches of one proxy one fetch."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from benchmarks.harness import Outcome, Row, Settings, Skipped, row
from benchmarks.pairs import missing
from benchmarks.payloads import KB, make
from proxyfab import Key, Store
from proxyfab.buffers import Frames
from proxyfab.connectors.memory import MemoryConnector

BENCH = "concurrency"
THREADS = 8
LATENCY = 0.05


class SlowMemory(MemoryConnector):
    """A dict behind a link that takes 50 ms for a get, and counts them."""

    fetched = 0
    latency = LATENCY
    local = False

    def get(self, key: Key) -> Frames | None:
        self.fetched += 1
        time.sleep(self.latency)
        return super().get(key)


def run(settings: Settings) -> Outcome:
    """proxyfab, and ProxyStore beside it."""
    outcome = Outcome([], [])
    latency = 0.002 if settings.tiny else LATENCY
    for name, measure in {"proxyfab": _fabric, "proxystore": _peer}.items():
        reason = missing(name) if name != "proxyfab" else ""
        if reason:
            outcome.skipped.append(Skipped(BENCH, name, reason))
        elif name in settings.wanted([name]):
            measure(latency, settings.rounds(100 * KB) // 3 or 1, outcome)
    return outcome


def _fabric(latency: float, rounds: int, outcome: Outcome) -> None:
    connector = SlowMemory()
    connector.latency = latency
    with Store(connector, inline_below=0) as store:
        _measure("proxyfab", store, connector, store.proxy_from_key, rounds, outcome)


def _peer(latency: float, rounds: int, outcome: Outcome) -> None:
    from proxystore.connectors.local import LocalConnector
    from proxystore.store import Store as Peer

    class SlowLocal(LocalConnector):
        fetched = 0

        def get(self, key: Any) -> Any:
            self.fetched += 1
            time.sleep(latency)
            return super().get(key)

    connector = SlowLocal()
    with Peer("slow", connector, register=True) as store:
        _measure("proxystore", store, connector, store.proxy_from_key, rounds, outcome)


def _measure(
    name: str, store: Any, connector: Any, proxy_from_key: Callable[[Any], Any], rounds: int, outcome: Outcome
) -> None:
    eight, one, fetches = [], [], []
    for _ in range(rounds):
        keys = [store.put(make("ndarray", KB, seed)) for seed in range(THREADS)]
        eight.append(_together([lambda key=key: store.get(key) for key in keys]))  # type: ignore[misc]
        proxy = proxy_from_key(store.put(make("ndarray", KB, THREADS)))
        before = connector.fetched
        one.append(_together([lambda: len(proxy)] * THREADS))  # noqa: B023 - called before the loop goes on
        fetches.append(float(connector.fetched - before))
    outcome.rows.append(row(BENCH, "8 threads get 8 objects", name, eight))
    outcome.rows.append(row(BENCH, "8 threads touch one proxy", name, one))
    outcome.rows.append(Row(BENCH, "fetches of one proxy", name, max(fetches), unit="n", n=rounds))


def _together(calls: list[Callable[[], object]]) -> float:
    """Seconds from a common start to the last answer."""
    barrier = Barrier(len(calls) + 1)

    def call(function: Callable[[], object]) -> None:
        barrier.wait()
        function()

    with ThreadPoolExecutor(len(calls)) as pool:
        waiting = [pool.submit(call, function) for function in calls]
        barrier.wait()
        start = time.perf_counter()
        for future in waiting:
            future.result()
        return time.perf_counter() - start
