"""Messages on a stream: cut anywhere, they come out as they went in, where they belong; nobody opens one for free."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import AccessDenied, CapacityError, IntegrityError
from proxyfab.wire.messages import MAX_BODY, MAX_HEADER, Message
from proxyfab.wire.side import NONCE, TOKEN, Reading, Writing, opened, proof, written

SIZES = st.sampled_from([0, 1, 100, 5_000, 16_000, 70_000, 300_000])


def fed(reading: Reading, stream: bytes, steps: list[int]) -> list[Message]:
    found, at, number = [], 0, 0
    while at < len(stream):
        target = reading.target
        piece = stream[at : at + min(steps[number % len(steps)], target.nbytes)]
        target[: len(piece)] = piece
        reading.took(len(piece))
        at, number = at + len(piece), number + 1
        while (message := reading.next()) is not None:
            found.append(message)
    return found


@given(st.lists(st.tuples(SIZES, SIZES.map(lambda size: min(size, 60_000))), max_size=6), st.lists(SIZES, min_size=1))
def test_cut_anywhere_messages_come_out_as_they_went_in(sizes, steps):
    steps = [step + 1 for step in steps]
    bodies = [os.urandom(body) for body, _ in sizes]
    fields = [{"x": "y" * header} for _, header in sizes]
    stream = b"".join(
        written("put", bytes(16), said, len(body)) + body for said, body in zip(fields, bodies, strict=True)
    )
    found = fed(Reading(), stream, steps)
    assert [b"".join(message.body) for message in found] == bodies
    assert [message.fields for message in found] == fields


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=5), st.lists(st.integers(1, 20_000), min_size=1))
def test_a_body_is_received_where_it_belongs(parts, steps):
    body = os.urandom(sum(parts))
    targets = [memoryview(bytearray(size)) for size in (*parts, 0)]
    reading = Reading(lambda message, nbytes: targets if nbytes == len(body) else [])
    (message,) = fed(reading, written("data", bytes(16), {}, len(body)) + body, steps)
    assert b"".join(targets) == body
    assert message.nbytes == len(body)


@pytest.mark.parametrize(("header", "body"), [(0, 0), (MAX_HEADER + 1, 0), (10, MAX_BODY + 1), (2**32 - 1, 0)])
def test_lengths_are_checked_before_memory_is_taken(header, body):
    with pytest.raises(IntegrityError):
        fed(Reading(), header.to_bytes(4, "little") + body.to_bytes(4, "little") + bytes(20), [1000])


@given(st.lists(st.binary(max_size=50), max_size=200), st.lists(st.integers(1, 400), min_size=1))
def test_what_is_sent_in_parts_is_sent_once(views, takes):
    writing, sent, number = Writing(views), b"", 0
    while writing:
        ready = b"".join(writing.batch())
        taken = min(takes[number % len(takes)], len(ready))
        writing.sent(taken)
        sent, number = sent + ready[:taken], number + 1
    assert sent == b"".join(views)


def test_only_who_knows_the_token_opens():
    token, nonce = bytes(range(TOKEN)), os.urandom(NONCE)
    good = {"nonce": nonce, "proof": proof(token, "client", nonce)}
    assert opened(token, Message("hello", bytes(16), good)) == nonce
    wrong = [
        Message("get", bytes(16), good),
        Message("hello", bytes(16), {}),
        Message("hello", bytes(16), {**good, "nonce": nonce[1:]}),
        Message("hello", bytes(16), {**good, "nonce": os.urandom(NONCE)}),
        Message("hello", bytes(16), {**good, "proof": proof(token, "server", nonce)}),
        Message("hello", bytes(16), {**good, "proof": proof(bytes(TOKEN), "client", nonce)}),
        Message("hello", bytes(16), {**good, "proof": "text"}),
    ]
    for message in wrong:
        with pytest.raises(AccessDenied):
            opened(token, message)


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_a_body_for_which_there_is_no_memory_is_a_declared_error(error):
    def nowhere(_: Message, __: int) -> list[memoryview]:
        raise error

    with pytest.raises(CapacityError, match="no memory"):
        fed(Reading(nowhere), written("put", bytes(16), {}, 100), [1000])
