"""What proxyfab promises to reach, and whether this run reached it.

"Never slower" allows 5 % for noise. Where several kinds or sizes are meant, the worst one decides and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from benchmarks import bench_dask, bench_erasure, bench_events, bench_executor, bench_futures
from benchmarks.payloads import GB, KB, MB, size_name
from benchmarks.results import NotMeasured, Results

NOISE = 1.05


class Verdict(NamedTuple):
    """One line of the table."""

    target: str
    goal: str
    measured: str
    verdict: str
    """`reached`, `missed` or `not measured`."""


class Target(NamedTuple):
    """A promise, and how to read it off the results: the figure as text, and whether it is good enough."""

    name: str
    goal: str
    check: Callable[[Results], tuple[str, bool]]


def check(results: Results) -> list[Verdict]:
    """Every target's verdict."""
    return [_check(target, results) for target in _targets()]


def _check(target: Target, results: Results) -> Verdict:
    try:
        measured, good = target.check(results)
    except NotMeasured as missing:
        return Verdict(target.name, target.goal, f"no figure: {missing}", "not measured")
    return Verdict(target.name, target.goal, measured, "reached" if good else "missed")


def _targets() -> Iterator[Target]:
    yield from _shared_memory()
    yield from _memory()
    yield from _files()
    yield from _small()
    yield from _proxies()
    yield from _ray()
    yield from _threads()
    yield from _redis()
    yield from _zmq()
    yield from _lifetimes()
    for bench in (bench_futures, bench_executor, bench_events, bench_dask, bench_erasure):
        yield from [Target(*promise) for promise in bench.TARGETS]


def _shared_memory() -> Iterator[Target]:
    shm = "proxyfab-shm"
    for bench, what, how in (
        ("gets", "get in a loop", "in a loop"),
        ("store", "get", "one by one, all bytes read between"),
    ):
        name = f"shm: get of an array in another process, {how}"
        yield Target(f"{name}: 1 GB against 1 MB", "at most 2x", partial(_get_is_flat, bench, what))
        yield Target(f"{name}: slowest of 1 MB to 1 GB", "< 150 µs", partial(_get_is_quick, bench, what))
    yield at_most(
        "shm: put of a 100 MB array against memcpy into warm memory", 1.4, ("put", shm), ("put", "raw-memcpy")
    )
    yield Target(
        "shm: put against write() into a new tmpfs file, worst size",
        "never slower",
        partial(_never_slower, pairs=[(shm, "raw-tmpfs", "put")], kinds=["ndarray", "bytes"]),
    )
    yield faster(
        "shm: put to read of a 100 MB array against ProxyStore's files on tmpfs", 10, "total", shm, "proxystore-tmpfs"
    )


def _memory() -> Iterator[Target]:
    yield Target("shm: peak extra memory of a 100 MB put", "at most 1.05x the payload", _put_memory)
    yield Target("shm: peak extra memory of a 100 MB array's get", "< 1 MB", _get_memory)


def _files() -> Iterator[Target]:
    for place in ("tmpfs", "disk"):
        for kind in ("ndarray", "bytes"):
            for what in ("put", "get"):
                name = f"file on {place}: {what} of 100 MB ({kind}) against ProxyStore's file connector"
                yield faster(name, 3, what, f"proxyfab-{place}", f"proxystore-{place}", kind=kind)
        yield Target(
            f"file on {place}: put and get against ProxyStore's file connector, worst kind and size",
            "never slower",
            partial(
                _never_slower, pairs=[(f"proxyfab-{place}", f"proxystore-{place}", what) for what in ("put", "get")]
            ),
        )
    yield Target("file on tmpfs: get of 100 MB against a fresh bytearray alone", "faster", _fresh_memory)


