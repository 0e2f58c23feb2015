"""Map and reduce with ownership: every intermediate result goes when the task that needed it is done.

Workers make blocks of data and hand them over; who owns a block keeps it, and when its owner goes, so does the block.
The same again without ownership leaves everything in the store. Draws map_reduce.svg.

python examples/map_reduce.py
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import matplotlib as mpl
import numpy as np

from proxyfab import Store
from proxyfab.patterns import borrow, own, scope

ROUNDS, BLOCKS, CELLS = 4, 6, 250_000  # blocks of 2 MB


def simulate(store: Store, seed: int, owned: bool) -> np.ndarray:
    """Map: makes a block, which stays where it is; what is returned is a reference to it."""
    block = np.random.default_rng(seed).random(CELLS)
    return own(store, block) if owned else store.proxy(block)


def summarize(*blocks: np.ndarray) -> float:
    """Reduce: reads them all."""
    return float(np.mean([block.mean() for block in blocks]))


def stored(store: Store) -> float:
    """Megabytes in the store."""
    return sum(stat.nbytes for stat in store.connector.scan()) / 1e6


def run(pool: ProcessPoolExecutor, store: Store, owned: bool) -> tuple[list[float], list[float]]:
    """The results of all rounds, and how much lay in the store after each map and each reduce."""
    means, sizes = [], [0.0]
    for number in range(ROUNDS):
        seeds = range(number * BLOCKS, (number + 1) * BLOCKS)
        blocks = list(pool.map(simulate, [store] * BLOCKS, seeds, [owned] * BLOCKS))
        sizes.append(stored(store))
        lent = [borrow(block, scoped=True) for block in blocks] if owned else blocks
        task = pool.submit(summarize, *lent)
        if owned:
            scope(task, *lent, *blocks)  # when the task is done the borrows end, then the owners, then the blocks
        del lent, blocks
        means.append(task.result())
        settle(store, owned)
        sizes.append(stored(store))
    return means, sizes


def settle(store: Store, owned: bool) -> None:
    """What has ended is cleared away in the background: wait for it, so that the figure shows where it ends."""
    deadline = time.monotonic() + 5
    while owned and stored(store) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)


def draw(curves: dict[str, list[float]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for (name, sizes), colour in zip(curves.items(), ("#b45309", "#0f766e"), strict=True):
        label = f"{name}: {sizes[-1]:.0f} MB stay"
        axes.step(range(len(sizes)), sizes, where="post", color=colour, lw=2, label=label)
    axes.legend(frameon=False)
    steps = ["start", *[f"{step} {number + 1}" for number in range(ROUNDS) for step in ("map", "reduce")]]
    axes.set_xticks(range(len(steps)), steps, fontsize=8)
    axes.set(ylabel="MB in the store", title="Map and reduce", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("map_reduce.svg")


def main() -> None:
    curves = {}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for name, owned in (("plain references", False), ("owned", True)):
            with Store() as store:
                means, curves[name] = run(pool, store, owned)
                store.clear()  # what plain references leave behind
            print(f"{name}: at most {max(curves[name]):.0f} MB stored, {curves[name][-1]:.0f} MB at the end")
            assert all(abs(mean - 0.5) < 0.01 for mean in means)
    draw(curves)
    print("map_reduce.svg")


if __name__ == "__main__":
    main()
