"""ProxyStore's futures, polling as they do by default (every second), and every ten milliseconds."""

from __future__ import annotations

from typing import Any

from proxystore.proxy import extract
from proxystore.store import Store, register_store, unregister_store
from proxystore.store.future import Future

__all__ = ["Futures", "extract"]

_PATIENCE = 60.0


class Futures:
    """Makes them; closes its store.

    Args:
        connector: ProxyStore's.
        interval: Seconds between two polls; None for the default.
    """

    def __init__(self, connector: Any, interval: float | None) -> None:
        self._options = {"polling_timeout": _PATIENCE}  # without it who waits for a task that failed waits for ever
        if interval is not None:
            self._options["polling_interval"] = interval
        self.store: Store[Any] = Store(f"futures-{id(self)}", connector, cache_size=0)
        register_store(self.store)

    def make(self) -> Future[Any]:
        """One that is not set."""
        return self.store.future(**self._options)  # type: ignore[arg-type]  # the options' types differ

    def drop(self, future: Future[Any]) -> None:
        """Evict its result."""
        self.store.evict(future._factory.key)

    def close(self) -> None:
        """Let go of the store."""
        unregister_store(self.store)
        self.store.close()