def _small() -> Iterator[Target]:
    for place in ("tmpfs", "disk"):
        for kind in ("ndarray", "bytes"):
            name = f"file on {place}: put + get of 1 KB ({kind}) against ProxyStore's file connector"
            for way, rate in (("in a loop", _loop), ("between two processes", _between)):
                yield Target(f"{name}, {way}", "at least 2x the rate", partial(rate, place=place, kind=kind))
    yield Target("inlined 1 KB object: proxy + pickle + unpickle + use, worse kind", "< 30 µs", _inline)
    yield Target("pickled proxy of a stored object, largest", "at most 250 B", _stored_size)
    yield Target("pickled proxy of an inlined 100-byte object", "at most 400 B", _inline_size)
    yield Target("import proxyfab, above bare Python", "< 60 ms", _import)
    yield Target("import proxyfab: optional packages imported", "none", _unwanted)


def _proxies() -> Iterator[Target]:
    for what in ("attribute", "method call"):
        name = f"resolved proxy: time added to an access ({what}), against ProxyStore's"
        yield Target(name, "at least 3x less", partial(_less_added, what=what))
    yield Target("resolved proxy: any operation against ProxyStore's, worst", "never slower", _operations)


def _ray() -> Iterator[Target]:
    for what, factor, nbytes in (("put", 3, 100 * MB), ("get", 3, 100 * MB), ("put", 5, KB), ("get", 5, KB)):
        name = f"shm: {what} of a {size_name(nbytes)} array against Ray's object store"
        yield faster(name, factor, what, "proxyfab-shm", "ray", nbytes=nbytes)
    name = "shm: put of a 100 MB array against Ray's object store, one right behind the other"
    yield faster(name, 3, "put in a row", "proxyfab-shm", "ray")


def _threads() -> Iterator[Target]:
    yield Target("8 threads get 8 objects over a 50 ms link", "about 50 ms (< 75)", _eight_gets)
    yield Target("8 threads touch one unresolved proxy", "one fetch", _one_fetch)


def _redis() -> Iterator[Target]:
    ours, peer, bare = "proxyfab-redis", "proxystore-redis", "raw-socket"
    for nbytes in (10 * MB, 100 * MB):
        size = size_name(nbytes)
        yield Target(
            f"redis: get of {size} against ProxyStore's connector",
            "at least 3x faster",
            partial(_against, what="get", ours=ours, theirs=peer, nbytes=nbytes, factor=3),
        )
        yield Target(
            f"redis: get of {size} against a bare socket that receives into warm memory",
            "at least 0.8x its speed",
            partial(_against, what="get", ours=ours, theirs=bare, nbytes=nbytes, factor=0.8),
        )
        yield Target(
            f"redis: put of {size} against a bare SET",
            "at least 0.9x its speed",
            partial(_against, what="put", ours=ours, theirs=bare, nbytes=nbytes, factor=0.9),
        )
    yield Target("redis: get and put against ProxyStore's connector, worst size", "never slower", _redis_never_slower)
    for what in ("put", "get"):
        yield Target(
            f"redis: {what}_many of 1,000 objects of 1 KB against {what}",
            "at least 10x the rate",
            partial(_redis_batch, what=what),
        )
    yield Target("redis: a waiter in another process wakes after the put", "< 5 ms", _redis_wakes)


def _lifetimes() -> Iterator[Target]:
    for place in ("redis", "shm"):
        for system in ("proxyfab-owned", "proxyfab-owned-killed"):
            killed = ", every fifth worker killed" if system.endswith("killed") else ""
            yield Target(
                f"{place}: peak extra memory of a map-reduce with ownership{killed}, against eviction by hand",
                "at most 1.05x",
                partial(_peak, ours=f"{system} on {place}", theirs=f"proxyfab-manual on {place}"),
            )
            yield Target(
                f"{place}: objects left of it after lease and grace{killed}",
                "none",
                partial(_left, system=f"{system} on {place}"),
            )


