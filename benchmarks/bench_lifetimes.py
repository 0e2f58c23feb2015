"""Peak memory of a map-reduce whose objects end by themselves, beside eviction by hand and ProxyStore, in one run.

Private memory of the driver and its workers and what the store takes, looked at from outside every few milliseconds,
above what it was before the first round. Also what is left: when the driver has ended, and after lease and grace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NamedTuple

import redis

from benchmarks.harness import Outcome, Settings, Skipped, interleaved, row
from benchmarks.manners import anonymous
from benchmarks.mapreduce import Plan
from benchmarks.memory import stored
from benchmarks.pairs import missing
from benchmarks.payloads import KB, MB
from proxyfab import Store
from proxyfab.testing.servers import RedisServer, ServerMissing

BENCH = "lifetimes"
SYSTEMS = (
    "proxyfab-manual",
    "proxyfab-owned",
    "proxyfab-owned-killed",
    "proxyfab-lifetime",
    "proxyfab-lifetime-killed",
    "proxystore-default",
    "proxystore-owned",
)
TINY = ("proxyfab-owned-killed", "proxystore-owned")
PLACES = ("redis", "shm")
ROOM = 10e9
"""Bytes of free memory from which inputs are as large as in the paper."""


class Seen(NamedTuple):
    """What one run took."""

    peak: int
    """Private memory and the store's, at the highest."""
    store: int
    """The store's alone."""
    left: int
    """Objects that are there at the end."""
    lapsed: float
    """Seconds until the last of them was gone; -1: it was not."""
    total: float
    """What was computed."""
    killed: int


def run(settings: Settings) -> Outcome:
    """Every manner in every place, in an order that changes from round to round."""
    outcome = Outcome([], [])
    for place in PLACES:
        systems = settings.wanted(TINY if settings.tiny else SYSTEMS)
        absent = missing("proxystore")
        if absent and place == "redis":
            outcome.skipped.append(Skipped(BENCH, "proxystore", absent))
        wanted = [name for name in systems if "proxyfab" in name or (place == "redis" and not absent)]
        try:
            with _place(place, settings) as (fresh, taken):
                _compare(settings, outcome, place, wanted, fresh, taken)
        except ServerMissing as error:
            outcome.skipped.append(Skipped(BENCH, place, str(error)))
    return outcome


def _compare(
    settings: Settings,
    outcome: Outcome,
    place: str,
    names: list[str],
    fresh: Callable[[], str],
    taken: Callable[[], int],
) -> None:
    found: dict[str, list[Seen]] = {name: [] for name in names}
    for name in interleaved(names, 1 if settings.tiny else max(1, round(3 * settings.scale))):
        found[name].append(_measured(_plan(name, fresh(), settings), taken))
    totals = {seen.total for runs in found.values() for seen in runs}
    assert len(totals) <= 1, f"the manners do not agree: {found}"
    for name, runs in found.items():
        if runs:
            _report(outcome, f"{name} on {place}", runs, _plan(name, "", settings))


def _plan(name: str, url: str, settings: Settings) -> Plan:
    _, manner, *killed = name.split("-")
    manner = {"default": "proxystore"}.get(manner, manner) if "proxyfab" in name else f"proxystore-{manner}"
    manner = manner.removesuffix("-default")
    nbytes = 100 * KB if settings.tiny else 100 * MB if _free() > ROOM else 10 * MB
    lease = 1.0 if settings.tiny else 4.0
    rounds, mappers = (2, 3) if settings.tiny else (3, 8)
    return Plan(manner, url, nbytes, mappers, rounds, workers=2, kill_every=5 if killed else 0, lease=lease)


def _report(outcome: Outcome, system: str, runs: list[Seen], plan: Plan) -> None:
    figures = {
        "peak extra memory": ("B", [float(seen.peak) for seen in runs]),
        "peak of the store": ("B", [float(seen.store) for seen in runs]),
        "objects left": ("n", [float(seen.left) for seen in runs]),
        "objects left after lease and grace": ("n", [float(seen.left if seen.lapsed < 0 else 0) for seen in runs]),
    }
    note = f"{sum(seen.killed for seen in runs)} workers killed" if plan.kill_every else ""
    for what, (unit, values) in figures.items():
        outcome.rows.append(row(BENCH, what, system, values, unit=unit, nbytes=plan.nbytes, note=note))


def _measured(plan: Plan, taken: Callable[[], int]) -> Seen:
    command = [sys.executable, "-m", "benchmarks.mapreduce", json.dumps(plan._asdict())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        try:
            _hear(driver, "ready")
            before = taken(), anonymous([driver.pid])
            with _watching(driver.pid, taken) as peaks:
                _go_on(driver)
                done = _hear(driver, "done")
            _go_on(driver)
            driver.wait(60)
        finally:
            driver.kill()
    left = _objects(plan.url)
    return Seen(
        peaks["all"] - sum(before),
        peaks["store"] - before[0],
        left,
        -1.0 if plan.manner.startswith("proxystore") and left else _lapsed(plan),
        done["total"],
        int(done["killed"]),
    )


def _lapsed(plan: Plan) -> float:
    began = time.monotonic()
    while time.monotonic() - began < 2.5 * plan.lease + 1:
        if not _objects(plan.url):
            return time.monotonic() - began
        Event().wait(0.05)
    return -1.0


def _objects(url: str) -> int:
    """How many objects there are, whosever they are; what expired in shared memory is gone when it is taken back."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return sum(b":o:" in name or not name.startswith(b"proxyfab") for name in client.scan_iter(count=1000))
    with Store(url, name="mapreduce") as store:
        store.connector.reap()  # type: ignore[attr-defined]  # shm can
        return sum(1 for _ in store.connector.scan())  # type: ignore[attr-defined]  # as above


@contextmanager
def _watching(pid: int, taken: Callable[[], int]) -> Iterator[dict[str, int]]:
    """The highest of all and of the store, looked at until the block ends."""
    peaks, end = {"all": 0, "store": 0}, Event()

    def look() -> None:
        while not end.wait(0.004):
            store = taken()
            peaks["store"] = max(peaks["store"], store)
            peaks["all"] = max(peaks["all"], store + anonymous([pid]))

    thread = Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        end.set()
        thread.join()


@contextmanager
def _place(kind: str, settings: Settings) -> Iterator[tuple[Callable[[], str], Callable[[], int]]]:
    """A place of one's own: URLs in which nothing lies, and how many bytes it has taken."""
    if kind == "redis":
        with RedisServer() as server, server.client() as client:
            yield server.database, lambda: int(client.info("memory")["used_memory"])
        return
    before = os.environ.get("PROXYFAB_SHM_DIR", "")
    with tempfile.TemporaryDirectory(dir=settings.place.tmpfs) as directory:
        os.environ["PROXYFAB_SHM_DIR"] = directory
        try:
            yield lambda: "shm://", lambda: stored(directory)
        finally:
            os.environ["PROXYFAB_SHM_DIR"] = before


def _hear(driver: subprocess.Popen[str], state: str) -> dict[str, Any]:
    assert driver.stdout is not None
    line = driver.stdout.readline()
    if not line:
        raise RuntimeError(f"the driver ended with {driver.wait(10)} before it was {state}")
    told: dict[str, Any] = json.loads(line)
    assert told["state"] == state
    return told


def _go_on(driver: subprocess.Popen[str]) -> None:
    assert driver.stdin is not None
    driver.stdin.write("\n")
    driver.stdin.flush()


def _free() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
