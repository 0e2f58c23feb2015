"""What is known of a node, and where an object goes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import NamedTuple

from proxyfab.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Node:
    """A place that holds at most one shard of an object.

    Attributes:
        name: What it is called; no two nodes share one.
        capacity: MB that it can hold.
        used: MB that it holds.
        write_bandwidth: MB/s.
        read_bandwidth: MB/s.
        annual_failure_rate: Failures that lose all it holds, a year: 0.01 is one in a hundred years.
        site: What fails together with others of the same name; None for a node that shares nothing.
        annual_site_failure_rate: Failures of its whole site, a year. The highest that one of its nodes says counts.
        up: Whether it can be written to now.
    """

    name: str
    _: KW_ONLY
    capacity: float
    used: float = 0.0
    write_bandwidth: float = 100.0
    read_bandwidth: float = 100.0
    annual_failure_rate: float = 0.01
    site: str | None = None
    annual_site_failure_rate: float = 0.0
    up: bool = True

    def __post_init__(self) -> None:
        for what in ("capacity", "used", "annual_failure_rate", "annual_site_failure_rate"):
            if not (isfinite(getattr(self, what)) and getattr(self, what) >= 0):
                raise ConfigurationError(f"Node {self.name!r} needs {what} >= 0, not {getattr(self, what)!r}.")
        for what in ("write_bandwidth", "read_bandwidth"):
            if not getattr(self, what) > 0:
                raise ConfigurationError(f"Node {self.name!r} needs {what} > 0 MB/s, not {getattr(self, what)!r}.")

    @property
    def free(self) -> float:
        """MB that it can still take."""
        return self.capacity - self.used


class Placement(NamedTuple):
    """Where an object goes. Shard i lies on node i."""

    k: int
    """Shards that are needed."""
    m: int
    """Shards that may be lost."""
    nodes: tuple[str, ...]
    loss: float
    """The probability that it is lost within its retention, if nothing is repaired."""