def _zmq() -> Iterator[Target]:
    yield Target(
        "zmq: get of 100 MB over the wire against pyzmq with copy=False",
        "at least 0.9x its speed",
        partial(_zmq_against, theirs="pyzmq", factor=0.9),
    )
    yield Target(
        "zmq: get of 1 KB over the wire",
        "< 200 us",
        partial(_zmq_under, what="proxyfab-zmq-wire", nbytes=KB, limit=200e-6),
    )
    yield Target(
        "zmq: get of 100 MB on the server's machine",
        "< 300 us",
        partial(_zmq_under, what="proxyfab-zmq", nbytes=100 * MB, limit=300e-6),
    )
    for nbytes in (KB, 100 * MB):
        yield Target(
            f"zmq: get of {size_name(nbytes)} over the wire against ProxyStore",
            "at least 5x its speed",
            partial(_zmq_against, theirs="proxystore-zmq", factor=5, nbytes=nbytes),
        )
    yield Target("zmq: a waiter in another process wakes after the put", "< 5 ms", _zmq_wakes)


def _zmq_against(results: Results, *, theirs: str, factor: float, nbytes: int = 100 * MB) -> tuple[str, bool]:
    mine = results.median("zmq", "get", "proxyfab-zmq-wire", "bytes", nbytes)
    other = results.median("zmq", "get", theirs, "bytes", nbytes)
    return f"{other / mine:.2f}x ({seconds(mine)} against {seconds(other)})", other >= factor * mine


def _zmq_under(results: Results, *, what: str, nbytes: int, limit: float) -> tuple[str, bool]:
    mine = results.median("zmq", "get", what, "bytes", nbytes)
    return seconds(mine), mine < limit


def _zmq_wakes(results: Results) -> tuple[str, bool]:
    mine = results.median("zmq", "a waiter in another process wakes", "proxyfab-zmq", "", 0)
    return seconds(mine), mine < 5e-3


def _against(results: Results, *, what: str, ours: str, theirs: str, nbytes: int, factor: float) -> tuple[str, bool]:
    mine = results.median("redis", what, ours, "bytes", nbytes)
    other = results.median("redis", what, theirs, "bytes", nbytes)
    return f"{other / mine:.2f}x ({seconds(mine)} against {seconds(other)})", other >= factor * mine


def _redis_never_slower(results: Results) -> tuple[str, bool]:
    ours, peer = "proxyfab-redis", "proxystore-redis"
    cells = []
    for what in ("get", "put"):
        for nbytes in results.sizes("redis", what, [ours, peer], "bytes"):
            mine = results.median("redis", what, ours, "bytes", nbytes)
            other = results.median("redis", what, peer, "bytes", nbytes)
            cells.append((mine / other, f"{what} of {size_name(nbytes)}: {seconds(mine)} against {seconds(other)}"))
    if not cells:
        raise NotMeasured("any size of both")
    ratio, text = max(cells)
    return f"{ratio:.2f}x the time ({text})", ratio <= NOISE


def _redis_batch(results: Results, *, what: str) -> tuple[str, bool]:
    one = results.median("redis", f"{what}, an object of 1000", "proxyfab-redis", "", KB)
    many = results.median("redis", f"{what}_many, an object of 1000", "proxyfab-redis", "", KB)
    return f"{one / many:.1f}x ({seconds(many)} against {seconds(one)} an object)", one >= 10 * many


def _redis_wakes(results: Results) -> tuple[str, bool]:
    late = results.median("redis", "a waiter in another process wakes", "proxyfab-redis", "", 0)
    return seconds(late), late < 0.005


def faster(
    name: str, factor: float, what: str, ours: str, theirs: str, *, kind: str = "ndarray", nbytes: int = 100 * MB
) -> Target:
    """Ours takes at most a `factor`th of theirs."""

    def checked(results: Results) -> tuple[str, bool]:
        mine = results.median("store", what, ours, kind, nbytes)
        other = results.median("store", what, theirs, kind, nbytes)
        return f"{other / mine:.1f}x ({seconds(mine)} against {seconds(other)})", other >= factor * mine

    return Target(name, f"at least {factor:g}x faster", checked)


