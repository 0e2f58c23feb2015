"""References through multiprocessing queues: a large result comes back as quickly as a small one, and only if wanted.

python examples/queues.py
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue

import numpy as np

from proxyfab import Ref, Store


def simulate(store: Store, tasks: Queue[int | None], results: Queue[tuple[int, float, Ref[np.ndarray]]]) -> None:
    """Random walks; the summary is sent as it is, the walks (40 MB) as a reference."""
    while (seed := tasks.get(timeout=20)) is not None:
        walks = np.random.default_rng(seed).standard_normal((5000, 1000)).cumsum(axis=1)
        results.put((seed, float(np.abs(walks[:, -1]).max()), store.ref(walks)))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    tasks: Queue[int | None] = spawn.Queue()
    results: Queue[tuple[int, float, Ref[np.ndarray]]] = spawn.Queue()
    with Store() as store:
        workers = [spawn.Process(target=simulate, args=(store, tasks, results)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for seed in range(6):
            tasks.put(seed)
        for _ in workers:
            tasks.put(None)
        answers = [results.get(timeout=20) for _ in range(6)]
        seed, farthest, ref = max(answers, key=lambda answer: answer[1])
        begun = time.perf_counter()
        walks = ref.resolve()  # only the one that matters is looked at
        took = time.perf_counter() - begun
        assert np.abs(walks[:, -1]).max() == farthest
        print(f"seed {seed} went farthest, {farthest:.1f}; its {walks.nbytes:,} bytes came in {took * 1e3:.2f} ms")
        for worker in workers:
            worker.join(20)


if __name__ == "__main__":
    main()
