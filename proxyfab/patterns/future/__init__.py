"""Futures over a store: set anywhere, awaited anywhere. `Future` is in `handle`; how it works begins in `board`."""

from proxyfab.patterns.future.groups import as_completed, wait
from proxyfab.patterns.future.handle import Future

__all__ = ["Future", "as_completed", "wait"]
