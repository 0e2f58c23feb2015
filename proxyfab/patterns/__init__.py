"""Small compositions of stores and references: what people build workflows from."""

from proxyfab.patterns.ownership import adopt, borrow, borrow_mut, clone, own, reclaim, release, scope, update

__all__ = ["adopt", "borrow", "borrow_mut", "clone", "own", "reclaim", "release", "scope", "update"]
