"""A chain of tasks, pipelined by futures: each is sent off at once and waits only where it touches its input.

Every stage spends half its time on things that need no input: starting, loading a model, opening files. Sent off one
after the other, stages do that while nobody else works; with futures they do it while the stage before them computes.
Draws pipeline.svg.

python examples/pipeline.py
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import matplotlib as mpl
import numpy as np

from proxyfab import Store
from proxyfab.patterns import Future

STAGES = 4
PREPARE = COMPUTE = 0.25


class Times(NamedTuple):
    """When a stage began, had prepared itself, had its input, and was done."""

    began: float
    prepared: float
    fed: float
    done: float


def stage(image: np.ndarray, answer: Future[np.ndarray]) -> Times:
    began = time.time()
    time.sleep(PREPARE)  # loads a model
    prepared = time.time()
    mean = image.mean()  # the first touch: waits here, if the stage before is still at it
    fed = time.time()
    time.sleep(COMPUTE)  # computes
    answer.set_result(image + mean)
    return Times(began, prepared, fed, time.time())


def get_ready(store: Store) -> None:
    time.sleep(0.5)
    store.put(np.zeros(10_000))  # what is imported at first use is imported now


def one_by_one(pool: ProcessPoolExecutor, store: Store, image: np.ndarray) -> list[Times]:
    times = []
    for _ in range(STAGES):
        answer = Future[np.ndarray](store)
        times.append(pool.submit(stage, store.proxy(image), answer).result())
        image = answer.result()
    return times


def pipelined(pool: ProcessPoolExecutor, store: Store, image: np.ndarray) -> list[Times]:
    tasks = []
    for _ in range(STAGES):
        answer = Future[np.ndarray](store)
        tasks.append(pool.submit(stage, store.proxy(image), answer))
        image = answer.proxy()  # of a value that does not exist yet
    return [task.result() for task in tasks]


def draw(runs: dict[str, list[Times]]) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(runs), 1, figsize=(7, 3.6), sharex=True, layout="constrained")
    for axes, (name, times) in zip(panels, runs.items(), strict=True):
        zero = times[0].began
        for row, each in enumerate(times):
            axes.barh(row, each.prepared - each.began, left=each.began - zero, color="#94a3b8", height=0.6)
            axes.barh(row, each.fed - each.prepared, left=each.prepared - zero, color="#e2e8f0", height=0.6)
            axes.barh(row, each.done - each.fed, left=each.fed - zero, color="#0f766e", height=0.6)
        axes.set_title(f"{name}: {times[-1].done - zero:.2f} s", loc="left", fontsize=10, fontweight="bold")
        axes.set(yticks=range(STAGES), yticklabels=[f"stage {row + 1}" for row in range(STAGES)])
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds        grey: prepares, light: waits for its input, green: computes")
    figure.savefig("pipeline.svg")


def main() -> None:
    image = np.random.default_rng(1).random((1000, 1000))  # 8 MB
    with Store() as store, ProcessPoolExecutor(STAGES, get_context("spawn")) as pool:
        list(pool.map(get_ready, [store] * STAGES))  # every process is there before the clock runs
        runs = {
            "one by one": one_by_one(pool, store, image),
            "pipelined by futures": pipelined(pool, store, image),
        }
    for name, times in runs.items():
        print(f"{name}: {times[-1].done - times[0].began:.2f} s")
    print(f"no chain can be quicker than {PREPARE + STAGES * COMPUTE:.2f} s")
    draw(runs)
    print("pipeline.svg")


if __name__ == "__main__":
    main()
