"""A question to another site, and how it ended: what outlives the link it was asked on, so that another one goes on.

Rules:
1. A question ends once, and whoever asked is told in the thread of a stream: he must not wait there.
2. What came of its object stays with it: the next link asks for the rest only. An object that is another one there,
   by its size or its digest, is asked for anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from xxhash import xxh3_128

from proxyfab import errors
from proxyfab.buffers import Frames
from proxyfab.errors import ProxyfabError


class Outcome(NamedTuple):
    """How a question ended: with an object, with none, or with why it could not be read."""

    frames: Frames | None
    why: str = ""
    kind: str = ""
    """The error's name, where it is one of `proxyfab.errors`."""

    def error(self) -> ProxyfabError:
        """Why it could not be read, as an error."""
        found = getattr(errors, self.kind, None)
        if isinstance(found, type) and issubclass(found, ProxyfabError):
            return found(self.why)
        return ProxyfabError(self.why)


class Rest(NamedTuple):
    """What is here of an object that was on its way when its link went."""

    into: memoryview
    digest: bytes | None
    missing: list[tuple[int, int]]
    """First byte and end of each part."""


class Question:
    """What one site asks another.

    Args:
        key: What the other side finds it by: text, numbers, bytes, lists of them.
        done: Told when it has ended.
    """

    __slots__ = ("_done", "dropped", "key", "number", "outcome", "rest")

    def __init__(self, key: Any, done: Callable[[Question], None]) -> None:
        self.key = key
        self.rest: Rest | None = None
        self.outcome: Outcome | None = None
        self.dropped = False
        """Nobody waits for it any more."""
        self.number = -1
        """Under which the link it is asked on knows it."""
        self._done: Callable[[Question], None] | None = done

    def end(self, outcome: Outcome) -> None:
        """It has ended."""
        done = self._done
        if self.outcome is None and not self.dropped and done is not None:
            self.outcome = outcome
            self.rest = self._done = None  # who is told knows us: what came would live until a collector found both
            done(self)

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self.dropped = True
        self.rest = self._done = None


class Arrival:
    """An object on its way here.

    Args:
        into: Where its bytes lie.
        digest: What it should be, if that is known.
        resumed: Whether a part of it came over another link.
    """

    __slots__ = ("complete", "digest", "into", "resumed")

    def __init__(self, into: memoryview, digest: bytes | None = None, *, resumed: bool = False) -> None:
        self.into = into
        self.digest = digest
        self.resumed = resumed
        self.complete = into.nbytes == 0

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.into.nbytes


def digest_of(frames: Frames) -> bytes:
    """What both sides must find of the same object."""
    state = xxh3_128()
    for view in frames.views:
        state.update(view)
    return state.digest()


def checked(frames: Frames, digest: bytes) -> Outcome:
    """An object that is all here, if it is what it should be."""
    if digest_of(frames) == digest:
        return Outcome(frames)
    return Outcome(None, "it came damaged", "IntegrityError")
