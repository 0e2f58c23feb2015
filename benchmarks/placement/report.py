"""A run in figures that compare, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.placement.simulate import After, Run


class Figures(NamedTuple):
    """Of one policy with one seed. Shares are of what was offered, where nothing else is said."""

    stored: float
    objects: float
    """Share of objects."""
    overhead: float
    """What is taken for one byte stored."""
    rate: float
    """MB/s, if every object is coded, written, read and decoded, one after the other."""
    expected_loss: float
    """Of what is stored."""
    lost: float
    """Of what is stored, if the nodes that fail do so at once."""
    homeless: float
    """Of what is stored: found no new place as nodes failed one after the other."""
    thinking: float
    """Seconds of processor time for one object."""
    curve: list[tuple[float, float]]
    """TB offered and stored."""


def figures(run: Run, then: After) -> Figures:
    """Of a run and what came after it."""
    stored = run.stored or 1.0
    seconds = run.moving + run.coding
    return Figures(
        stored=run.stored / run.offered if run.offered else 0.0,
        objects=len(run.kept) / run.objects if run.objects else 0.0,
        overhead=run.raw / stored,
        rate=run.stored / seconds if seconds else 0.0,
        expected_loss=run.expected_loss / stored,
        lost=then.lost / stored,
        homeless=then.homeless / stored,
        thinking=run.thinking / run.objects if run.objects else 0.0,
        curve=[(offered / 1e6, so_far / 1e6) for offered, so_far in run.curve],
    )


_HEAD = ("policy", "stored", "objects", "takes", "MB/s", "lost/year", "lost at once", "homeless", "us/object")


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """A line for each policy: means over seeds; of what was stored also the smallest and the largest."""
    lines = [_HEAD, *(_line(policy, runs) for policy, runs in found.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _line(policy: str, runs: Sequence[Figures]) -> tuple[str, ...]:
    def mean(name: str) -> float:
        return float(sum(getattr(run, name) for run in runs) / len(runs))

    stored = [run.stored for run in runs]
    reach = f" ({min(stored):.1%} to {max(stored):.1%})" if len(runs) > 1 else ""
    return (
        policy,
        f"{mean('stored'):.1%}{reach}",
        f"{mean('objects'):.1%}",
        f"{mean('overhead'):.2f}x",
        f"{mean('rate'):.0f}",
        f"{mean('expected_loss'):.1e}",
        f"{mean('lost'):.1%}",
        f"{mean('homeless'):.1%}",
        f"{mean('thinking') * 1e6:.0f}",
    )
