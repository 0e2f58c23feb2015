"""Descriptors, and what is called when something happens to them: an epoll. Belongs to one thread."""

from __future__ import annotations

import select
from collections.abc import Callable

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT

Call = Callable[[int], None]
"""Is given what happened: READABLE, WRITABLE, or what epoll says of an end."""


class Poll:
    """Which descriptors to watch, and for what."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Call] = {}

    def add(self, descriptor: int, call: Call, events: int = READABLE) -> None:
        """Watch a descriptor from now on."""
        self._calls[descriptor] = call
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        """Watch it for something else."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Watch it no more; it is open still."""
        del self._calls[descriptor]
        self._epoll.unregister(descriptor)

    def wait(self, seconds: float) -> None:
        """Call what there is to call, or return when the time is over."""
        for descriptor, events in self._epoll.poll(seconds):
            call = self._calls.get(descriptor)
            if call is not None:  # otherwise an earlier call has ended it
                call(events)

    def close(self) -> None:
        """Watch nothing any more."""
        self._calls.clear()
        self._epoll.close()
