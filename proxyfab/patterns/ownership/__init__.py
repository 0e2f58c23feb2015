"""Ownership with Rust's rules that does not rest on one process's memory."""

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

__all__ = ["adopt", "borrow", "borrow_mut", "clone", "own", "reclaim", "release", "scope", "update"]
