"""What was asked of one key and answered, and whether a register could have answered so (linearizability).

A register holds nothing or one value. Each call took effect at one moment between its begin and its end; one whose
answer did not come, at one moment after its begin, or never. `explained` looks for an order in which all answers are
right: Wing and Gong's search, with what was seen before remembered (Lowe).
"""

from __future__ import annotations

from typing import NamedTuple

FOREVER = float("inf")


class Call(NamedTuple):
    """One call of one client."""

    op: str
    """put, fresh (a put that replaces nothing), evict, swap, get, exists."""
    begin: float
    end: float
    """FOREVER where nobody knows whether it took effect."""
    value: str | None = None
    """What was to lie there afterwards."""
    old: str | None = None
    """Of a swap: what had to lie there before."""
    answer: object = None
    """What a get found; of others whether it was done."""
    expires: float = FOREVER
    """Of what was put: the earliest time when it is gone by itself."""
    who: str = ""


State = tuple[str | None, float]


def explained(calls: list[Call]) -> bool:
    """Whether a register could have answered so."""
    calls = sorted(calls, key=lambda one: one.begin)
    everybody = (1 << len(calls)) - 1
    sure = sum(1 << at for at, one in enumerate(calls) if one.end < FOREVER)
    seen: set[tuple[int, State]] = set()
    todo: list[tuple[int, State]] = [(0, (None, FOREVER))]
    while todo:
        done, state = todo.pop()
        if done & sure == sure:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        left = everybody & ~done
        first = min(one.end for at, one in enumerate(calls) if left >> at & 1)
        for at, one in enumerate(calls):
            if one.begin > first:
                break
            if left >> at & 1:
                todo += [(done | 1 << at, after) for after in _after(one, state)]
    return False


def _after(one: Call, state: State) -> list[State]:
    """What a register may hold after a call that was answered as this one was; nothing where it cannot be."""
    found = []
    states = [state] if one.end < state[1] or state[0] is None else [state, (None, FOREVER)]
    for value, ends in states:
        new: State = one.value, one.expires
        unknown = one.end == FOREVER
        if one.op == "put":
            found.append(new)
        elif one.op == "fresh":
            if unknown or (value is None) == bool(one.answer):
                found.append(new if value is None else (value, ends))
        elif one.op == "evict":
            found.append((None, FOREVER))
        elif one.op == "swap":
            if unknown or (value == one.old) == bool(one.answer):
                found.append(new if value == one.old else (value, ends))
        elif one.op == "get":
            found += [(value, ends)] if value == one.answer else []
        elif one.op == "exists":
            found += [(value, ends)] if (value is not None) == bool(one.answer) else []
    return found
