"""What may go wrong with an object that lies in several pieces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AskError, TryAgainError


class Torn(Exception):
    """The object changed while pieces of it were read."""


@contextmanager
def together() -> Iterator[None]:
    """Around what concerns the pieces of one object: while their slot moves they may lie on two nodes.

    Raises:
        TryAgainError: They do. ASK says where one of them is; the whole call would not find the others there.
    """
    try:
        yield
    except AskError as error:
        raise parted() from error


def parted() -> TryAgainError:
    """What to raise when the pieces of an object lie on two nodes."""
    return TryAgainError("the object's slot is moved to another node, and some of its pieces are there already")
