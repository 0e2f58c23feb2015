"""What moves much data between workers gives the same bytes as plain Dask, again and again.

Memory that is used again too early shows here and hardly anywhere else: a sum is wrong, now and then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

import proxyfab.integrations.dask
from proxyfab.integrations.dask import family
from proxyfab.integrations.dask.worker import Hand

pytestmark = pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler")  # what is to be compared with
REPEATS = int(os.environ.get("PROXYFAB_REPEATS", "2"))
SIDE = 1024
PART = 256
"""Chunks of 2 MB, so that each goes through shared memory."""


@pytest.fixture(scope="module")
def plain(cluster: LocalCluster) -> Iterator[Client]:
    """Dask's own client; the workers take part."""
    with Client(cluster) as client:
        client.register_plugin(Hand())
        yield client


def matrix(columns: int) -> Any:
    """Different numbers everywhere, computed where they are needed."""
    whole = da.arange(SIDE * SIDE, chunks=PART * SIDE, dtype="f8").reshape(SIDE, SIDE)
    return whole.rechunk((PART, columns), method="tasks")


def rechunked() -> Any:
    return matrix(SIDE).rechunk((SIDE, PART), method="tasks")


def rechunked_by_peers() -> Any:
    return matrix(SIDE).rechunk((SIDE, PART), method="p2p")


def product() -> Any:
    one = matrix(SIDE) % 7
    return one @ one.T


def overlapped() -> Any:
    return matrix(SIDE).map_overlap(lambda block: block + np.roll(block, 1, 0) - np.roll(block, 1, 1), depth=2)


def sums_of(array: Any) -> list[int]:
    """A checksum of each block."""
    blocks = dask.compute(*array.to_delayed().ravel(), optimize_graph=False)
    return [crc32(np.ascontiguousarray(block).tobytes()) for block in blocks]


@pytest.mark.parametrize("make", [rechunked, rechunked_by_peers, product, overlapped])
def test_arrays(plain: Client, make: Any) -> None:
    with dask.config.set(scheduler="sync"):
        whole = make() if make is not rechunked_by_peers else rechunked()
        expected = sums_of(whole)
    for _ in range(REPEATS):
        assert sums_of(make()) == expected


@pytest.mark.parametrize("results", ["transport", "store"])
def test_an_array_that_a_client_brings_is_rechunked_by_peers(cluster: LocalCluster, results: str) -> None:
    source = np.arange(300.0 * 300).reshape(300, 300)
    with proxyfab.integrations.dask.Client(cluster, above="16 KiB", results=results):
        array = da.from_array(source, chunks=100).rechunk((300, 50), method="p2p")
        assert (array.compute() == source).all()


def table() -> Any:
    import dask.dataframe as dd
    import pandas as pd

    def part(number: int) -> Any:
        rows = np.arange(200_000, dtype="i8") + number * 200_000
        return pd.DataFrame({"key": rows * 7919 % 1009, "x": rows, "y": rows * 0.5})

    return dd.from_map(part, range(4))


def rows_of(frame: Any) -> list[int]:
    """What does not depend on the order inside of a partition: sums over each key."""
    found = frame.groupby("key").agg({"x": "sum", "y": "sum"}).compute().sort_index()
    return [crc32(found["x"].to_numpy().tobytes()), crc32(found["y"].to_numpy().tobytes()), len(found)]


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_frames(plain: Client, method: str) -> None:
    pytest.importorskip("dask.dataframe", exc_type=ImportError)
    with dask.config.set(scheduler="sync"):
        expected = rows_of(table())
    with dask.config.set({"dataframe.shuffle.method": method}):
        for _ in range(REPEATS):
            assert rows_of(table().shuffle("key")) == expected


def test_shared_memory_was_used(plain: Client) -> None:
    sums_of(rechunked())
    told = plain.run(family.told)
    assert all(each["lent"] + each["published"] and each["received"] for each in told.values()), told
