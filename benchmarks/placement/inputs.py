"""What a simulation begins with: nodes and objects, drawn here or read from a file.

Files are comma-separated with a line of names. Nodes: `id`, `storage_size` in MB, `write_bandwidth` and
`read_bandwidth` in MB/s, `annual_failure_rate` in percent, and with sites `site` and `annual_site_failure_rate`.
Objects: `size` in MB, and, if they are there, `target`, `retention` in days, `Access Type`, of which only 2 is a write.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping
from math import exp, log
from pathlib import Path
from typing import NamedTuple

from proxyfab.erasure.placement import Node

OFFERED = 122e6
"""MB that a trace offers at full scale: about what the nodes hold without any parity."""


class Item(NamedTuple):
    """An object that wants a place."""

    size: float
    """MB."""
    target: float
    retention: float
    """Days."""


_MIXED = (  # TB, MB/s written, MB/s read, failures a year in percent: disks that are used the most
    (14, 281, 406, 1.35),
    (16, 209, 220, 0.80),
    (14, 208, 202, 0.97),
    (12, 197, 204, 1.18),
    (12, 193, 204, 1.80),
    (12, 190, 189, 0.64),
    (16, 168, 170, 0.31),
    (8, 164, 170, 1.84),
    (4, 112, 133, 2.60),
    (12, 110, 112, 0.90),
)


def _nodes(rows: tuple[tuple[float, float, float, float], ...], worse: float = 1.0) -> list[Node]:
    return [
        Node(
            str(number),
            capacity=capacity * 1e6,
            write_bandwidth=write,
            read_bandwidth=read,
            annual_failure_rate=rate * worse / 100,
        )
        for number, (capacity, write, read, rate) in enumerate(rows)
    ]


def _sites() -> list[Node]:
    return [
        Node(
            f"{site}-{number}",
            capacity=(8 + 4 * number) * 1e6,
            write_bandwidth=200,
            read_bandwidth=200,
            annual_failure_rate=0.01,
            site=site,
            annual_site_failure_rate=0.002,
        )
        for number in range(2)
        for site in "abcde"
    ]


NODES: Mapping[str, Callable[[], list[Node]]] = {
    "mixed": lambda: _nodes(_MIXED),
    "unreliable": lambda: _nodes(_MIXED, 6.0),
    "alike": lambda: _nodes(((12, 200, 200, 1.0),) * 10),
    "sites": _sites,
}


def _video(draw: random.Random) -> float:
    """Clips of five minutes."""
    return draw.lognormvariate(log(110), 0.5)


def _tiles(draw: random.Random) -> float:
    """Pictures of satellites, with more or fewer clouds."""
    return draw.triangular(200, 1100, 800)


def _objects(draw: random.Random) -> float:
    """An object store: few large ones are most of the bytes."""
    return min(draw.lognormvariate(log(60), 2.4), 200_000)


def _batch(draw: random.Random) -> float:
    """Jobs' outputs: most are tiny, some are hundreds of gigabytes."""
    if draw.random() < 0.7:
        return exp(draw.uniform(log(1e-4), log(1e3)))
    return min(draw.lognormvariate(log(25_000), 1.4), 1.5e6)


TRACES: Mapping[str, Callable[[random.Random], float]] = {
    "video": _video,
    "tiles": _tiles,
    "objects": _objects,
    "batch": _batch,
}


def nodes_of(name: str, scale: float = 1.0) -> list[Node]:
    """A set by name, or of a file; capacities are multiplied by `scale`."""
    found = NODES[name]() if name in NODES else [_node(row) for row in _rows(name)]
    return [_with(node, capacity=node.capacity * scale) for node in found]


def items_of(name: str, *, seed: int, target: float | None = None, scale: float = 1.0) -> list[Item]:
    """Objects of a trace until it has offered `OFFERED * scale` MB; a file is gone through again and again.

    Targets that nobody gave are drawn between one nine and five.
    """
    draw = random.Random(seed)
    found, offered = [], 0.0
    for size, wanted, retention in _drawn(name, draw):
        if offered + size > OFFERED * scale:
            break
        offered += size
        drawn = 1 - 10 ** -draw.uniform(1, 5)  # drawn in any case: sizes are the same whatever is wanted
        found.append(Item(size, target if target is not None else drawn if wanted is None else wanted, retention))
    return found


def _drawn(name: str, draw: random.Random) -> Iterator[tuple[float, float | None, float]]:
    if name in TRACES:
        while True:
            yield TRACES[name](draw), None, 365.0
    read = [row for row in _rows(name) if row.get("Access Type", "2") == "2"]
    if not any(float(row["size"]) > 0 for row in read):
        raise ValueError(f"{name} has no objects of a size above 0.")
    while True:
        for row in read:
            target = row.get("target")
            yield float(row["size"]), float(target) if target else None, float(row.get("retention") or 365)


def _rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return [{key.strip(): value.strip() for key, value in row.items()} for row in csv.DictReader(file)]


def _node(row: dict[str, str]) -> Node:
    return Node(
        row["id"],
        capacity=float(row["storage_size"]),
        write_bandwidth=float(row["write_bandwidth"]),
        read_bandwidth=float(row["read_bandwidth"]),
        annual_failure_rate=float(row["annual_failure_rate"]) / 100,
        site=row.get("site") or None,
        annual_site_failure_rate=float(row.get("annual_site_failure_rate") or 0) / 100,
    )


def _with(node: Node, *, capacity: float | None = None, used: float | None = None) -> Node:
    return Node(
        node.name,
        capacity=node.capacity if capacity is None else capacity,
        used=node.used if used is None else used,
        write_bandwidth=node.write_bandwidth,
        read_bandwidth=node.read_bandwidth,
        annual_failure_rate=node.annual_failure_rate,
        site=node.site,
        annual_site_failure_rate=node.annual_site_failure_rate,
        up=node.up,
    )


def holding(node: Node, used: float) -> Node:
    """The node, once it holds so many MB."""
    return _with(node, used=used)
