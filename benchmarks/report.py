"""What a run says: markdown tables, and the short forms between the markers of README.md and of pages in docs/."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.harness import Row
from benchmarks.payloads import GB, KB, MB, size_name
from benchmarks.results import Results
from benchmarks.systems import ALONE
from benchmarks.targets import Verdict, seconds

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
_SYMBOLS = {"reached": "✓ reached", "missed": "✗ missed", "not measured": "not measured"}
_WAYS = {
    "put": "put",
    "put in a row": "put, one hand-over right behind the other",
    "get": "get, in the other process",
    "read": "get and read every byte, in the other process",
    "total": "end to end: from the start of put to the last byte read in the other process",
}
_SHORT = {
    "proxyfab-shm": "**proxyfab, shared memory**",
    "proxyfab-tmpfs": "**proxyfab, files on tmpfs**",
    "proxyfab-disk": "**proxyfab, files on disk**",
    "proxystore-tmpfs": "ProxyStore, files on tmpfs",
    "proxystore-disk": "ProxyStore, files on disk",
    "ray": "Ray, object store",
    "dask": "Dask, scatter and gather",
    "process-pool": "pickle, process pool",
    "raw-tmpfs": "bare file on tmpfs, mapped",
}
_DASK = {
    "dask": "plain Dask",
    "dask-direct": "Dask, `direct_to_workers=True`",
    "proxystore": "ProxyStore's client",
    "proxyfab": "**proxyfab**",
}


def full(results: Results, verdicts: Sequence[Verdict]) -> str:
    """Everything, as markdown."""
    parts = ["# Benchmarks", described(results), "## Targets", targets(verdicts), "## Hand-over between two processes"]
    for kind in ("ndarray", "bytes", "dict"):
        for what, text in _WAYS.items():
            parts += _titled(f"**{kind}: {text}**", by_size(results.select("store", what, kind), label=_system))
    parts += _titled(
        "## Limits of the machine", by_size(results.select("limits"), first="technique", label=lambda row: row.what)
    )
    parts += _titled("## Memory, in multiples of the payload", _memory(results))
    parts += _titled("## Small objects", _flat(results.select("small")))
    for bench in [name for name in results.ran if name not in ("store", "limits", "memory", "small")]:
        parts += _titled(f"## {bench.capitalize()}", _flat(results.select(bench)))
    parts += _titled("## Not measured", _skipped(results))
    return "\n\n".join(parts) + "\n"


def short(results: Results) -> str:
    """What README shows: the whole way of an array by size, and where it was measured."""
    rows = [row for row in results.select("store", "total", "ndarray") if row.system in _SHORT]
    rows = [row for row in rows if row.nbytes in (KB, MB, 100 * MB, GB)]
    order = list(_SHORT)
    rows.sort(key=lambda row: (order.index(row.system), row.nbytes))
    table = by_size(rows, label=lambda row: _SHORT[row.system])
    caption = "A NumPy array from one process to another: from the start of put to the last byte read. Medians."
    return f"{caption}\n\n{table}\n\n{described(results)}"


def dask(results: Results) -> str:
    """What the page on Dask shows: the systems side by side, and how much faster than plain Dask ours is."""
    rows = [row for row in results.select("dask") if row.system in _DASK]
    cells: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row.what, row.nbytes, row.unit), {})[row.system] = row.median
    lines = []
    for (what, nbytes, unit), found in cells.items():
        timed = unit == "s"
        times = f"{found['dask'] / found['proxyfab']:.2f}x" if timed and {"dask", "proxyfab"} <= found.keys() else ""
        shown = [seconds(value) if timed else f"{value / MB:.3g} MB" for value in found.values()]
        known = dict(zip(found, shown, strict=True))
        columns = [known.get(name, "fails" if timed else "") for name in _DASK]
        lines.append((f"{what}, {size_name(nbytes)}" if nbytes else what, *columns, times))
    caption = "Two worker processes of one thread, on one host. Medians; the last column is plain Dask's by proxyfab's."
    return f"{caption}\n\n{table(('', *_DASK.values(), 'faster'), lines)}\n\n{described(results, 'dask')}"


def targets(verdicts: Iterable[Verdict]) -> str:
    """The table of promises."""
    lines = [(v.target, v.goal, v.measured, _SYMBOLS[v.verdict]) for v in verdicts]
    return table(("target", "goal", "measured", "verdict"), lines)


def described(results: Results, *benches: str) -> str:
    """One sentence on the machine, the versions and the date; of all benchmarks unless some are named."""
    machine = results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    dates = sorted({results.ran[bench][:10] for bench in benches or results.ran})
    return (
        f"Measured on {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}: {machine['cores']} cores of "
        f"{machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}, {versions}."
    )


def by_size(rows: Sequence[Row], *, first: str = "system", label: Callable[[Row], str] = lambda row: row.system) -> str:
    """A line for each system, a column for each size."""
    sizes = sorted({row.nbytes for row in rows})
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        cells.setdefault(label(row), {})[row.nbytes] = seconds(row.median)
    lines = [(name, *[found.get(size, "") for size in sizes]) for name, found in cells.items()]
    return table((first, *map(size_name, sizes)), lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    ruled = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def fill(path: Path, text: str, start: str = START, end: str = END) -> bool:
    """Put `text` between the markers of a file; False when it has none."""
    if not path.exists():
        return False
    content = path.read_text()
    marked = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    filled, count = marked.subn(lambda _: f"{start}\n{text}\n{end}", content)
    if filled != content:
        path.write_text(filled)
    return count > 0


def _system(row: Row) -> str:
    return f"{row.system} (one process)" if row.system in ALONE else row.system


def _titled(title: str, content: str) -> list[str]:
    return [title, content] if content.count("\n") > 1 else []


def _memory(results: Results) -> str:
    rows = results.select("memory")
    names = list(dict.fromkeys((row.kind, row.system) for row in rows))
    columns = ("first put peak", "put peak", "first get peak", "get peak", "get kept")
    found = {(row.kind, row.system, row.what): row.median / row.nbytes for row in rows}
    lines = [
        (kind, system, *[f"{found[kind, system, column]:.2f}" for column in columns])
        for kind, system in names
        if (kind, system, columns[0]) in found
    ]
    return table(("payload", "system", *columns), lines)


def _flat(rows: Sequence[Row]) -> str:
    systems = list(dict.fromkeys(row.system for row in rows))
    cells: dict[tuple[str, str, int], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row.what, row.kind, row.nbytes), {})[row.system] = _value(row)
    lines = [
        (what, f"{kind} {size_name(nbytes) if nbytes else ''}".strip(), *[found.get(name, "") for name in systems])
        for (what, kind, nbytes), found in cells.items()
    ]
    return table(("what", "payload", *systems), lines)


def _value(row: Row) -> str:
    return seconds(row.median) if row.unit == "s" else f"{row.median:g}{'' if row.unit == 'n' else ' ' + row.unit}"


def _skipped(results: Results) -> str:
    return table(("benchmark", "system", "reason"), [tuple(skip) for skip in results.skipped])
