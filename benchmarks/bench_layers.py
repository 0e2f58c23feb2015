"""What a layer costs: nanoseconds for one that only forwards, and compression beside the bare library, in one run.

`python -m benchmarks --only layers`, or `main()` here for a table. Compressed content is of three kinds:
`numbers` (small whole numbers, as counts and labels are), `floats` (a noisy signal) and `random` (what does not
compress, which costs the sample only).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable

import lz4.block
import numpy as np
import zstandard

from benchmarks.harness import Outcome, Place, Settings, compare, row
from benchmarks.payloads import GB, KB, MB, size_name
from proxyfab.buffers import Frames
from proxyfab.connectors.bounded import BoundedConnector
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.connectors.routed import Route, RoutedConnector
from proxyfab.keys import Key
from proxyfab.layers.base import Layer
from proxyfab.layers.lz4 import Lz4Layer
from proxyfab.layers.packing import PackingLayer
from proxyfab.layers.retry import RetryLayer
from proxyfab.layers.zstd import ZstdLayer

BENCH = "layers"
PACKERS: dict[str, type[PackingLayer]] = {"lz4": Lz4Layer, "zstd": ZstdLayer}


def run(settings: Settings) -> Outcome:
    """The cost of forwarding at 1 KB, then each kind of content through each packing layer and its library."""
    outcome = Outcome([], [])
    _forwarding(settings, outcome)
    for nbytes in [nbytes for nbytes in settings.sizes if 100 * KB <= nbytes < GB]:
        for kind in ("numbers", "floats", "random"):
            _packing(settings, outcome, kind, nbytes)
    return outcome


def content(kind: str, nbytes: int) -> bytes:
    """Bytes of a kind, the same for the same arguments."""
    rng = np.random.default_rng(nbytes)
    if kind == "numbers":
        return rng.integers(0, 50, nbytes // 4, dtype="<i4").tobytes()
    if kind == "floats":
        return (np.sin(np.arange(nbytes // 4) / 1000) + rng.normal(0, 0.01, nbytes // 4)).astype("<f4").tobytes()
    return rng.bytes(nbytes)


def _forwarding(settings: Settings, outcome: Outcome) -> None:
    frames, key = Frames([bytes(KB)]), Key("k")
    places = {
        "bare": MemoryConnector(),
        "Layer": Layer(MemoryConnector()),
        "retry": RetryLayer(MemoryConnector()),
        "lz4": Lz4Layer(MemoryConnector()),
        "routed": RoutedConnector([Route.to(MemoryConnector(), below=MB), Route.to(MemoryConnector())]),
        "bounded": BoundedConnector(MemoryConnector(), MemoryConnector(), limit=MB),
    }
    drawn = {name: place.put(frames) for name, place in places.items()}
    calls = 1 if settings.tiny else 500
    for step, function in _steps(frames, key).items():
        made: dict[str, Callable[[], object]] = {
            name: lambda place=place, own=drawn[name]: function(place, own)  # type: ignore[misc]  # noqa: B023
            for name, place in places.items()
        }
        for name, seconds in compare(made, rounds=settings.rounds(KB), calls=calls).items():
            outcome.rows.append(row(BENCH, step, name, seconds, nbytes=KB))
    for place in places.values():
        place.clear()
        place.close()


def _steps(frames: Frames, key: Key) -> dict[str, Callable[..., object]]:
    return {
        "get": lambda place, own: place.get(own),
        "put, replace": lambda place, own: place.put(frames, key=own, replace=True),
        "put, evict": lambda place, own: place.evict(place.put(frames)),
    }


def _packing(settings: Settings, outcome: Outcome, kind: str, nbytes: int) -> None:
    data = content(kind, nbytes)
    frames = Frames([data])
    functions: dict[str, Callable[[], object]] = {}
    for name, packer in PACKERS.items():
        layer = packer(MemoryConnector())
        key = layer.put(frames)
        stat = layer.child.stat(key)
        outcome.rows.append(row(BENCH, f"stored bytes, {kind}", name, [stat.nbytes / nbytes], nbytes=nbytes, unit="x"))
        functions[f"{name}+ put"] = lambda layer=layer, key=key: layer.put(frames, key=key, replace=True)  # type: ignore[misc]
        functions[f"{name}+ get"] = lambda layer=layer, key=key: layer.get(key)  # type: ignore[misc]
    bare = MemoryConnector()
    own = bare.put(frames)
    functions["no layer put"] = lambda: bare.put(frames, key=own, replace=True)
    functions["no layer get"] = lambda: bare.get(own)
    functions |= _libraries(data)
    calls = 1 if settings.tiny or nbytes > MB else 5
    for name, seconds in compare(functions, rounds=max(settings.rounds(nbytes) // 2, 1), calls=calls).items():
        system, _, step = name.rpartition(" ")
        outcome.rows.append(row(BENCH, f"{step}, {kind}", system, seconds, nbytes=nbytes))


def _libraries(data: bytes) -> dict[str, Callable[[], object]]:
    """One call over the whole content, on one thread: what a program without chunks would do."""
    small = lz4.block.compress(data)
    dense = zstandard.ZstdCompressor(level=1).compress(data)
    return {
        "lz4.block put": lambda: lz4.block.compress(data),
        "lz4.block get": lambda: lz4.block.decompress(small),
        "zstandard put": lambda: zstandard.ZstdCompressor(level=1).compress(data),
        "zstandard get": lambda: zstandard.ZstdDecompressor().decompress(dense),
    }


def main() -> None:
    """A table on standard output; a first argument scales the rounds."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory() as place:
        outcome = run(Settings(Place(place, place), sizes=(MB, 10 * MB, 100 * MB), scale=scale))
    for found in outcome.rows:
        rate = f"{found.nbytes / found.median / 1e6:10.0f} MB/s" if found.unit == "s" and found.nbytes > KB else ""
        figure = f"{found.median * 1e6:12.2f} us" if found.unit == "s" else f"{found.median:12.3f} x "
        sys.stdout.write(f"{size_name(found.nbytes):>8}  {found.what:<24}{found.system:<14}{figure}{rate}\n")
