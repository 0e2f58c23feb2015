"""A handle of a broker: what one user of this process has of the one that is live here, and may close.

Rules:
1. A handle that is closed is closed for good, with the subscriptions that were made by it; other handles go on.
2. The broker itself is closed when a handle was closed and no other is left: closed, or not referred to any more. So
   whoever opens a broker and never closes it holds up nobody for longer than he refers to it.
3. Where nobody closes anything, the broker stays, and is there for who opens it next.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from proxyfab.errors import ConnectorError, ProxyfabError
from proxyfab.events.around import Around
from proxyfab.events.broker import Broker, Subscription
from proxyfab.events.model import Capability
from proxyfab.exit import Drain, Hold
from proxyfab.fork import on_fork
from proxyfab.members import Members


class Live:
    """A broker, and who uses it. Thread-safe.

    Args:
        broker: It is ours to close.
    """

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._users: Members[Handle] = Members()
        self._over = False
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end a handle
        on_fork(self)

    def after_fork(self) -> None:
        """A child's copy."""
        self._lock = threading.RLock()

    def handle(self) -> Handle | None:
        """For one more user; None when it is closed, or about to be."""
        with self._lock:
            if self._over or self.broker.closed:
                return None
            made = Handle(self)
            self._users.add(made)
            return made

    def leave(self, handle: Handle) -> None:
        """One who had it has closed it: the last one closes the broker."""
        with self._lock:
            self._users.discard(handle)
            for other in list(self._users):
                other.outlives()
        self.end()

    def end(self) -> None:
        """Close it if nobody uses it."""
        with self._lock:
            if self._over or list(self._users):  # not its length, which may count one who has just gone
                return
            self._over = True
        self.broker.close()


def _end(lives: list[Live]) -> None:
    for live in lives:
        live.end()


_left: Drain[Live] = Drain(_end, "brokers")


class Handle(Around):
    """One user's."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._closed = False
        self._made: Members[Subscription] = Members()
        self._hold: Hold[Live] | None = None

    @property
    def own(self) -> Broker:
        """The broker itself.

        Raises:
            ConnectorError: This handle was closed.
        """
        if self._closed:
            raise ConnectorError(f"{self.url} was closed.")
        return self._live.broker

    def outlives(self) -> None:
        """Others have closed theirs: when nobody refers to this one any more, the broker is closed."""
        if self._hold is None:
            self._hold = _left.hold(self, self._live)

    def __getattr__(self, name: str) -> Any:  # whatever that broker has beyond the protocol
        if name.startswith("__") or "_live" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._live.broker, name)

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:  # type: ignore[override]  # a broker's own is an attribute that it sets once
        """Of the broker."""
        return self._live.broker.url

    @property
    def capabilities(self) -> Capability:  # type: ignore[override]  # one for each class, and this one stands for all
        """Of the broker."""
        return self._live.broker.capabilities

    @property
    def max_record(self) -> int:  # type: ignore[override]  # as above
        """Of the broker."""
        return self._live.broker.max_record

    @property
    def one_count(self) -> bool:  # type: ignore[override]  # as above
        """Of the broker."""
        return self._live.broker.one_count

    # -- records -----------------------------------------------------------------------------------------------------

    def subscribe(self, topic: str, **options: Any) -> Subscription:
        made = super().subscribe(topic, **options)
        self._made.add(made)
        return made

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._hold is not None:
            self._hold.cancel()
        for each in list(self._made):
            with contextlib.suppress(ProxyfabError):  # what it held comes again when its time is over
                each.close()
        self._live.leave(self)

    @property
    def closed(self) -> bool:
        return self._closed or self._live.broker.closed


def broker_of(broker: Broker) -> Broker:
    """The broker itself, of whatever kind, where there may be a handle of it."""
    return broker.own if isinstance(broker, Handle) else broker
