"""The flow of chunks: whatever is delayed, everything arrives once and in order, and what is under way is bounded."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, strategies

from proxyfab.errors import IntegrityError
from proxyfab.wire.flow import Receiving, Sending


@given(
    size=strategies.integers(0, 5000),
    window=strategies.integers(1, 2000),
    chunk=strategies.integers(1, 700),
    seed=strategies.integers(0, 2**32),
)
def test_everything_arrives_within_the_window(size, window, chunk, seed):
    dice = random.Random(seed)
    sending, receiving = Sending(size, window, chunk), Receiving(size, window)
    there: deque[tuple[int, int]] = deque()
    back: deque[int] = deque()
    for _ in range(20 * (size + 10)):
        step = dice.random()
        if step < 0.4 and (piece := sending.next()) is not None:
            there.append(piece)
            assert sending.sent - sending.received <= max(window, chunk)
        elif step < 0.8 and there:
            said = receiving.take(*there.popleft())
            if said is not None:
                assert said == receiving.received
                back.append(said)
        elif back:
            sending.ack(back.popleft())
        if receiving.done and sending.done:
            break
    assert (sending.done, receiving.done, receiving.received) == (True, True, size)


@given(size=strategies.integers(1, 10**6), window=strategies.integers(1, 10**5), chunk=strategies.integers(1, 10**5))
def test_nobody_waits_for_the_other_for_ever(size, window, chunk):
    """A sender that is out of credit has always sent enough for the receiver to speak."""
    sending, receiving = Sending(size, window, chunk), Receiving(size, window)
    for _ in range(4 * size):
        said = None
        while (piece := sending.next()) is not None:
            said = receiving.take(*piece) or said
        if receiving.done:
            return
        assert said is not None, "both wait"
        sending.ack(said)


def test_old_words_are_passed_over():
    sending = Sending(100, window=10, chunk=10)
    assert sending.next() == (0, 10)
    sending.ack(10)
    assert sending.next() == (10, 10)
    sending.ack(5)
    assert sending.next() is None
    assert sending.received == 10


def test_a_receiver_cannot_claim_what_was_not_sent():
    sending = Sending(100, window=10, chunk=10)
    sending.next()
    with pytest.raises(IntegrityError):
        sending.ack(11)
    assert sending.next() is None


@pytest.mark.parametrize("chunk", [(1, 5), (-1, 5), (0, 0), (0, -1), (0, 11), (5, 5)])
def test_a_chunk_that_is_not_the_next_one_is_refused(chunk):
    receiving = Receiving(10)
    with pytest.raises(IntegrityError):
        receiving.take(*chunk)
    assert receiving.received == 0
    assert receiving.take(0, 10) is None
    assert receiving.done
    with pytest.raises(IntegrityError):
        receiving.take(10, 1)
