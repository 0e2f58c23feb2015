"""`python -m benchmarks.placement`: tables on standard output, results.json and a picture for each pair of inputs."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.pairs import ROOT
from benchmarks.placement.inputs import NODES, TRACES, items_of, nodes_of
from benchmarks.placement.pictures import draw
from benchmarks.placement.report import Figures, figures, table
from benchmarks.placement.simulate import CODERS, POLICIES, after, failing_first, simulate


@click.command()
@click.option("--nodes", multiple=True, default=("mixed",), help=f"{', '.join(NODES)}, or a file; may be repeated.")
@click.option("--trace", multiple=True, default=("batch",), help=f"{', '.join(TRACES)}, or a file; may be repeated.")
@click.option("--policy", multiple=True, type=click.Choice(list(POLICIES)), help="By default all.")
@click.option("--seed", multiple=True, type=int, default=(1,), help="Of sizes, targets and failures; may be repeated.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies capacities and what is offered.")
@click.option("--target", type=float, help="For every object; by default drawn between 0.9 and 0.99999.")
@click.option("--fail", default=2, show_default=True, help="Nodes that fail at the end.")
@click.option("--coder", type=click.Choice(list(CODERS)), default="fast", show_default=True)
@click.option("--compatible", is_flag=True, help="As D-Rex's simulator does: never whole copies, no sites, 32 bits.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "bench" / "placement", show_default=True)
def main(
    nodes: tuple[str, ...],
    trace: tuple[str, ...],
    policy: tuple[str, ...],
    seed: tuple[int, ...],
    scale: float,
    target: float | None,
    fail: int,
    coder: str,
    compatible: bool,
    out: Path,
) -> None:
    """Place objects on nodes by every policy, and let nodes fail."""
    out.mkdir(parents=True, exist_ok=True)
    how = How(scale, target, fail, coder, compatible)
    results = {}
    for where, what in product(nodes, trace):
        found = {name: [one_run(where, what, name, one, how) for one in seed] for name in policy or POLICIES}
        title = f"{Path(what).stem} on {Path(where).stem}"
        click.echo(f"\n{title}; seeds {', '.join(map(str, seed))}; scale {scale:g}; {fail} nodes fail")
        click.echo(table(found))
        results[title] = {name: [run._asdict() for run in runs] for name, runs in found.items()}
        draw(title, found, out / f"{title.replace(' ', '-')}.png")
        (out / "results.json").write_text(json.dumps(results, indent=1))


class How(NamedTuple):
    """What all runs share."""

    scale: float
    target: float | None
    fail: int
    coder: str
    compatible: bool


def one_run(where: str, what: str, name: str, seed: int, how: How) -> Figures:
    """One policy with one seed."""
    disks, times = nodes_of(where, how.scale), CODERS[how.coder]
    items = items_of(what, seed=seed, target=how.target, scale=how.scale)
    run = simulate(disks, items, POLICIES[name](times, how.compatible), times)
    failed = failing_first(disks, how.fail, seed)
    return figures(run, after(disks, run.kept, POLICIES[name](times, how.compatible), failed))


if __name__ == "__main__":
    main()