def at_most(name: str, factor: float, ours: tuple[str, str], theirs: tuple[str, str]) -> Target:
    """Ours takes at most `factor` times theirs, at 100 MB."""

    def checked(results: Results) -> tuple[str, bool]:
        mine = results.median("store", *ours, "ndarray", 100 * MB)
        other = results.median("store", *theirs, "ndarray", 100 * MB)
        return f"{mine / other:.2f}x ({seconds(mine)} against {seconds(other)})", mine <= factor * other

    return Target(name, f"at most {factor:g}x", checked)


def _get_is_flat(bench: str, what: str, results: Results) -> tuple[str, bool]:
    small = results.median(bench, what, "proxyfab-shm", "ndarray", MB)
    large = results.median(bench, what, "proxyfab-shm", "ndarray", GB)
    return f"{large / small:.2f}x ({seconds(large)} against {seconds(small)})", large <= 2 * small


def _get_is_quick(bench: str, what: str, results: Results) -> tuple[str, bool]:
    rows = [row for row in results.select(bench, what, "ndarray") if row.system == "proxyfab-shm"]
    slowest = max([row for row in rows if row.nbytes >= MB], key=lambda row: row.median, default=None)
    if slowest is None:
        raise NotMeasured("get by proxyfab-shm from 1 MB")
    return f"{seconds(slowest.median)} at {size_name(slowest.nbytes)}", slowest.median < 150e-6


def _never_slower(
    results: Results, pairs: Iterable[tuple[str, str, str]], kinds: Iterable[str] = ("ndarray", "bytes", "dict")
) -> tuple[str, bool]:
    cells = []
    for ours, theirs, what in pairs:
        for kind in kinds:
            for nbytes in results.sizes("store", what, [ours, theirs], kind):
                mine = results.median("store", what, ours, kind, nbytes)
                other = results.median("store", what, theirs, kind, nbytes)
                cells.append(
                    (mine / other, f"{what}, {kind} of {size_name(nbytes)}: {seconds(mine)} against {seconds(other)}")
                )
    if not cells:
        raise NotMeasured("any size of both")
    slower = sum(ratio > NOISE for ratio, _ in cells)
    ratio, text = max(cells)
    return f"{ratio:.2f}x the time ({text}); slower in {slower} of {len(cells)}", slower == 0


def _put_memory(results: Results) -> tuple[str, bool]:
    rows = [
        results.find("memory", what, "proxyfab-shm", kind, 100 * MB)
        for kind in ("ndarray", "bytes")
        for what in ("first put peak", "put peak")
    ]
    worst = max(rows, key=lambda row: row.median)
    return f"{worst.median / (100 * MB):.2f}x ({worst.kind}, {worst.what})", worst.median <= 1.05 * 100 * MB


def _get_memory(results: Results) -> tuple[str, bool]:
    peaks = [
        results.median("memory", what, "proxyfab-shm", "ndarray", 100 * MB) for what in ("first get peak", "get peak")
    ]
    return f"{max(peaks) / 1e6:.2f} MB", max(peaks) < MB


def _fresh_memory(results: Results) -> tuple[str, bool]:
    mine = results.median("store", "get", "proxyfab-tmpfs", "ndarray", 100 * MB)
    fresh = results.median("limits", "bytearray(n), nothing copied", "raw", "", 100 * MB)
    return f"{seconds(mine)} against {seconds(fresh)}", mine < fresh


def _loop(results: Results, place: str, kind: str) -> tuple[str, bool]:
    mine = results.median("small", "put + get", f"proxyfab-{place}", kind, KB)
    other = results.median("small", "put + get", f"proxystore-{place}", kind, KB)
    return f"{other / mine:.2f}x ({seconds(mine)} against {seconds(other)})", other >= 2 * mine


