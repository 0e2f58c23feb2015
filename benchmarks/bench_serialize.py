"""Objects to wire bytes and back, beside pickle, cloudpickle and ProxyStore's serializer.

`dumps` is everything until the bytes could be written (header and checksum included), without joining them; `loads` is
everything from received bytes, verified, to the object. The peers' figures are for the same two steps.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Outcome, Place, Settings, Skipped, compare, row
from benchmarks.pairs import missing
from benchmarks.payloads import KB, MB, make
from proxyfab.buffers import Frames
from proxyfab.serialize import dumps, loads
from proxyfab.wire.payload import decode, encode

BENCH = "serialize"
SYSTEMS = ("proxyfab", "proxyfab, no checksum", "proxyfab, safe", "pickle", "cloudpickle", "proxystore")
LIMIT = 100 * MB
"""The peers copy: above this they would measure fresh memory only."""


class Way(NamedTuple):
    """One system's two steps, and how what the first made arrives at the second."""

    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]
    arrive: Callable[[Any], Any] = lambda made: made


def _fabric(*, checksum: bool = True, mode: str = "default") -> Way:
    return Way(
        lambda obj: encode(dumps(obj, mode=mode), checksum=checksum),
        lambda frames: loads(decode(frames), mode=mode),
        lambda frames: Frames([frames.tobytes()]),
    )


def _cloudpickle() -> Way:
    import cloudpickle

    return Way(lambda obj: cloudpickle.dumps(obj, protocol=5), pickle.loads)


def _proxystore() -> Way:
    from proxystore.serialize import deserialize, serialize

    return Way(serialize, deserialize)


WAYS: dict[str, Callable[[], Way]] = {
    "proxyfab": _fabric,
    "proxyfab, no checksum": lambda: _fabric(checksum=False),
    "proxyfab, safe": lambda: _fabric(mode="safe"),
    "pickle": lambda: Way(lambda obj: pickle.dumps(obj, 5), pickle.loads),
    "cloudpickle": _cloudpickle,
    "proxystore": _proxystore,
}


def objects(sizes: tuple[int, ...]) -> dict[tuple[str, int], Any]:
    """What is serialized, by kind and bytes."""
    found: dict[tuple[str, int], Any] = {
        ("bytes", 100): b"x" * 100,
        ("small dict", 100): {"run": "R-1", "exposure": 0.25, "channel": 7, "ok": True},
        ("many objects", 20 * KB): [{"id": n, "name": f"sample {n}", "at": (n, n / 2)} for n in range(400)],
        ("Fortran array", 100 * KB): np.asfortranarray(make("ndarray", 100 * KB).reshape(100, -1)),
    }
    for size in sizes:
        if size <= LIMIT:
            found["ndarray", size] = make("ndarray", size)
            found["dict of arrays", size] = make("dict", size)
            if size >= 100 * KB:
                found["bytes", size] = make("bytes", size)
    return found


def run(settings: Settings) -> Outcome:
    """Seconds of both steps for every kind of object and every serializer."""
    outcome = Outcome([], [])
    ways: dict[str, Way] = {}
    for name in settings.wanted(SYSTEMS):
        reason = missing(name) if name == "proxystore" else ""
        if reason:
            outcome.skipped.append(Skipped(BENCH, name, reason))
        else:
            ways[name] = WAYS[name]()
    for (kind, nbytes), obj in objects(settings.sizes).items():
        _measure(settings, ways, kind, nbytes, obj, outcome)
    return outcome


def _measure(settings: Settings, ways: dict[str, Way], kind: str, nbytes: int, obj: Any, outcome: Outcome) -> None:
    rounds = min(settings.rounds(nbytes), 11)
    calls = 1 if settings.tiny or nbytes >= MB else 200 if nbytes >= 10 * KB else 2000
    arrived = {name: way.arrive(way.dump(obj)) for name, way in ways.items()}
    for name, way in ways.items():
        if not _same(way.load(arrived[name]), obj):
            raise AssertionError(f"{name} brought back another {kind} of {nbytes} bytes")
    steps: dict[str, dict[str, Callable[[], Any]]] = {
        "dumps": {name: (lambda way=way: way.dump(obj)) for name, way in ways.items()},  # type: ignore[misc]
        "loads": {name: (lambda name=name, way=way: way.load(arrived[name])) for name, way in ways.items()},  # type: ignore[misc]
    }
    for what, functions in steps.items():
        for name, samples in compare(functions, rounds=rounds, calls=calls).items():
            outcome.rows.append(row(BENCH, what, name, samples, kind=kind, nbytes=nbytes))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def test_every_serializer_brings_every_object_back() -> None:
    outcome = run(Settings(Place("", ""), sizes=(KB, 100 * KB), tiny=True))
    assert {found.system for found in outcome.rows} >= {"proxyfab", "proxyfab, safe", "pickle", "cloudpickle"}
