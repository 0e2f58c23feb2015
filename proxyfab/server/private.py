"""The server's side of `zmq://auto`: it ends when nobody uses it any more (`connectors.zmq.private` has the rules)."""

from __future__ import annotations

import contextlib
import os
import time

from proxyfab.connectors.zmq.private import Files, lock

_LINGER = 3.0
"""Seconds without a user after which it ends."""


class Private:
    """The room of a private server. Belongs to the loop's thread.

    Args:
        directory: Where its files lie.
    """

    def __init__(self, directory: str) -> None:
        self._files = Files(directory)
        self._empty_since: float | None = None
        self.endpoint = f"ipc://{self._files.socket}"

    def is_over(self) -> bool:
        """Whether nobody has used the server for a while; once this is true nobody can any more (rule 4)."""
        users = lock(self._files.users)
        now = time.monotonic()
        if users is None:
            self._empty_since = None
            return False
        if self._empty_since is None:
            self._empty_since = now
        if now - self._empty_since < _LINGER:
            os.close(users)
            return False
        for path in (self._files.ready, self._files.users, self._files.socket, self._files.log):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.close(users)
        return True
