"""A process pool that gets large arguments by reference: plain functions, plain arrays, no change to the function.

python examples/process_pool.py
"""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from proxyfab import Store


def brightest(image: np.ndarray, row: int) -> tuple[int, float]:
    """Knows nothing of proxies: the array is there when it is touched."""
    line = image[row]
    return int(line.argmax()), float(line.max())


def main() -> None:
    image = np.random.default_rng(1).normal(size=(2000, 4000))  # 64 MB
    with Store() as store, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        proxy = store.proxy(image)  # stored once, whatever number of tasks gets it
        print(f"the array has {image.nbytes:,} bytes, each task is sent {len(pickle.dumps(proxy))}")
        rows = range(0, 2000, 250)
        results = list(pool.map(brightest, [proxy] * len(rows), rows))
    assert results == [brightest(image, row) for row in rows]
    for row, (column, value) in zip(rows, results, strict=True):
        print(f"row {row:4}: {value:.3f} at column {column}")


if __name__ == "__main__":
    main()
