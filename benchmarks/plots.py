"""Pictures of the hand-over: time against size for each step, on logarithmic axes, with the quartiles as a band."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness import Row
from benchmarks.results import Results

_STEPS = {"put": "put", "get": "get", "read": "get and read every byte", "total": "end to end"}
_COLOURS = {
    "proxyfab": ["#0b5394", "#3d85c6", "#6fa8dc", "#9fc5e8"],
    "proxystore": ["#b45f06", "#e69138", "#f6b26b"],
    "raw": ["#666666", "#888888", "#aaaaaa"],
    "ray": ["#6aa84f"],
    "dask": ["#cc4125"],
    "pickle": ["#8e7cc3"],
    "process": ["#674ea7"],
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write one PNG for each step; none where Matplotlib is missing or nothing was measured."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    paths = []
    for what, title in _STEPS.items():
        rows = results.select("store", what, "ndarray")
        if rows:
            paths.append(_draw(rows, title, folder / f"{what}.png"))
    return paths


def _draw(rows: list[Row], title: str, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for system, colour in _colours(rows):
        line = sorted((row for row in rows if row.system == system), key=lambda row: row.nbytes)
        sizes = [row.nbytes for row in line]
        width = 2.5 if system == "proxyfab-shm" else 1.3
        axes.plot(sizes, [row.median for row in line], "o-", ms=3, lw=width, color=colour, label=system)
        axes.fill_between(sizes, [row.low for row in line], [row.high for row in line], color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", xlabel="bytes of the array", ylabel="seconds", title=f"A NumPy array: {title}")
    axes.grid(True, which="major", lw=0.4, alpha=0.5)
    axes.legend(fontsize=7, ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _colours(rows: list[Row]) -> list[tuple[str, Any]]:
    used: dict[str, int] = {}
    pairs = []
    for system in dict.fromkeys(row.system for row in rows):
        family = system.split("-")[0]
        shades = _COLOURS.get(family, ["#000000"])
        pairs.append((system, shades[used.get(family, 0) % len(shades)]))
        used[family] = used.get(family, 0) + 1
    return pairs
