"""What the answer subject of a delivered message says: `$JS.ACK.<stream>.<consumer>.<attempt>.<seq>.<n>.<ns>.<left>`.

Of servers with a domain two words more stand before the stream, and perhaps one behind everything.
"""

from __future__ import annotations

from typing import NamedTuple

_PLAIN = 9


class Token(NamedTuple):
    """Its words."""

    consumer: str
    attempt: int
    offset: int
    number: int
    """Of the consumer's deliveries."""
    time: float

    @classmethod
    def parse(cls, text: str) -> Token:
        """Of a delivered message's answer subject."""
        words = text.split(".")
        at = 3 if len(words) == _PLAIN else 5
        return cls(words[at], int(words[at + 1]), int(words[at + 2]), int(words[at + 3]), int(words[at + 4]) / 1e9)


def consumer_of(text: str) -> str:
    """The consumer alone."""
    words = text.split(".")
    return words[3 if len(words) == _PLAIN else 5]
