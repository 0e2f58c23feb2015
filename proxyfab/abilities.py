"""What a connector around other connectors may claim: the abilities that those below it have.

`isinstance(connector, SupportsLease)` asks the class for a method. A wrapper defines every method it could forward, and
`claiming` gives it a class in which those that it cannot are None, as `__hash__ = None` denies hashing: `isinstance`
then says no. So code above a wrapper takes the same paths as it would without.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from proxyfab.abc import (
    SupportsCompareAndSet,
    SupportsDiagnosis,
    SupportsLease,
    SupportsReap,
    SupportsScan,
    SupportsStatus,
)

METHODS: dict[Any, str] = {
    SupportsCompareAndSet: "compare_and_set",
    SupportsDiagnosis: "diagnose",
    SupportsLease: "renew",
    SupportsReap: "reap",
    SupportsScan: "scan",
    SupportsStatus: "status",
}
"""Abilities that a connector may lack, and the one method of each."""

_made: dict[tuple[type, frozenset[str]], type] = {}


def shared(children: Sequence[object]) -> set[Any]:
    """The abilities of METHODS that all `children` have."""
    return {ability for ability in METHODS if all(isinstance(child, ability) for child in children)}


def claiming(kind: type, abilities: Collection[Any]) -> type:
    """`kind`, or a class like it that lacks what is not in `abilities`; the same one for the same arguments."""
    denied = frozenset(
        method for ability, method in METHODS.items() if ability not in abilities and hasattr(kind, method)
    )
    if not denied:
        return kind
    made = _made.get((kind, denied))
    if made is None:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        made = _made[kind, denied] = type(kind.__name__, (kind,), {**names, **dict.fromkeys(denied), "plain": kind})
    return made
