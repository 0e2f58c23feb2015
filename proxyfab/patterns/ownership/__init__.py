"""Ownership with Rust's rules that does not rest on one process's memory."""

from proxyfab.patterns.ownership.borrows import arrive_shared
from proxyfab.patterns.ownership.seats import arrive
from proxyfab.patterns.ownership.verbs import (
    adopt,
    borrow,
    borrow_mut,
    clone,
    own,
    reclaim,
    release,
    scope,
    update,
)

__all__ = [
    "adopt",
    "arrive",
    "arrive_shared",
    "borrow",
    "borrow_mut",
    "clone",
    "own",
    "reclaim",
    "release",
    "scope",
    "update",
]
