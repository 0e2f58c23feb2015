"""A camera and an analysis in two processes: frames go by reference through a pipe, and are released after use.

python examples/producer_consumer.py
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import numpy as np

from proxyfab import Store

FRAMES, SHAPE = 20, (1024, 1024)


def camera(store: Store, out: Connection) -> None:
    """Put each frame into the store and send a reference of some hundred bytes."""
    random = np.random.default_rng(7)
    for number in range(FRAMES):
        frame = random.poisson(3, SHAPE).astype(np.uint16)
        frame[number, 100] = 1000  # something to find
        out.send((number, store.ref(frame, once=True)))
    out.send(None)


def analysis(source: Connection, results: Connection) -> None:
    """Find the brightest pixel of each frame."""
    while (item := source.recv()) is not None:
        number, ref = item
        with ref as frame:  # mapped, not copied; leaving the block without an error releases it
            place = np.unravel_index(frame.argmax(), frame.shape)
        results.send((number, tuple(map(int, place))))


def main() -> None:
    spawn = multiprocessing.get_context("spawn")
    (source, out), (results, found) = spawn.Pipe(duplex=False), spawn.Pipe(duplex=False)
    with Store() as store:  # the store belongs to this process; it goes when this one ends, however it ends
        processes = [
            spawn.Process(target=camera, args=(store, out)),
            spawn.Process(target=analysis, args=(source, found)),
        ]
        for process in processes:
            process.start()
        for _ in range(FRAMES):
            if not results.poll(20):
                raise SystemExit("the analysis has not answered for 20 s")
            number, place = results.recv()
            assert place == (number, 100)
        for process in processes:
            process.join(20)
        print(f"{FRAMES} frames of {np.prod(SHAPE) * 2:,} bytes analysed; {store.clear()} left in the store")


if __name__ == "__main__":
    main()
