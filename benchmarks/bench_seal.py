"""What a seal costs: the raw cipher beside memcpy, and stores with and without a seal, in one run.

`python -m benchmarks --only seal`, or `main()` here for a table. Objects are put, got, read and evicted by
one process with no cache, through real servers where the place is one; the node server without shared memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import Outcome, Place, Settings, Skipped, compare, interleaved, row
from benchmarks.payloads import GB, KB, MB, make, read, size_name
from proxyfab import Store
from proxyfab.buffers import Frames
from proxyfab.keyring import Keyring
from proxyfab.seal import Seal

BENCH = "seal"
SEALS = ("", "sign", "encrypt", "encrypt-chacha20", "ed25519")
STORED = ("", "sign", "encrypt")
STEPS = ("put", "get and read", "put to read")
_SEGMENT = 1 << 20


def run(settings: Settings) -> Outcome:
    """Every size: raw techniques, then each place with each seal in turn."""
    outcome = Outcome([], [])
    with _keys(), _places(settings, outcome) as places:
        for nbytes in [nbytes for nbytes in settings.sizes if nbytes < GB]:
            calls = 1 if settings.tiny or nbytes > 100 * KB else 20
            samples = compare(_techniques(nbytes), rounds=settings.rounds(nbytes), calls=calls)
            for name, seconds in samples.items():
                outcome.rows.append(row(BENCH, name, "raw", seconds, nbytes=nbytes))
            for place, stores in places.items():
                _hand_over(settings, outcome, place, stores, nbytes)
    return outcome


def _techniques(nbytes: int) -> dict[str, Callable[[], object]]:
    array = make("ndarray", nbytes)
    source, warm = memoryview(array).cast("B"), memoryview(bytearray(nbytes + 16 * (nbytes // _SEGMENT + 1)))
    cipher, frames = AESGCM(bytes(32)), Frames([array])

    def encrypt_into() -> None:
        for number, low in enumerate(range(0, nbytes, _SEGMENT)):
            piece = source[low : low + _SEGMENT]
            cipher.encrypt_into(number.to_bytes(12, "big"), piece, None, warm[low : low + len(piece) + 16])

    found: dict[str, Callable[[], object]] = {
        "memcpy into warm memory": lambda: warm.__setitem__(slice(nbytes), source),
        "AES-256-GCM encrypt_into warm memory, one thread": encrypt_into,
    }
    for mode in filter(None, SEALS):
        seal = Seal(mode, "bench")
        sealed = Frames([seal.seal(frames, "bench", "x").tobytes()])
        found[f"seal ({mode})"] = lambda seal=seal: seal.seal(frames, "bench", "x").views  # type: ignore[misc]
        found[f"open ({mode})"] = lambda seal=seal, sealed=sealed: seal.open(sealed, "bench", "x")  # type: ignore[misc]
    return found


@contextmanager
def _keys() -> Iterator[None]:
    """A keyring of this run's own."""
    before = os.environ.get("PROXYFAB_KEYS")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["PROXYFAB_KEYS"] = directory
        for kind in ("symmetric", "sign"):
            Keyring().make(kind, "bench")
        try:
            yield
        finally:
            os.environ.pop("PROXYFAB_KEYS")
            if before is not None:
                os.environ["PROXYFAB_KEYS"] = before


@contextmanager
def _places(settings: Settings, outcome: Outcome) -> Iterator[dict[str, dict[str, Store]]]:
    """Each place, opened once with each seal."""
    with ExitStack() as stack:
        urls = {
            "memory": "memory://",
            "shm": "shm://",
            "file (tmpfs)": f"file://{settings.place.tmpfs}/files",
            "file (disk)": f"file://{settings.place.disk}/files",
        }
        for name, server in {"redis": _redis, "zmq": _node}.items():
            try:
                urls[name] = stack.enter_context(server())
            except (ImportError, OSError, AssertionError, RuntimeError) as error:
                outcome.skipped.append(Skipped(BENCH, name, str(error)))
        yield {
            name: {
                seal: stack.enter_context(Store(url, cache=0, inline_below=0, seal=f"{seal}:bench" if seal else None))
                for seal in STORED
            }
            for name, url in urls.items()
            if name in settings.wanted(urls)
        }


@contextmanager
def _redis() -> Iterator[str]:
    from proxyfab.testing.servers import RedisServer

    with RedisServer() as server:
        yield server.url


@contextmanager
def _node() -> Iterator[str]:
    from proxyfab.testing.nodes import NodeServer

    with NodeServer() as server:
        yield f"{server.url}?shared=0"


def _hand_over(settings: Settings, outcome: Outcome, place: str, stores: dict[str, Store], nbytes: int) -> None:
    array = make("ndarray", nbytes)
    samples: dict[str, list[tuple[float, ...]]] = {seal: [] for seal in stores}
    for store in stores.values():
        for _ in range(1 if settings.tiny else 2):  # segments, mappings and connections are made
            _one(store, array)
    for seal in interleaved(list(stores), settings.rounds(nbytes)):
        samples[seal].append(_one(stores[seal], array))
    for seal, found in samples.items():
        for step, seconds in zip(STEPS, zip(*found, strict=True), strict=True):
            outcome.rows.append(row(BENCH, f"{step}, {seal or 'no seal'}", place, seconds, nbytes=nbytes))


def _one(store: Store, array: np.ndarray[Any, Any]) -> tuple[float, ...]:
    start = perf_counter()
    key = store.put(array)
    stored = perf_counter()
    read(store.get(key))
    done = perf_counter()
    store.evict(key)
    return stored - start, done - stored, done - start


def test_it_runs(tmp_path: Path) -> None:
    outcome = run(Settings(Place(str(tmp_path), str(tmp_path)), sizes=(1_000, 2 * MB), tiny=True))

    assert {found.system for found in outcome.rows} >= {"raw", "memory", "shm", "file (tmpfs)"}


def main() -> None:
    """A table on standard output; a first argument scales the rounds, further ones choose places."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as tmpfs, tempfile.TemporaryDirectory() as disk:
        outcome = run(Settings(Place(tmpfs, disk), scale=scale, systems=tuple(sys.argv[2:])))
    plain = {(found.system, found.nbytes, found.what.partition(",")[0]): found.median for found in outcome.rows}
    for found in outcome.rows:
        step, _, seal = found.what.partition(", ")
        if not seal or seal == "no seal":
            plain[found.system, found.nbytes, step] = found.median
    for found in outcome.rows:
        times = found.median / plain[found.system, found.nbytes, found.what.partition(",")[0]]
        sys.stdout.write(
            f"{size_name(found.nbytes):>8}  {found.system:<14}{found.what:<50}{found.median * 1e6:12.1f} us"
            f"{times:6.2f}x (best {found.best * 1e6:.1f}, n={found.n})\n"
        )
    for skipped in outcome.skipped:
        sys.stdout.write(f"not measured: {skipped.system}: {skipped.reason}\n")
