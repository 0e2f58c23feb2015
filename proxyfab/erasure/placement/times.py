"""How long an object takes to be written and read: what D-Rex (arXiv 2506.02026) computes with.

A coder's milliseconds are linear in the numbers of shards, and proportional to the object: measured at some sizes, of
which the one that is nearest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from proxyfab.errors import ConfigurationError

LINK = 3125.0
"""MB/s that a client can send or receive."""


class Coder(NamedTuple):
    """Milliseconds for an object of the size that was measured: b0 + b1 * n + b2 * k, to encode and to decode."""

    encode: tuple[float, float, float]
    decode: tuple[float, float, float]

    def seconds(self, n: int, k: int) -> float:
        """For both."""
        one, other = self.encode, self.decode
        return (one[0] + one[1] * n + one[2] * k + (other[0] + other[1] * n + other[2] * k)) / 1000


OURS = Coder((20.0, 0.0, 0.0), (33.0, 0.0, 0.0))
"""100 MB by ISA-L: 5 GB/s, and 3 GB/s where shards are lost."""


class Times:
    """A coder that was measured at one size or more.

    Args:
        measured: Coders by MB.
    """

    __slots__ = ("measured",)

    def __init__(self, measured: Mapping[float, Coder] = MappingProxyType({100.0: OURS})) -> None:
        if not measured or not all(0 < size < inf for size in measured):
            raise ConfigurationError("Times need a coder at least, by the MB of the object that it was measured with.")
        self.measured = dict(measured)

    def nearest(self, size: float) -> float:
        """The size that was measured and is the nearest; the first of two that are as near."""
        whole = int(size)
        return min(self.measured, key=lambda measured: abs(measured - whole))

    def coding(self, size: float, reference: float, n: int, k: int) -> float:
        """Seconds to encode and decode; infinite where no size was measured."""
        if reference not in self.measured:
            return inf
        return self.measured[reference].seconds(n, k) * (size / reference)


def moving(size: float, k: int, slowest: float) -> float:
    """Seconds until every node has got, or given, its share, the slowest of them at so many MB/s."""
    return max(size / LINK, size / k / slowest)
