"""The core of a link: what is sent on which stream, what came, what is missing; on a seeded clock as well."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyfab.errors import IntegrityError
from proxyfab.link.receiving import Landed, Receiver
from proxyfab.link.sending import Segment, Sender
from tests.link.world import World

KIB = 1 << 10


@pytest.mark.parametrize("seed", range(60))
def test_each_question_is_answered_once_and_every_byte_comes_once_whatever_breaks(seed: int) -> None:
    choice = random.Random(seed)
    world = World(seed, streams=choice.randrange(1, 9), breaks=choice.randrange(0, 12))
    sizes = [-1, 0, 1, 4 * KIB, 4 * KIB + 1, 64 * KIB, 64 * KIB + 1, 200_000, 700_000]
    for side, other in ((world.near, world.far), (world.far, world.near)):
        other.objects = {str(number): choice.choice(sizes) for number in range(choice.randrange(8))}
        for key in [*other.objects, "absent"]:
            world.at(choice.uniform(0, 0.5), world.ask, side, [key])
    world.run()
    for side, other in ((world.near, world.far), (world.far, world.near)):
        assert side.asked.keys() == side.outcomes.keys()
        for transfer, key in side.asked.items():
            size = other.objects.get(key)
            assert side.outcomes[transfer][0] == ("none" if size is None else "here" if size >= 0 else "broken")
            assert side.here.get(transfer, b"") == b"\x01" * max(size or 0, 0)
        assert sorted(other.dropped) == sorted(each for each, bytes_ in side.here.items() if len(bytes_) > 4 * KIB)
        assert side.session.receiver.doubled == 0
        assert side.session.sender.waiting == 0
    senders = [world.near.session.sender, world.far.session.sender]
    assert sum(sender.again for sender in senders) == world.lost  # what was under way, and nothing else
    assert sum(sender.sent for sender in senders) == world.lost + sum(
        len(bytes_) for side in (world.near, world.far) for bytes_ in side.here.values() if len(bytes_) > 4 * KIB
    )


def test_a_small_object_does_not_wait_behind_a_large_one() -> None:
    world = World(1, streams=2)
    world.far.objects = {"large": 20_000_000, "small": 10 * KIB}
    large, small = world.ask(world.near, ["large", "small"])
    world.run()
    assert world.near.outcomes[small][1] < world.near.outcomes[large][1] / 10


def test_who_is_fast_carries_more() -> None:
    world = World(5, streams=2)
    world.far.objects = {"large": 30_000_000}
    world.ask(world.near, ["large"])
    slow, fast = sorted((end for end in world.ends if end.side is world.near), key=lambda end: end.rate)
    world.run()
    assert fast.rate > 2 * slow.rate  # of this seed
    assert world.near.carried[fast.number] > 1.5 * world.near.carried[slow.number]


@pytest.mark.parametrize(("size", "largest"), [(1 << 20, 128), (100 * KIB, 32), (32 << 20, 256)])
def test_all_streams_carry_a_part_of_what_is_little(size: int, largest: int) -> None:
    sender = Sender()
    for stream in range(8):
        sender.join(stream)
    sender.offer(1, [(0, size)])
    lengths = []
    while sender.waiting:
        item = sender.take(len(lengths) % 8)
        assert isinstance(item, Segment)
        lengths.append(item.length)
    assert max(lengths) == largest * KIB
    assert sum(lengths) == size
    assert len(lengths) >= min(8, size / (32 * KIB))
    assert max(lengths[-8:]) <= 64 * KIB, "nobody waits long for the last one"


def test_a_receiver_that_lies_is_found_out_and_nothing_is_lost() -> None:
    sender = Sender()
    sender.offer(1, [(0, 1000)])
    sender.join(0)
    segment = sender.take(0)
    with pytest.raises(IntegrityError, match="claims 1001 bytes of stream 0, which carried 1000"):
        sender.confirm(0, 1001)
    sender.confirm(0, 400)
    with pytest.raises(IntegrityError):
        sender.leave(0, -1)
    assert sender.waiting == 1000  # once more from the start: nothing it says is believed
    sender.join(1)
    assert sender.take(1) == segment
    sender.leave(1, 400)
    sender.leave(1, 400)  # told twice
    sender.join(2)
    assert sender.take(2) == Segment(1, 400, 600)
    assert sender.take(2) is None


def test_numbers_of_streams_and_transfers_are_used_once() -> None:
    sender, receiver = Sender(), Receiver()
    for side in (sender, receiver):
        side.join(0)
        with pytest.raises(ValueError, match="Stream 0 of this link is there already"):
            side.join(0)
    receiver.expect(7, 10)
    with pytest.raises(ValueError, match="Transfer 7"):
        receiver.expect(7, 10)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(1, 990, 11),
        Segment(1, -1, 5),
        Segment(1, 0, 0),
        Segment(1, 0, 129),
        Segment(1, 100, 100),
        Segment(9, 0, 200),
    ],
)
def test_a_segment_outside_of_its_object_is_refused_before_its_bytes(segment: Segment) -> None:
    receiver = Receiver(segment=128)
    receiver.expect(1, 1000)
    with pytest.raises(IntegrityError):
        receiver.check(segment)


def test_what_nobody_wants_any_more_is_dropped_and_counts_for_its_stream() -> None:
    sender, receiver = Sender(), Receiver()
    sender.join(0)
    receiver.join(0)
    receiver.expect(1, 100)
    sender.offer(1, receiver.missing(1))
    segment = sender.take(0)
    assert segment is not None
    receiver.forget(1)
    assert not receiver.check(segment)
    assert receiver.landed(0, segment) == Landed(0, False)
    sender.confirm(0, receiver.received(0))
    assert sender.under_way == 0


@given(
    st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 999), st.integers(1, 64)), max_size=60), st.integers(1, 64)
)
def test_parts_in_any_order_more_than_once(size: int, parts: list[tuple[int, int]], segment: int) -> None:
    receiver = Receiver(segment)
    receiver.join(0)
    receiver.expect(1, size)
    model: set[int] = set()
    for offset, length in parts:
        part = Segment(1, offset % size, min(length, segment - offset % size % segment, size - offset % size))
        if not receiver.check(part):
            assert len(model) == size
            break
        fresh = set(range(part.offset, part.offset + part.length)) - model
        model |= fresh
        assert receiver.landed(0, part) == Landed(len(fresh), len(model) == size)
    missing = receiver.missing(1)
    assert {byte for first, end in missing for byte in range(first, end)} == set(range(size)) - model
    assert all(first < end for first, end in missing)
    assert all(before[1] < after[0] for before, after in pairwise(missing))
    sender = Sender(segment)
    sender.join(0)
    sender.offer(1, missing)
    while (asked := sender.take(0)) is not None:
        assert receiver.check(asked)
        assert receiver.landed(0, asked).fresh == asked.length
    assert receiver.missing(1) == []
