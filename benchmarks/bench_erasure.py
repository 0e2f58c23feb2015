"""What erasure codes cost: each kernel beside copying as many bytes as the parity has, and beside pyeclib and zfec.

`python -m benchmarks --only erasure`, or `main()` here for a table. A code's figures are seconds for one object, in
memory that was used before; "decode" has lost as many shards of data as the code can bear. Placements are for one
object on ten nodes, as D-Rex's scheduling cost is.
"""

from __future__ import annotations

import ctypes
import random
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.harness import Outcome, Place, Row, Settings, Skipped, compare, interleaved, row
from benchmarks.payloads import GB, KB, MB, size_name
from benchmarks.results import Results
from proxyfab.buffers import Frames, GivenFrames
from proxyfab.connectors.erasure import ErasureConnector
from proxyfab.connectors.erasure.options import Options
from proxyfab.connectors.memory import MemoryConnector
from proxyfab.erasure import Code, available
from proxyfab.erasure.placement import (
    GreedyLeastUsed,
    GreedyMinStorage,
    LoadBalance,
    Node,
    Policy,
    SaturationControlled,
    ScarcityPrice,
)
from proxyfab.keys import Key
from proxyfab.osio.mapping import copy
from proxyfab.osio.memory import HUGE
from proxyfab.osio.warm import Warm
from proxyfab.testing import FaultyConnector

BENCH = "erasure"
ERASURE, UNCODED, CHILD = "erasure (4, 2)", "the same bytes, uncoded", "one child alone"
CENTRAL, SITES = "one central store", "erasure (4, 2), six sites"
CODES = ((4, 2), (8, 3))
SIZES = (4 * KB, MB, 64 << 20)
POLICIES: tuple[Callable[[], Policy], ...] = (
    GreedyMinStorage,
    GreedyLeastUsed,
    LoadBalance,
    ScarcityPrice,
    SaturationControlled,
)
_STALL = 64 << 20
STALL, PLACE = "longest stall of another thread", "place one object on ten nodes"
Check = Callable[[Results], tuple[str, bool]]


def run(settings: Settings) -> Outcome:
    """Every size and code: raw copies, the kernels, the peers; then how long others stand still, and placements."""
    outcome = Outcome([], [])
    sizes = (KB, 100 * KB) if settings.tiny else tuple(size for size in SIZES if size < GB)
    for nbytes in sizes:
        for k, m in CODES:
            _code(settings, outcome, k, m, nbytes)
    for nbytes in (KB, sizes[-1]):
        _scattered(settings, outcome, nbytes)
    for nbytes in (MB,) if settings.tiny else (MB, 10 * MB, 100 * MB):
        _far(settings, outcome, nbytes)
    for kernel in settings.wanted(available()):
        outcome.rows.append(_stall(kernel, sizes[-1] if settings.tiny else _STALL))
    _placements(settings, outcome)
    return outcome


def _code(settings: Settings, outcome: Outcome, k: int, m: int, nbytes: int) -> None:
    data = random.Random(1).randbytes(nbytes)
    found: dict[str, dict[str, Callable[[], object]]] = {"encode": {}, "decode": {}}
    found["encode"]["copy the parity's bytes"] = found["decode"]["copy the parity's bytes"] = _copy(data, k, m)
    for name, one in {**_kernels(settings, k, m), **_peers(outcome, k, m)}.items():
        found["encode"][name], found["decode"][name] = one(data)
    for step, functions in found.items():
        samples = compare(
            functions, rounds=min(settings.rounds(nbytes), 7), calls=1 if nbytes > MB or settings.tiny else 5
        )
        for name, seconds in samples.items():
            outcome.rows.append(row(BENCH, f"{step} ({k}, {m})", name, seconds, nbytes=nbytes))


_Steps = tuple[Callable[[], object], Callable[[], object]]


