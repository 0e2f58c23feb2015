"""Recent answers by request: who repeats a request, because its answer was lost, has no second effect.

Bounded in number and in bytes; only what changed something is remembered, reading is simply done again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 16_384
MOST_BYTES = 16 << 20


class Answer(NamedTuple):
    """What a request is answered with."""

    verb: str
    fields: dict[str, Any]
    body: tuple[memoryview, ...] = ()


Reply = Callable[[Answer], None]


class Answers:
    """Requests to answers, and requests that are still being worked on to those who wait for them."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._done: OrderedDict[bytes, tuple[Answer, int]] = OrderedDict()
        self._busy: dict[bytes, list[Reply]] = {}
        self.nbytes = 0

    def once(self, request: bytes, reply: Reply, start: Callable[[Reply], object]) -> None:
        """Answer a request that changes something, and see to it that it is done once.

        It is done by `start`, which is told whom to answer. One that is under way is joined, so `reply` gets what
        becomes of it; one that is done has its answer.
        """
        done = self._done.get(request)
        if done is not None:
            reply(done[0])
            return
        waiting = self._busy.setdefault(request, [])
        waiting.append(reply)
        if len(waiting) > 1:
            return
        try:
            start(lambda answer: self.settle(request, answer))
        except BaseException:
            self.forget(request)
            raise

    def settle(self, request: bytes, answer: Answer) -> None:
        """Answer a request to all who asked. Remembered it is unless it is an error: then nothing has changed."""
        for reply in self.forget(request) if answer.verb == "error" else self.end(request, answer):
            reply(answer)

    def end(self, request: bytes, answer: Answer) -> list[Reply]:
        """Remember an answer; returns whom to tell."""
        waiting = self._busy.pop(request, [])
        nbytes = 200 + sum([view.nbytes for view in answer.body]) + 40 * sum(map(_length, answer.fields.values()))
        if nbytes <= self._most_bytes // 16:
            self._done[request] = answer, nbytes
            self.nbytes += nbytes
        while len(self._done) > self._most or self.nbytes > self._most_bytes:
            _, (_, gone) = self._done.popitem(last=False)
            self.nbytes -= gone
        return waiting

    def forget(self, request: bytes) -> list[Reply]:
        """A request failed, so nothing has changed and nothing is remembered; returns whom to tell."""
        return self._busy.pop(request, [])


def _length(value: object) -> int:
    return len(value) if isinstance(value, list) else 1
