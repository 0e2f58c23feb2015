"""Several places at once: one call for each group of a batch, side by side where that helps, and waiting by turns.

Promises: answers in the order of what was asked; the caller's thread works too; what one of the calls raises reaches
the caller, while the others end by themselves; a wait ends at its deadline.
"""

from __future__ import annotations

import itertools
import time
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


def wait_in_turn(
    look: Callable[[], list[R]], turns: Sequence[Callable[[float], object]], timeout: float | None, step: float
) -> list[R]:
    """Wait for what may appear in several places.

    Args:
        look: What is there by now, wherever; asked every `step` seconds at least.
        turns: For each place that can tell: wait there for so many seconds at most. None of them: nothing to wait for.
        timeout: Seconds; None for ever, 0 or less for one look.
        step: How long a place has its turn.

    Returns:
        What the last look found; nothing when `timeout` has passed.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    for turn in itertools.cycle(turns):
        found = look()
        left = step if deadline is None else min(deadline - time.monotonic(), step)
        if found or left <= 0:
            return found
        turn(left)
    return []
