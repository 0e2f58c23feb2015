"""Prefetch: the bytes of what comes next move while the present is being worked on.

python examples/prefetch.py
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

from proxyfab import Store, prefetch


def work(volume: np.ndarray) -> float:
    """Some work that takes a while."""
    return float(np.sort(volume, axis=1)[:, 0].sum())


def main() -> None:
    random = np.random.default_rng(3)
    volumes = [random.standard_normal((1000, 2000)) for _ in range(6)]  # 16 MB each
    with tempfile.TemporaryDirectory() as folder, Store(f"file://{folder}", cache=0) as store:
        proxies = store.proxy_many(volumes)
        begun = time.perf_counter()
        sums = []
        for now, ahead in zip(proxies, [*proxies[1:], None], strict=True):
            if ahead is not None:
                prefetch(ahead)  # returns at once; its bytes are read beside the work below
            sums.append(work(now))
        took = time.perf_counter() - begun
        assert np.allclose(sums, [work(volume) for volume in volumes])
        print(f"{len(sums)} volumes of {volumes[0].nbytes:,} bytes in {took:.2f} s, read during the work before")


if __name__ == "__main__":
    main()
