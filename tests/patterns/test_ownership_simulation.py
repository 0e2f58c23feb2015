"""A thousand schedules of owning, borrowing, sending, killing, pausing, retrying, doubling and losing."""

from __future__ import annotations

import os

import pytest

from tests.patterns.world import World

SCHEDULES = int(os.environ.get("PROXYFAB_SCHEDULES", "1000"))


def run(seed: int, *, calm: bool = False) -> World:
    world = World(seed, calm=calm)
    try:
        world.run(300)
    except Exception as error:
        story = "\n".join(world.story[-60:])
        raise AssertionError(f"seed {seed}{', calm' if calm else ''}: {error}\n{story}") from error
    return world


@pytest.mark.parametrize("part", range(4))
def test_no_double_owner_no_use_after_release_no_leak(part: int) -> None:
    for seed in range(part, SCHEDULES, 4):
        run(seed)
