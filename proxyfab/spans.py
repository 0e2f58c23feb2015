"""Sets of whole numbers that are nearly without gaps: offsets that are released, events that were seen, bytes. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from proxyfab.errors import IntegrityError


class Spans:
    """Numbers, kept as runs of neighbours. Not thread-safe.

    Args:
        runs: First and last number of each, in any order.
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, runs: Iterable[Sequence[int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in runs:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Put the numbers from `first` to `last`, both included, in; just one without `last`."""
        last = first if last is None else last
        if last < first:
            return
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def update(self, other: Spans) -> None:
        """Put all numbers of another set in."""
        for first, last in other:
            self.add(first, last)

    def gaps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Runs of the numbers from `first` to `last` that are not in."""
        found = []
        for low, high in self:
            if high < first:
                continue
            if low > last:
                break
            if low > first:
                found.append((first, low - 1))
            first = high + 1
        if first <= last:
            found.append((first, last))
        return found

    def upto(self, number: int) -> int:
        """The last number of the run that has `number`; the one before it if it is not in."""
        place = bisect_left(self._lasts, number)
        return self._lasts[place] if place < len(self._firsts) and self._firsts[place] <= number else number - 1

    def shorten(self, runs: int) -> None:
        """Forget the highest numbers until there are at most so many runs."""
        del self._firsts[runs:], self._lasts[runs:]

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._lasts, number)
        return place < len(self._firsts) and self._firsts[place] <= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        """Runs, not numbers."""
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Spans({list(self)})"

    def packed(self) -> list[int]:
        """As a flat list, to be written."""
        return [number for run in self for number in run]

    @classmethod
    def unpacked(cls, flat: Any) -> Spans:
        """The inverse of `packed`.

        Raises:
            IntegrityError: It is not what `packed` made.
        """
        if not isinstance(flat, list) or len(flat) % 2 or any(number.__class__ is not int for number in flat):
            raise IntegrityError("A set of numbers that was kept beside a topic is damaged.")
        return cls(zip(flat[::2], flat[1::2], strict=True))
