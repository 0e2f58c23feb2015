"""A worker killed every two seconds: five hundred tasks finish with the right results, and none waits long for it."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from itertools import pairwise
from pathlib import Path

import pytest

from proxyfab import Store
from proxyfab.brokers import open_broker
from proxyfab.events.broker import Broker
from proxyfab.patterns import ResilientExecutor
from proxyfab.patterns.resilient.failures import Quarantine
from proxyfab.testing.natsserver import NatsServer
from proxyfab.testing.servers import RedisServer

TASKS = 500
LEASE = 2.0
TRUSTED = Quarantine(failures=10_000)
"""All workers are on one node: left alone, it would do nothing for a minute after some kills."""
EVERY = 2.0
BUSY = 4.0
"""Seconds that a machine with others to serve may add; a quiet one adds less than half a second."""


@pytest.fixture(params=["redis", "nats"])
def broker(request: pytest.FixtureRequest, redis_server: RedisServer, nats_server: NatsServer) -> Iterator[Broker]:
    url = {"redis": redis_server.database(), "nats": nats_server.url}[request.param]
    with open_broker(url) as broker:
        yield broker
        for topic in broker.topics():
            broker.delete(topic)


def slow_square(place: str, x: int) -> int:
    """Say who begins, and take a while."""
    with open(Path(place) / str(x), "a") as file:
        file.write(f"{os.getpid()} {time.time()}\n")
    time.sleep(0.05)
    return x * x


class Killer(threading.Thread):
    """Kills one worker after the other; when, by process."""

    def __init__(self, executor: ResilientExecutor) -> None:
        super().__init__()
        self.killed: dict[int, float] = {}
        self.over = threading.Event()
        self._executor = executor

    def run(self) -> None:
        while not self.over.wait(EVERY):
            pids = [pid for pid in self._executor.pids if pid not in self.killed]
            if pids:
                pid = pids[len(self.killed) % len(pids)]
                self.killed[pid] = time.time()
                os.kill(pid, signal.SIGKILL)


def begun_again(place: Path, killed: dict[int, float]) -> list[float]:
    """Seconds from each worker's death until the task that it was at began elsewhere."""
    late = []
    for path in place.iterdir():
        lives = [(int(pid), float(at)) for pid, at in (line.split() for line in path.read_text().splitlines())]
        late += [after[1] - killed[before[0]] for before, after in pairwise(lives) if before[0] in killed]
    return late


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_tasks(broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with (
        Store() as store,
        ResilientExecutor(broker, store, workers=3, lease=LEASE, retries=100, quarantine=TRUSTED) as executor,
    ):
        killer = Killer(executor)
        killer.start()
        try:
            futures = {executor.submit(slow_square, str(tmp_path), n): n for n in range(TASKS)}
            found = {futures[future]: future.result() for future in as_completed(futures, timeout=500)}
        finally:
            killer.over.set()
            killer.join()
    late = begun_again(tmp_path, killer.killed)
    with capsys.disabled():
        print(
            f"\n{broker.url.partition(':')[0]}: {TASKS} tasks in {time.monotonic() - started:.1f} s, "
            f"{len(killer.killed)} kills, {len(late)} begun again after "
            f"{[round(seconds, 2) for seconds in sorted(late)]} s (lease {LEASE} s)"
        )
    assert found == {n: n * n for n in range(TASKS)}
    assert killer.killed
    if late:
        assert statistics.median(late) < LEASE + BUSY
