"""This process's ZeroMQ context: made with the first channel, ended with the last, made anew in a forked child.

Not `zmq.Context.instance()`: that one is the program's own, and may be ended while we use it.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import zmq

_MOST_SOCKETS = 16_384


class _Contexts:
    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """The parent's context is the parent's; pyzmq leaves it alone in another process."""
        self._lock = threading.RLock()  # reentrant: collecting garbage inside may end somebody who opens a channel
        self._context: zmq.Context[Any] | None = None
        self._users = 0

    def take(self) -> zmq.Context[Any]:
        with self._lock:
            if self._context is None:
                made: zmq.Context[Any] = zmq.Context()
                made.set(zmq.MAX_SOCKETS, _MOST_SOCKETS)
                if self._context is None:
                    self._context = made
            self._users, context = self._users + 1, self._context
            return context

    def give_back(self, context: zmq.Context[Any]) -> None:
        with self._lock:
            if context is not self._context:
                return  # of the parent of this process
            self._users -= 1
            if self._users:
                return
            self._context = None
        context.term()


contexts = _Contexts()
os.register_at_fork(after_in_child=contexts.after_fork)
