"""All other sites together get so many bytes and no more, as long as these live, and none takes what all would need."""

from __future__ import annotations

import os
import random

from proxyfab.buffers import Frames
from proxyfab.link.room import Room
from proxyfab.testing.processes import until
from tests.link.test_line import MB, Pair


def test_what_lives_is_counted_and_never_more_than_there_is() -> None:
    choice, room = random.Random(1), Room(20 * MB)
    held: list[memoryview] = []
    for _ in range(2000):
        block = room.allocate(choice.choice("abc"), choice.choice([0, 1, 70_000, 3 * MB, 6 * MB]))
        if block is not None:
            held.append(block[1:])  # any view keeps it
        assert room.taken <= 20 * MB
        assert room.taken - 2000 <= sum(each.nbytes for each in held) <= room.taken
        if block is None or choice.random() < 0.3:
            del block, held[: len(held) // 2]
    held.clear()
    block = None
    assert room.taken == 0


def test_one_site_keeps_nobody_else_out() -> None:
    room = Room(100)
    first = room.allocate("a", 75)
    assert room.allocate("a", 1) is None
    second = room.allocate("b", 18)
    assert room.allocate("b", 1) is None
    assert room.taken == 93
    del first
    assert room.left("b") == 75 - 18
    assert second is not None


def test_links_share_one_room_and_give_it_back() -> None:
    value = os.urandom(5 * MB)
    room = Room(10 * MB)
    pairs = [Pair({"large": value}, room=room) for _ in range(2)]
    for number, pair in enumerate(pairs):
        pair.near.peer = f"far{number}"
    try:
        (first,) = pairs[0].near.get_many(["large"], 30)
        assert room.taken == 5 * MB
        (refused,) = pairs[1].near.get_many(["large"], 30)
        assert (refused.frames, refused.kind) == (None, "CapacityError")
        assert first.frames == Frames([value])
        del first
        assert until(lambda: not room.taken)
        (again,) = pairs[1].near.get_many(["large"], 30)
        assert again.frames == Frames([value])
    finally:
        for pair in pairs:
            pair.close()