def _between(results: Results, place: str, kind: str) -> tuple[str, bool]:
    mine, other = (
        sum(results.median("store", what, f"{system}-{place}", kind, KB) for what in ("put", "get"))
        for system in ("proxyfab", "proxystore")
    )
    return f"{other / mine:.2f}x ({seconds(mine)} against {seconds(other)})", other >= 2 * mine


def _inline(results: Results) -> tuple[str, bool]:
    worst = max(
        (results.find("small", "proxy: all", "proxyfab-inline", kind, KB) for kind in ("bytes", "ndarray")),
        key=lambda row: row.median,
    )
    return f"{seconds(worst.median)} ({worst.kind})", worst.median < 30e-6


def _stored_size(results: Results) -> tuple[str, bool]:
    rows = [
        row
        for row in results.select("small", "pickled proxy")
        if row.system.startswith("proxyfab") and row.nbytes > 4 * KB
    ]
    if not rows:
        raise NotMeasured("pickled proxy of a stored object")
    worst = max(rows, key=lambda row: row.median)
    return f"{worst.median:.0f} B ({worst.system})", worst.median <= 250


def _inline_size(results: Results) -> tuple[str, bool]:
    size = results.median("small", "pickled proxy", "proxyfab-inline", "bytes", 104)
    return f"{size:.0f} B", size <= 400


def _import(results: Results) -> tuple[str, bool]:
    spent = results.median("import", "import", "proxyfab")
    return f"{spent * 1e3:.0f} ms", spent < 0.06


def _unwanted(results: Results) -> tuple[str, bool]:
    found = results.find("import", "unwanted imports", "proxyfab")
    return found.note or "none", found.median == 0


def _less_added(results: Results, what: str) -> tuple[str, bool]:
    mine = results.median("proxy", what, "proxyfab")
    other = results.median("proxy", what, "proxystore")
    return f"{other / mine:.1f}x less (+{seconds(mine)} against +{seconds(other)})", other >= 3 * mine


def _operations(results: Results) -> tuple[str, bool]:
    times: dict[str, dict[str, float]] = {}
    for row in results.select("proxy"):
        times.setdefault(row.what, {})[row.system] = row.median
    cells = [
        (found["proxyfab"] / found["proxystore"], what)
        for what, found in times.items()
        if {"proxyfab", "proxystore"} <= found.keys()
    ]
    if not cells:
        raise NotMeasured("operations of resolved proxies")
    slower = [what for ratio, what in cells if ratio > NOISE]
    ratio, what = max(cells)
    return f"{ratio:.2f}x the added time ({what}); slower in {len(slower)} of {len(cells)}", not slower


def _peak(results: Results, ours: str, theirs: str) -> tuple[str, bool]:
    found = {row.system: row for row in results.select("lifetimes", "peak extra memory")}
    if not {ours, theirs} <= found.keys():
        raise NotMeasured(f"{ours} and {theirs}")
    mine, other = found[ours].median, found[theirs].median
    return f"{mine / other:.2f}x ({mine / 1e6:.0f} MB against {other / 1e6:.0f} MB)", mine <= NOISE * other


def _left(results: Results, system: str) -> tuple[str, bool]:
    what = "objects left after lease and grace"
    found = [row for row in results.select("lifetimes", what) if row.system == system]
    if not found:
        raise NotMeasured(f"{what} by {system}")
    return f"{found[0].median:.0f}", found[0].median == 0


def _eight_gets(results: Results) -> tuple[str, bool]:
    spent = results.median("concurrency", "8 threads get 8 objects", "proxyfab")
    return seconds(spent), spent < 0.075


def _one_fetch(results: Results) -> tuple[str, bool]:
    fetches = results.median("concurrency", "fetches of one proxy", "proxyfab")
    return f"{fetches:.0f}", fetches == 1


def seconds(value: float) -> str:
    """`12.3 µs`, three significant digits."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= unit:
            return f"{value / unit:.3g} {name}" if value < 1000 * unit else f"{value / unit:.0f} {name}"
    return f"{value * 1e9:.3g} ns"