def _copy(data: bytes, k: int, m: int) -> Callable[[], object]:
    """What no coder can be quicker than: as many bytes, written to memory that was used before."""
    nbytes = m * -(-len(data) // k)
    room, source = memoryview(bytearray(nbytes)), memoryview(bytes(nbytes))
    return lambda: room.__setitem__(slice(nbytes), source)


def _kernels(settings: Settings, k: int, m: int) -> dict[str, Callable[[bytes], _Steps]]:
    memory = Warm()

    def steps(kernel: str, data: bytes) -> _Steps:
        code = Code(k, m, kernel=kernel, memory=memory.take)
        shards = [shard.tobytes() for shard in code.encode(data)]
        left = {index: shards[index] for index in range(m, k + m)}
        if code.decode(left, len(data)) != Frames((data,)):
            raise AssertionError(f"{kernel} decodes something else")
        return lambda: code.encode(data), lambda: code.decode(left, len(data))

    return {
        f"proxyfab, {kernel}": lambda data, kernel=kernel: steps(kernel, data)  # type: ignore[misc]
        for kernel in settings.wanted(available())
    }


def _peers(outcome: Outcome, k: int, m: int) -> dict[str, Callable[[bytes], _Steps]]:
    return {name: peer for name, make in {"pyeclib": _pyeclib, "zfec": _zfec}.items() if (peer := make(outcome, k, m))}


def _pyeclib(outcome: Outcome, k: int, m: int) -> Callable[[bytes], _Steps] | None:
    try:
        from pyeclib.ec_iface import ECDriver
    except ImportError as error:
        outcome.skipped.append(Skipped(BENCH, "pyeclib", str(error)))
        return None
    driver = ECDriver(k=k, m=m, ec_type="isa_l_rs_cauchy", chksum_type="none")

    def steps(data: bytes) -> _Steps:
        left = driver.encode(data)[m:]
        return lambda: driver.encode(data), lambda: driver.decode(left)

    return steps


def _zfec(outcome: Outcome, k: int, m: int) -> Callable[[bytes], _Steps] | None:
    try:
        from zfec import Decoder, Encoder
    except ImportError as error:
        outcome.skipped.append(Skipped(BENCH, "zfec", str(error)))
        return None
    encoder, decoder = Encoder(k, k + m), Decoder(k, k + m)

    def steps(data: bytes) -> _Steps:
        length = -(-len(data) // k)
        parts = [data[low : low + length].ljust(length, b"\0") for low in range(0, k * length, length)]
        shards = encoder.encode(parts)
        return lambda: encoder.encode(parts, range(k, k + m)), lambda: decoder.decode(shards[m:], range(m, k + m))

    return steps


class _Used(MemoryConnector):
    """Keeps objects in memory that was used before. What fresh pages take depends on what the machine's host has to
    give at that moment: between nothing and three times all else, and on either side by chance.
    """

    def put(self, frames: Frames, **how: Any) -> Key:
        large = frames.nbytes >= HUGE and not frames.given
        return super().put(GivenFrames((_copied(frames).toreadonly(),)) if large else frames, **how)


_rooms = Warm(1 << 30)


def _copied(found: Frames | None) -> memoryview:
    """All of it in memory that was used before; other threads run meanwhile."""
    if found is None:
        raise AssertionError("it is not there")
    room, at = _rooms.take(found.nbytes), 0
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for view in found:
        copy(view, address + at)
        at += len(view)
    return room


def _scattered(settings: Settings, outcome: Outcome, nbytes: int) -> None:
    """Six children in memory: an object in shards, beside the very same bytes that are moved as they are."""
    children = [_Used() for _ in range(6)]
    one = ErasureConnector(children, Options(k=4, m=2))
    frames = Frames([random.Random(4).randbytes(nbytes)])
    parts = [Frames([part.tobytes()]) for part in Code(4, 2).encode(frames)]
    places: dict[str, _Place] = {
        ERASURE: _Place(partial(one.put, frames), one.get, one.evict),
        UNCODED: _Place(
            lambda: [child.put(part) for child, part in zip(children, parts, strict=True)],
            lambda keys: [_copied(child.get(key)) for child, key in zip(children, keys, strict=True)],
            lambda keys: [child.evict(key) for child, key in zip(children, keys, strict=True)],
        ),
        CHILD: _Place(partial(children[0].put, frames), lambda key: _copied(children[0].get(key)), children[0].evict),
    }
    _compared(settings, outcome, places, "in memory", nbytes, 1 if settings.tiny else max(settings.rounds(nbytes), 15))
    one.close()


def _compared(
    settings: Settings, outcome: Outcome, places: dict[str, _Place], where: str, nbytes: int, rounds: int
) -> None:
    """Rows of puts, gets and evicts; each object is evicted before the next one comes, so that memory is used again."""
    samples: dict[tuple[str, str], list[float]] = {}
    for number, name in enumerate(interleaved(list(places), rounds + (not settings.tiny))):
        marks = places[name].round()
        if number >= len(places) or settings.tiny:  # the first round takes memory that is not there yet
            for what, spent in marks.items():
                samples.setdefault((f"{what}, {where}", name), []).append(spent)
    for (what, name), seconds in samples.items():
        outcome.rows.append(row(BENCH, what, name, seconds, nbytes=nbytes))


class _Place(NamedTuple):
    """Where something is put, got from and evicted."""

    put: Callable[[], Any]
    get: Callable[[Any], object]
    evict: Callable[[Any], object]

    def round(self) -> dict[str, float]:
        """Seconds of each."""
        marks = [perf_counter()]
        key = self.put()
        marks.append(perf_counter())
        found = self.get(key)
        marks.append(perf_counter())
        del found  # to give it back is no part of the evict
        marks.append(perf_counter())
        self.evict(key)
        marks.append(perf_counter())
        return {"put": marks[1] - marks[0], "get": marks[2] - marks[1], "evict": marks[4] - marks[3]}


def _far(settings: Settings, outcome: Outcome, nbytes: int) -> None:
    """One central store 50 ms away, beside six places as far away over links as quick."""
    delay, bandwidth = (0.001, 1e9) if settings.tiny else (0.05, 1e8)
    frames = Frames([random.Random(5).randbytes(nbytes)])
    central = FaultyConnector(_Used(), delay=delay, bandwidth=bandwidth)
    sites = [FaultyConnector(_Used(), delay=delay, bandwidth=bandwidth) for _ in range(6)]
    places: dict[str, Any] = {CENTRAL: central, SITES: ErasureConnector(sites, Options(k=4, m=2))}
    ways = {name: _Place(partial(place.put, frames), place.get, place.evict) for name, place in places.items()}
    rounds = 1 if settings.tiny else max(settings.rounds(nbytes) // 3, 3)
    _compared(settings, outcome, ways, "50 ms away", nbytes, rounds)
    for place in places.values():
        place.close()


def _stall(kernel: str, nbytes: int) -> Row:
    """The longest that another thread had to wait while an object was encoded."""
    data, code = random.Random(2).randbytes(nbytes), Code(4, 2, kernel=kernel, memory=Warm().take)
    code.encode(data)
    done, longest = threading.Event(), [0.0]

    def watch() -> None:
        before = perf_counter()
        while not done.is_set():
            now = perf_counter()
            longest[0], before = max(longest[0], now - before), now

    thread = threading.Thread(target=watch)
    thread.start()
    code.encode(data)
    done.set()
    thread.join()
    return row(BENCH, STALL, f"proxyfab, {kernel}", longest, nbytes=nbytes)


def _placements(settings: Settings, outcome: Outcome) -> None:
    draw = random.Random(3)
    nodes = [
        Node(
            f"n{number}",
            capacity=draw.uniform(4e6, 16e6),
            used=draw.uniform(0, 2e6),
            write_bandwidth=draw.uniform(100, 300),
            read_bandwidth=draw.uniform(100, 400),
            annual_failure_rate=draw.uniform(0.003, 0.03),
        )
        for number in range(10)
    ]
    functions = {repr(policy): partial(_place_one, policy, nodes, draw) for policy in (make() for make in POLICIES)}
    samples = compare(functions, rounds=1 if settings.tiny else 21, calls=1 if settings.tiny else 10)
    for name, seconds in samples.items():
        outcome.rows.append(row(BENCH, PLACE, name, seconds))


def _place_one(policy: Policy, nodes: list[Node], draw: random.Random) -> None:
    """Each object has a target of its own, so that what is remembered of the one before is of little use."""
    policy.place(nodes, size=100, target=draw.uniform(0.9, 0.99999))


def _rate(step: str, kernel: str, least: float) -> Check:
    """Whether a kernel codes 64 MiB by (4, 2) at so many bytes a second."""

    def check(results: Results) -> tuple[str, bool]:
        found = SIZES[-1] / results.median(BENCH, f"{step} (4, 2)", f"proxyfab, {kernel}", nbytes=SIZES[-1])
        return f"{found / 1e9:.2f} GB/s", found >= least

    return check


def _no_stall(results: Results) -> tuple[str, bool]:
    found = results.median(BENCH, STALL, "proxyfab, isal", nbytes=_STALL)
    return f"{found * 1e3:.1f} ms", found <= 0.02


def _share(what: str) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        mine, other = (results.median(BENCH, f"{what}, in memory", of, nbytes=SIZES[-1]) for of in (ERASURE, UNCODED))
        return f"{other / mine:.2f} ({mine * 1e3:.1f} ms against {other * 1e3:.1f})", other >= 0.6 * mine

    return check


def _little(what: str) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        mine, other = (results.median(BENCH, f"{what}, in memory", of, nbytes=KB) for of in (ERASURE, CHILD))
        return f"{(mine - other) * 1e6:.0f} µs ({mine * 1e6:.0f} against {other * 1e6:.0f})", mine - other <= 300e-6

    return check


def _quicker(what: str, nbytes: int) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        mine, other = (results.median(BENCH, f"{what}, 50 ms away", of, nbytes=nbytes) for of in (SITES, CENTRAL))
        return f"{1 - mine / other:.1%} less ({mine * 1e3:.1f} ms against {other * 1e3:.1f})", mine <= 0.9 * other

    return check


def _placed(policy: str, most: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        found = results.median(BENCH, PLACE, policy)
        return f"{found * 1e6:.0f} µs", found <= most

    return check


TARGETS = (
    ("erasure: encode 64 MiB, (4, 2), ISA-L", "5 GB/s", _rate("encode", "isal", 5e9)),
    ("erasure: decode 64 MiB with two losses, ISA-L", "3 GB/s", _rate("decode", "isal", 3e9)),
    *(
        (f"erasure: {step}, by {name}", f"{least / 1e9:g} GB/s", _rate(step, kernel, least))
        for kernel, name, least in (("numpy", "NumPy", 6e8), ("python", "the standard library", 2e8))
        for step in ("encode", "decode")
    ),
    ("erasure: longest stall of another thread, 64 MiB", "at most 20 ms", _no_stall),
    ("erasure: put of 64 MiB to six in memory, against the same bytes", "at least 0.6 of the rate", _share("put")),
    ("erasure: get of 64 MiB of six in memory, against the same bytes", "at least 0.6 of the rate", _share("get")),
    ("erasure: put of 1 KiB, beyond one child's", "at most 300 µs", _little("put")),
    ("erasure: get of 1 KiB, beyond one child's", "at most 300 µs", _little("get")),
    *(
        (
            f"erasure: {what} of {size_name(size)}, six sites, against one store",
            "at least 10 % less",
            _quicker(what, size),
        )
        for size in (MB, 10 * MB, 100 * MB)
        for what in ("put", "get")
    ),
    ("erasure: GreedyMinStorage on ten nodes", "at most 60 µs", _placed("GreedyMinStorage()", 60e-6)),
    ("erasure: LoadBalance on ten nodes", "at most 150 µs", _placed("LoadBalance()", 150e-6)),
    ("erasure: ScarcityPrice on ten nodes", "at most 500 µs", _placed("ScarcityPrice(0.3)", 500e-6)),
    ("erasure: SaturationControlled on ten nodes", "at most 2 ms", _placed("SaturationControlled()", 2e-3)),
)
"""Name, goal and check of what is promised."""


def test_it_runs(tmp_path: Path) -> None:
    outcome = run(Settings(Place(str(tmp_path), str(tmp_path)), tiny=True))

    assert {found.system for found in outcome.rows} >= {*(f"proxyfab, {kernel}" for kernel in available()), "pyeclib"}


def main() -> None:
    """A table on standard output; an argument scales the rounds, further ones choose kernels."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory() as place:
        outcome = run(Settings(Place(place, place), scale=scale, systems=tuple(sys.argv[2:])))
    for found in outcome.rows:
        rate = f"{found.nbytes / found.median / 1e9:8.2f} GB/s" if "code" in found.what else " " * 13
        sys.stdout.write(
            f"{size_name(found.nbytes) if found.nbytes else '':>10}  {found.what:<32}{found.system:<26}"
            f"{found.median * 1e6:12.1f} us{rate} (best {found.best * 1e6:.1f}, n={found.n})\n"
        )
    for skipped in outcome.skipped:
        sys.stdout.write(f"not measured: {skipped.system}: {skipped.reason}\n")


if __name__ == "__main__":
    main()
