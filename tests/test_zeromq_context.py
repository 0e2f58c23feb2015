"""The one context of ZeroMQ that a process has: shared, ended with its last user, and no thread waits for itself."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from proxyfab.zeromq import context
from proxyfab.zeromq.context import _Contexts


def test_all_share_one_that_ends_with_the_last() -> None:
    contexts = _Contexts()
    one, other = contexts.take(), contexts.take()

    assert one is other
    contexts.give_back(one)
    assert not other.closed
    contexts.give_back(other)
    assert other.closed


def test_what_ends_while_it_is_made_may_use_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage collection may come in the middle of it, and what it ends may open a channel, and close it."""
    contexts = _Contexts()
    within: list[Any] = []

    class Made(zmq.Context[Any]):
        def __init__(self) -> None:
            super().__init__()
            if not within:
                within.append(self)
                within.append(contexts.take())

    monkeypatch.setattr(context.zmq, "Context", Made)
    outer = contexts.take()
    assert outer is within[1]
    contexts.give_back(within.pop())
    assert not outer.closed
    contexts.give_back(outer)
    assert outer.closed
    within.pop().term()
