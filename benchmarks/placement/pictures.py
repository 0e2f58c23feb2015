"""A picture for one set of nodes and one trace: what was stored, how it grew, and how quick it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.placement.report import Figures


def draw(title: str, found: Mapping[str, Sequence[Figures]], path: Path) -> Path | None:
    """Write it; None where Matplotlib is missing. Bars reach from the smallest to the largest of the seeds."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bars, lines, points) = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for number, (policy, runs) in enumerate(found.items()):
        colour = colours[number % len(colours)]
        stored = [run.stored * 100 for run in runs]
        middle = sum(stored) / len(stored)
        reach = [[middle - min(stored)], [max(stored) - middle]]
        bars.barh(policy, middle, xerr=reach, color=colour)
        lines.plot(*zip(*runs[0].curve, strict=True), color=colour, lw=1.3, label=policy)
        points.plot(sum(run.rate for run in runs) / len(runs), middle, "o", color=colour, label=policy)
    bars.invert_yaxis()
    bars.set(xlabel="% of what was offered", title="stored")
    lines.set(xlabel="TB offered", ylabel="TB stored", title="stored so far")
    points.set(xlabel="MB/s, all steps one after the other", ylabel="% stored", title="stored, and how quick it is")
    lines.legend(fontsize=7, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
