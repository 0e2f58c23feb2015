"""A minute of what `make soak` does for half an hour: mixed load, kills, cuts and pauses; then all is as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyfab.testing.soak import Sample, Soaked, off, soaking
from proxyfab.testing.verdict import Verdict

SEED = 20261121
BEFORE = Sample(0.0, 20 << 20, 10, 5, 0, 0, 0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "place",
    ["zmq", pytest.param("redis-memory", marks=pytest.mark.slow)],  # our server; for Redis, see the kills and cables
)
def test_a_quarter_of_a_minute(place: str, tmp_path: Path) -> None:
    with soaking(place, SEED, tmp_path) as soak:
        result = soak.run(14)

    assert result.wrong == [], str(result)
    assert result.verdict.acknowledged > 100
    assert result.faults["kill"] > 0


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (BEFORE._replace(memory=200 << 20), "memory"),
        (BEFORE._replace(files=100), "files"),
        (BEFORE._replace(threads=100), "threads"),
        (BEFORE._replace(objects=1), "objects"),
    ],
)
def test_what_does_not_come_back_is_told(after: Sample, word: str) -> None:
    assert off(BEFORE, BEFORE) == []
    assert word in off(BEFORE, after)[0]


def test_a_soak_without_faults_or_work_shows_nothing() -> None:
    result = Soaked("zmq", SEED, BEFORE, [BEFORE], verdict=Verdict())

    assert len(result.wrong) == 4
    assert "nobody was killed" in str(result)
