"""Batches in groups: one call for each group of what was asked together, side by side where that helps.

Promises: answers in the order of what was asked; the caller's thread works too; what one of the calls raises reaches
the caller, while the others end by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from proxyfab.background import aside

R = TypeVar("R")


def grouped(
    numbers: Sequence[int], ask: Callable[[int, list[int]], Sequence[R]], far: Collection[int], what: str
) -> list[R]:
    """An answer for each item.

    Args:
        numbers: The group of each item.
        ask: `ask(number, places)` answers for the items of one group, given by their places in `numbers`.
        far: Groups whose answer is mostly waited for: each is asked in a thread of its own, if there is another one.
        what: Names the calls in a message.
    """
    groups: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        groups.setdefault(number, []).append(place)
    beside = [number for number in groups if number in far]
    if len(beside) == len(groups):
        beside = beside[1:]
    tasks = {number: aside(_call(ask, number, groups[number]), what) for number in beside}
    answers = {number: ask(number, places) for number, places in groups.items() if number not in tasks}
    answers.update({number: task.result() for number, task in tasks.items()})
    found = {place: one for number in groups for place, one in zip(groups[number], answers[number], strict=True)}
    return [found[place] for place in range(len(numbers))]


def _call(ask: Callable[[int, list[int]], Sequence[R]], number: int, places: list[int]) -> Callable[[], Sequence[R]]:
    return lambda: ask(number, places)
