"""shm:// as a connector, beside the raw limits of the machine and ProxyStore's FileConnector on tmpfs, in one run.

`python -c "from benchmarks.bench_shm import main; main()"` prints a table. Bytes are handed from this process to
another one; what is read is read there. Segments and mappings are warm after the first round, as they are in a process
that works; objects are evicted after each round. Serialization is not part of it: `bench_store` measures whole stores.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import Outcome, Place, Settings, Skipped, row
from benchmarks.payloads import MB, make, read, size_name
from proxyfab.buffers import Frames
from proxyfab.connectors.shm import SharedMemoryConnector
from proxyfab.osio.mapping import copy
from proxyfab.testing.processes import Child

BENCH = "shm"
PATIENCE = 120.0
STEPS = ("put", "get", "get and read", "put to read", "evict")
PEER = "ProxyStore FileConnector"
Put = Callable[[], Any]


def run(settings: Settings) -> Outcome:
    """Every size: limits, then hand-overs of both connectors in turn."""
    outcome = Outcome([], [])
    for nbytes in settings.sizes:
        array = make("ndarray", nbytes)
        rounds = settings.rounds(nbytes)
        for name, technique in _limits(array, Path(settings.place.tmpfs)).items():
            technique()
            samples = [_seconds(technique) for _ in range(rounds)]
            outcome.rows.append(row(BENCH, name, "raw", samples, nbytes=nbytes))
        _hand_over(settings, outcome, array, rounds)
    return outcome


def _limits(array: np.ndarray[Any, Any], tmpfs: Path) -> dict[str, Callable[[], object]]:
    warm, source, path = array.copy(), memoryview(array).cast("B"), tmpfs / "limit"

    def write_new_file() -> None:
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        done = 0
        while done < len(source):
            done += os.write(fd, source[done:])
        os.close(fd)

    return {
        "memcpy into warm memory": lambda: copy(source, ctypes.addressof(ctypes.c_char.from_buffer(warm))),
        "unlink and write() into a new tmpfs file": write_new_file,
    }


def _seconds(technique: Callable[[], object]) -> float:
    start = perf_counter()
    technique()
    return perf_counter() - start


@contextmanager
def _systems(place: Place, array: np.ndarray[Any, Any]) -> Iterator[tuple[Child, dict[str, tuple[Put, Any]]]]:
    """The reading process, and how each system puts `array` here."""
    peer = _peer(place.tmpfs)
    with SharedMemoryConnector(directory=f"{place.tmpfs}/root") as shm:
        systems: dict[str, tuple[Put, Any]] = {"proxyfab shm": (lambda: shm.put(Frames([array])), shm)}
        if peer is not None:
            systems[PEER] = (lambda: peer.put(memoryview(array).cast("B")), peer)
        with Child(consume, place.tmpfs, shm.namespace) as child:
            yield child, systems
        shm.clear()
    if peer is not None:
        peer.close(clear=True)


def _hand_over(settings: Settings, outcome: Outcome, array: np.ndarray[Any, Any], rounds: int) -> None:
    with _systems(settings.place, array) as (child, systems):
        if PEER not in systems:
            outcome.skipped.append(Skipped(BENCH, PEER, "proxystore is not installed"))
        samples: dict[str, list[tuple[float, ...]]] = {name: [] for name in systems}
        for number in range(rounds + 2):  # the first round makes a segment, the second one warms its mapping
            for name, (put, connector) in systems.items():
                steps = _one(child, name, put, connector)
                if number > 1 or settings.tiny:
                    samples[name].append(steps)
    for name, found in samples.items():
        for step, seconds in zip(STEPS, zip(*found, strict=True), strict=True):
            outcome.rows.append(row(BENCH, step, name, seconds, nbytes=array.nbytes))


def _one(child: Child, name: str, put: Put, connector: Any) -> tuple[float, ...]:
    start = perf_counter()
    key = put()
    stored = perf_counter()
    child.send((name, key))
    asked, got, done = child.receive(PATIENCE)
    evict = _seconds(lambda: connector.evict(key))
    return stored - start, got - asked, done - asked, stored - start + done - asked, evict


def consume(talk: Connection, tmpfs: str, namespace: str) -> None:
    """The reading process: what it is asked for it gets and reads, and answers with the times."""
    peer = _peer(tmpfs)
    with SharedMemoryConnector(namespace, directory=f"{tmpfs}/root") as shm:
        while True:
            name, key = talk.recv()
            start = perf_counter()
            view = peer.get(key) if name == PEER else shm.get(key).views[0]  # type: ignore[union-attr]  # it is there
            got = perf_counter()
            read(np.frombuffer(view, np.float64))
            talk.send((start, got, perf_counter()))
            del view


def _peer(tmpfs: str) -> Any:
    try:
        from proxystore.connectors.file import FileConnector
    except ImportError:
        return None
    return FileConnector(f"{tmpfs}/peer")


@pytest.mark.filterwarnings("ignore")  # the peer's own
def test_it_runs(tmp_path: Path) -> None:
    outcome = run(Settings(Place(str(tmp_path), str(tmp_path)), sizes=(1_000, MB), tiny=True))

    assert {found.what for found in outcome.rows} >= set(STEPS)


def main() -> None:
    """A table on standard output."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs:
        outcome = run(Settings(Place(tmpfs, tmpfs), scale=scale))
    for found in outcome.rows:
        microseconds = f"{found.median * 1e6:12.1f} us (best {found.best * 1e6:.1f}, n={found.n})"
        sys.stdout.write(f"{size_name(found.nbytes):>8}  {found.system:<26}{found.what:<42}{microseconds}\n")
